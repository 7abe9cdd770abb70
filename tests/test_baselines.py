import itertools

import numpy as np
import pytest
from test_costs import random_table, table_of

from cobla_tf.band import heuristic_band
from cobla_tf.baselines.cptv import select as cptv
from cobla_tf.baselines.pos_cvx import select as pos_cvx
from cobla_tf.costs import Allocation, CostTable
from cobla_tf.layout import Layout

METHODS = [cptv, pos_cvx]
LAYERS = [(8, 3, 4, 6), (8, 1, 6, 5), (4, 3, 5, 4)]


def spectra(costs, seed=0, decay=0.8):
    rng = np.random.default_rng(seed)
    return [np.sort(rng.random(n) + 0.2)[::-1] * decay ** np.arange(n) for n in costs.full_ranks]


def limits_of(costs, eta):
    return np.floor(costs.totals() * eta)


@pytest.mark.parametrize("method", METHODS, ids=["cptv", "pos_cvx"])
@pytest.mark.parametrize("eta", [0.25, 0.4, 0.6, 0.8, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_allocations_fit_and_keep_at_least_one_rank(method, eta, seed):
    costs = table_of(*LAYERS)
    limits = limits_of(costs, eta)
    allocation = method(spectra(costs, seed), costs, limits)
    assert costs.fits(allocation, limits)
    assert (allocation.ranks >= 1).all()
    assert (allocation.whole == (allocation.ranks >= costs.saturation_ranks())).all()


@pytest.mark.parametrize("eta", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("seed", range(4))
def test_cptv_keeps_the_largest_share_that_fits(eta, seed):
    costs = table_of(*LAYERS)
    sigmas, limits = spectra(costs, seed), limits_of(costs, eta)
    allocation = cptv(sigmas, costs, limits)
    shares = [np.cumsum(s**2) / np.sum(s**2) for s in sigmas]
    following = min(
        share[rank] for share, rank, whole in zip(shares, allocation.ranks, allocation.whole, strict=True) if not whole
    )
    ranks = np.array([max(1, np.sum(share <= following + 1e-12)) for share in shares])
    assert not costs.fits(costs.settle(ranks, np.zeros(len(costs.full_ranks), dtype=bool)), limits)


@pytest.mark.parametrize("eta", [0.2, 0.3])
@pytest.mark.parametrize("seed", range(4))
def test_pos_cvx_is_close_to_the_best_product_of_sums(eta, seed):
    costs = table_of((8, 3, 6, 8), (8, 3, 8, 8), (4, 3, 8, 6))
    sigmas, limits = spectra(costs, seed), limits_of(costs, eta)
    none = np.zeros(3, dtype=bool)

    def objective(ranks):
        return sum(np.log(np.sum(s[:r] ** 2)) for s, r in zip(sigmas, ranks, strict=True))

    every = itertools.product(*(range(1, n + 1) for n in np.minimum(costs.full_ranks, costs.saturation_ranks() - 1)))
    best = max(objective(r) for r in every if costs.fits(Allocation(np.array(r), none), limits))
    allocation = pos_cvx(sigmas, costs, limits)
    assert not allocation.whole.any()
    assert objective(allocation.ranks) >= best - 0.05


def test_the_band_holds_the_heuristics_and_frees_something():
    costs = table_of(*LAYERS)
    sigmas, limits = spectra(costs), limits_of(costs, 0.4)
    layout = Layout(costs.full_ranks)
    start = layout.leading(np.array([1, 1, 9]))
    band = heuristic_band(sigmas, costs, limits, start)
    assert (band.lower <= band.upper).all()
    assert np.sum(band.lower < band.upper) > 0
    for masks in (start, *(layout.leading(select(sigmas, costs, limits).ranks) for select in METHODS)):
        assert (masks <= band.upper).all()
        assert (masks >= band.lower).all()


def test_a_band_under_a_limit_above_the_originals_cost():
    columns = [[1000] * 3, [10] * 3], [[100] * 3, [0] * 3], [8] * 3, [[0] * 3, [20] * 3]
    costs = CostTable(("macs", "params"), *map(np.array, columns))
    limits = np.array([1200.0, 60.0])
    sigmas = [np.linspace(1, 0.1, 8)] * 3
    start = Layout(costs.full_ranks).leading(pos_cvx(sigmas, costs, limits).ranks)
    band = heuristic_band(sigmas, costs, limits, start)
    assert (band.lower <= start).all()
    assert (start <= band.upper).all()


def test_a_kernel_of_zeros_does_not_break_a_heuristic():
    costs = table_of(*LAYERS)
    sigmas = [np.zeros_like(spectra(costs)[0]), *spectra(costs)[1:]]
    for select in METHODS:
        assert costs.fits(select(sigmas, costs, limits_of(costs, 0.4)), limits_of(costs, 0.4))


@pytest.mark.parametrize("resources", [1, 3, 4])
@pytest.mark.parametrize("seed", range(12))
def test_any_number_of_budgets_holds_with_zero_costs_and_fixed_parts(resources, seed):
    costs = random_table(seed, resources, sites=6)
    sigmas = spectra(costs, seed)
    dearest = costs.used(Allocation(costs.full_ranks, np.zeros(6, dtype=bool)))
    for share in (0.02, 0.2, 0.6, 1.5):
        limits = np.ceil(costs.used(costs.cheapest(costs.totals() * 2.0)) * (1 - share) + dearest * share).clip(1)
        for select in METHODS:
            allocation = select(sigmas, costs, limits)
            assert costs.fits(allocation, limits)
            assert (allocation.ranks >= 1).all()
            assert (allocation.ranks <= costs.full_ranks).all()
            assert allocation.whole[allocation.ranks >= costs.saturation_ranks()].all()
        start = Layout(costs.full_ranks).leading(pos_cvx(sigmas, costs, limits).ranks)
        band = heuristic_band(sigmas, costs, limits, start)
        assert (band.lower <= start).all()
        assert (start <= band.upper).all()


@pytest.mark.parametrize("seed", range(6))
def test_pos_cvx_at_limits_that_only_some_sites_kept_whole_can_meet(seed):
    costs = random_table(seed, 3, sites=6)
    whole = np.random.default_rng(seed).random(6) < 0.5
    limits = costs.used(Allocation(np.where(whole, costs.full_ranks, 1), whole)).astype(float).clip(1)
    for select in METHODS:
        assert costs.fits(select(spectra(costs), costs, limits), limits)
