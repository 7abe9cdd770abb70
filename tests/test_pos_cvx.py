import importlib
import itertools
import time

import numpy as np
import pytest
from scipy.optimize import Bounds, LinearConstraint, linprog, milp
from scipy.sparse import csr_array
from test_baselines import spectra
from test_costs import VGG16, random_table, table_of

from cobla_tf.baselines.pos_cvx import optimum, select
from cobla_tf.baselines.pos_greedy import select as pos_greedy
from cobla_tf.config import SCHEMES
from cobla_tf.costs import Allocation, CostTable
from cobla_tf.errors import BudgetError
from cobla_tf.knapsack import Choices, solve
from cobla_tf.knapsack.bound import lagrangian_bound

TOLERANCE = 1e-11
"""Sums of a few float64 logarithms of order 10."""


def log_shares(sigma):
    energy = np.cumsum(sigma**2)
    return np.log(energy / energy[-1]) if energy[-1] else np.zeros(len(sigma))


def options(sigma, costs, site, saturation):
    """(value, cost) of every rank and, with saturation, of the whole layer; none is left out."""
    for rank, value in enumerate(log_shares(sigma), start=1):
        yield value, costs.base[:, site] + costs.per_rank[:, site] * rank
    if saturation:
        yield 0.0, costs.original[:, site]


def brute_force(sigmas, costs, limits, saturation):
    """Best value over the product of all options, in integers; None where nothing fits."""
    values, used = np.zeros(1), np.zeros((1, len(limits)), dtype=np.int64)
    for site, sigma in enumerate(sigmas):
        value, cost = map(np.array, zip(*options(sigma, costs, site, saturation), strict=True))
        values = np.add.outer(values, value).ravel()
        used = (used[:, None] + cost[None]).reshape(-1, len(limits))
    fitting = (used <= limits).all(axis=1)
    return values[fitting].max() if fitting.any() else None


def value_of(allocation, sigmas):
    parts = zip(sigmas, allocation.ranks, allocation.whole, strict=True)
    return sum(0.0 if whole else log_shares(s)[rank - 1] for s, rank, whole in parts)


def realistic_spectra(costs, seed):
    """Noise-like, exponential and power-law spectra of different strengths."""
    rng = np.random.default_rng(seed)
    found = []
    for n in costs.full_ranks:
        place = np.arange(n) / n
        shapes = (1 - place**0.8, np.exp(-rng.uniform(1, 6) * place), (1 + np.arange(n)) ** -rng.uniform(0.2, 1.2))
        found.append(np.sort(shapes[rng.integers(3)] * rng.uniform(0.98, 1.02, n) * rng.uniform(0.5, 20))[::-1])
    return found


@pytest.mark.parametrize("saturation", [True, False])
@pytest.mark.parametrize("resources", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(12))
def test_the_optimum_of_every_allocation_there_is(seed, resources, saturation):
    costs = random_table(seed, resources, sites=5)
    sigmas, rng = spectra(costs, seed), np.random.default_rng(seed)
    least = costs.used(Allocation(np.ones(5, dtype=np.int64), np.zeros(5, dtype=bool)))
    limits = np.ceil(least * rng.uniform(0.9, 1.5) + costs.totals() * rng.uniform(0, 0.5, resources)).clip(1)
    best = brute_force(sigmas, costs, limits, saturation)
    if best is None:
        with pytest.raises(BudgetError, match="cannot be met"):
            optimum(sigmas, costs, limits, saturation)
        return
    found = optimum(sigmas, costs, limits, saturation)
    assert costs.fits(found.allocation, limits)
    assert found.gap == 0
    assert found.value == pytest.approx(best, abs=TOLERANCE)
    assert value_of(found.allocation, sigmas) == pytest.approx(best, abs=TOLERANCE)


@pytest.mark.parametrize("twins", [2, 3])
@pytest.mark.parametrize("seed", range(5))
def test_sites_of_like_cost_are_merged_without_loss(seed, twins):
    costs = table_of(*[(8, 3, 4, 4)] * twins, (4, 3, 3, 5))
    sigmas, limits = spectra(costs, seed, decay=0.9), np.floor(costs.totals() * (0.3 + 0.05 * seed))
    best = brute_force(sigmas, costs, limits, saturation=True)
    assert optimum(sigmas, costs, limits).value == pytest.approx(best, abs=TOLERANCE)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("eta", [0.3, 0.6])
