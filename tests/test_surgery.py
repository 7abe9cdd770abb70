from pathlib import Path

import keras
import numpy as np
import pytest
from networks import GEOMETRIES, KERNELS, one_conv, relative_error, small_cnn

from cobla_tf.config import GRADIENTS, SCHEMES
from cobla_tf.errors import ConfigError, ModelError
from cobla_tf.rounding import round_masks
from cobla_tf.sites import find_sites
from cobla_tf.surgery import count_convolutions, mask_model, rebuild

TOLERANCE = 1e-5


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("stride", "dilation"), GEOMETRIES)
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("bias", [True, False])
def test_at_full_rank_masked_and_rebuilt_networks_equal_the_original(scheme, kernel, stride, dilation, padding, bias):
    model = one_conv(kernel, stride, dilation, padding, bias)
    sites = find_sites(model, scheme)
    ones = np.ones(sites.layout.size)
    images = np.random.default_rng(0).normal(size=(3, 14, 15, 2)).astype("float32")
    expected = model(images)
    for path in GRADIENTS:
        masked = mask_model(model, sites, path)
        masked.write(ones)
        assert relative_error(masked.model(images), expected) < TOLERANCE
    rebuilt = rebuild(model, sites, ones > 0, ones, np.zeros(len(sites.found), dtype=bool))
    assert relative_error(rebuilt(images), expected) < TOLERANCE
    counted = np.sum(list(count_convolutions(rebuilt).values()), axis=0)
    np.testing.assert_array_equal(counted, (sites.costs.per_rank * sites.costs.full_ranks).sum(axis=1))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("eta", [round(0.1 * i, 1) for i in range(1, 10)])
def test_costs_counted_in_the_reloaded_network_equal_the_model_and_respect_the_budget(scheme, eta, tmp_path):
    model = small_cnn()
    sites = find_sites(model, scheme)
    costs = sites.costs
    limits = np.maximum(np.floor(costs.totals() * eta), costs.least())
    masks = np.random.default_rng(int(10 * eta)).random(sites.layout.size)
    masks *= np.min(limits / (sites.layout.spread(costs.per_rank) @ masks)).clip(max=1)
    rounded = round_masks(
        masks, np.zeros(len(costs.full_ranks), dtype=bool), sites.sigmas, costs, limits, np.random.default_rng(0)
    )
    rebuild(model, sites, rounded.kept, rounded.scale, rounded.allocation.whole).save(tmp_path / "model.keras")
    reloaded = keras.models.load_model(tmp_path / "model.keras")
    counted = np.sum(list(count_convolutions(reloaded).values()), axis=0)
    np.testing.assert_array_equal(counted, costs.used(rounded.allocation))
    assert (counted <= limits).all()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_nested_and_shared_layers_stay_nested_and_shared(scheme):
    model = small_cnn()
    sites = find_sites(model, scheme)
    assert [site.name for site in sites.found] == ["conv1", "shared", "block/conv"]
    ones = np.ones(sites.layout.size)
    images = np.random.default_rng(0).normal(size=(3, 10, 10, 2)).astype("float32")
    before = [weight.copy() for weight in model.get_weights()]
    rebuilt = rebuild(model, sites, ones > 0, ones, np.zeros(3, dtype=bool))
    assert relative_error(rebuilt(images), model(images)) < TOLERANCE
    assert rebuilt.count_params() == sum(
        (site.per_rank[1] * site.decomposition.full_rank) + site.layer.filters for site in sites.found
    ) + model.get_layer("logits").count_params()  # fmt: skip
    for weight, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, old)
    assert model.get_layer("conv1").output is not None


def test_whole_sites_keep_their_layer():
    model = small_cnn()
    sites = find_sites(model, "spatial")
    ones = np.ones(sites.layout.size)
    rebuilt = rebuild(model, sites, ones > 0, ones, np.array([True, False, False]))
    assert {"conv1", "shared_g", "shared_h"} <= {layer.name for layer in rebuilt.layers}


