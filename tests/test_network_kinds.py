"""Whatever Keras' functional API can make: each kind of network through the whole way."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from networks import images_and_labels, relative_error, small_cnn

import cobla_tf
from cobla_tf import reading
from cobla_tf.calls import record_calls
from cobla_tf.config import GRADIENTS, Config, FineTuneConfig, SolveConfig
from cobla_tf.elements import AT_ONCE, first_outputs, form_of, output_names
from cobla_tf.errors import ConfigError, DataError, ModelError
from cobla_tf.examples import Sample
from cobla_tf.finetune import train
from cobla_tf.graph import check_model
from cobla_tf.losses import resolve_loss
from cobla_tf.notes import own_training, untied
from cobla_tf.objective import Objective
from cobla_tf.reading import as_examples
from cobla_tf.rewrite import transform
from cobla_tf.sites import find_sites
from cobla_tf.surgery import count_convolutions, has_free_bias, mask_model, rebuild

QUICK = Config(solve=SolveConfig(iterations=2, draws=1, refine_iterations=1), batch_size=32)
SIZE = (8, 8, 2)


def conv(filters, name=None, **options):
    return layers.Conv2D(filters, 3, padding="same", activation="relu", name=name, **options)


def head(x, classes=3, name="logits", **options):
    return layers.Dense(classes, name=name, **options)(layers.GlobalAveragePooling2D()(x))


def sequential():
    return keras.Sequential([keras.Input(SIZE), conv(6), layers.GlobalAveragePooling2D(), layers.Dense(3)])


def nested_three_deep():
    innermost = keras.Sequential([keras.Input((8, 8, 6)), conv(6, "deep")], name="innermost")
    between = keras.Input((8, 8, 6))
    middle = keras.Model(between, layers.Add()([innermost(between), between]), name="middle")
    outer = keras.Sequential([keras.Input(SIZE), conv(6, "first"), middle], name="outer")
    images = keras.Input(SIZE)
    return keras.Model(images, head(outer(images)))


def shared_and_by_keyword():
    images = keras.Input(SIZE)
    shared = conv(2, "shared")
    return keras.Model(images, head(conv(6, "last")(inputs=shared(inputs=shared(images)))))


def nested_with_dicts():
    inner = keras.Input((None, None, 2), name="pixels")
    x = conv(4, "inner")(inner)
    block = keras.Model({"pixels": inner}, {"plain": x, "doubled": 2 * x}, name="block")
    images = keras.Input(SIZE)
    small = block({"pixels": layers.MaxPooling2D()(images)})["doubled"]
    return keras.Model(images, head(layers.Add()([layers.MaxPooling2D()(block({"pixels": images})["plain"]), small])))


def mixed(policy):
    images = keras.Input(SIZE)
    x = conv(6, "first", dtype=policy)(images)
    return keras.Model(images, head(conv(6, "second", dtype=policy)(x), dtype=policy))


@keras.saving.register_keras_serializable(package="tests")
class Scale(layers.Layer):
    def build(self, shape):
        self.factor = self.add_weight(shape=(shape[-1],), initializer="uniform")

    def call(self, inputs):
        return inputs * (1 + self.factor)


@keras.saving.register_keras_serializable(package="tests")
class Tied(layers.Layer):
    """Multiplies by the centre of another layer's kernel, held by reference."""

    def __init__(self, of, **options):
        super().__init__(**options)
        self.of = of if isinstance(of, layers.Layer) else keras.saving.deserialize_keras_object(of)

    def build(self, shape):
        if not self.of.built:
            self.of.build(shape)

    def call(self, inputs):
        return inputs @ self.of.kernel[1, 1]

    def get_config(self):
        return {**super().get_config(), "of": keras.saving.serialize_keras_object(self.of)}


def custom():
    images = keras.Input(SIZE)
    return keras.Model(images, head(Scale()(conv(6, "site")(images))))


def tied():
    images = keras.Input(SIZE)
    site = conv(2, "tied")
    return keras.Model(images, head(conv(6, "free")(Tied(site, name="by_reference")(site(images)))))


KINDS = {
    "sequential": sequential,
    "nested": nested_three_deep,
    "shared": shared_and_by_keyword,
    "dicts": nested_with_dicts,
    "custom": custom,
    "tied": tied,
    "float16": lambda: mixed("mixed_float16"),
    "bfloat16": lambda: mixed("mixed_bfloat16"),
    "pure float16": lambda: mixed("float16"),
}
TOLERANCES = {"float16": 1e-2, "pure float16": 1e-2, "bfloat16": 8e-2}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_equal_at_full_rank_and_within_its_budget_when_reloaded(kind, tmp_path):
    keras.utils.set_random_seed(0)
    model, (images, labels) = KINDS[kind](), images_and_labels(60, SIZE)
    sites = find_sites(model, "spatial")
    ones = np.ones(sites.layout.size)
    full = rebuild(model, sites, ones > 0, ones, np.zeros(len(sites.found), dtype=bool))
    outputs = np.asarray(model(images), "float32")
    assert relative_error(np.asarray(full(images), "float32"), outputs) < TOLERANCES.get(kind, 1e-5)
    result = cobla_tf.compress(model, (images, labels), macs=0.6, method="pos_cvx", config=QUICK)
    result.model.save(tmp_path / "model.keras")
    reloaded = keras.models.load_model(tmp_path / "model.keras")
    left_alone = sum(
        count_convolutions(model)[layer.name][0] for layer in result.report.skipped if "tied" in layer.name
    )
    macs = next(budget for budget in result.report.budgets if budget.resource == "macs")
    assert sum(count for count, _ in count_convolutions(reloaded).values()) - left_alone == macs.reached <= macs.limit
    assert relative_error(np.asarray(reloaded(images), "float32"), np.asarray(result.model(images), "float32")) < 1e-6


