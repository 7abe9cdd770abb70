"""Random small networks of all kinds of layers; COBLA_RANDOM_NETWORKS=200 takes more of them."""

import os
import tempfile
from functools import cache
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks import relative_error

from cobla_tf.config import SCHEMES
from cobla_tf.costs import Allocation
from cobla_tf.sites import find_sites
from cobla_tf.surgery import count_convolutions, rebuild

L = keras.layers
TOLERANCE = 1e-4  # float32, a dozen layers
EXAMPLES = int(os.environ.get("COBLA_RANDOM_NETWORKS", "15"))
GEOMETRIES = [{}, {"strides": 2}, {"strides": (1, 2)}, {"dilation_rate": 2}, {"dilation_rate": (3, 1)}]
ACTIVATIONS = [None, "relu", "tanh", L.LeakyReLU(0.1)]


def shared_options(draw, **more):
    return {
        "activation": draw(st.sampled_from(ACTIVATIONS)),
        "use_bias": draw(st.booleans()),
        "bias_initializer": "normal",
        "trainable": draw(st.booleans()),
        **more,
    }


def width(draw):
    return draw(st.sampled_from([2, 4, 6]))


def conv_options(draw, x, geometries=GEOMETRIES):
    """With 'valid' padding only where the image is larger than any kernel."""
    paddings = ["same", "valid"] if min(x.shape[1:3]) > 6 else ["same"]
    sizes = draw(st.sampled_from([1, 2, 3, (3, 1), (1, 3), (2, 3)]))
    geometry = draw(st.sampled_from(geometries))
    return shared_options(draw, kernel_size=sizes, padding=draw(st.sampled_from(paddings)), **geometry)


def conv2d(draw, x):
    return L.Conv2D(width(draw), groups=draw(st.sampled_from([1, 2])), **conv_options(draw, x))(x)


@cache
def runs_channels_first(kind):
    """TensorFlow has such kernels only for some processors."""
    try:
        kind(2, 3, data_format="channels_first")(np.zeros((1, 2, 6, 6), "float32"))
    except tf.errors.OpError:
        return False
    return True


def channels_first(draw, x):
    kind = draw(st.sampled_from([L.Conv2D, L.Conv2DTranspose]))
    options = conv_options(draw, x, [{}, {"strides": (1, 2)}])
    if not runs_channels_first(kind):
        return kind(width(draw), **options)(x)
    return L.Permute((2, 3, 1))(kind(width(draw), data_format="channels_first", **options)(L.Permute((3, 1, 2))(x)))


def transpose(draw, x):
    geometry = [{}, {"strides": 2}, {"strides": (1, 2)}, {"strides": (3, 2), "output_padding": (2, 1)}]
    if max(x.shape[1:3]) > 16:
        geometry = geometry[:1]
    return L.Conv2DTranspose(width(draw), **conv_options(draw, x, geometry))(x)


def separable(draw, x):
    options = conv_options(draw, x, [{}, {"strides": 2}, {"dilation_rate": 2}])
    return L.SeparableConv2D(width(draw), depth_multiplier=draw(st.sampled_from([1, 2])), **options)(x)


def depthwise(draw, x):
    return L.BatchNormalization()(L.DepthwiseConv2D(3, padding="same")(x))


def residual(draw, x):
    return L.Add()([x, L.Conv2D(x.shape[-1], 3, padding="same", **shared_options(draw))(x)])


def shared(draw, x):
    layer = L.Conv2D(x.shape[-1], 3, padding="same", **shared_options(draw))
    return layer(L.MaxPooling2D(padding="same")(layer(x)))


def nested(draw, x):
    inner = keras.Input(x.shape[1:])
    block = keras.Model(inner, draw(st.sampled_from([conv2d, transpose, separable]))(draw, inner))
    return keras.Sequential([keras.Input(x.shape[1:]), block])(x)


def pooled(draw, x):
    return L.GlobalAveragePooling2D()(x)


def sequence(draw, x):
    options = draw(st.sampled_from([{"padding": "causal", "dilation_rate": 2}, {"padding": "same", "strides": 2}]))
    x = L.Dense(width(draw), **shared_options(draw))(L.Reshape((-1, x.shape[-1]))(x))
    x = L.Conv1D(width(draw), 3, groups=draw(st.sampled_from([1, 2])), **options, **shared_options(draw))(x)
    return L.GlobalMaxPooling1D()(x)


def volume(draw, x):
    x = L.Conv3D(width(draw), (2, 3, 2), padding="same", **shared_options(draw))(L.Reshape((*x.shape[1:], 1))(x))
    return L.GlobalAveragePooling3D()(x)


def network(draw):
    images = keras.Input((draw(st.integers(7, 10)), draw(st.integers(7, 10)), 2))
    x = L.Conv2D(4, 3, padding="same")(images)
    blocks = [conv2d, conv2d, channels_first, transpose, separable, depthwise, residual, shared, nested]
    for block in draw(st.lists(st.sampled_from(blocks), max_size=4)):
        x = block(draw, x)
    x = draw(st.sampled_from([pooled, sequence, volume]))(draw, x)
    return keras.Model(images, L.Dense(3)(x))


@settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
@given(st.data(), st.integers(0, 1000))
def test_full_rank_equality_exact_cost_and_round_trip(data, seed):
    keras.utils.set_random_seed(seed)
    rng = np.random.default_rng(seed)
    model = network(data.draw)
    sites = find_sites(model, data.draw(st.sampled_from(SCHEMES)), layers="all")
    count, full_ranks = len(sites.found), sites.layout.full_ranks
    images = rng.normal(size=(2, *model.inputs[0].shape[1:])).astype("float32")
    ones = np.ones(sites.layout.size)
    assert (
        relative_error(rebuild(model, sites, ones > 0, ones, np.zeros(count, dtype=bool))(images), model(images))
        < TOLERANCE
    )
    whole = rng.random(count) < 0.3
    ranks = np.where(whole, full_ranks, rng.integers(1, full_ranks + 1))
    smaller = rebuild(model, sites, sites.layout.leading(ranks) > 0, ones, whole)
    with tempfile.TemporaryDirectory() as folder:
        smaller.save(Path(folder) / "smaller.keras")
        reloaded = keras.models.load_model(Path(folder) / "smaller.keras")
    np.testing.assert_allclose(reloaded(images), smaller(images), rtol=1e-5, atol=1e-6)
    counted = np.sum(list(count_convolutions(reloaded, layers="all").values()), axis=0)
    np.testing.assert_array_equal(counted, sites.costs.used(Allocation(ranks, whole)))
