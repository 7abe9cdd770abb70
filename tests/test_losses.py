import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import images_and_labels, small_cnn

from cobla_tf.elements import check_images
from cobla_tf.errors import ConfigError, DataError, ModelError
from cobla_tf.examples import Sample
from cobla_tf.losses import check_finite, resolve_loss


def head(activation, units=3):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((10, 10, 2)), keras.layers.Conv2D(4, 3), keras.layers.GlobalAveragePooling2D(),
         keras.layers.Dense(units, activation=activation)]
    )  # fmt: skip


@pytest.mark.parametrize(("activation", "said"), [(None, "on logits"), ("softmax", "on probabilities")])
@pytest.mark.parametrize("one_hot", [False, True])
def test_logits_and_probabilities_are_told_apart(activation, said, one_hot):
    images, labels = images_and_labels(16)
    sample = Sample(images, np.eye(3)[labels] if one_hot else labels)
    model = head(activation)
    loss = resolve_loss(None, model, sample)
    assert said in loss.description
    outputs = model(images)
    probabilities = outputs if activation else keras.ops.softmax(outputs)
    expected = -np.mean(np.log(np.asarray(probabilities)[np.arange(16), labels]))
    assert float(loss.total(sample.labels, outputs)) / 16 == pytest.approx(expected, rel=1e-5)
    right, guesses = loss.hits(sample.labels, outputs)
    assert int(right) == np.sum(np.argmax(outputs, axis=1) == labels)
    assert int(guesses) == 16


@pytest.mark.parametrize("name", ["sparse_categorical_crossentropy", keras.losses.SparseCategoricalCrossentropy])
@pytest.mark.parametrize(("activation", "said"), [(None, "on logits"), ("softmax", "on probabilities")])
def test_the_bare_name_of_the_default_is_recognised_too(name, activation, said):
    assert said in resolve_loss(name, head(activation), Sample(*images_and_labels(16))).description


TAKES_PROBABILITIES = [
    (keras.losses.SparseCategoricalCrossentropy(), np.arange(3)),
    (keras.losses.CategoricalCrossentropy(), np.eye(3)),
    (keras.losses.CategoricalFocalCrossentropy(), np.eye(3)),
    (keras.losses.BinaryCrossentropy(), np.eye(3)),
    (keras.losses.BinaryFocalCrossentropy(), np.eye(3)),
]


@pytest.mark.parametrize(("given", "labels"), TAKES_PROBABILITIES)
def test_a_loss_of_probabilities_takes_no_logits(given, labels):
    sample = Sample(3 * images_and_labels(3)[0], labels)
    with pytest.raises(ConfigError, match=rf"{type(given).__name__} .* from -\d.* are none; give it from_logits=True"):
        resolve_loss(given, head(None), sample)
    resolve_loss(type(given)(from_logits=True), head(None), sample)
    resolve_loss(given, head("sigmoid"), sample)
    for dtype in ("float32", "mixed_float16", "mixed_bfloat16"):
        keras.config.set_dtype_policy(dtype)
        try:
            model = head("softmax")
            resolve_loss(given, keras.Sequential([model, keras.layers.Activation("linear", dtype="float32")]), sample)
        finally:
            keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize(
    ("activation", "loss"),
    [
        ("hard_sigmoid", keras.losses.SparseCategoricalCrossentropy()),
        ("softplus", keras.losses.CategoricalCrossentropy()),
        ("softplus", keras.losses.CategoricalFocalCrossentropy()),
    ],
)
def test_scores_that_keras_scales_to_probabilities_are_taken(activation, loss):
    images, labels = images_and_labels(3)
    labels = labels if "sparse" in loss.name else np.eye(3)[labels]
    assert resolve_loss(loss, head(activation), Sample(images, labels)).function is loss


def test_class_numbers_may_have_more_axes_of_one():
    images, labels = images_and_labels(3)
    plain, wide = (
        resolve_loss(None, head("softmax"), Sample(images, given)) for given in (labels, labels[:, None, None])
    )
    assert plain.description == wide.description


def test_a_loss_of_the_users_own_is_not_taken_for_what_it_holds():
    class Halves(keras.losses.Loss):
        function = staticmethod(keras.losses.mean_squared_error)

        def call(self, labels, outputs):
            return self.function(labels[:, :3], outputs)

    images, labels = images_and_labels(3)
    assert resolve_loss(Halves(), head(None), Sample(images, np.eye(6)[labels])).computes == ""