def test_an_independent_mixed_integer_program_finds_nothing_better(scheme, eta):
    layers = [(16, 3, 12, 16), (16, 1, 16, 24), (8, 5, 10, 12), (8, 3, 16, 16), (8, 3, 16, 16), (4, 1, 20, 30)]
    costs = table_of(*layers, scheme=scheme)
    sigmas, limits = realistic_spectra(costs, 3), np.floor(costs.totals() * eta)
    every = [list(options(sigma, costs, site, True)) for site, sigma in enumerate(sigmas)]
    values = np.array([value for site in every for value, _ in site])
    rows = np.array([cost for site in every for _, cost in site]).T / limits[:, None]
    one_each = csr_array(
        (np.ones(len(values)), (np.repeat(np.arange(6), [len(site) for site in every]), np.arange(len(values))))
    )
    constraints = [LinearConstraint(1e3 * rows, ub=1e3), LinearConstraint(one_each, 1, 1)]
    answer = milp(-1e3 * values, constraints=constraints, bounds=Bounds(0, 1), integrality=np.ones(len(values)),
                  options={"mip_rel_gap": 1e-7, "time_limit": 20})  # fmt: skip
    found = optimum(sigmas, costs, limits)
    assert found.gap == 0
    assert -answer.fun / 1e3 <= found.value + 1e-6
    assert found.value <= -answer.mip_dual_bound / 1e3 + 1e-6


@pytest.mark.parametrize("seed", range(50))
def test_fifty_instances_of_vgg16s_size_are_proved_in_under_two_seconds(seed):
    scheme = SCHEMES[seed % 2]
    costs = table_of(*((size, 3, c, f) for size, c, f in VGG16), scheme=scheme)
    assert scheme != "spatial" or costs.full_ranks.sum() == 11145
    sigmas, rng = realistic_spectra(costs, seed), np.random.default_rng(seed)
    shares = rng.uniform(0.1, 0.7, 2) if seed % 4 < 2 else rng.uniform(0.1, 0.7)
    limits = np.floor(costs.totals() * shares)
    values = []
    for saturation in (True, False):
        start = time.process_time()
        found = optimum(sigmas, costs, limits, saturation)
        assert time.process_time() - start < 2
        values.append(found.value)
        assert found.gap == 0
        assert costs.fits(found.allocation, limits)
        assert found.value == pytest.approx(value_of(found.allocation, sigmas), abs=1e-10)
    assert values[0] >= values[1] - TOLERANCE


@pytest.mark.parametrize("eta", [0.25, 0.4])
def test_the_objective_is_above_that_of_pos_greedy(eta):
    costs = table_of(*((size, 3, c, f) for size, c, f in VGG16))
    sigmas, limits = realistic_spectra(costs, 1), np.floor(costs.totals() * eta)
    assert value_of(pos_greedy(sigmas, costs, limits), sigmas) < value_of(select(sigmas, costs, limits), sigmas)


@pytest.mark.parametrize("eta", [0.2, 0.5])
def test_whole_sites_are_only_ever_an_improvement(eta):
    costs = table_of((8, 3, 6, 8), (8, 3, 8, 8), (4, 1, 8, 6))
    sigmas, limits = spectra(costs, 2, decay=0.97), np.floor(costs.totals() * eta)
    printed, saturated = (optimum(sigmas, costs, limits, saturation) for saturation in (False, True))
    assert not printed.allocation.whole.any()
    assert saturated.value >= printed.value - TOLERANCE


def test_a_limit_beyond_all_integers_is_no_budget():
    columns = [[1000] * 3, [10] * 3], [[100] * 3, [1] * 3], [8] * 3
    costs = CostTable(("macs", "params"), *map(np.array, columns))
    sigmas = [np.linspace(1, 0.1, 8)] * 3
    found = [select(sigmas, costs, np.array([1200.0, limit])).ranks for limit in (1e15, 1e19, np.inf)]
    np.testing.assert_array_equal(found[1], found[0])
    np.testing.assert_array_equal(found[2], found[0])