def test_batch_normalisation_frozen_layers_and_operations_survive():
    keras.utils.set_random_seed(1)
    images = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(6, 3, padding="same", trainable=False, name="frozen")(images)
    x = keras.layers.BatchNormalization()(x)
    x = keras.ops.relu(x) + keras.layers.Conv2D(6, 1, name="skip")(images)
    model = keras.Model(images, keras.layers.Softmax()(keras.layers.GlobalMaxPooling2D()(x)))
    model.layers[2].set_weights([np.random.default_rng(i).random(6) + 0.5 for i in range(4)])
    sites = find_sites(model, "channel")
    ones = np.ones(sites.layout.size)
    rebuilt = rebuild(model, sites, ones > 0, ones, np.zeros(2, dtype=bool))
    data = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    assert relative_error(rebuilt(data), model(data)) < TOLERANCE
    assert not rebuilt.get_layer("frozen_g").trainable
    assert not rebuilt.get_layer("frozen_h").trainable


def test_every_layer_left_alone_has_its_reason():
    images = keras.Input((8, 8, 4))
    x = keras.layers.SeparableConv2D(4, 3, name="separable")(images)
    x = keras.layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = keras.layers.Conv2D(4, 1, name="whitening")(x)
    x = keras.layers.Conv2D(4, 1, name="site")(x)
    model = keras.Model(images, keras.layers.Dense(2, name="dense")(keras.layers.Flatten()(x)))
    sites = find_sites(model, "spatial", ["white*"])
    reasons = {layer.name: layer.reason for layer in sites.skipped}
    assert [site.name for site in sites.found] == ["site"]
    assert set(reasons) == {"separable", "depthwise", "whitening", "dense"}
    assert "separable_conv2d were not asked for" in reasons["separable"]
    assert "two factors would save nothing" in reasons["depthwise"]
    assert "white*" in reasons["whitening"]
    # 4 x 4 pixels, a kernel of 1x1x4x4: 16 weights, and 8 each rank
    assert repr(sites).splitlines()[2].split() == ["site", "conv2d", "1x1x4x4", "4", "256", "128", "16", "8"]
    assert "left alone (excluded by 'white*'): whitening" in str(sites)


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


def lambda_model():
    return keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Conv2D(2, 3), keras.layers.Lambda(lambda x: x)])


def named(model, layer):
    return keras.Sequential(
        [keras.Input((4, 4, 1), name="an image"), keras.layers.Conv2D(2, 3, name=layer)], name=model
    )


@pytest.mark.parametrize("model", [".net", "9-net"])
def test_names_that_tensorflow_takes_are_let_through(model):
    network = named(model, "_a.b>c-1")
    assert [site.name for site in find_sites(network, "spatial").found] == ["_a.b>c-1"]
    network.predict(np.zeros((1, 4, 4, 1)), verbose=0)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: "q.keras", r"expected a keras.Model, got the path 'q.keras'; load it with keras.models.load_model\."),
        (lambda: Path("q.keras"), "got the path 'q.keras'; load it"),
        (lambda: 3, r"expected a keras.Model, got int\."),
        (Subclassed, "functional API"),
        (lambda_model, "Lambda"),
        (lambda: keras.Sequential([keras.layers.Conv2D(2, 3)]), "not built"),
        (lambda: keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]), "no layer left"),
        (lambda: named("two words", "conv"), "model 'two words' has a name that TensorFlow refuses"),
        (lambda: named("_net", "conv"), "model '_net' has a name"),
        (lambda: named("net", "größe"), "layer 'größe' has a name"),
        (lambda: keras.Sequential([keras.Input((4, 4, 1)), named("in $", "conv")]), r"layer 'in \$/conv' has a name"),
    ],
)
def test_models_that_cannot_be_decomposed(make, sentence):
    with pytest.raises(ModelError, match=sentence):
        find_sites(make(), "spatial")


