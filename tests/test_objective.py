import keras
import numpy as np
import pytest
from networks import GEOMETRIES, KERNELS, images_and_labels, one_conv, small_cnn

from cobla_tf.config import SCHEMES
from cobla_tf.examples import Sample
from cobla_tf.losses import resolve_loss
from cobla_tf.objective import Objective, evaluate
from cobla_tf.sites import find_sites
from cobla_tf.surgery import mask_model, rebuild


def objective_of(model, sites, sample, path, batch_size=4):
    return Objective(mask_model(model, sites, path), resolve_loss(None, model, sample), batch_size, sample)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"),
    [*((kernel, 1, 1) for kernel in KERNELS), *(((3, 3), *geometry) for geometry in GEOMETRIES[1:])],
)
def test_folded_gradient_equals_the_two_factor_one_and_central_differences(scheme, kernel, stride, dilation):
    model = one_conv(kernel, stride, dilation, dtype="float64")
    rng = np.random.default_rng(0)
    sample = Sample(rng.normal(size=(6, 14, 15, 2)), rng.integers(0, 4, 6))
    sites = find_sites(model, scheme)
    masks = rng.uniform(0.2, 0.9, sites.layout.size)
    folded, factored = (objective_of(model, sites, sample, path) for path in ("folded", "factored"))
    loss, gradient = folded.gradient(masks, sample)
    other_loss, other_gradient = factored.gradient(masks, sample)
    assert loss == pytest.approx(other_loss, rel=1e-12)
    np.testing.assert_allclose(gradient, other_gradient, rtol=1e-9, atol=1e-12)
    direction = rng.normal(size=len(masks))
    step = 1e-6
    difference = folded.value(masks + step * direction, sample) - folded.value(masks - step * direction, sample)
    assert gradient @ direction == pytest.approx(difference / (2 * step), rel=1e-6)


@pytest.mark.parametrize("path", ["folded", "factored"])
def test_shared_and_nested_layers_have_right_gradients(path):
    model = small_cnn()
    sample = Sample(*images_and_labels(8))
    sites = find_sites(model, "spatial")
    objective = objective_of(model, sites, sample, path)
    masks = np.full(sites.layout.size, 0.7)
    _, gradient = objective.gradient(masks, sample)
    for index in (0, 20, sites.layout.size - 1):
        step = np.zeros_like(masks)
        step[index] = 1e-2
        difference = objective.value(masks + step, sample) - objective.value(masks - step, sample)
        assert gradient[index] == pytest.approx(difference / 2e-2, rel=2e-2, abs=2e-4)


