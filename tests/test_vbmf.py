import numpy as np
import pytest
from scipy.optimize import minimize
from test_costs import table_of

from cobla_tf.baselines.r_vbmf import evbmf, free_energy, select, threshold
from cobla_tf.errors import BudgetError

# spectrum, shape, and what the published program (C. van den Bogaard's translation of the authors' own) gives for them
PUBLISHED = [
    ([10, 6, 1.2, 1.1, 1, 0.9, 0.8, 0.7], (8, 12), 2, 0.10050809),
    (np.arange(20, 0, -1), (20, 40), 0, 3.58749993),
    (0.8 ** np.arange(16), (16, 16), 2, 0.00609411269),
    (1 / np.arange(1, 31), (30, 90), 8, 4.98212584e-05),
    ([50, 40, 30, *np.linspace(12, 4, 61)], (64, 64), 3, 1.14584665),
]


def singular_values(rows, columns, rank, strength, seed=0, noise=1.0):
    """Of a matrix of white noise plus `rank` terms of `strength` times the largest singular value of the noise."""
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.standard_normal((side, max(rank, 1))))[0] for side in (rows, columns))
    edge = noise * (np.sqrt(rows) + np.sqrt(columns))
    signal = strength * edge * left[:, :rank] @ right[:, :rank].T
    return np.linalg.svd(signal + noise * rng.standard_normal((rows, columns)), compute_uv=False)


def component_energy(variables, gamma, noise, rows, columns):
    """Twice the free energy of one term over its posterior's means and variances, its prior variances at their best."""
    mean_a, mean_b, log_a, log_b = variables
    second_a, second_b = mean_a**2 + columns * np.exp(log_a), mean_b**2 + rows * np.exp(log_b)
    prior = columns * (np.log(second_a / columns) - log_a) + rows * (np.log(second_b / rows) - log_b)
    return prior + (second_a * second_b - 2 * mean_a * mean_b * gamma) / noise


def least_component_energy(gamma, noise, rows, columns):
    """0 is what a dropped term has: zero means, and prior variances that go to zero."""
    scale = np.sqrt(gamma)
    starts = [(0.9 * scale, 0.9 * scale, spread, spread) for spread in (-3.0, -1.0)]
    options = {"xatol": 1e-8, "fatol": 1e-10, "maxiter": 1200, "maxfev": 1200}
    arguments = (gamma, noise, rows, columns)
    found = [minimize(component_energy, s, arguments, method="Nelder-Mead", options=options) for s in starts]
    return min(0.0, *(answer.fun for answer in found))


@pytest.mark.parametrize(("spectrum", "shape", "rank", "noise"), PUBLISHED)
def test_rank_and_noise_of_the_published_program(spectrum, shape, rank, noise):
    found = evbmf(np.array(spectrum, dtype=float), shape)
    assert found.rank == rank
    assert found.noise == pytest.approx(noise, rel=1e-6)


def test_the_threshold_of_a_square_matrix_is_that_of_the_paper():
    tau = 2.5129
    assert threshold(1.0) == pytest.approx((1 + tau) * (1 + 1 / tau), rel=1e-4)


@pytest.mark.parametrize("alpha", [0.05, 0.3, 0.7, 1.0])
def test_the_threshold_is_above_what_noise_alone_reaches(alpha):
    edge = (1 + np.sqrt(alpha)) ** 2
    assert edge < threshold(alpha) < 1.5 * edge


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (50, 50), (20, 200)])
@pytest.mark.parametrize("seed", range(3))
def test_noise_alone_has_rank_zero_and_its_own_variance(shape, seed):
    found = evbmf(singular_values(*shape, rank=0, strength=0, seed=seed, noise=0.3), shape)
    assert found.rank == 0
    assert found.noise == pytest.approx(0.09, rel=0.1)


@pytest.mark.parametrize("shape", [(40, 60), (50, 50), (20, 200)])
@pytest.mark.parametrize("rank", [1, 4])
@pytest.mark.parametrize("seed", range(3))
def test_a_planted_rank_is_found(shape, rank, seed):
    found = evbmf(singular_values(*shape, rank, strength=2.0, seed=seed), shape)
    assert found.rank == rank
    assert found.noise == pytest.approx(1.0, rel=0.15)


def test_terms_below_the_noise_are_dropped():
    assert evbmf(singular_values(50, 80, rank=3, strength=0.3), (50, 80)).rank == 0


@pytest.mark.parametrize("shape", [(30, 40), (30, 30)])
def test_without_noise_the_rank_is_that_of_the_matrix(shape):
    assert evbmf(singular_values(*shape, rank=5, strength=1e12, noise=1e-13), shape).rank == 5
    assert evbmf(np.array([4.0, 3.0, *np.zeros(28)]), shape).rank == 2
    assert evbmf(np.zeros(30), shape).rank == 0


@pytest.mark.parametrize(("rows", "columns", "gammas"), [(3, 5, [9.0, 3.0, 1.0]), (4, 4, [12.0, 5.0, 1.5, 1.0])])
def test_the_closed_form_is_the_least_free_energy_over_posterior_and_noise(rows, columns, gammas):
    squares = np.array(gammas) ** 2 / columns
    noises = np.geomspace(0.05, 2 * squares.mean(), 5)
    closed = free_energy(noises, squares, rows / columns)
    numerical = [
        np.sum(np.array(gammas) ** 2) / noise
        + rows * columns * np.log(noise)
        + sum(least_component_energy(gamma, noise, rows, columns) for gamma in gammas)
        for noise in noises
    ]
    np.testing.assert_allclose(closed * columns, numerical, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_no_other_noise_between_the_bounds_has_less_free_energy(seed):
    rng = np.random.default_rng(seed)
    sigma = np.sort(rng.random(40) ** rng.integers(1, 6))[::-1]
    squares = sigma**2 / 70
    found = evbmf(sigma, (40, 70))
    others = free_energy(np.geomspace(1e-3, 1.0, 3000) * squares.mean(), squares, 40 / 70)
    bounded = np.geomspace(1e-3, 1.0, 3000) * squares.mean() >= squares[25:].mean()
    assert free_energy(np.array([found.noise]), squares, 40 / 70)[0] <= others[bounded].min() + 1e-9


def test_sites_have_at_least_rank_one_and_no_budget_is_taken():
    costs = table_of((8, 3, 8, 12), (8, 3, 12, 8), scheme="channel")
    shapes = [(12, 72), (8, 108)]
    sigmas = [singular_values(*shapes[0], rank=2, strength=3.0), singular_values(*shapes[1], rank=0, strength=0)]
    for limits in (None, np.full(2, np.inf)):
        assert select(sigmas, costs, limits, shapes=shapes).ranks.tolist() == [2, 1]
    with pytest.raises(BudgetError, match="r_vbmf sets its own ranks"):
        select(sigmas, costs, costs.totals() * 0.5, shapes=shapes)