@pytest.mark.parametrize("logits", [False, True])
def test_the_bare_name_of_a_focal_loss_is_told_logits_by_what_they_are(logits):
    images, labels = images_and_labels(3)
    exact = keras.losses.CategoricalFocalCrossentropy(from_logits=logits)
    model = head(None if logits else "softmax")
    loss = resolve_loss("categorical_focal_crossentropy", model, Sample(images, np.eye(3)[labels]))
    expected = float(exact(np.eye(3)[labels], model(images)))
    np.testing.assert_allclose(float(loss.total(np.eye(3)[labels], model(images))) / 3, expected, rtol=1e-5)


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize(
    ("activation", "given"),
    [
        ("sigmoid", "binary_crossentropy"),
        ("sigmoid", keras.losses.BinaryFocalCrossentropy()),
        (None, keras.losses.BinaryCrossentropy(from_logits=True)),
    ],
)
def test_a_binary_classifier_with_its_loss(activation, given, flat):
    images, labels = images_and_labels(16, classes=2)
    labels, model = labels if flat else labels[:, None], head(activation, units=1)
    loss = resolve_loss(given, model, Sample(images, labels))
    outputs = np.asarray(model(images))
    model.compile(loss=given)
    expected = model.evaluate(images, labels, batch_size=16, verbose=0)
    assert float(loss.total(labels, outputs)) / 16 == pytest.approx(expected, rel=1e-5)
    right = (outputs > (0.5 if activation else 0)).ravel() == labels.ravel()
    hits, guesses = loss.hits(labels, outputs)
    assert 0 < int(hits) == right.sum() < int(guesses) == 16


PER_LABEL = ["hinge", "categorical_hinge", "poisson", "kl_divergence", "dice", "mse", "log_cosh", "binary_crossentropy"]


@pytest.mark.parametrize("given", [*PER_LABEL, lambda labels, outputs: keras.ops.mean((labels - outputs) ** 2, -1)])
def test_labels_of_one_axis_less_are_compared_each_with_its_output(given):
    images, labels = images_and_labels(16, classes=2)
    model = head("sigmoid", units=1)
    model.compile(loss=given)
    expected = model.evaluate(images, labels, batch_size=16, verbose=0)
    total = resolve_loss(given, model, Sample(images, labels)).total(labels, model(images))
    assert float(total) / 16 == pytest.approx(expected, rel=1e-5)


def per_pixel(activation):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((10, 10, 2)), keras.layers.Conv2D(3, 3, padding="same", activation=activation)]
    )


@pytest.mark.parametrize("given", ["sparse_categorical_crossentropy", keras.losses.SparseCategoricalCrossentropy()])
def test_a_class_for_every_pixel(given):
    model = per_pixel("softmax")
    images, masks = images_and_labels(8)[0], np.random.default_rng(0).integers(0, 3, (8, 10, 10))
    model.compile(loss=given, metrics=["accuracy"])
    expected, accuracy = model.evaluate(images, masks, batch_size=8, verbose=0)
    loss = resolve_loss(given, model, Sample(images, masks))
    assert float(loss.total(masks, model(images))) / 8 == pytest.approx(expected, rel=1e-5)
    assert loss.of_places and not resolve_loss(None, small_cnn(), Sample(images, masks[:, 0, 0])).of_places
    hits, guesses = map(int, loss.hits(masks, model(images)))
    assert guesses == 800
    assert hits / guesses == pytest.approx(accuracy, rel=1e-5)


@pytest.mark.parametrize("axis", [True, False])
def test_one_output_for_every_pixel(axis):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((10, 10, 2)), keras.layers.Conv2D(1, 3, padding="same")])
    images, masks = images_and_labels(8)[0], np.random.default_rng(0).integers(0, 2, (8, 10, 10))
    outputs, labels = np.asarray(model(images)), masks[..., None] if axis else masks
    loss = resolve_loss("binary_crossentropy", model, Sample(images, labels))
    assert tuple(map(int, loss.hits(labels, outputs))) == (((outputs[..., 0] > 0) == masks).sum(), 800)
    soft = np.where(labels == 1, 0.7, 0.2)
    loss.check_labels(soft)
    assert int(loss.hits(soft, outputs)[0]) == ((outputs[..., 0] > 0) == masks).sum()
    with pytest.raises(DataError, match=r"from 0 to 1 .* got -1\.\.1"):
        loss.check_labels(2 * labels - 1)

    def masked_binary_crossentropy(labels, outputs):
        return keras.ops.mean((labels - outputs) ** 2)

    own = resolve_loss(masked_binary_crossentropy, model, Sample(images, labels))
    own.check_labels(2 * labels - 1)
    assert (own.labels, own.of_places) == ("other", False)
    assert resolve_loss("mse", model, Sample(images, labels.astype("float32"))).labels == "other"


