"""Every kind of layer that can be decomposed, in every geometry that it has."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import relative_error

from cobla_tf.config import GRADIENTS, LAYERS, check_layers
from cobla_tf.errors import ConfigError
from cobla_tf.kinds import KINDS
from cobla_tf.notes import lost_attributes
from cobla_tf.sites import find_sites
from cobla_tf.surgery import count_convolutions, mask_model, rebuild

L = keras.layers
TOLERANCE = 1e-10  # float64, sums of some hundred terms
CASES = {
    "conv2d": (L.Conv2D, (9, 8, 4), {"kernel_size": (3, 2), "strides": (2, 3), "padding": "same"}),
    "conv2d dilated": (L.Conv2D, (9, 8, 4), {"kernel_size": 3, "dilation_rate": (2, 3)}),
    "conv2d in groups": (L.Conv2D, (9, 8, 4), {"kernel_size": (2, 3), "strides": 2, "groups": 2}),
    "conv2d channels first": (L.Conv2D, (4, 9, 8), {"kernel_size": 3, "data_format": "channels_first", "groups": 2}),
    "conv1d": (L.Conv1D, (9, 4), {"kernel_size": 3, "strides": 2, "padding": "same"}),
    "conv1d causal": (L.Conv1D, (9, 4), {"kernel_size": 3, "dilation_rate": 2, "padding": "causal", "groups": 2}),
    "conv3d": (L.Conv3D, (5, 6, 4, 4), {"kernel_size": (3, 2, 1), "strides": (1, 2, 1), "padding": "same"}),
    "transpose": (L.Conv2DTranspose, (5, 4, 4), {"kernel_size": (3, 2), "strides": (2, 3), "padding": "same"}),
    "transpose valid": (L.Conv2DTranspose, (5, 4, 4), {"kernel_size": (2, 4), "strides": (3, 2)}),
    "transpose padded": (L.Conv2DTranspose, (5, 4, 4), {"kernel_size": 3, "strides": (3, 2), "output_padding": (2, 1)}),
    "separable": (L.SeparableConv2D, (9, 8, 4), {"kernel_size": (3, 2), "strides": 2, "depth_multiplier": 2}),
    "dense": (L.Dense, (7,), {}),
    "dense on a sequence": (L.Dense, (5, 7), {"use_bias": False}),
}


def network(kind, shape, options, **more):
    keras.utils.set_random_seed(0)
    width = {"units" if kind is L.Dense else "filters": 6}
    defaults = {"activation": "tanh", "bias_initializer": "normal", "dtype": "float64", "name": "site"}
    images = keras.Input(shape, dtype="float64")
    return keras.Model(images, kind(**width, **{**defaults, **options, **more})(images))


def images_for(model):
    return np.random.default_rng(0).normal(size=(2, *model.inputs[0].shape[1:]))


def pytest_cases():
    both = {kind.layer: kind.schemes for kind in KINDS.values()}
    return [
        pytest.param(*case, scheme, id=f"{name}, {scheme}") for name, case in CASES.items() for scheme in both[case[0]]
    ]


@pytest.mark.parametrize(("kind", "shape", "options", "scheme"), pytest_cases())
def test_full_rank_cost_and_round_trip(kind, shape, options, scheme, tmp_path):
    model = network(kind, shape, options)
    sites = find_sites(model, scheme, layers="all")
    images, ones = images_for(model), np.ones(sites.layout.size)
    assert [site.decomposition.form.scheme for site in sites.found] == [scheme]
    for path in GRADIENTS:
        masked = mask_model(model, sites, path)
        masked.write(ones)
        assert relative_error(masked.model(images), model(images)) < TOLERANCE
    whole = np.zeros(1, dtype=bool)
    assert relative_error(rebuild(model, sites, ones > 0, ones, whole)(images), model(images)) < TOLERANCE
    assert count_convolutions(model, layers="all") == {"site": tuple(sites.costs.original[:, 0])}
    smaller = rebuild(model, sites, np.arange(len(ones)) < 2, ones, whole)
    smaller.save(tmp_path / "smaller.keras")
    reloaded = keras.models.load_model(tmp_path / "smaller.keras")
    np.testing.assert_allclose(reloaded(images), smaller(images), rtol=TOLERANCE)
    counted = np.sum(list(count_convolutions(reloaded, layers="all").values()), axis=0)
    np.testing.assert_array_equal(counted, 2 * sites.costs.per_rank[:, 0])
    masked.write(np.arange(len(ones)) < 2)
    assert relative_error(smaller(images), masked.model(images)) < TOLERANCE


@pytest.mark.parametrize(("kind", "shape", "options", "scheme"), pytest_cases())
def test_gradients_by_the_masks_are_central_differences(kind, shape, options, scheme):
    model = network(kind, shape, options)
    sites = find_sites(model, scheme, layers="all")
    images, rng = images_for(model), np.random.default_rng(1)
    masks, direction = rng.uniform(0.2, 0.9, (2, sites.layout.size))
    weights = rng.normal(size=model(images).shape)
    for path in GRADIENTS:
        masked = mask_model(model, sites, path)

        def loss(at, masked=masked):
            masked.write(at)
            return tf.reduce_sum(weights * masked.model(images, training=False))

        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(masked.variables)
            value = loss(masks)
        gradient = masked.to_vector([part.numpy() for part in tape.gradient(value, masked.variables)])
        difference = float(loss(masks + 1e-6 * direction) - loss(masks - 1e-6 * direction)) / 2e-6
        assert gradient @ direction == pytest.approx(difference, rel=1e-6, abs=1e-8)


def nested(layer):
    inner = keras.Input((9, 8, 4), dtype="float64")
    return keras.Sequential([keras.Input((9, 8, 4), dtype="float64"), keras.Model(inner, layer(inner), name="inner")])


def used_twice(layer):
    return lambda images: layer(layer(images))


AIMET = {
    "fused activation": ({"activation": "relu"}, None, lambda pair: pair[1].activation is keras.activations.relu),
    "activation layer": ({"activation": L.LeakyReLU(0.3)}, None, lambda pair: pair[1].activation.negative_slope == 0.3),
    "dilation": (
        {"dilation_rate": (2, 3)},
        None,
        lambda p: (p[0].dilation_rate, p[1].dilation_rate) == ((2, 1), (1, 3)),
    ),
    "groups": ({"groups": 2}, None, lambda pair: pair[0].groups == pair[1].groups == 2),
    "nested models": ({}, nested, lambda pair: pair[0].filters == 8),
    "shared layers": ({}, used_twice, lambda pair: pair[0].filters == 8),
}


@pytest.mark.parametrize(("options", "wrap", "kept"), AIMET.values(), ids=AIMET.keys())
def test_where_aimet_fails_all_is_kept(options, wrap, kept):
    layer = L.Conv2D(4, 3, padding="same", bias_initializer="normal", name="site", dtype="float64", **options)
    images = keras.Input((9, 8, 4), dtype="float64")
    model = keras.Model(images, (wrap or (lambda layer: layer))(layer)(images))
    sites = find_sites(model, "spatial")
    ones = np.ones(sites.layout.size)
    rebuilt = rebuild(model, sites, ones > 0, ones, np.array([False]))
    assert relative_error(rebuilt(images_for(model)), model(images_for(model))) < TOLERANCE
    while any(isinstance(layer, keras.Model) for layer in rebuilt.layers):
        rebuilt = next(layer for layer in rebuilt.layers if isinstance(layer, keras.Model))
    pair = [layer for layer in rebuilt.layers if layer.name.startswith("site")]
    full_rank = sites.found[0].decomposition.full_rank
    assert pair[0].filters == full_rank * pair[0].groups
    assert options == {} or kept(pair)


def test_what_a_layer_has_beside_its_kernel_goes_to_the_right_factor():
    options = {
        "kernel_size": 3,
        "trainable": False,
        "depthwise_regularizer": "l2",
        "pointwise_regularizer": "l1",
        "activity_regularizer": keras.regularizers.L2(0.5),
        "bias_constraint": "non_neg",
        "bias_regularizer": "l1",
    }
    model = network(L.SeparableConv2D, (9, 8, 4), options, dtype="mixed_bfloat16")
    sites = find_sites(model, "spatial", layers=["separable_conv2d"])
    ones = np.ones(sites.layout.size)
    rebuilt = rebuild(model, sites, ones > 0, ones, np.array([False]))
    first, second = rebuilt.get_layer("site_g"), rebuilt.get_layer("site")
    assert isinstance(first.depthwise_regularizer, keras.regularizers.L2)
    assert (first.pointwise_regularizer, first.activity_regularizer, first.bias) == (None, None, None)
    assert float(second.activity_regularizer.l2) == 0.5
    assert isinstance(second.bias_constraint, keras.constraints.NonNeg)
    assert isinstance(second.bias_regularizer, keras.regularizers.L1)
    assert not first.trainable and not second.trainable
    assert first.dtype_policy.name == second.dtype_policy.name == "mixed_bfloat16"
    assert first.kernel_size == (3, 3)
    assert lost_attributes(sites) == [
        "site: its pointwise regularizer does not carry over to two factors and is left out in fine-tuning"
    ]


@keras.saving.register_keras_serializable()
class Custom(L.Conv2D):
    pass


def test_layers_of_other_kinds_have_their_reasons():
    images = keras.Input((8, 8, 4))
    x = L.DepthwiseConv2D(3, name="depthwise")(Custom(4, 3, name="custom")(L.Conv2D(4, 3, name="conv")(images)))
    x = L.Dense(3, name="dense")(L.EinsumDense("bhwc,cd->bhwd", (2, 2, 5), name="einsum")(x))
    model = keras.Model(images, L.Conv2DTranspose(2, 2, name="transpose", activation=L.PReLU())(x))
    sites = find_sites(model, "spatial", layers=["conv2d_transpose", "dense"])
    assert {layer.name: layer.reason.split(":")[0] for layer in sites.skipped} == {
        "conv": "layers of the kind conv2d were not asked for",
        "custom": "of a kind that is not decomposed",
        "depthwise": "depthwise",
        "einsum": "of a kind that is not decomposed",
        "transpose": "its activation has weights of its own",
    }
    assert sites.names == ("dense",)


def test_layers_inside_of_others_are_told_of_with_the_way_to_them():
    frames = keras.Input((4, 8, 8, 3))
    convs = L.Conv2D(4, 3, name="first"), L.Conv2D(6, 3, name="second")
    cnn = keras.Sequential([keras.Input((8, 8, 3)), *convs, L.Flatten(), L.Dense(5)], name="cnn")
    wrapped = L.SpectralNormalization(L.Dense(4), name="normal")(L.TimeDistributed(cnn, name="steps")(frames))
    model = keras.Model(frames, L.Dense(3)(L.Bidirectional(L.LSTM(4), name="memory")(wrapped)))
    reasons = {layer.name: layer.reason for layer in find_sites(model, "spatial", layers="all").skipped}
    assert "the layers inside (2 conv2d, 1 dense) cannot be reached; fold the frames into the batch" in reasons["steps"]
    assert "the layers inside (1 dense) cannot be reached; call them directly" in reasons["normal"]
    assert reasons["memory"] == "of a kind that is not decomposed"
    folded = keras.ops.reshape(cnn(keras.ops.reshape(frames, (-1, 8, 8, 3))), (-1, 4, 5))
    assert find_sites(keras.Model(frames, folded), "spatial").names == ("cnn/first", "cnn/second")


def test_the_names_of_kinds():
    assert tuple(KINDS) == LAYERS == check_layers("all") == check_layers(["dense", "all"])
    assert check_layers("dense") == ("dense",)
    with pytest.raises(
        ConfigError, match=r"among conv2d, .*, all, got 'conv2'; did you mean conv2d or conv2d_transpose\?"
    ):
        check_layers(["conv2"])
    with pytest.raises(ConfigError, match=r"'conv'; did you mean conv2d or conv1d or conv3d or conv2d_transpose\?"):
        check_layers("conv")
    with pytest.raises(ConfigError, match=r"'Con2D'; did you mean conv2d\?"):
        check_layers("Con2D")
    with pytest.raises(ConfigError, match=r"all, got ''\."):
        check_layers("")
    with pytest.raises(ConfigError, match="at least one of conv2d"):
        check_layers([])