def test_weights_shared_by_reference_are_left_alone():
    skipped = {layer.name: layer.reason for layer in find_sites(tied(), "spatial").skipped}
    assert skipped["tied"] == "shares a weight by reference with by_reference"


@pytest.mark.parametrize("path", GRADIENTS)
@pytest.mark.parametrize(("policy", "tolerance"), [("mixed_float16", 2e-2), ("mixed_bfloat16", 1e-1)])
def test_gradients_in_mixed_precision_are_those_of_single_precision(path, policy, tolerance):
    sample, found = Sample(*images_and_labels(40, SIZE)), []
    for dtype in ("float32", policy):
        keras.utils.set_random_seed(0)
        model = mixed(dtype)
        sites = find_sites(model, "channel")
        loss = resolve_loss(None, model, sample)
        objective = Objective(mask_model(model, sites, path), loss, 16, sample)
        found.append(objective.gradient(np.full(sites.layout.size, 0.8), sample)[1])
        assert sites.sigmas[0].dtype == np.float64
    assert relative_error(found[1], found[0]) < tolerance


def test_what_is_frozen_stays_frozen():
    model = nested_three_deep()
    model.get_layer("outer").trainable = False
    sites = find_sites(model, "spatial")
    ones = np.ones(sites.layout.size)
    copy = rebuild(model, sites, ones > 0, ones, np.zeros(2, dtype=bool))
    assert [weight.path.split("/")[-2] for weight in copy.trainable_weights] == ["logits", "logits"]
    assert not copy.get_layer("outer").trainable


class Unregistered(layers.Layer):
    def call(self, inputs):
        return inputs


class Overridden(keras.Model):
    def call(self, inputs, training=None, mask=None):
        return 2 * super().call(inputs)


def around(layer):
    images = keras.Input(SIZE)
    return keras.Model(images, head(layer(conv(2)(images))))


def overridden():
    images = keras.Input(SIZE)
    return Overridden(images, conv(2)(images), name="own_call")


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: around(Unregistered(name="mine")), "'mine' is of the class Unregistered.*register_keras_serializable"),
        (
            lambda: around(layers.Lambda(lambda x: x, name="anonymous")),
            "'anonymous' is a Lambda layer.*registered layer",
        ),
        (overridden, "'own_call' is a subclassed Overridden.*functional API"),
        (lambda: around(overridden()), "own_call' is a subclassed Overridden.*functional API"),
    ],
)
def test_what_cannot_be_copied_says_what_to_do(make, sentence):
    with pytest.raises(ModelError, match=sentence):
        find_sites(make(), "spatial")


def test_a_class_registered_for_the_moment_is_enough():
    with keras.saving.custom_object_scope({"Unregistered": Unregistered}):
        assert find_sites(around(Unregistered()), "spatial").found


def two_in_two_out(outputs=list, inputs=list):
    """Inputs `left` and `right` of different shape; outputs `kind`, three classes, and `amount`, a number."""
    left, right = keras.Input(SIZE, name="left"), keras.Input((4, 4, 2), name="right")
    x = layers.Concatenate()([layers.MaxPooling2D()(conv(5, "a")(left)), conv(5, "b")(right)])
    x = conv(6, "c")(x)
    parts = {"kind": head(x, 3, "kind"), "amount": head(x, 1, "amount")}
    images = {"left": left, "right": right} if inputs is dict else [left, right]
    return keras.Model(images, parts if outputs is dict else list(parts.values()))


def pairs(count=60):
    left, kind = images_and_labels(count, SIZE)
    right = np.random.default_rng(1).normal(size=(count, 4, 4, 2)).astype("float32")
    return (left, right), (kind, left.mean(axis=(1, 2, 3))[:, None])


def by_name(names, parts):
    return dict(zip(names, parts, strict=True))


INPUTS, OUTPUTS = ("left", "right"), ("kind", "amount")
LOSSES = ["sparse_categorical_crossentropy", "mse"]


def forms_of_data():
    (left, right), (kind, amount) = pairs()
    named = by_name(INPUTS, (left, right)), by_name(OUTPUTS, (kind, amount))
    return {
        "tuples": ((left, right), (kind, amount)),
        "lists": [[left, right], [kind, amount]],
        "dicts": named,
        "a dataset of tuples": tf.data.Dataset.from_tensor_slices(pairs()).batch(25),
        "a dataset of dicts": tf.data.Dataset.from_tensor_slices(named).batch(25),
    }