def test_an_infinite_limit_is_no_budget():
    costs = table_of((8, 3, 6, 8), (4, 1, 8, 6))
    sigmas, limits = spectra(costs), np.array([np.floor(costs.totals()[0] * 0.4), np.inf])
    assert optimum(sigmas, costs, limits).value == pytest.approx(
        optimum(sigmas, costs.take(np.isfinite(limits)), limits[:1]).value, abs=TOLERANCE
    )
    assert select(sigmas, costs, np.full(2, np.inf)).whole.all()


def test_a_kernel_of_zeros_gets_the_least():
    costs = table_of((8, 3, 6, 8), (4, 3, 8, 6))
    sigmas = spectra(costs)
    sigmas[0][:] = 0
    found = optimum(sigmas, costs, np.floor(costs.totals() * 0.5))
    assert found.allocation.ranks[0] == 1
    assert found.gap == 0


@pytest.mark.parametrize("resources", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(4))
def test_the_bound_is_the_optimum_of_the_linear_relaxation(seed, resources):
    choices = random_choices(seed, resources)
    rows = np.arange(len(choices.values))
    one_each = csr_array((np.ones(len(rows)), (choices.sites, rows)))
    answer = linprog(-choices.values, choices.shares, np.ones(resources), one_each, np.ones(len(choices.twins)))
    bound = lagrangian_bound(choices)
    assert (bound.prices >= 0).all()
    assert bound.value == pytest.approx(-answer.fun, abs=1e-7)


def test_the_bound_stops_where_the_prices_left_are_flat_to_round_off():
    original, per_rank = [[1536, 16384], [24, 256], [3658, 22944]], [[704, 2560], [11, 40], [980, 3853]]
    costs = CostTable(("macs", "params", "latency"), np.array(original), np.array(per_rank), np.array([3, 8]))
    limits, rng = np.array([5376.0, 84.0, 18621.0]), np.random.default_rng(1)
    for _ in range(20):
        sigmas = [np.sort(rng.random(n))[::-1] for n in costs.full_ranks]
        found = optimum(sigmas, costs, limits)
        assert found.gap == 0
        assert found.value == pytest.approx(brute_force(sigmas, costs, limits, True), abs=TOLERANCE)


@pytest.mark.parametrize("limits", [{"NODES": 1, "FEW": 1, "MANY": 1}, {"WORK": 1}, {"WORK": 100}])
def test_where_the_proof_is_cut_short_the_gap_says_so(monkeypatch, limits):
    limited = importlib.import_module("cobla_tf.knapsack.solve")
    choices = random_choices(1, 2, sites=8)
    start = choices.starts
    best = solve(choices, start)
    assert best.gap == 0
    for name, limit in limits.items():
        monkeypatch.setattr(limited, name, limit)
    cut = solve(choices, start)
    assert choices.fits(cut.picks)
    assert cut.gap > 0
    assert cut.value <= best.value <= cut.bound


@pytest.mark.parametrize("few", [1, 30])
@pytest.mark.parametrize("seed", range(6))
def test_branching_ends_in_the_same_optimum(seed, few, monkeypatch):
    choices = random_choices(seed, 2)
    searched = solve(choices, choices.starts)
    monkeypatch.setattr(importlib.import_module("cobla_tf.knapsack.solve"), "FEW", few)
    branched = solve(choices, choices.starts)
    picks = itertools.product(*np.split(np.arange(len(choices.values)), choices.starts[1:]))
    best = max(choices.values[list(p)].sum() for p in picks if choices.fits(np.array(p)))
    assert searched.gap == branched.gap == 0
    assert searched.value == pytest.approx(best, abs=TOLERANCE)
    assert branched.value == pytest.approx(best, abs=TOLERANCE)


def random_choices(seed, resources, sites=4):
    """A first choice that is free, some that follow a concave curve, and a last one that leaps."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(3, 9, sites)
    values = [np.append(np.cumsum(np.sort(rng.random(n - 1))[::-1]), n) for n in counts]
    costs = [np.append(np.arange(n - 1), 2 * n) * rng.integers(1, 50, (resources, 1)) for n in counts]
    limits = np.sum([cost[:, -1] for cost in costs], axis=0) * 0.4
    last = np.concatenate([np.arange(n) == n - 1 for n in counts])
    places = np.repeat(np.arange(sites), counts)
    every = np.concatenate(costs, axis=1)
    return Choices(np.concatenate(values), every, places, last, np.arange(sites), limits.astype(np.int64))
