import itertools

import numpy as np
import pytest
from test_baselines import LAYERS, limits_of, spectra
from test_costs import random_table, table_of

from cobla_tf.baselines import RIVALS
from cobla_tf.baselines.alds import select as alds
from cobla_tf.baselines.energy import select as energy
from cobla_tf.baselines.greedy_accuracy import candidate_ranks, threshold_levels
from cobla_tf.baselines.greedy_accuracy import select as greedy_accuracy
from cobla_tf.baselines.pos_greedy import select as pos_greedy
from cobla_tf.baselines.uniform import select as uniform
from cobla_tf.config import STARTS
from cobla_tf.costs import Allocation, CostTable
from cobla_tf.errors import BudgetError
from cobla_tf.start import ONES

BUDGETED = [name for name, method in RIVALS.items() if method.budgeted]


def loss_of(sigmas):
    """A network whose loss is the energy that is dropped, with more weight on later layers."""

    def evaluate(allocation):
        parts = enumerate(zip(sigmas, allocation.ranks, allocation.whole, strict=True))
        return sum((1 + i) * np.sum(s[rank:] ** 2) * (not whole) for i, (s, rank, whole) in parts)

    return evaluate


def select(name, sigmas, costs, limits):
    shapes = [(n, 2 * n) for n in costs.full_ranks]
    return RIVALS[name](sigmas, costs, limits, shapes=shapes, evaluate=loss_of(sigmas))


def one_resource(original, per_rank, full_ranks):
    return CostTable(("macs",), np.array([original]), np.array([per_rank]), np.array(full_ranks))


def fitting_whole(ranks, costs, limits):
    """Ranks with saturated sites whole, or None where that does not fit."""
    settled = costs.settle(np.array(ranks), np.zeros(len(ranks), dtype=bool))
    return settled if costs.fits(settled, limits) else None


def test_the_registry_names_every_method_and_its_source():
    assert {*STARTS} - {ONES} < {*RIVALS}
    assert all(method.source for method in RIVALS.values())
    assert {name for name, method in RIVALS.items() if not method.budgeted} == {
        "r_vbmf", "signal_recovery", "signal_recovery_exact",
    }  # fmt: skip


@pytest.mark.parametrize("name", BUDGETED)
@pytest.mark.parametrize("scheme", ["spatial", "channel"])
@pytest.mark.parametrize("eta", [0.25, 0.5, 0.8, 1.0])
def test_budgets_are_met_alike_every_time_with_saturated_sites_whole(name, scheme, eta):
    costs = table_of(*LAYERS, scheme=scheme)
    sigmas, limits = spectra(costs), limits_of(costs, eta)
    found, again = (select(name, sigmas, costs, limits) for _ in range(2))
    assert costs.fits(found, limits)
    assert (found.ranks >= 1).all()
    assert (found.whole == (found.ranks >= costs.saturation_ranks())).all()
    np.testing.assert_array_equal(found.ranks, again.ranks)
    assert eta < 1 or found.whole.all()


@pytest.mark.parametrize("name", [name for name in BUDGETED if name != "pos_cvx"])
@pytest.mark.parametrize("resources", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(4))
def test_any_number_of_budgets(name, resources, seed):
    costs = random_table(seed, resources, sites=6)
    sigmas = spectra(costs, seed)
    least = costs.used(costs.cheapest(costs.totals() * 2.0))
    for share in (0.0, 0.3, 0.9):
        limits = np.ceil(least + share * costs.totals()).clip(1)
        found = select(name, sigmas, costs, limits)
        assert costs.fits(found, limits)
        assert (found.ranks >= 1).all()
        assert (found.ranks <= costs.full_ranks).all()
        assert found.whole[found.ranks >= costs.saturation_ranks()].all()


@pytest.mark.parametrize("name", BUDGETED)
def test_a_budget_that_cannot_be_met(name):
    costs = table_of(*LAYERS)
    with pytest.raises(BudgetError, match="cannot be met"):
        select(name, spectra(costs), costs, costs.least() - 1.0)


@pytest.mark.parametrize("name", [name for name in RIVALS if name not in BUDGETED])
def test_a_method_that_sets_its_own_cost_takes_no_budget(name):
    costs = table_of(*LAYERS)
    assert (select(name, spectra(costs), costs, None).ranks >= 1).all()
    with pytest.raises(BudgetError, match="takes no budget"):
        select(name, spectra(costs), costs, limits_of(costs, 0.5))


@pytest.mark.parametrize("name", BUDGETED)
def test_a_kernel_of_zeros(name):
    costs = table_of(*LAYERS)
    sigmas = spectra(costs)
    sigmas[1][:] = 0
    assert costs.fits(select(name, sigmas, costs, limits_of(costs, 0.4)), limits_of(costs, 0.4))