def test_kinds_that_were_not_asked_for_are_counted_where_none_is_left():
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((8, 3)), *(layers.Conv1D(4, 3) for _ in range(2)), layers.Flatten(), layers.Dense(2, name="last")]
    )
    with pytest.raises(ModelError) as refused:
        find_sites(model, "spatial")
    kinds = "there are 2 of the kind conv1d and 1 of the kind dense, not asked for: ask for them by layers='conv1d' or"
    assert str(refused.value).endswith(f"that is not excluded): {kinds} 'all' (--layers).")
    with pytest.raises(ModelError) as refused:
        find_sites(model, "spatial", ["last"])
    assert "excluded): last: excluded by 'last'; there are 2 of the kind conv1d, not" in str(refused.value)
    with pytest.raises(ModelError, match="it has no layer with a kernel"):
        find_sites(keras.Sequential([keras.Input((8, 3)), layers.Flatten()]), "spatial")


def test_exclude_patterns():
    model = small_cnn()
    with pytest.raises(ConfigError, match=r"matches no layer.*conv1, shared"):
        find_sites(model, "spatial", ["conv9"])
    with pytest.raises(ModelError, match="no layer left"):
        find_sites(model, "spatial", ["*"])
    with pytest.raises(ConfigError, match="sequence"):
        find_sites(model, "spatial", "conv1")


def conv(name, filters=6):
    return keras.layers.Conv2D(filters, 3, padding="same", name=name)


def nested_twice(x):
    inner = keras.Input((None, None, 6))
    block = keras.Model(inner, conv("inner")(inner), name="block")
    return block(keras.layers.MaxPooling2D()(block(x)))


def keyword_calls(x):
    x = keras.layers.MultiHeadAttention(1, 2)(query=x, value=x)
    return conv("by_keyword")(inputs=x)


def two_in_two_out(x):
    one, two = keras.Input((8, 8, 6)), keras.Input((8, 8, 6))
    pair = keras.Model([one, two], [conv("left")(one), two], name="pair")
    return keras.layers.Add()(pair([x, x]))


def clashing_names(x):
    return conv("c_g")(conv("c")(x))


def learnt_normalization(x):
    layer = keras.layers.Normalization()
    layer.adapt(np.random.default_rng(0).normal(3.0, 2.0, (20, 8, 8, 6)).astype("float32"))
    return layer(x)


@pytest.mark.parametrize("middle", [nested_twice, keyword_calls, two_in_two_out, clashing_names, learnt_normalization])
def test_graphs_of_many_kinds_are_copied_exactly(middle):
    keras.utils.set_random_seed(0)
    images = keras.Input((8, 8, 2))
    x = keras.layers.GlobalAveragePooling2D()(middle(conv("first")(images)))
    model = keras.Model(images, keras.layers.Dense(3)(x))
    model.compile("adam", loss=lambda labels, outputs: keras.ops.mean(outputs))
    sites = find_sites(model, "spatial")
    ones = np.ones(sites.layout.size)
    rebuilt = rebuild(model, sites, ones > 0, ones, np.zeros(len(sites.found), dtype=bool))
    data = np.random.default_rng(0).normal(size=(2, 8, 8, 2)).astype("float32")
    assert relative_error(rebuilt(data), model(data)) < TOLERANCE
    counted = np.sum(list(count_convolutions(rebuilt).values()), axis=0)
    np.testing.assert_array_equal(counted, (sites.costs.per_rank * sites.costs.full_ranks).sum(axis=1))


def test_an_activation_with_weights_is_left_alone():
    images = keras.Input((8, 8, 2))
    x = keras.layers.Conv2D(4, 3, activation=keras.layers.PReLU(), name="prelu")(images)
    sites = find_sites(keras.Model(images, conv("site")(x)), "spatial")
    assert [layer.reason for layer in sites.skipped] == ["its activation has weights of its own"]


def test_a_layer_that_cannot_be_copied_says_so():
    images = keras.Input((8, 8, 2))
    x = keras.layers.Conv2D(4, 3, activation=lambda x: x, name="by_lambda")(images)
    with pytest.raises(ModelError, match=r"'by_lambda'.*cannot be copied"):
        find_sites(keras.Model(images, x), "spatial")