def test_what_a_loss_leaves_out_is_no_guess():
    images, masks = images_and_labels(8)[0], np.random.default_rng(0).integers(0, 3, (8, 10, 10))
    model = per_pixel(None)
    right, outputs = np.argmax(model(images), axis=-1) == masks, model(images)
    out = np.zeros_like(right)
    out[:, 4:] = True
    void = np.where(out, 255, masks).astype("uint8")
    loss = resolve_loss(keras.losses.SparseCategoricalCrossentropy(True, ignore_class=255), model, Sample(images, void))
    assert tuple(map(int, loss.hits(void, outputs))) == (right[~out].sum(), (~out).sum())
    assert not loss.told_in_training
    rows = np.eye(3, dtype="float32")[masks]
    rows[out] = 0
    loss = resolve_loss(None, model, Sample(images, rows))
    assert tuple(map(int, loss.hits(rows, outputs))) == (right[~out].sum(), (~out).sum())


def test_padding_is_no_guess():
    words = keras.Input((6,), dtype="int32")
    x = keras.layers.Embedding(9, 5, mask_zero=True)(words)
    model = keras.Model(words, keras.layers.Dense(4, activation="softmax")(x))
    texts, labels = np.array([[1, 2, 0, 0, 0, 0], [3, 4, 5, 0, 0, 0]]), np.arange(12).reshape(2, 6) % 4
    loss, outputs = resolve_loss(None, model, Sample(texts, labels)), model(texts)
    right = (np.argmax(outputs, axis=-1) == labels)[texts > 0]
    assert tuple(map(int, loss.hits(labels, outputs))) == (right.sum(), 5)


@pytest.mark.parametrize(("name", "one_hot"), [("sparse_categorical_crossentropy", 0), ("CategoricalCrossentropy", 1)])
def test_the_bare_name_of_a_loss_of_every_pixel_is_told_logits_by_what_they_are(name, one_hot):
    images, masks = images_and_labels(8)[0], np.random.default_rng(0).integers(0, 3, (8, 10, 10))
    labels = np.eye(3)[masks] if one_hot else masks
    values = []
    for activation in (None, "softmax"):
        model = per_pixel(activation)
        values.append(float(resolve_loss(name, model, Sample(images, labels)).total(labels, model(images))))
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    assert "on logits" not in resolve_loss(name, per_pixel("sigmoid"), Sample(images, labels)).description


@pytest.mark.parametrize(
    "given", ["sparse_categorical_crossentropy", keras.losses.SparseCategoricalCrossentropy(True, ignore_class=255)]
)
def test_class_numbers_of_pixels_are_checked(given):
    images, masks = images_and_labels(8)[0], np.random.default_rng(0).integers(0, 3, (8, 10, 10))
    with pytest.raises(DataError, match=r"^expected labels in 0\.\.2, one for each .* got 1\.\.3\.$"):
        resolve_loss(given, per_pixel(None), Sample(images, masks + 1))
    loss = resolve_loss(given, per_pixel(None), Sample(images, masks))
    assert loss.labels == "sparse"
    if not isinstance(given, str):
        masks[0] = 255
        loss.check_labels(masks)
    masks[7, 9, 9] = -1
    with pytest.raises(DataError, match=r"got -1\.\.2"):
        loss.check_labels(masks)


def test_a_loss_of_ones_own_says_itself_which_class_numbers_it_takes():
    def sparse_with_void(labels, outputs):
        return keras.losses.sparse_categorical_crossentropy(keras.ops.minimum(labels, 2), outputs, from_logits=True)

    sample = Sample(images_and_labels(8)[0], np.full((8, 10, 10), 255))
    loss = resolve_loss(sparse_with_void, per_pixel(None), sample)
    assert loss.labels == "other"
    assert np.isfinite(loss.total(sample.labels, per_pixel(None)(sample.images)))