@pytest.mark.parametrize("outputs", [list, dict])
def test_all_forms_that_fit_takes_are_the_same_examples(outputs):
    model, (images, labels) = two_in_two_out(outputs), pairs()
    loss = by_name(OUTPUTS, LOSSES)
    expected = (*images, *labels[:: 1 if outputs is list else -1])  # Keras sorts what is in dicts
    for name, data in forms_of_data().items():
        if outputs is list or "dict" in name:
            sample = as_examples(data, form=form_of(model, loss))
            for got, array in zip((*sample.images, *sample.labels), expected, strict=True):
                np.testing.assert_array_equal(got, array)


@pytest.mark.parametrize("inputs", [list, dict])
def test_several_inputs_too_large_for_memory_are_streamed(inputs, monkeypatch):
    model = two_in_two_out(dict, inputs)
    data, loss = forms_of_data()["a dataset of dicts"], by_name(OUTPUTS, LOSSES)
    monkeypatch.setattr(reading, "IN_MEMORY_LIMIT", 20)
    stream = as_examples(data, form=form_of(model, loss))
    (left, right), (kind, amount) = pairs()
    drawn = stream.draw(40, np.random.default_rng(0))
    assert stream.size == 60
    assert drawn.size == 40
    for images, small, number, label in zip(*drawn.images, *drawn.labels, strict=True):
        (place,) = np.flatnonzero((left == images).all(axis=(1, 2, 3)))
        assert (right[place] == small).all()
        assert (amount[place], kind[place]) == (number, label)
    judged = resolve_loss(loss, model, stream.probe())
    (record,) = train(model, stream, judged, FineTuneConfig(epochs=1), 25)
    assert np.isfinite(record["loss"])


@pytest.mark.parametrize(
    ("outputs", "form", "method"), [(list, "tuples", "cobla"), (dict, "a dataset of dicts", "cptv")]
)
def test_several_inputs_and_outputs_through_the_whole_way(outputs, form, method):
    keras.utils.set_random_seed(0)
    model = two_in_two_out(outputs)
    loss = LOSSES if outputs is list else by_name(OUTPUTS, LOSSES)
    config = Config(solve=QUICK.solve, fine_tune=FineTuneConfig(epochs=1), batch_size=32)
    result = cobla_tf.compress(model, forms_of_data()[form], macs=0.5, loss=loss, method=method, config=config)
    assert [site.name for site in result.report.sites] == ["a", "b", "c"]
    for stage in result.report.evaluations.values():
        assert 0 <= stage.accuracy <= 1
    (left, right), _ = pairs(3)
    keras.tree.assert_same_structure(result.model([left, right]), model([left, right]))
    assert result.report.notes[0].startswith("accuracies are those of the output 'kind'")


def test_the_loss_of_several_outputs_is_the_sum_and_the_accuracy_that_of_the_first_with_classes():
    keras.utils.set_random_seed(0)
    model, sample = two_in_two_out(), Sample(*pairs())
    loss = resolve_loss(LOSSES, model, sample)
    kind, amount = model(list(sample.images))
    cross = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(sample.labels[0], kind)
    square = np.mean((np.asarray(amount) - sample.labels[1]) ** 2)
    assert float(loss.total(sample.labels, (kind, amount))) / 60 == pytest.approx(float(cross) + square, rel=1e-5)
    right = (np.argmax(kind, axis=1) == sample.labels[0]).sum()
    assert tuple(map(int, loss.hits(sample.labels, (kind, amount)))) == (right, 60)
    sites = find_sites(model, "spatial")
    objective = Objective(mask_model(model, sites), loss, 16, sample)
    masks = np.full(sites.layout.size, 0.7)
    gradient = objective.gradient(masks, sample)[1]
    along = np.sign(gradient) * 1e-2
    difference = objective.value(masks + along, sample) - objective.value(masks - along, sample)
    assert 2 * gradient @ along == pytest.approx(difference, rel=2e-2)


def test_the_loss_of_a_second_output_alone_is_that_outputs():
    keras.utils.set_random_seed(0)
    model, (images, (_, amount)) = two_in_two_out(), pairs()
    sample = Sample(images, amount)
    loss = resolve_loss([None, "mse"], model, sample)
    outputs = model(list(images))
    assert loss.judged.place == 1
    exact = np.sum((np.asarray(outputs[1]) - amount) ** 2) / amount[0].size
    assert float(loss.total(amount, tuple(outputs))) == pytest.approx(exact, rel=1e-5)


def test_an_output_without_a_loss_needs_no_labels():
    keras.utils.set_random_seed(0)
    images, (kind, _) = pairs()
    config = Config(fine_tune=FineTuneConfig(epochs=1), batch_size=32)
    loss = [LOSSES[0], None]
    result = cobla_tf.compress(two_in_two_out(), (images, kind), macs=0.5, loss=loss, method="cptv", config=config)
    assert len(result.model.outputs) == 2
    assert "fine-tuned" in result.report.evaluations


