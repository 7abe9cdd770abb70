import time

import numpy as np
import pytest
from networks import small_cnn
from qp_programs import random_program

from cobla_tf import blas, sites
from cobla_tf.blas import _controller, one_blas_thread
from cobla_tf.config import SCHEMES
from cobla_tf.decomposition import Decomposition, decompose
from cobla_tf.qp.solve import _BACK_ENDS, solve
from cobla_tf.surgery import mask_model


def threads():
    """Of each BLAS: some of what other tests load have never more than one."""
    return [library["num_threads"] for library in _controller().info() if library["user_api"] == "blas"]


@pytest.fixture
def _three_threads():
    with _controller().limit(limits=3, user_api="blas"):
        before = threads()
        assert 3 in before
        yield
        assert threads() == before


@pytest.mark.usefixtures("_three_threads")
def test_one_thread_for_the_length_of_a_block_whatever_ends_it():
    with one_blas_thread():
        with one_blas_thread():
            assert set(threads()) == {1}
        assert set(threads()) == {1}
    with pytest.raises(ValueError, match="end"), one_blas_thread():
        raise ValueError("end")


@pytest.mark.usefixtures("_three_threads")
def test_quadratic_programs_are_solved_on_one(monkeypatch):
    seen, back_end = [], _BACK_ENDS["structured"]
    monkeypatch.setitem(_BACK_ENDS, "structured", lambda program: seen.append(set(threads())) or back_end(program))
    solve(random_program(), "structured")
    assert seen == [{1}]


@pytest.mark.usefixtures("_three_threads")
@pytest.mark.parametrize("scheme", SCHEMES)
def test_sites_are_decomposed_several_at_once_in_order(monkeypatch, scheme):
    seen = []
    monkeypatch.setattr(sites, "decompose", lambda *arguments: seen.append(set(threads())) or decompose(*arguments))
    monkeypatch.setattr(blas, "cores", lambda: 3)
    found = sites.find_sites(small_cnn(), scheme).found
    assert seen == [{1}] * len(found)
    assert [site.name for site in found] == ["conv1", "shared", "block/conv"]
    with one_blas_thread():
        for site in found:
            alone = decompose(site.kind.kernel_of(site.layer).numpy(), site.decomposition.form)
            np.testing.assert_array_equal(site.decomposition.P, alone.P)


def test_ctrl_c_leaves_out_the_sites_that_have_not_begun(monkeypatch):
    begun = []

    def slow(*arguments):
        begun.append(arguments)
        time.sleep(0.1)
        return decompose(*arguments)

    def interrupted(steps, *arguments):
        yield next(steps)
        raise KeyboardInterrupt

    monkeypatch.setattr(sites, "decompose", slow)
    monkeypatch.setattr(sites, "bar", interrupted)
    monkeypatch.setattr(blas, "cores", lambda: 1)
    with pytest.raises(KeyboardInterrupt) as stop:
        sites.find_sites(small_cnn(), "spatial")
    time.sleep(0.3)
    assert len(begun) < 3
    del stop  # it held all frames, as the end of a program does


@pytest.mark.usefixtures("_three_threads")
def test_kernels_are_folded_and_gradients_projected_several_at_once_in_order(monkeypatch):
    seen = []

    def watched(method):
        return lambda *arguments: seen.append(set(threads())) or method(*arguments)

    model = small_cnn()
    found = sites.find_sites(model, "spatial")
    masked = mask_model(model, found)
    masks = np.linspace(0.1, 1, found.layout.size)
    gradients = [np.full(site.kind.kernel_of(site.layer).shape, 1.0 + i) for i, site in enumerate(found.found)]
    with one_blas_thread():
        decompositions = [site.decomposition for site in found.found]
        folded = [one.fold(part) for one, part in zip(decompositions, found.layout.split(masks), strict=True)]
        slopes = [one.project(part) for one, part in zip(decompositions, gradients, strict=True)]
    for name in ("fold", "project"):
        monkeypatch.setattr(Decomposition, name, watched(getattr(Decomposition, name)))
    masked.write(masks)
    np.testing.assert_array_equal(masked.to_vector(gradients), np.concatenate(slopes))
    for kernel, value in zip(masked.variables, folded, strict=True):
        np.testing.assert_array_equal(kernel, value.astype(np.float32))
    assert seen == [{1}] * 2 * len(found.found)