@pytest.mark.parametrize("path", ["folded", "factored"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_loss_and_gradient_of_the_kept_terms_alone_are_those_of_the_masked_network(scheme, path):
    model = small_cnn()
    sample = Sample(*images_and_labels(12))
    sites = find_sites(model, scheme)
    rng = np.random.default_rng(0)
    kept = rng.random(sites.layout.size) < 0.3
    whole = np.array([False, True, False])
    kept[sites.layout.spread(whole)] = True
    free = kept & ~sites.layout.spread(whole)
    masks = np.where(free, rng.uniform(0.3, 2.0, len(kept)), kept)
    masked = objective_of(model, sites, sample, path)
    masked.gradient(masks, sample)
    alone = masked.keep(kept, whole)
    biases = np.concatenate(alone.biases)
    for _ in range(2):  # other masks than the first are written, too
        loss, gradient = masked.gradient(masks, sample)
        found, alone_gradient = alone.gradient(np.append(masks, biases), sample)
        assert found == pytest.approx(loss, rel=1e-5)
        np.testing.assert_allclose(alone_gradient[: len(kept)][free], gradient[free], rtol=1e-3, atol=1e-5)
        assert not alone_gradient[: len(kept)][~free].any()
        masks = np.where(free, masks / 2, masks)
    assert alone.tally.images == masked.tally.images == 5 * sample.size
    vector = np.append(masks, biases)
    assert alone.keep(kept, whole).value(vector, sample) == pytest.approx(alone.value(vector, sample), rel=1e-6)


def test_kept_terms_come_with_the_biases_of_their_sites():
    model = small_cnn()
    sample = Sample(*images_and_labels(12))
    sites = find_sites(model, "spatial")
    kept, whole = np.ones(sites.layout.size, bool), np.array([False, True, False])
    objective = objective_of(model, sites, sample, "folded")
    assert not objective.biases
    alone = objective.keep(kept, whole)
    assert [len(bias) for bias in alone.biases] == [sites.found[i].layer.filters for i in (0, 2)]
    vector = np.concatenate([kept, *alone.biases])
    _, gradient = alone.gradient(vector, sample)
    for index in (len(kept), len(vector) - 1):
        up, down = vector.copy(), vector.copy()
        up[index], down[index] = up[index] + 2e-3, down[index] - 2e-3
        difference = alone.value(up, sample) - alone.value(down, sample)
        assert gradient[index] == pytest.approx(difference / 4e-3, rel=2e-2, abs=2e-4)


def test_gradient_does_not_depend_on_the_batch_size():
    model = small_cnn()
    sample = Sample(*images_and_labels(23))
    sites = find_sites(model, "channel")
    masks = np.full(sites.layout.size, 0.5)
    results = []
    for batch_size in (23, 5):
        objective = objective_of(model, sites, sample, "folded", batch_size)
        results.append(objective.gradient(masks, sample))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    np.testing.assert_allclose(results[0][1], results[1][1], rtol=1e-4, atol=1e-6)


@keras.saving.register_keras_serializable("tests")
class Traced(keras.layers.Layer):
    """Counts how often Python comes to it: once a trace, never where a graph runs."""

    times = 0

    def call(self, x):
        Traced.times += 1
        return x


def test_nothing_is_traced_again_after_the_first_evaluation():
    images = keras.Input((10, 10, 2))
    x = keras.layers.GlobalAveragePooling2D()(Traced()(keras.layers.Conv2D(8, 3)(images)))
    model, sample = keras.Model(images, keras.layers.Dense(3)(x)), Sample(*images_and_labels(23))
    sites, rng = find_sites(model, "spatial"), np.random.default_rng(0)
    kept, whole = np.arange(sites.layout.size) < 4, np.zeros(1, dtype=bool)
    masked = objective_of(model, sites, sample, "folded", batch_size=8)
    seen = []
    for objective, biases in ((masked, []), (masked.keep(kept, whole), [np.zeros(8)])):
        for size in (23, 8, 13, 1, 16):  # whole and uneven batches
            masks, part = np.concatenate([rng.random(sites.layout.size), *biases]), sample.take(np.arange(size))
            objective.value(masks, part)
            objective.values(masks, part, 3)
            objective.gradient(masks, part)
            objective.fisher(masks, part.take(np.arange(min(size, 3))))
            objective.evaluate(masks, part)
            seen.append(Traced.times)
    assert 0 < seen[0] == seen[4] < seen[5] == seen[9]


def test_masked_loss_equals_the_loss_of_the_rebuilt_network():
    model = small_cnn()
    sample = Sample(*images_and_labels(20))
    sites = find_sites(model, "spatial")
    loss = resolve_loss(None, model, sample)
    rng = np.random.default_rng(0)
    kept = sites.layout.leading(np.array([3, 4, 2])) > 0
    scale = kept * rng.uniform(0.3, 1.0, len(kept))
    objective = Objective(mask_model(model, sites), loss, 8, sample)
    rebuilt = rebuild(model, sites, kept, scale, np.zeros(3, dtype=bool))
    assert objective.value(scale, sample) == pytest.approx(evaluate(rebuilt, sample, loss, 8).loss, rel=1e-5)


@pytest.mark.parametrize("path", ["folded", "factored"])
def test_fisher_is_the_mean_square_of_the_gradients_of_single_images(path):
    model = one_conv(dtype="float64")
    rng = np.random.default_rng(0)
    sample = Sample(rng.normal(size=(7, 14, 15, 2)), rng.integers(0, 4, 7))
    sites = find_sites(model, "spatial")
    masks = rng.uniform(0.2, 0.9, sites.layout.size)
    factored = objective_of(model, sites, sample, "factored")
    gradients = [factored.gradient(masks, sample.take(np.array([i])))[1] for i in range(7)]
    fisher = objective_of(model, sites, sample, path).fisher(masks, sample)
    assert (fisher >= 0).all()
    assert fisher.max() > 0
    np.testing.assert_allclose(fisher, np.mean(np.square(gradients), axis=0), rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize(("size", "groups", "sizes"), [(20, 5, [4] * 5), (23, 5, [5] * 4 + [3]), (3, 10, [1] * 3)])
def test_values_are_those_of_the_parts(size, groups, sizes):
    model = small_cnn()
    sample = Sample(*images_and_labels(size))
    sites = find_sites(model, "spatial")
    objective = objective_of(model, sites, sample, "folded", batch_size=3)
    masks = np.full(sites.layout.size, 0.6)
    values = objective.values(masks, sample, groups)
    assert len(values) == len(sizes) <= groups
    assert np.average(values, weights=sizes) == pytest.approx(objective.value(masks, sample), rel=1e-5)
    assert values[-1] == pytest.approx(objective.value(masks, sample.take(np.arange(size)[-sizes[-1] :])), rel=1e-5)


@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize("one_hot", [False, True])
def test_constant_loss_is_that_of_the_mean_output(probabilities, one_hot):
    model = small_cnn()
    if probabilities:
        model = keras.Model(model.inputs[0], keras.ops.softmax(model.output))
    images, labels = images_and_labels(23)
    sample = Sample(images, np.eye(3, dtype="float32")[labels] if one_hot else labels)
    sites = find_sites(model, "spatial")
    mean = np.asarray(model(images), dtype=float).mean(axis=0)
    shares = mean if probabilities else np.exp(mean) / np.exp(mean).sum()
    for batch_size in (4, 23):
        objective = objective_of(model, sites, sample, "folded", batch_size)
        got = objective.constant_loss(np.ones(sites.layout.size), sample)
        assert got == pytest.approx(-np.log(shares[labels]).mean(), rel=1e-5)


def test_seen_counts_an_image_once_for_every_gradient():
    model = small_cnn()
    sample = Sample(*images_and_labels(11))
    sites = find_sites(model, "spatial")
    objective = objective_of(model, sites, sample, "folded")
    masks = np.ones(sites.layout.size)
    seen = []
    for ask in (objective.gradient, objective.value, objective.fisher, objective.constant_loss):
        ask(masks, sample)
        seen.append(objective.tally.images)
    objective.values(masks, sample, 3)
    assert [*seen, objective.tally.images] == [11, 11, 22, 22, 22]