def test_a_tuple_has_no_order_where_the_model_gives_a_dict():
    with pytest.raises(DataError, match=r"labels as a dict.*got a tuple of 2"):
        cobla_tf.compress(two_in_two_out(dict), pairs(), macs=0.5, loss=by_name(OUTPUTS, LOSSES), config=QUICK)
    with pytest.raises(ConfigError, match="loss: expected a dict"):
        cobla_tf.compress(two_in_two_out(dict), pairs(), macs=0.5, loss=LOSSES, config=QUICK)


@pytest.mark.parametrize(
    ("data", "loss", "error", "sentence"),
    [
        (
            lambda images, labels: (images[0], labels),
            LOSSES,
            DataError,
            "one array for each of 'left', 'right'.*ndarray",
        ),
        (lambda images, labels: ((*images, images[0]), labels), LOSSES, DataError, "got a tuple of 3"),
        (lambda images, labels: ({"left": images[0]}, labels), LOSSES, DataError, "names 'left', 'right', got 'left'"),
        (lambda images, labels: (images, labels[0]), LOSSES, DataError, "labels as a tuple or dict"),
        (lambda images, labels: (images[::-1], labels), LOSSES, DataError, r"\(8, 8, 2\) for 'left'.*got \(4, 4, 2\)"),
        (lambda images, labels: (images, (labels[0][:9], labels[1])), LOSSES, DataError, "as many labels as images"),
        (
            lambda images, labels: (images, (labels[0] + 1, labels[1])),
            LOSSES,
            DataError,
            r"output 'kind'.*labels in 0..2",
        ),
        (lambda images, labels: (images, labels), None, ModelError, "output 'amount': the default loss"),
        (lambda images, labels: (images, labels), ["mse"], ConfigError, "a list of 2"),
        (lambda images, labels: (images, labels), {"kind": "mse"}, ConfigError, "each output 'kind', 'amount'"),
        (lambda images, labels: (images, labels), [None, None], ConfigError, "at least one output"),
        (lambda images, labels: (images, labels, labels), LOSSES, DataError, "got 3 of them"),
    ],
)
def test_data_and_losses_that_do_not_fit_several(data, loss, error, sentence):
    with pytest.raises(error, match=sentence):
        cobla_tf.compress(two_in_two_out(), data(*pairs()), macs=0.5, loss=loss, config=QUICK)


def test_layers_unfrozen_inside_a_frozen_model_train_on():
    images = keras.Input((12, 12, 3))
    base = keras.Model(images, conv(4, "last")(conv(4, "first")(images)), name="base")
    outer = keras.Input((12, 12, 3))
    model = keras.Model(outer, head(keras.Sequential([keras.Input((12, 12, 3)), base], name="around")(outer)))
    model.get_layer("around").trainable = False
    base.get_layer("last").trainable = True
    sites = find_sites(model, "spatial")
    ones = np.ones(sites.layout.size)
    copy = rebuild(model, sites, ones > 0, ones, np.ones(len(sites.found), dtype=bool))
    assert [weight.path for weight in copy.trainable_variables] == [weight.path for weight in model.trainable_variables]
    assert "last/kernel" in [weight.path for weight in copy.trainable_variables]


def test_a_wrapper_around_a_model_that_is_used_itself_is_told_apart():
    images = keras.Input((6, 6, 2))
    base = keras.Model(images, layers.GlobalAveragePooling2D()(conv(4, "inside")(images)), name="base")
    clip = keras.Input((3, 6, 6, 2))
    seen = layers.GlobalAveragePooling1D()(layers.TimeDistributed(base, name="each")(clip))
    still = keras.Input((6, 6, 2))
    model = keras.Model([still, clip], layers.Dense(3)(layers.Concatenate()([base(still), seen])))
    sites = find_sites(model, "spatial", layers="dense")
    ones = np.ones(sites.layout.size)
    copy = rebuild(model, sites, ones > 0, ones, np.ones(len(sites.found), dtype=bool))
    assert untied(model, model) == []
    (note,) = untied(model, copy)
    assert note.startswith("base/inside, each share weights; in the compressed network")


def rebuilt_whole(model):
    """A copy at full rank of everything, by two factors."""
    sites = find_sites(model, "spatial", layers="all")
    ones = np.ones(sites.layout.size)
    return rebuild(model, sites, ones > 0, ones, np.zeros(len(sites.found), dtype=bool))


def learnt_statistics():
    norm = layers.Normalization()
    norm.adapt(np.random.default_rng(0).normal(5, 3, (50, 4)))
    clip = keras.Input((3, 4))
    return keras.Model(clip, layers.Dense(3)(layers.TimeDistributed(norm)(clip))), np.ones((2, 3, 4), "float32")


def low_rank_update():
    adapted = layers.Dense(4)
    images = keras.Input((5,))
    outputs = layers.Dense(3)(adapted(images))
    adapted.enable_lora(2, lora_alpha=8)
    adapted.lora_kernel_b.assign(np.ones((2, 4)))
    return keras.Model(images, outputs), np.ones((2, 5), "float32")