@pytest.mark.parametrize("size", [(5, 5), (10, 10, 3)])
def test_class_numbers_of_pixels_have_the_size_of_the_outputs(size):
    sample = Sample(images_and_labels(8)[0], np.zeros((8, *size), int))
    with pytest.raises(DataError, match=rf"shape \(10, 10\) .* got \({size[0]}, {size[1]}"):
        resolve_loss("sparse_categorical_crossentropy", per_pixel(None), sample)


def test_a_foreign_message_is_cut():
    def failing(labels, outputs):
        raise RuntimeError("pixels " * 20_000)

    with pytest.raises(DataError, match="RuntimeError: pixels") as caught:
        resolve_loss(failing, per_pixel(None), Sample(images_and_labels(8)[0], np.zeros((8, 10, 10))))
    assert len(str(caught.value)) < 400


def test_shares_may_be_rounded_to_three_digits():
    images = images_and_labels(3)[0]
    assert resolve_loss(None, small_cnn(), Sample(images, np.full((3, 3), 0.333))).labels == "one-hot"
    with pytest.raises(ModelError, match="pass loss="):
        resolve_loss(None, small_cnn(), Sample(images, np.full((3, 3), 0.332)))


@pytest.mark.parametrize("activation", [None, "softmax"])
@pytest.mark.parametrize("form", ["numbers", "numbers with an axis", "rows"])
def test_classes_of_every_pixel_are_recognised(activation, form):
    images, masks = images_and_labels(8)[0], np.random.default_rng(0).integers(0, 3, (8, 10, 10))
    labels = {"numbers": masks, "numbers with an axis": masks[..., None], "rows": np.eye(3)[masks]}[form]
    model = per_pixel(activation)
    loss = resolve_loss(None, model, Sample(images, labels))
    assert loss.labels == ("one-hot" if form == "rows" else "sparse")
    assert int(loss.hits(labels, model(images))[0]) == (np.argmax(model(images), axis=-1) == masks).sum()
    exact = keras.losses.SparseCategoricalCrossentropy(from_logits=activation is None)(masks, model(images))
    np.testing.assert_allclose(float(loss.total(labels, model(images))) / 8, float(exact), rtol=1e-5)
    wrong = labels.copy()
    wrong[5, 2, 3] = 3
    with pytest.raises(
        DataError, match=r"row 5, 2, 3 has 9\.0" if form == "rows" else r"labels in 0\.\.2.* got 0\.\.3"
    ):
        loss.check_labels(wrong)


@pytest.mark.parametrize(
    ("labels", "error", "sentence"),
    [
        (
            np.zeros((8, 5, 5), int),
            DataError,
            r"expected labels of 10x10, as the model's outputs \(8, 10, 10, 3\), got 5x5",
        ),
        (np.zeros((8, 5, 5, 3), int), DataError, "expected labels of 10x10, .* got 5x5"),
        (np.zeros((8, 10, 10, 4), int), DataError, "rows of 3, .* got rows of 4"),
        (np.ones((8, 10, 10, 3), int), ModelError, "e.g. loss='binary_crossentropy'"),
        (np.full((8, 10, 10, 3), -0.5), ModelError, "e.g. loss='mse'"),
    ],
)
def test_labels_of_pixels_that_are_no_classes(labels, error, sentence):
    with pytest.raises(error, match=sentence):
        resolve_loss(None, per_pixel(None), Sample(images_and_labels(8)[0], labels))


@pytest.mark.parametrize(
    ("loss", "labels"), [("mse", [[1.0, 2.0]] * 3), ("categorical_crossentropy", [[0.5] * 4] * 3), (None, ["a"] * 3)]
)
def test_labels_that_no_loss_can_take(loss, labels):
    with pytest.raises((DataError, ModelError), match="labels"):
        resolve_loss(loss, head(None), Sample(images_and_labels(3)[0], np.array(labels)))


@pytest.mark.parametrize(
    ("units", "given", "labels", "sentence"),
    [
        (1, "mse", np.zeros((3, 3)), r"error compares .* shape \(1,\) .* got \(3,\); bring them"),
        (1, keras.losses.Huber(name="h"), np.zeros((3, 2, 1)), r"h compares .* got \(2, 1\)"),
        (1, "binary_crossentropy", np.zeros((3, 2, 1)), r"got \(2, 1\)"),
        (3, "mse", np.arange(3), r"shape \(3,\) .* got \(\); one-hot the class numbers"),
        (3, keras.losses.CategoricalCrossentropy(True), np.arange(3)[:, None], r"got \(1,\); one-hot the class"),
        (3, keras.losses.SparseCategoricalCrossentropy(True), np.eye(3), r"got \(3,\); .*argmax"),
    ],
)
def test_labels_are_not_stretched_to_the_shape_of_the_outputs(units, given, labels, sentence):
    with pytest.raises(DataError, match=sentence):
        resolve_loss(given, head(None, units), Sample(images_and_labels(3)[0], labels))


