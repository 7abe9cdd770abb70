import numpy as np
import pytest
from networks import small_cnn
from qp_programs import random_program

from cobla_tf import sites
from cobla_tf.blas import _controller, one_blas_thread
from cobla_tf.config import SCHEMES
from cobla_tf.decomposition import decompose
from cobla_tf.qp.solve import _BACK_ENDS, solve


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
    monkeypatch.setattr(sites, "cores", lambda: 3)
    found = sites.find_sites(small_cnn(), scheme).found
    assert seen == [{1}] * len(found)
    assert [site.name for site in found] == ["conv1", "shared", "block/conv"]
    with one_blas_thread():
        for site in found:
            alone = decompose(site.kind.kernel_of(site.layer).numpy(), site.decomposition.form)
            np.testing.assert_array_equal(site.decomposition.P, alone.P)