def given_kernel():
    constant = keras.initializers.Constant(np.random.default_rng(0).normal(size=(3, 3, 2, 5)))
    images = keras.Input(SIZE)
    return keras.Model(images, layers.Conv2D(5, 3, kernel_initializer=constant)(images)), np.ones((2, *SIZE), "float32")


@pytest.mark.parametrize("make", [learnt_statistics, low_rank_update, given_kernel])
def test_what_neither_weights_nor_config_hold_comes_along(make):
    model, inputs = make()
    np.testing.assert_allclose(rebuilt_whole(model)(inputs), model(inputs), rtol=1e-4, atol=1e-4)


def film(frames=10):
    """A convolution of each frame, inside a nested model, and one over time."""
    images = keras.Input(SIZE, name="one")
    inner = keras.Model(images, layers.Conv2D(4, 3, padding="same", name="frame")(images), name="inner")
    clip = keras.Input((frames, *SIZE))
    x = layers.GlobalAveragePooling2D()(inner(keras.ops.reshape(clip, (-1, *SIZE))))
    x = keras.ops.reshape(x, (-1, frames, 4))
    return keras.Model(clip, layers.Dense(3)(layers.Flatten()(layers.Conv1D(6, 3, padding="same", name="time")(x))))


@pytest.mark.parametrize("batch", [None, 3])
def test_macs_of_every_frame_that_is_folded_into_the_batch_are_counted(batch):
    model, kinds = film(), ("conv1d", "conv2d")
    if batch:
        clip = keras.Input(batch_shape=(batch, 10, *SIZE))
        model = keras.Model(clip, model(clip))
    counted = count_convolutions(model, layers=kinds)
    macs = {path.split("/")[-1]: macs for path, (macs, _) in counted.items()}
    assert macs == {"frame": 10 * 64 * 9 * 2 * 4, "time": 10 * 3 * 4 * 6}
    sites = find_sites(model, "spatial", layers=kinds)
    assert sites.costs.original[0].tolist() == [macs["frame"], macs["time"]]
    assert [call.times for call in record_calls(model) if call.layer.name in ("frame", "time")] == [10, 1]


@pytest.mark.parametrize("wrong", [(8, 8), 8, ((8, 8, 2),), "8,8,2", (8.5, 8, 2), (-8, 8, 2), (8, 8, 1)])
def test_a_shape_that_is_not_of_an_image_is_refused(wrong):
    images = keras.Input((None, None, 2))
    model = keras.Model(images, layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(images)))
    assert find_sites(model, "spatial", input_shape=[8, 8, 2]).costs.original[0] == 36 * 9 * 8
    with pytest.raises(ConfigError, match="input_shape must be that of one image"):
        find_sites(model, "spatial", input_shape=wrong)


def test_an_optional_input_stays_optional():
    images, other = keras.Input(SIZE), keras.Input((3,), optional=True, name="other")

    class Plus(layers.Layer):
        def call(self, inputs, more):
            return inputs if more is None else inputs + keras.ops.sum(more)

    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(images))
    model = keras.Model([images, other], Plus()(x, other))
    copy = transform(model, lambda _: None)[0]
    seen = np.ones((2, *SIZE), "float32")
    np.testing.assert_allclose(copy([seen, None]), model([seen, None]), rtol=1e-6)


def test_single_frozen_weights_stay_frozen():
    images = keras.Input(SIZE)
    first, second = layers.Conv2D(4, 3, name="first"), layers.Conv2D(5, 3, name="second")
    model = keras.Model(images, second(first(images)))
    first.bias.trainable = second.kernel.trainable = False
    sites = find_sites(model, "spatial", exclude=["first"])
    ones = np.ones(sites.layout.size)
    copy = rebuild(model, sites, ones > 0, ones, np.zeros(1, dtype=bool))
    assert [weight.path for weight in copy.trainable_weights] == ["first/kernel", "second/bias"]
    assert has_free_bias(sites.found[0])
    second.bias.trainable = False
    assert not has_free_bias(sites.found[0])


@pytest.mark.parametrize("distillation", [0.0, 0.5])
def test_the_accuracy_of_a_network_for_pixels_is_the_share_that_is_right(distillation):
    keras.utils.set_random_seed(0)
    images = np.random.default_rng(0).normal(size=(40, *SIZE)).astype("float32")
    classes = np.digitize(images.sum(axis=-1), [-1, 1])
    inputs = keras.Input(SIZE)
    x = layers.Conv2D(12, 3, padding="same", activation="relu")(inputs)
    model = keras.Model(inputs, layers.Conv2D(3, 3, padding="same")(x))
    held_out = images[:10], classes[:10]
    config = Config(solve=QUICK.solve, fine_tune=FineTuneConfig(epochs=1, distillation=distillation))
    result = cobla_tf.compress(model, (images[10:], classes[10:]), macs=0.6, validation=held_out, config=config)
    right = np.argmax(result.model.predict(images[:10], verbose=0), axis=-1) == classes[:10]
    assert result.report.evaluations["fine-tuned"].accuracy == pytest.approx(right.mean(), abs=1e-6)
    assert all(evaluation.of_places for evaluation in result.report.evaluations.values())
    assert 0 < result.report.fine_tuning[0]["accuracy"] <= 1