def test_losses_whose_labels_have_a_shape_of_their_own_take_them():
    sample = Sample(images_and_labels(3)[0], np.arange(3))
    for given in (keras.losses.CategoricalGeneralizedCrossEntropy(), "circle", lambda a, b: keras.ops.mean(b) + 0 * a):
        loss = resolve_loss(given, head("softmax"), sample)
        assert np.isfinite(loss.total(sample.labels, head("softmax")(sample.images)))


@pytest.mark.parametrize("given", ["mse", keras.losses.MeanSquaredError(), keras.losses.MeanSquaredError("sum")])
def test_any_keras_loss_is_summed_over_the_batch(given):
    images, _ = images_and_labels(8)
    targets = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
    model = head(None)
    loss = resolve_loss(given, model, Sample(images, targets))
    expected = np.mean((np.asarray(model(images)) - targets) ** 2, axis=1).sum()
    assert loss.labels == "other"
    assert float(loss.total(targets, model(images))) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("model", "labels", "error", "sentence"),
    [
        (head(None), [0, 1, 3], DataError, r"labels in 0\.\.2.*got 0\.\.3"),
        (head(None), [0, -1, 2], DataError, r"got -1\.\.2"),
        (head("sigmoid"), [0, 1, 2], ModelError, "sigmoid"),
        (head(None, units=1), [0, 1, 1], ModelError, "binary_crossentropy"),
        (head(None), [[0.1, 0.5, 3.0]] * 3, ModelError, "pass loss="),
        (head(None), np.eye(4)[:3], DataError, "rows of 3, .* got rows of 4"),
    ],
)
def test_outputs_and_labels_that_do_not_fit(model, labels, error, sentence):
    with pytest.raises(error, match=sentence):
        resolve_loss(None, model, Sample(images_and_labels(3)[0], np.array(labels)))


@pytest.mark.parametrize(
    ("units", "given", "first", "rest", "sentence"),
    [
        (3, None, [0, 1, 2], [0.5, 1.0, 2.0], "class numbers.*fractions"),
        (3, None, [0.0, 1.0, 2.0], [0.0, np.nan, 2.0], "class numbers.*NaN"),
        (3, None, np.eye(3), np.ones((3, 3)), "row 0 has 3.0"),
        (3, None, np.eye(3), np.full((3, 3), np.nan), "row 0 has nan"),
        (1, "binary_crossentropy", [0, 1, 1], [0, 255, 0], r"labels 0 or 1.*got 0\.\.255"),
        (3, None, [0, 1, 2], ["a", "b", "c"], "labels that are numbers"),
        (3, None, [0, 1, 2], np.array(["a", 1, 2], dtype=object), "labels that are numbers, got object"),
    ],
)
def test_labels_after_the_first_ones_are_of_their_kind(units, given, first, rest, sentence):
    images, first, rest = images_and_labels(3)[0], np.array(first), np.array(rest)
    model = head("sigmoid" if units == 1 else None, units=units)
    loss = resolve_loss(given, model, Sample(images, first))
    loss.check_labels(first)
    with pytest.raises(DataError, match=sentence):
        loss.check_labels(rest)


def test_several_classes_at_once_may_look_like_one_at_first():
    model = head("sigmoid")
    loss = resolve_loss("binary_crossentropy", model, Sample(images_and_labels(3)[0], np.eye(3)))
    assert loss.labels == "one-hot"
    loss.check_labels(np.ones((3, 3)))


def test_images_of_the_wrong_shape():
    with pytest.raises(DataError, match=r"shape \(10, 10, 2\).*got \(9, 9, 2\)"):
        check_images(small_cnn(), images_and_labels(3, (9, 9, 2))[0])


def test_a_loss_that_is_not_finite_at_the_start():
    images, labels = images_and_labels(3)
    images[0] = np.nan
    with pytest.raises(DataError, match=r"loss of the original network is nan.*check labels, weights"):
        resolve_loss(None, small_cnn(), Sample(images, labels))


