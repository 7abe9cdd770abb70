import keras
import numpy as np
import pytest
from networks import images_and_labels, small_cnn

import cobla_tf
from cobla_tf.costs import Allocation
from cobla_tf.examples import Sample
from cobla_tf.losses import resolve_loss
from cobla_tf.objective import Objective
from cobla_tf.refinement import LARGEST_SCALE, Refinement
from cobla_tf.rounding import LEAST_SCALE, Rounded
from cobla_tf.sampling import SampledLoss
from cobla_tf.sites import find_sites
from cobla_tf.sqp.bfgs import CompactBFGS
from cobla_tf.surgery import mask_model, rebuild

SAMPLE = Sample(*images_and_labels(60))
WHOLE = np.array([False, True, False])


def refinement_of(model):
    sites = find_sites(model, "spatial")
    loss = resolve_loss(None, model, SAMPLE.probe())
    objective = Objective(mask_model(model, sites), loss, 32, SAMPLE.probe())
    ranks = np.maximum(sites.layout.full_ranks // 2, 1)
    kept = (sites.layout.leading(ranks) > 0) | sites.layout.spread(WHOLE)
    rounded = Rounded(kept, kept.astype(float), Allocation(np.where(WHOLE, sites.layout.full_ranks, ranks), WHOLE))
    oracle = SampledLoss(objective, SAMPLE, SAMPLE.size, 5, True, np.random.default_rng(0))
    return Refinement(rounded, oracle.keep(kept, WHOLE, 0.5), sites.layout), sites, objective


def test_scale_and_biases_are_free_and_all_else_is_fixed():
    model = small_cnn()
    refinement, sites, _ = refinement_of(model)
    n, start, bounds = sites.layout.size, refinement.start, refinement.constraints
    assert len(start) == n + sum(
        site.layer.filters for site, whole in zip(sites.found, WHOLE, strict=True) if not whole
    )
    decided = refinement.rounded.kept & ~sites.layout.spread(WHOLE)
    np.testing.assert_array_equal(bounds.lower[:n], np.where(decided, LEAST_SCALE, start[:n]))
    np.testing.assert_array_equal(bounds.upper[:n], np.where(decided, LARGEST_SCALE, start[:n]))
    assert np.isneginf(bounds.lower[n:]).all()
    assert np.isposinf(bounds.upper[n:]).all()


def test_the_rebuilt_network_has_the_loss_that_the_optimiser_saw():
    model = small_cnn()
    refinement, sites, objective = refinement_of(model)
    rng = np.random.default_rng(0)
    bounds = refinement.constraints
    x = bounds.clip(refinement.start + 0.2 * rng.normal(size=len(refinement.start)))
    rounded = refinement.rounded_at(x)
    rebuilt = rebuild(model, sites, rounded.kept, rounded.scale, WHOLE, rounded.biases)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(SAMPLE.labels, rebuilt(SAMPLE.images))
    assert refinement.oracle.value(x) == pytest.approx(float(loss), rel=1e-5)
    assert refinement.oracle.value(x) != pytest.approx(objective.value(rounded.scale, SAMPLE), rel=1e-3)


@pytest.mark.parametrize("change", ["frozen", "constrained"])
def test_biases_that_are_not_ours_to_fit_stay(change):
    model = small_cnn()
    layer = model.get_layer("conv1")
    if change == "frozen":
        layer.trainable = False
    else:
        layer.bias_constraint = keras.constraints.NonNeg()
    refinement, sites, _ = refinement_of(model)
    last = sites.found[2].layer
    assert [len(bias) for bias in refinement.oracle.objective.biases] == [last.filters]
    rounded = refinement.rounded_at(refinement.start + 1.0)
    rebuilt = rebuild(model, sites, rounded.kept, rounded.scale, WHOLE, rounded.biases)
    np.testing.assert_array_equal(rebuilt.get_layer("conv1_h").bias, layer.bias)
    np.testing.assert_allclose(rebuilt.get_layer("block").get_layer("conv_h").bias, last.bias.numpy() + 1)


def test_names_in_use_are_left_to_their_layers():
    images = keras.Input((10, 10, 2))
    x = images
    for name in ("conv1", "conv2", "conv3"):
        x = keras.layers.Conv2D(8, 3, padding="same", name=name)(x)
        x = keras.layers.Activation("relu", name={"conv1": "conv1_g", "conv2": "conv3_mask", "conv3": "mask"}[name])(x)
    model = keras.Model(images, keras.layers.Dense(3, name="conv3_h")(keras.layers.GlobalAveragePooling2D()(x)))
    refinement, _, objective = refinement_of(model)
    start = refinement.start
    assert refinement.oracle.value(start) == pytest.approx(objective.value(refinement.rounded.scale, SAMPLE), rel=1e-5)


def test_compress_delivers_what_was_fitted():
    model = small_cnn()
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    solve = cobla_tf.SolveConfig(sample_fraction=1.0, iterations=2, refine_iterations=2, precision="float32")
    data = SAMPLE.images, SAMPLE.labels
    result = cobla_tf.compress(
        model, data, macs=0.5, params=0.5, validation=data, exclude=["block*"], config=cobla_tf.Config(solve=solve)
    )
    last = result.report.iterations[-1]
    assert last.phase == "refine"
    assert result.report.evaluations["compressed"].loss == pytest.approx(last.loss, rel=1e-4)
    assert np.abs(result.model.get_layer("shared_h").bias).max() > 0
    np.testing.assert_array_equal(result.model.get_layer("logits").bias, model.get_layer("logits").bias)


def test_a_network_without_biases_has_its_scale_alone():
    images = keras.Input((10, 10, 2))
    x = keras.layers.Conv2D(8, 3, use_bias=False)(images)
    for _ in range(2):
        x = keras.layers.Conv2D(8, 3, use_bias=False)(x)
    model = keras.Model(images, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x)))
    refinement, sites, _ = refinement_of(model)
    assert len(refinement.start) == sites.layout.size
    known = CompactBFGS(np.ones(sites.layout.size), 5)
    assert refinement.hessian(known, 5).diagonal.size == sites.layout.size
    assert not refinement.rounded_at(refinement.start).biases