def test_outputs_outside_a_graph_are_of_a_few_images_at_a_time():
    seen = []

    class Seen(layers.Layer):
        def call(self, x):
            seen.append(x.shape[0])
            return x

    images = keras.Input((4,))
    model = keras.Model(images, layers.Dense(3)(Seen()(images)))
    seen.clear()
    values = np.random.default_rng(0).normal(size=(2 * AT_ONCE + 1, 4)).astype("float32")
    outputs = first_outputs(model, values)
    assert seen == [AT_ONCE, AT_ONCE, 1]
    np.testing.assert_allclose(outputs, model(values), rtol=1e-6)


def test_masks_of_padding_pass_through_the_factors():
    words = keras.Input((6,), dtype="int32")
    model = keras.Model(words, layers.Dense(4, name="d")(layers.Embedding(9, 5, mask_zero=True)(words)))
    sites = find_sites(model, "spatial", layers="dense")
    masked = mask_model(model, sites, "factored")
    assert masked.model(np.array([[1, 2, 0, 0, 0, 0]]))._keras_mask is not None


def test_a_pipeline_that_fails_is_one_sentence():
    images, labels = images_and_labels(8, SIZE)

    def batches():
        yield images[:4], labels[:4]
        raise RuntimeError("no more of that")

    signature = (tf.TensorSpec((None, *SIZE)), tf.TensorSpec((None,), tf.int64))
    failing = tf.data.Dataset.from_generator(batches, output_signature=signature)
    with pytest.raises(DataError, match=r"dataset: its batches cannot be read .*no more of that"):
        as_examples(failing)
    with pytest.raises(DataError, match="expected a pair of arrays"):
        as_examples(iter(failing))


@pytest.mark.parametrize(
    ("broken", "reason"),
    [(0, "OSError: no more of that"), (3, "OSError: no more of that"), (None, "a label value of 7 which is outside")],
)
def test_a_stream_that_fails_on_the_way_is_one_sentence(monkeypatch, broken, reason):
    monkeypatch.setattr("cobla_tf.reading.IN_MEMORY_LIMIT", 100)
    images, labels = images_and_labels(128)
    late = np.append(labels[:-1], labels[-1] if broken is not None else 7)

    def batches():
        for number in range(4):
            if number == broken:
                raise OSError("no more of that")
            yield images[32 * number :][:32], late[32 * number :][:32]

    signature = (tf.TensorSpec((32, *images.shape[1:])), tf.TensorSpec((32,), tf.int64))
    stream = tf.data.Dataset.from_generator(batches, output_signature=signature)
    stream = stream.apply(tf.data.experimental.assert_cardinality(4))
    config = Config(solve=SolveConfig(iterations=1, draws=1), batch_size=32)
    with pytest.raises(DataError, match=f"dataset: its batches cannot be read .*{reason}"):
        cobla_tf.compress(small_cnn(), stream, macs=0.5, validation=(images, labels), config=config)


def test_a_stream_of_unknown_length_is_counted_aloud(monkeypatch, caplog):
    monkeypatch.setattr(reading, "IN_MEMORY_LIMIT", 2000)
    dataset = tf.data.Dataset.from_tensor_slices(images_and_labels(40, SIZE)).filter(lambda *_: True).batch(8)
    assert as_examples(dataset).size == 40
    assert caplog.text.count("its examples are counted") == 1


def test_a_stream_sorted_by_class_is_told_of(monkeypatch, caplog):
    monkeypatch.setattr(reading, "IN_MEMORY_LIMIT", 2000)
    images, labels = images_and_labels(400, SIZE)
    for order, said in ((np.arange(400), False), (np.argsort(labels), True)):
        caplog.clear()
        dataset = tf.data.Dataset.from_tensor_slices((images[order], labels[order])).batch(8)
        cobla_tf.compress(sequential(), dataset, macs=0.7, method="pos_cvx", validation=(images, labels), config=QUICK)
        assert ("are all of one class" in caplog.text) == said


class TrainsItself(keras.Model):
    def train_step(self, *args):
        return super().train_step(*args)


def test_a_way_of_training_of_its_own_is_said_to_be_lost():
    images = keras.Input(SIZE)
    logits = head(conv(4)(images))
    assert own_training(keras.Model(images, logits)) == []
    (note,) = own_training(TrainsItself(images, logits))
    assert "the model's own train_step (TrainsItself) does not carry over" in note


