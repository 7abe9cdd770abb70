import keras
import numpy as np
import pytest
from absl import logging

from cobla_tf.datasets import load_dataset
from cobla_tf.errors import ModelError
from cobla_tf.models import INPUT_PREPROCESSING, ZOO, load_model
from cobla_tf.preprocessing import PREPROCESSINGS


@pytest.fixture
def warnings(monkeypatch):
    lines = []
    monkeypatch.setattr(logging, "warning", lambda line, *values: lines.append(line % values))
    return lines


def _macs(model):
    return sum(
        int(np.prod(layer.kernel.shape) * np.prod(layer.output.shape[1:3]))
        for layer in model.layers
        if isinstance(layer, keras.layers.Conv2D)
    )


def _tiny(*middle):
    inputs = keras.Input((4, 4, 1))
    x = keras.layers.Flatten()(inputs)
    for layer in middle:
        x = layer(x)
    return keras.Model(inputs, keras.layers.Dense(2)(x))


# SqueezeNet's as published; the NIN's are those of the Caffe model zoo's and 729 of the whitening.
@pytest.mark.parametrize(
    ("name", "params", "outputs"),
    [
        ("nin_cifar10", 967_715, 10),
        ("squeezenet_v1.0", 1_248_424, 1000),
        ("squeezenet_v1.1", 1_235_496, 1000),
    ],
)
def test_zoo_networks_have_their_published_size(name, params, outputs):
    model = ZOO[name]()
    assert model.count_params() == params and model.output.shape == (None, outputs)
    assert all(type(layer).__module__.startswith("keras.") for layer in model.layers)


def test_vgg16_has_the_macs_and_logits_of_the_paper():
    model = ZOO["vgg16"]()
    assert _macs(model) == pytest.approx(15.35e9, rel=1e-3)
    assert model.layers[-1].activation is keras.activations.linear


@pytest.mark.parametrize(("version", "sides"), [("v1.0", (55, 27, 13)), ("v1.1", (56, 28, 14))])
def test_squeezenet_pools_round_up(version, sides):
    model = ZOO[f"squeezenet_{version}"]()
    pools = [layer for layer in model.layers if isinstance(layer, keras.layers.MaxPooling2D)]
    assert tuple(pool.output.shape[1] for pool in pools) == sides


def test_every_zoo_model_has_a_preprocessing():
    assert set(INPUT_PREPROCESSING) == set(ZOO) and set(INPUT_PREPROCESSING.values()) <= set(PREPROCESSINGS)


def test_the_whitening_is_frozen():
    trainable = {layer.name for layer in ZOO["nin_cifar10"]().layers if layer.trainable_weights}
    assert "whitening" not in trainable and {"conv1", "cccp6"} <= trainable


def test_digits_cnn_learns_the_digits_in_seconds():
    keras.utils.set_random_seed(0)
    digits = load_dataset("digits", data_dir=None, image_shape=(8, 8, 1), preprocessing="none", seed=0)
    model = ZOO["digits_cnn"]()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
    model.fit(*digits.train, batch_size=64, epochs=15, verbose=0)
    assert model.evaluate(*digits.test, verbose=0)[1] > 0.97


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_model_file_gives_the_saved_model(tmp_path, suffix):
    model = ZOO["digits_cnn"]()
    path = str(tmp_path / f"model{suffix}")
    model.save(path)
    images = np.random.default_rng(0).uniform(0, 16, (3, 8, 8, 1)).astype(np.float32)
    np.testing.assert_allclose(load_model(path)(images), model(images), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("suffix", [".weights.h5", ".h5", ".keras"])
def test_weights_fill_a_zoo_model(tmp_path, suffix):
    model = ZOO["digits_cnn"]()
    path = str(tmp_path / f"trained{suffix}")
    model.save_weights(path) if suffix == ".weights.h5" else model.save(path)
    loaded = load_model("digits_cnn", path)
    for got, expected in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_random_weights_are_warned_of(warnings):
    load_model("digits_cnn")
    assert len(warnings) == 1 and "digits_cnn has random weights" in warnings[0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vgg61", "nor one of digits_cnn, nin_cifar10, .*, vgg16; give one of these, or the path of any network"),
        ("resnet50", "nor one of digits_cnn"),
        ("absent.keras", "does not exist"),
        ("absent/model", "does not exist"),
    ],
)
def test_a_name_that_is_nowhere(name, expected):
    with pytest.raises(ModelError, match=expected):
        load_model(name)