def test_what_is_known_of_the_masks_is_widened_by_the_measured_curvature_of_the_biases():
    refinement, sites, _ = refinement_of(small_cnn())
    n, rng = sites.layout.size, np.random.default_rng(0)
    known = CompactBFGS(rng.uniform(1, 2, n), 5)
    known.update(rng.normal(size=n), rng.normal(size=n))
    wide = refinement.hessian(known, 5)
    step = rng.normal(size=len(refinement.start))
    np.testing.assert_allclose((wide.form() @ step)[:n], known.form() @ step[:n])
    np.testing.assert_allclose((wide.form() @ step)[n:], wide.diagonal[n:] * step[n:])
    assert (wide.diagonal > 0).all()
    wide.update(step, wide.diagonal * step)
    assert (wide.pairs, known.pairs) == (2, 1)
    unknown = refinement.hessian(None, 7)
    assert (unknown.memory, unknown.pairs, len(unknown.diagonal)) == (7, 0, len(step))
    assert (unknown.diagonal > 0).all()


def test_biases_whose_curvature_tells_nothing_stay(monkeypatch):
    monkeypatch.setattr(SampledLoss, "curvature", lambda oracle, x: np.zeros(len(x)))
    refinement, sites, _ = refinement_of(small_cnn())
    n, bounds = sites.layout.size, refinement.constraints
    np.testing.assert_array_equal(bounds.lower[n:], refinement.start[n:])
    np.testing.assert_array_equal(bounds.upper[n:], refinement.start[n:])
    np.testing.assert_array_equal(refinement.hessian(None, 5).diagonal, 1.0)