def test_adapted_lookup_layers_keep_what_they_learnt():
    images, ids = keras.Input((6, 6, 2)), keras.Input((1,), dtype="int64")
    lookup = layers.IntegerLookup(output_mode="one_hot", name="lookup")
    lookup.adapt(np.array([3, 5, 7]))
    seen = layers.GlobalAveragePooling2D()(conv(4, "free")(images))
    model = keras.Model([images, ids], layers.Dense(3)(layers.Concatenate()([seen, lookup(ids)])))
    check_model(model)
    sites = find_sites(model, "spatial")
    ones = np.ones(sites.layout.size)
    copy = rebuild(model, sites, ones > 0, ones, np.zeros(len(sites.found), dtype=bool))
    given = [np.ones((4, 6, 6, 2), np.float32), np.array([[3], [5], [7], [9]])]
    np.testing.assert_allclose(copy(given), model(given), atol=1e-5)
    words = layers.IntegerLookup(output_mode="tf_idf", name="words")
    words.adapt(np.array([[3, 5], [3, 7]]))
    model = keras.Model(ids, layers.Dense(3)(words(ids)))
    with pytest.raises(ModelError, match="'words' learnt its vocabulary by adapt"):
        transform(model, lambda _: None)


def test_inputs_of_strings_are_refused():
    text = keras.Input((1,), dtype="string", name="text")
    lookup = layers.StringLookup(vocabulary=["a", "b"], output_mode="multi_hot")
    with pytest.raises(ModelError, match=r"input 'text' .* takes strings"):
        check_model(keras.Model(text, layers.Dense(3)(lookup(text))))


def test_a_nested_model_called_with_a_mask():
    steps = keras.Input((6, 5))
    inner = keras.Model(steps, layers.LSTM(4)(layers.Dense(6, name="free")(steps)), name="inner")
    given = keras.Input((6, 5))
    mask = keras.ops.any(keras.ops.not_equal(given, 0), axis=-1)
    model = keras.Model(given, layers.Dense(3)(inner(given, mask=mask)))
    sites = find_sites(model, "spatial", layers="all")
    assert "inner/free" in [site.name for site in sites.found]
    ones = np.ones(sites.layout.size)
    copy = rebuild(model, sites, ones > 0, ones, np.zeros(len(sites.found), dtype=bool))
    sequences = np.random.default_rng(0).normal(size=(3, 6, 5)).astype("float32")
    sequences[:, 4:] = 0
    np.testing.assert_allclose(copy(sequences), model(sequences), atol=1e-5)


def relu(x):
    return keras.ops.clip(x, 0, 0.2)


@keras.saving.register_keras_serializable("kinds")
class Forgetful(layers.Layer):
    def __init__(self, alpha=0.1, **options):
        super().__init__(**options)
        self.alpha = alpha

    def get_config(self):
        return {"name": self.name}

    def call(self, x):
        return self.alpha * x


@pytest.mark.parametrize(
    ("layer", "name"),
    [(layers.Conv2D(4, 3, activation=relu, name="odd"), "odd"), (Forgetful(0.7, name="scaled"), "scaled")],
)
def test_a_copy_that_computes_something_else_is_refused(layer, name):
    images = keras.Input(SIZE)
    model = keras.Model(images, head(conv(6, "last")(layer(images))))
    with pytest.raises(ModelError, match=f"computes something else, first in layer '{name}'"):
        cobla_tf.compress(model, images_and_labels(40, SIZE), macs=0.5, config=QUICK)


class Small(keras.initializers.Initializer):
    def __call__(self, shape, dtype=None):
        return keras.ops.full(shape, 0.1)


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"activation": tf.nn.silu}, "its activation, swish, is not registered: put @keras"),
        ({"activation": lambda x: x}, "its activation, a lambda, is not"),
        ({"kernel_initializer": Small()}, "its kernel_initializer, Small, is not"),
    ],
)
@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
def test_functions_that_are_not_registered_are_named(options, named, inside):
    steps, layer = keras.Input((4, 6)), layers.Dense(3, **options)
    model = keras.Model(steps, (layers.TimeDistributed(layer) if inside else layer)(steps))
    with pytest.raises(ModelError, match=named) as raised:
        transform(model, lambda layer: None)
    assert len(str(raised.value)) < 300


def words(batch=None):
    ids = keras.Input((8,), dtype="int32", batch_size=batch)
    return ids, layers.Conv1D(6, 3, padding="same")(layers.Embedding(10, 4)(ids))


def unknown_word():
    ids, x = words()
    return keras.Model(ids, head1d(x)), np.full((40, 8), 99)


def stateful():
    ids, x = words(4)
    return keras.Model(ids, layers.Dense(3)(layers.LSTM(4, stateful=True)(x))), np.zeros((40, 8))


def whole_numbers():
    images = keras.Input(SIZE, dtype="uint8")
    return keras.Model(images, head(conv(6)(images))), np.zeros((40, *SIZE))


def fixed_batch():
    ids, x = words(4)
    return keras.Model(ids, head1d(keras.ops.reshape(x, (4, -1, 6)))), np.zeros((40, 8))


def size_for_the_batch():
    ids, x = words()
    return keras.Model(ids, head1d(keras.ops.reshape(x, (4, -1, 6)))), np.zeros((40, 8))


