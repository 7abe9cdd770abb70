import numpy as np
import pytest
from test_costs import table_of
from test_vbmf import singular_values

from cobla_tf.baselines.signal_recovery import SQUARE, coefficient, median_of_noise, omega, select
from cobla_tf.errors import BudgetError

# the paper's table of omega(beta) for beta = 0.05, 0.10, ..., 1; its program stops the median at an interval of 1e-3
PUBLISHED = [1.5194, 1.6089, 1.6896, 1.7650, 1.8371, 1.9061, 1.9741, 2.0403, 2.106, 2.1711,
             2.2365, 2.3021, 2.3679, 2.4339, 2.5011, 2.5697, 2.6399, 2.7099, 2.7832, 2.8582]  # fmt: skip


@pytest.mark.parametrize(("step", "published"), list(enumerate(PUBLISHED, start=1)))
def test_omega_of_the_papers_table(step, published):
    assert omega(step / 20) == pytest.approx(published, abs=1e-3)


def test_the_constants_in_the_papers_title_and_abstract():
    assert coefficient(1.0) == pytest.approx(4 / np.sqrt(3), rel=1e-14)
    assert omega(1.0) == pytest.approx(SQUARE, abs=5e-4)


@pytest.mark.parametrize("beta", [0.01, 0.2, 0.5, 0.8, 1.0])
def test_omega_is_near_the_papers_polynomial(beta):
    assert omega(beta) == pytest.approx(0.56 * beta**3 - 0.95 * beta**2 + 1.82 * beta + 1.43, abs=0.02)


@pytest.mark.parametrize("shape", [(300, 300), (150, 300), (60, 600)])
def test_the_median_of_the_law_is_that_of_a_large_matrix_of_noise(shape):
    sigma = singular_values(*shape, rank=0, strength=0)
    assert np.median(sigma) ** 2 / max(shape) == pytest.approx(median_of_noise(min(shape) / max(shape)), rel=0.02)


@pytest.mark.parametrize("shape", [(100, 100), (60, 120), (120, 60)])
@pytest.mark.parametrize("rank", [1, 5])
def test_a_planted_rank_is_found(shape, rank):
    full = min(shape)
    costs = table_of((8, 1, max(shape), full), scheme="channel")
    sigmas = [singular_values(*shape, rank, strength=2.0)]
    assert select(sigmas, costs, shapes=[shape]).ranks.tolist() == [rank]
    if shape[0] == shape[1]:
        assert select(sigmas, costs).ranks.tolist() == [rank]


def test_the_papers_constant_is_stricter_than_omega_for_a_flat_matrix():
    costs = table_of((8, 1, 24, 6), scheme="channel")
    sigmas = [np.array([5.0, 2.5, 1.0, 1.0, 1.0, 0.5])]
    assert select(sigmas, costs, shapes=[(6, 24)]).ranks.tolist() == [2]
    assert select(sigmas, costs).ranks.tolist() == [1]


def test_saturated_sites_are_whole_and_no_budget_is_taken():
    costs = table_of((8, 1, 4, 4), (8, 1, 1, 8), scheme="channel")
    sigmas = [np.array([9.0, 8.0, 1.0, 1e-3]), np.array([2.0])]
    assert select(sigmas, costs, np.full(2, np.inf)).whole.tolist() == [False, True]
    with pytest.raises(BudgetError, match="signal_recovery sets its own ranks"):
        select(sigmas, costs, costs.totals() * 0.5)