# Zhang et al. 2016, section 2.4


def test_pos_greedy_drops_by_loss_over_saving_worked_by_hand():
    # eigenvalues 8, 2, 1 and 6, 3, 1; a term costs 4 at the first site and 1 at the second; both full: 15
    sigmas = [np.sqrt([8.0, 2.0, 1.0]), np.sqrt([6.0, 3.0, 1.0])]
    costs = one_resource([100, 100], [4, 1], [3, 3])
    # 1/11/4 = .023 < 1/10: first site; 2/10/4 = .05 < 1/10: first site; then only the second has more than one term
    for limit, ranks in [(15, [3, 3]), (14, [2, 3]), (11, [2, 3]), (10, [1, 3]), (7, [1, 3]), (6, [1, 2]), (5, [1, 1])]:
        assert pos_greedy(sigmas, costs, np.array([limit])).ranks.tolist() == ranks


@pytest.mark.parametrize("eta", [0.15, 0.25, 0.4])
@pytest.mark.parametrize("seed", range(4))
def test_pos_greedy_with_one_budget_removes_in_the_order_of_the_measure(eta, seed):
    # dE/E of a site falls with its rank, so that all terms can be sorted by measure at once
    costs = table_of((8, 3, 8, 8), (4, 3, 8, 12), (4, 3, 12, 8)).take(np.array([True, False]))
    sigmas, limits = spectra(costs, seed, decay=0.95), np.floor(costs.totals() * eta)
    terms = []
    for site, sigma in enumerate(sigmas):
        energy = np.cumsum(sigma**2)
        measure = sigma**2 / energy / costs.per_rank[0, site]
        terms += [(measure[k], site) for k in range(1, len(sigma))]
    ranks = [len(sigma) for sigma in sigmas]
    for _, site in sorted(terms):
        if fitting_whole(ranks, costs, limits):
            break
        ranks[site] -= 1
    found = pos_greedy(sigmas, costs, limits)
    assert found.ranks[~found.whole].tolist() == np.array(ranks)[~found.whole].tolist()


def test_pos_greedy_weighs_each_budget_by_what_is_still_too_much():
    # like spectra; the first site's terms cost the resource of which nothing is missing
    sigmas = [np.sqrt([8.0, 2.0, 1.0])] * 2
    costs = CostTable(("a", "b"), np.full((2, 2), 100), np.array([[9, 1], [1, 2]]), np.array([3, 3]))
    assert pos_greedy(sigmas, costs, np.array([30.0, 6.0])).ranks.tolist() == [2, 2]
    assert pos_greedy(sigmas, costs, np.array([30.0, 8.0])).ranks.tolist() == [3, 2]
    assert pos_greedy(sigmas, costs, np.array([21.0, 9.0])).ranks.tolist() == [2, 3]
    assert pos_greedy(sigmas, costs, np.array([np.inf, 8.0])).ranks.tolist() == [3, 2]


# the three baselines with one number for all layers, by their definitions in Liebenwein et al. 2021


def levels_of(name, sigmas, level):
    """Ranks that a definition gives at a level, written down as in the source."""
    if name == "uniform":
        return [max(1, int(np.floor(level * len(s) + 0.5))) for s in sigmas]
    if name == "energy":
        return [1 + int(np.sum(np.cumsum(s**2) / np.sum(s**2) < level - 1e-12)) for s in sigmas]
    return [max(1, int(np.sum(s / s[0] > 1 - level))) for s in sigmas]