def head1d(x):
    return layers.Dense(3)(layers.GlobalAveragePooling1D()(x))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (unknown_word, r"cannot compute on the first images \(InvalidArgumentError in Embedding: .* 99 is not in"),
        (stateful, r"cannot compute on .* in LSTM: If an RNN is stateful.*batches of exactly 4: rebuild it without"),
        (whole_numbers, r"cannot compute on .* in Conv2D: Incompatible type .* uint8 .*types as its layers take"),
        (fixed_batch, r"gives 4 rows of output for 2 images, .* made for batches of exactly 4"),
        (size_for_the_batch, r"gives 4 rows of output for 2 images, .* let no fixed size in it stand"),
    ],
)
def test_a_model_that_cannot_compute_is_one_sentence(make, said):
    model, given = make()
    with pytest.raises(ModelError, match=said) as raised:
        cobla_tf.compress(model, (given, np.arange(40) % 3), macs=0.5, layers="all", config=QUICK)
    assert len(str(raised.value)) < 400 and "\n" not in str(raised.value)


@keras.saving.register_keras_serializable("kinds")
class Block(layers.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.inner, self.norm = layers.Conv2D(2, 3, padding="same"), layers.BatchNormalization()

    def call(self, x, training=False):
        return self.norm(self.inner(x), training=training)


@pytest.mark.parametrize("part", ["block", "norm"])
def test_what_is_frozen_inside_a_block_stays_frozen(part):
    block, images = Block(name="block"), keras.Input(SIZE)
    model = keras.Model(images, head(conv(6)(block(images))))
    (block if part == "block" else block.norm).trainable = False
    copy, _ = transform(model, lambda layer: None)
    new = copy.get_layer("block")
    assert (new.trainable, new.norm.trainable, new.inner.trainable) == (part == "norm", False, part == "norm")
    assert len(copy.trainable_weights) == len(model.trainable_weights)


@pytest.mark.parametrize("change", [
    lambda model: model.quantize("int8"),
    lambda model: model.get_layer("attention")._query_dense.enable_lora(2),
    lambda model: model.get_layer("steps").layer.enable_lora(2, lora_alpha=16),
])  # fmt: skip
def test_layers_inside_layers_keep_what_was_done_to_them(change):
    images = keras.Input((8, 4))
    x = layers.MultiHeadAttention(2, 3, name="attention")(images, images)
    x = layers.TimeDistributed(layers.Dense(5), name="steps")(layers.Conv1D(4, 3, name="site")(x))
    model = keras.Model(images, x)
    change(model)
    for weight in model.weights:
        if "lora" in weight.path:
            weight.assign(np.random.default_rng(0).normal(size=weight.shape))
    rows = np.random.default_rng(1).normal(size=(40, 8, 4)).astype("float32")
    copy, _ = transform(model, lambda layer: None)
    np.testing.assert_allclose(copy(rows), model(rows), rtol=1e-5, atol=1e-5)
    choice = {"loss": "mse", "layers": "conv1d", "params": 0.9, "scheme": "channel", "method": "uniform"}
    report = cobla_tf.compress(model, (rows, np.zeros((40, 6, 5))), config=QUICK, **choice).report
    assert [site.name for site in report.sites] == ["site"]


def test_a_weight_taken_by_a_plain_operation_is_refused():
    images = keras.Input((6,))
    coder = layers.Dense(6, use_bias=False)
    model = keras.Model(images, keras.ops.matmul(coder(images), coder.kernel))
    with pytest.raises(ModelError, match="takes the weight"):
        check_model(model)


def test_an_output_keeps_its_name():
    images = keras.Input(SIZE)
    x = layers.GlobalAveragePooling2D()(conv(8)(images))
    model = keras.Model(images, [layers.Dense(6, name="a")(x), layers.Dense(5, name="b")(x)])
    sites = find_sites(model, "channel", layers="all")
    kept = np.concatenate([np.arange(n) < 2 for n in sites.layout.full_ranks])
    copy = rebuild(model, sites, kept, np.ones(len(kept)), np.zeros(len(sites.found), bool))
    assert copy.output_names == ["a", "b"] and {"a_g", "b_g"} <= {layer.name for layer in copy.layers}


@pytest.mark.parametrize("frames", [6, 7])
def test_macs_are_counted_where_the_batch_is_not_the_first_axis(frames):
    images = keras.Input((frames, 6))
    x = layers.Dense(32, name="site")(keras.ops.transpose(images, (1, 0, 2)))
    model = keras.Model(images, keras.ops.transpose(x, (1, 0, 2)))
    assert count_convolutions(model, layers="dense") == {"site": (frames * 6 * 32, 6 * 32)}


def test_outputs_in_nested_dicts_have_names():
    images = keras.Input(SIZE)
    model = keras.Model(images, {"x": {"p": head(images, name="p")}, "y": {"q": head(images, name="q")}})
    assert output_names(model) == ("p", "q")


def test_sparse_inputs_stay_sparse():
    images = keras.Input((6,), sparse=True)
    copy, _ = transform(keras.Model(images, layers.Dense(3)(images)), lambda layer: None)
    assert copy.inputs[0].sparse
