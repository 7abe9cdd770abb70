import numpy as np
import pytest
import tensorflow as tf
from networks import images_and_labels, small_cnn
from test_decomposition import FORMS, random_kernel

from cobla_tf.decomposition import decompose
from cobla_tf.examples import Sample
from cobla_tf.folding import DeviceFolding, ProcessorFolding, folding_on
from cobla_tf.layout import Layout
from cobla_tf.losses import resolve_loss
from cobla_tf.objective import Objective, one_behind
from cobla_tf.sites import find_sites
from cobla_tf.surgery import mask_model

CPU = tf.config.list_logical_devices("CPU")[0].name


@pytest.fixture(scope="module")
def both():
    decompositions = [decompose(random_kernel(form.shape, seed), form) for seed, form in enumerate(FORMS)]
    layout = Layout(np.array([one.full_rank for one in decompositions]))
    return ProcessorFolding(decompositions, layout), DeviceFolding(CPU, decompositions, layout), layout


@pytest.mark.parametrize("kind", [float, bool])
def test_a_device_folds_every_form_of_kernel_as_numpy_does(both, kind):
    masks = (np.random.default_rng(0).uniform(-1, 1, both[2].size).clip(0)).astype(kind)
    ours, theirs = (folding.kernels(masks) for folding in both[:2])
    for form, kernel, other in zip(FORMS, ours, theirs, strict=True):
        assert other.shape == form.shape
        assert other.dtype == tf.float64
        np.testing.assert_allclose(other, kernel, atol=1e-13)


@pytest.mark.parametrize("as_given", [np.asarray, tf.constant])
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_a_device_finds_the_slopes_that_numpy_finds(both, as_given, dtype):
    gradients = [as_given(random_kernel(form.shape, 7).astype(dtype)) for form in FORMS]
    ours, theirs = (folding.slopes(gradients) for folding in both[:2])
    assert theirs.dtype == float
    np.testing.assert_allclose(theirs, ours, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("device", "kind"),
    [("", ProcessorFolding), (CPU, ProcessorFolding), ("/job:localhost/replica:0/task:0/device:GPU:0", DeviceFolding)],
)
def test_it_is_done_where_the_kernels_are(device, kind):
    assert type(folding_on(device, [], Layout(np.zeros(0, int)))) is kind


def test_losses_gradients_and_curvature_are_the_same_by_either(monkeypatch):
    model, sample = small_cnn(), Sample(*images_and_labels(6))
    found, loss = find_sites(model, "spatial"), resolve_loss(None, model, sample)
    masks, answers = np.linspace(0.1, 1, found.layout.size), []
    for folding in (folding_on, DeviceFolding):
        monkeypatch.setattr("cobla_tf.surgery.folding_on", folding)
        objective = Objective(mask_model(model, found), loss, 4, sample)
        value, gradient = objective.gradient(masks, sample)
        answers.append(np.concatenate([[value], gradient, objective.fisher(masks, sample)]))
    np.testing.assert_allclose(*answers, rtol=1e-5, atol=1e-7)


def test_a_batch_is_given_before_the_last_one_is_asked_about():
    order = []

    def given():
        for number in range(3):
            order.append(f"give {number}")
            yield number

    for number in one_behind(given()):
        order.append(f"ask {number}")
    assert order == ["give 0", "give 1", "ask 0", "give 2", "ask 1", "ask 2"]
    assert list(one_behind([])) == []