@pytest.mark.parametrize("name", ["uniform", "energy", "alds"])
@pytest.mark.parametrize("eta", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("seed", range(2))
def test_the_highest_of_many_levels_that_fits_gives_the_ranks(name, eta, seed):
    costs = table_of((8, 3, 8, 8), (4, 3, 8, 12), (4, 1, 12, 8))
    sigmas, limits = spectra(costs, seed), limits_of(costs, eta)
    every = (levels_of(name, sigmas, level) for level in np.linspace(1, 0, 8_001))
    best = next(settled for ranks in every if (settled := fitting_whole(ranks, costs, limits)))
    found = {"uniform": uniform, "energy": energy, "alds": alds}[name](sigmas, costs, limits)
    np.testing.assert_array_equal(found.ranks[~found.whole], best.ranks[~found.whole])
    assert (found.whole >= best.whole).all()


@pytest.mark.parametrize("eta", [0.2, 0.35, 0.5])
@pytest.mark.parametrize("seed", range(4))
def test_alds_has_the_least_largest_error_of_all_allocations(eta, seed):
    costs = table_of((8, 3, 3, 5), (4, 3, 4, 4), (4, 1, 6, 5))
    sigmas, limits = spectra(costs, seed), limits_of(costs, eta)

    def worst(allocation):
        parts = zip(sigmas, allocation.ranks, allocation.whole, strict=True)
        return max(0.0 if whole or rank == len(s) else s[rank] / s[0] for s, rank, whole in parts)

    every = itertools.product(*(range(1, n + 1) for n in costs.full_ranks))
    best = min(worst(settled) for ranks in every if (settled := fitting_whole(ranks, costs, limits)))
    assert worst(alds(sigmas, costs, limits)) == pytest.approx(best, rel=1e-12)


def test_levels_above_one_at_which_the_cost_rises_are_not_missed():
    # saturated in the second resource only, the first site costs 12 of the first one at rank 3, but 10 when it is whole
    costs = CostTable(("a", "b"), np.array([[10, 10], [16, 9]]), np.array([[4, 1], [4, 3]]), np.array([4, 3]))
    sigmas = [np.array([4.0, 3.0, 2.0, 1.0]), np.array([9.0, 1e-3, 1e-4])]
    limits = np.array([11.0, 19.0])
    assert fitting_whole([3, 1], costs, limits) is None
    assert alds(sigmas, costs, limits).whole.tolist() == [True, False]


# AIMET


AIMETS = {0.1: 11, 0.3: 23, 0.5: 47, 0.7: 85, 0.9: 89}
"""Scores of one layer by ratio, from AIMET's own unit test of the choice of a ratio for a given score."""


@pytest.mark.parametrize(("score", "ratio"), [(45, 0.5), (48, 0.7), (90, None), (5, 0.1)])
def test_greedy_accuracy_takes_aimets_ratio_for_a_score(score, ratio):
    ranks = np.round(10 * np.array(list(AIMETS))).astype(int)
    levels = threshold_levels(ranks, -np.array(list(AIMETS.values()), dtype=float), 10)
    assert max(1, np.searchsorted(levels, score, side="left")) == (10 if ratio is None else round(10 * ratio))


def test_of_ours_a_candidate_below_one_that_is_too_bad_is_not_taken():
    levels = threshold_levels(np.array([1, 2, 3]), np.array([0.1, 5.0, 0.2]), 4)
    np.testing.assert_array_equal(levels, [-np.inf, -5.0, -5.0, -0.2])


@pytest.mark.parametrize(("limit", "ranks"), [(200, [10, 10]), (150, [6, 9]), (100, [4, 5]), (20, [1, 1])])
def test_greedy_accuracy_finds_one_threshold_for_two_layers(limit, ranks):
    # scores of AIMET's own unit test of the whole selection, for ratios 0.1 to 0.9 of two layers; 10 a rank, 100 whole
    scores = np.array([[10, 20, 30, 40, 50, 60, 70, 80, 90], [11, 21, 31, 35, 40, 45, 50, 55, 60]])
    costs = one_resource([100, 100], [10, 10], [20, 20])
    calls = []

    def evaluate(allocation):
        site = int(np.flatnonzero(~allocation.whole)[0])
        calls.append((site, int(allocation.ranks[site])))
        return -float(scores[site, allocation.ranks[site] - 1])

    sigmas = [np.ones(20)] * 2
    found = greedy_accuracy(sigmas, costs, np.array([float(limit)]), evaluate=evaluate)
    assert found.ranks.tolist() == [20 if rank == 10 else rank for rank in ranks]
    assert sorted(calls) == [(site, rank) for site in range(2) for rank in range(1, 10)]


def test_candidates_hold_their_ratio_in_every_budgeted_resource():
    costs = CostTable(("a", "b"), np.array([[100], [300]]), np.array([[7], [40]]), np.array([30]), np.array([[5], [0]]))
    assert candidate_ranks(costs, 0, np.array([50.0, np.inf])).tolist() == [1, 2, 3, 5, 6, 7, 9, 10, 12]
    assert candidate_ranks(costs, 0, np.array([50.0, 90.0])).tolist() == [1, 2, 3, 4, 5, 6]
    assert candidate_ranks(one_resource([5], [6], [3]), 0, np.array([9.0])).size == 0


def test_a_loss_that_is_no_number_is_the_worst():
    costs = one_resource([100, 100], [10, 10], [20, 20])

    def evaluate(allocation):
        return np.nan if not allocation.whole[0] else 1.0 / allocation.ranks[1]

    found = greedy_accuracy([np.ones(20)] * 2, costs, np.array([130.0]), evaluate=evaluate)
    assert found.whole.tolist() == [True, False]
    assert found.ranks[1] == 3
    assert isinstance(found, Allocation)