def test_a_loss_of_ones_own_may_leave_missing_labels_out(caplog):
    labels = np.array([1.0, 2.0, np.nan])
    check_finite("dataset", lambda labels, outputs: keras.ops.nan_to_num(labels - outputs), head(None, 1), labels)
    assert "dataset: NaN or infinity in the labels of 1 image, first at index 2" in caplog.text


def test_padding_counts_no_more_in_a_loss_by_name_than_in_keras():
    tokens = keras.Input((6,), dtype="int32")
    x = keras.layers.Embedding(9, 4, mask_zero=True)(tokens)
    model = keras.Model(tokens, keras.layers.Dense(5, activation="softmax")(x))
    rows = np.array([[1, 2, 0, 0, 0, 0], [3, 0, 0, 0, 0, 0]])
    labels = np.full((2, 6), 2)
    model.compile(loss="sparse_categorical_crossentropy")
    sample = Sample(rows, labels)
    loss = resolve_loss("sparse_categorical_crossentropy", model, sample)
    expected = model.evaluate(rows, labels, verbose=0)
    np.testing.assert_allclose(float(loss.total(labels, model(rows))) / 2, expected, rtol=1e-5)


@pytest.mark.parametrize("given", ["binary_crossentropy", keras.losses.binary_crossentropy, "BinaryCrossentropy"])
@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_a_binary_loss_by_name_is_told_logits_by_what_they_are(given, activation):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, activation=activation)])
    rows = np.random.default_rng(0).normal(size=(40, 4)).astype("float32") * 5
    labels = np.arange(40) % 2
    loss = resolve_loss(given, model, Sample(rows, labels))
    exact = keras.losses.BinaryCrossentropy(from_logits=activation is None)(labels[:, None], model(rows))
    np.testing.assert_allclose(float(loss.total(labels, model(rows))) / 40, float(exact), rtol=1e-5)
    assert loss.threshold == (0.0 if activation is None else 0.5)


def test_class_numbers_are_checked_where_the_graph_leaves_their_number_open():
    images = keras.Input((None, None, 1))
    x = keras.layers.Flatten()(keras.layers.AveragePooling2D(4)(keras.layers.Conv2D(3, 3, padding="same")(images)))
    model = keras.Model(images, keras.layers.Softmax()(x))
    sample = Sample(np.zeros((5, 4, 4, 1), "float32"), np.array([0, 1, 2, 0, 1]))
    loss = resolve_loss(None, model, sample)
    assert loss.classes == 3
    with pytest.raises(DataError, match=r"labels in 0\.\.2"):
        loss.check_labels(np.array([0, 3]))


def test_a_function_of_ones_own_by_the_name_of_one_of_keras_is_kept():
    def binary_crossentropy(labels, outputs):
        return 3 * keras.losses.binary_crossentropy(labels, outputs, from_logits=True)

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    rows, labels = np.random.default_rng(0).normal(size=(40, 4)).astype("float32") * 5, np.arange(40) % 2
    loss = resolve_loss(binary_crossentropy, model, Sample(rows, labels))
    expected = 3 * keras.losses.BinaryCrossentropy(from_logits=True)(labels[:, None], model(rows))
    np.testing.assert_allclose(float(loss.total(labels, model(rows))) / 40, float(expected), rtol=1e-5)


def _private(labels, outputs):
    return (labels - outputs) ** 2


@pytest.mark.parametrize(("given", "name"), [(lambda labels, outputs: outputs**2, "lambda"), (_private, "private")])
def test_a_function_of_any_name_goes_into_a_graph(given, name):
    rows = np.zeros((40, 10, 10, 2), "float32")
    labels, model = np.ones(40), head(None, 1)
    loss = resolve_loss(given, model, Sample(rows, labels))
    assert loss.description == f"{name}, as given"
    value = tf.function(loss.total)(labels, model(rows))
    np.testing.assert_allclose(float(value), float(loss.total(labels, model(rows))), rtol=1e-6)


@pytest.mark.parametrize("given", ["hinge", lambda labels, outputs: (labels - outputs) ** 2])
def test_a_function_sees_labels_and_outputs_of_one_shape_in_training_too(given):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    rows, labels = np.random.default_rng(0).normal(size=(40, 4)).astype("float32"), np.arange(40) % 2
    loss = resolve_loss(given, model, Sample(rows, labels))
    one = loss.function(labels.astype("float32"), model(rows))
    np.testing.assert_allclose(float(one), float(loss.total(labels, model(rows))) / 40, rtol=1e-6)