@pytest.mark.parametrize("suffix", [".keras", ".h5", ".txt", ""])
def test_a_file_that_is_no_model(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"no model") if suffix else path.mkdir()
    with pytest.raises(ModelError, match="save it"):
        load_model(str(path))


def test_weights_alone_are_no_model(tmp_path):
    path = str(tmp_path / "digits.weights.h5")
    ZOO["digits_cnn"]().save_weights(path)
    with pytest.raises(ModelError, match="not a whole Keras model"):
        load_model(path)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
def test_what_is_not_keras_own_is_named(tmp_path, suffix):
    class Doubling(keras.layers.Layer):
        def call(self, x):
            return 2 * x

    class Small(keras.initializers.Initializer):
        def __call__(self, shape, dtype=None):
            return keras.ops.zeros(shape)

    def odd(x):
        return 2 * x

    path = str(tmp_path / f"model{suffix}")
    for layer, expected in (
        (Doubling(), "custom object Doubling, .* register it with .* call cobla_tf.compress"),
        (keras.layers.Dense(3, activation=odd), "custom object odd"),
        (keras.layers.Dense(3, kernel_initializer=Small()), "custom object Small"),
        (keras.layers.Dense(3, activation=lambda x: x), "a lambda, whose code"),
        (keras.layers.Lambda(lambda x: x), "a Lambda layer"),
    ):
        _tiny(layer).save(path)
        with pytest.raises(ModelError, match=expected):
            load_model(path)


def test_a_custom_loss_is_left_out_with_a_warning(tmp_path, warnings):
    class OwnLoss(keras.losses.Loss):
        def call(self, y_true, y_pred):
            return y_pred[:, 0]

    model = _tiny()
    model.compile("sgd", OwnLoss())
    model.save(tmp_path / "model.keras")
    assert not load_model(str(tmp_path / "model.keras")).compiled
    assert len(warnings) == 1 and "OwnLoss" in warnings[0]


@pytest.mark.parametrize("suffix", [".weights.h5", ".h5", ".keras"])
def test_weights_of_a_deeper_network_are_not_taken_in_part(tmp_path, suffix):
    def network(depth):
        layers = [keras.layers.Conv2D(2, 3, padding="same") for _ in range(depth)]
        return keras.Sequential([keras.Input((8, 8, 1)), *layers, keras.layers.Dropout(0.5), keras.layers.Dense(3)])

    model, path = str(tmp_path / "model.keras"), str(tmp_path / f"deeper{suffix}")
    network(2).save(model)
    for depth in (2, 3):
        deeper = network(depth)
        deeper.compile("adam", "mse")
        deeper.save_weights(path) if suffix == ".weights.h5" else deeper.save(path)
        if depth == 2:
            load_model(model, path)
    with pytest.raises(ModelError, match=r"do not fit .*model\.keras.*(conv2d_2/vars/0|expected 3 layers)"):
        load_model(model, path)


def test_weights_that_do_not_fit_or_are_missing(tmp_path):
    path = str(tmp_path / "other.weights.h5")
    _tiny().save_weights(path)
    with pytest.raises(ModelError, match="do not fit digits_cnn"):
        load_model("digits_cnn", path)
    with pytest.raises(ModelError, match="does not exist"):
        load_model("digits_cnn", str(tmp_path / "absent.h5"))
    (tmp_path / "weights.npz").write_bytes(b"")
    with pytest.raises(ModelError, match="must end in"):
        load_model("digits_cnn", str(tmp_path / "weights.npz"))
