import numpy as np
import pytest

from cobla_tf.config import SCHEMES
from cobla_tf.decomposition import decompose
from cobla_tf.errors import ConfigError
from cobla_tf.kernels import KernelForm

SHAPES = [(1, 1, 3, 5), (3, 3, 4, 6), (5, 5, 2, 3), (7, 1, 3, 4), (1, 7, 4, 2)]
FORMS = [
    *(KernelForm(scheme, shape) for scheme in SCHEMES for shape in SHAPES),
    *(KernelForm(scheme, (3, 2, 4, 6), groups=3) for scheme in SCHEMES),
    *(KernelForm(scheme, (3, 2, 4, 6), transposed=True) for scheme in SCHEMES),
    KernelForm("channel", (4, 6)),
    KernelForm("channel", (3, 4, 6), groups=2),
    KernelForm("channel", (2, 3, 2, 4, 6)),
]


def random_kernel(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_kernel_is_read_as_matrices_and_back(form):
    kernel = random_kernel(form.shape)
    matrices = form.matrices(kernel)
    assert matrices.shape == (form.groups, *form.matrix_shape)
    np.testing.assert_array_equal(form.kernel(matrices), kernel)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_all_masks_one_give_the_kernel_back(form):
    kernel = random_kernel(form.shape)
    decomposition = decompose(kernel, form)
    assert decomposition.full_rank == min(form.matrix_shape)
    assert np.linalg.norm(decomposition.sigma) == pytest.approx(np.linalg.norm(kernel))
    np.testing.assert_allclose(decomposition.fold(np.ones(decomposition.full_rank)), kernel, atol=1e-13)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("shape", SHAPES)
def test_factors_multiply_to_the_folded_kernel(scheme, shape):
    decomposition = decompose(random_kernel(shape), KernelForm(scheme, shape))
    terms = np.arange(0, decomposition.full_rank, 2)
    scale = np.linspace(0.2, 1.0, len(terms))
    G, H = decomposition.factors(terms, scale)
    mask = np.zeros(decomposition.full_rank)
    mask[terms] = scale
    product = np.einsum("yicr,jxrf->yxcf" if scheme == "spatial" else "yxcr,ijrf->yxcf", G, H)
    np.testing.assert_allclose(product, decomposition.fold(mask), atol=1e-13)
    norms = [np.linalg.norm(factor.transpose(axes).reshape(len(terms), -1), axis=1)
             for factor, axes in ((G, (3, 0, 1, 2)), (H, (2, 0, 1, 3)))]  # fmt: skip
    np.testing.assert_allclose(*norms, rtol=1e-12)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_projection_is_the_derivative_of_a_linear_function_of_the_folded_kernel(scheme):
    decomposition = decompose(random_kernel((3, 3, 4, 6)), KernelForm(scheme, (3, 3, 4, 6)))
    weight = random_kernel((3, 3, 4, 6), seed=1)
    rng = np.random.default_rng(2)
    mask, direction = rng.random((2, decomposition.full_rank))
    change = np.sum(weight * (decomposition.fold(mask + direction) - decomposition.fold(mask)))
    np.testing.assert_allclose(decomposition.project(weight) @ direction, change, rtol=1e-12)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_kernel_of_zeros_has_finite_factors(scheme):
    decomposition = decompose(np.zeros((3, 3, 2, 4)), KernelForm(scheme, (3, 3, 2, 4)))
    for factor in decomposition.factors(np.array([0, 1])):
        assert not factor.any()


def test_truncation_error_is_the_tail_of_the_singular_values():
    kernel = random_kernel((3, 3, 4, 6))
    decomposition = decompose(kernel, KernelForm("spatial", kernel.shape))
    mask = np.arange(decomposition.full_rank) < 5
    error = np.linalg.norm(decomposition.fold(mask.astype(float)) - kernel)
    np.testing.assert_allclose(error, np.linalg.norm(decomposition.sigma[5:]), rtol=1e-12)


def test_unknown_scheme():
    with pytest.raises(ConfigError, match="spatial"):
        KernelForm("diagonal", (1, 1, 2, 2))
