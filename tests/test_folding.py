import numpy as np
import pytest
import tensorflow as tf
from networks import small_cnn
from test_decomposition import FORMS, random_kernel

from cobla_tf.decomposition import decompose
from cobla_tf.folding import DeviceFolding, ProcessorFolding, folding_on
from cobla_tf.layout import Layout
from cobla_tf.sites import find_sites
from cobla_tf.surgery import mask_model

CPU = tf.config.list_logical_devices("CPU")[0].name


@pytest.fixture(scope="module")
def both():
    decompositions = [decompose(random_kernel(form.shape, seed), form) for seed, form in enumerate(FORMS)]
    layout = Layout(np.array([one.full_rank for one in decompositions]))
    return ProcessorFolding(decompositions, layout), DeviceFolding(CPU, decompositions, layout), layout


def test_a_device_folds_every_form_of_kernel_as_numpy_does(both):
    masks = np.random.default_rng(0).uniform(size=both[2].size) * np.random.default_rng(1).integers(0, 2, both[2].size)
    ours, theirs = (folding.kernels(masks) for folding in both[:2])
    for form, kernel, other in zip(FORMS, ours, theirs, strict=True):
        assert other.shape == form.shape
        assert other.dtype == tf.float64
        np.testing.assert_allclose(other, kernel, atol=1e-13)


@pytest.mark.parametrize("as_given", [np.asarray, tf.constant])
def test_a_device_finds_the_slopes_that_numpy_finds(both, as_given):
    gradients = [as_given(random_kernel(form.shape, 7).astype(np.float32)) for form in FORMS]
    ours, theirs = (folding.slopes(gradients) for folding in both[:2])
    assert theirs.dtype == float
    np.testing.assert_allclose(theirs, ours, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("device", "kind"),
    [("", ProcessorFolding), (CPU, ProcessorFolding), ("/job:localhost/replica:0/task:0/device:GPU:0", DeviceFolding)],
)
def test_it_is_done_where_the_kernels_are(device, kind):
    assert type(folding_on(device, [], Layout(np.zeros(0, int)))) is kind


def test_a_masked_model_takes_kernels_that_never_left_the_device(monkeypatch):
    model = small_cnn()
    found = find_sites(model, "spatial")
    masks = np.linspace(0.1, 1, found.layout.size)
    usual = mask_model(model, found)
    monkeypatch.setattr("cobla_tf.surgery.folding_on", DeviceFolding)
    other = mask_model(model, found)
    for masked in (usual, other):
        masked.write(masks)
    for kernel, same in zip(usual.variables, other.variables, strict=True):
        np.testing.assert_allclose(kernel, same, rtol=1e-6, atol=1e-7)
