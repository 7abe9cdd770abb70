import itertools
from dataclasses import replace

import numpy as np
import pytest
from networks import images_and_labels, small_cnn
from test_baselines import limits_of, spectra
from test_costs import random_table, table_of
from test_pos_cvx import value_of

import cobla_tf
from cobla_tf.baselines import RIVALS
from cobla_tf.baselines.pos_cvx import optimum
from cobla_tf.budgets import resolve_limits
from cobla_tf.config import Config, SolveConfig
from cobla_tf.costs import Allocation
from cobla_tf.errors import BudgetError, ConfigError
from cobla_tf.layout import Layout
from cobla_tf.rounding import round_by_model, round_masks

LAYERS = [(8, 3, 12, 16), (8, 3, 16, 24), (4, 1, 48, 48), (8, 3, 1, 8)]


def in_multiples(allocation, costs):
    return (allocation.whole | (allocation.ranks % costs.multiple == 0)).all() and (allocation.ranks > 0).all()


@pytest.mark.parametrize("name", sorted(RIVALS))
@pytest.mark.parametrize("multiple", [2, 4, 8])
def test_every_method_gives_multiples_within_the_budgets(name, multiple):
    costs = replace(table_of(*LAYERS), multiple=multiple)
    limits = limits_of(costs, 0.7) if RIVALS[name].budgeted else None
    inputs = {"shapes": [(n, 2 * n) for n in costs.full_ranks], "evaluate": lambda found: -float(found.ranks.sum())}
    allocation = RIVALS[name](spectra(costs), costs, limits, **inputs)
    assert in_multiples(allocation, costs)
    assert limits is None or costs.fits(allocation, limits)
    assert allocation.whole[costs.full_ranks < multiple].all()
    assert not allocation.whole.all()


@pytest.mark.parametrize(
    ("budgets", "smaller"), [({"macs": 0.5}, 8), ({"macs": 0.2, "params": 0.2}, 4), ({"macs": 1e-6}, None)]
)
def test_a_budget_that_a_smaller_multiple_meets_names_it(budgets, smaller):
    costs = replace(table_of(*LAYERS), multiple=16)
    with pytest.raises(BudgetError) as refused:
        resolve_limits(costs, budgets)
    hint = f"or lower rank_multiple (--rank_multiple), the reason for this, from 16 to {smaller}."
    assert str(refused.value).endswith(hint) == (smaller is not None)
    assert ("rank_multiple" in str(refused.value)) == (smaller is not None)
    for multiple in (2 * smaller, smaller) if smaller else ():
        costs = replace(costs, multiple=multiple)
        if multiple == smaller:
            resolve_limits(costs, budgets)
        else:
            with pytest.raises(BudgetError, match="rank_multiple"):
                resolve_limits(costs, budgets)


def every_allocation(costs):
    """Ranks in multiples below saturation, or whole, site by site; full ranks where whole."""
    most = np.minimum(costs.saturation_ranks() - 1, costs.full_ranks)
    choices = [[*range(costs.multiple, m + 1, costs.multiple), None] for m in most]
    for picks in itertools.product(*choices):
        whole = np.array([pick is None for pick in picks])
        yield Allocation(np.array([f if p is None else p for p, f in zip(picks, costs.full_ranks, strict=True)]), whole)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("multiple", [2, 3])
def test_pos_cvx_is_the_best_of_all_multiples(seed, multiple):
    costs = replace(random_table(seed, 2), multiple=multiple)
    sigmas, limits = spectra(costs, seed), limits_of(costs, 0.6)
    values = [value_of(found, sigmas) for found in every_allocation(costs) if costs.fits(found, limits)]
    if not values:
        with pytest.raises(BudgetError):
            optimum(sigmas, costs, limits)
        return
    assert optimum(sigmas, costs, limits).value == pytest.approx(max(values), abs=1e-11)
    assert costs.fits(costs.cheapest(limits), limits)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("multiple", [2, 4, 8])
def test_rounding_gives_multiples_within_the_budgets(seed, multiple):
    costs = replace(table_of(*LAYERS), multiple=multiple)
    limits, sigmas, rng = limits_of(costs, 0.7), spectra(costs), np.random.default_rng(seed)
    layout = Layout(costs.full_ranks)
    whole = costs.cheapest(limits).whole
    masks = np.where(layout.spread(whole), 1, rng.random(layout.size))
    drawn = round_masks(masks, whole, sigmas, costs, limits, rng)
    chosen = round_by_model(masks, -rng.random(layout.size), rng.random(layout.size), sigmas, costs, limits)
    for rounded in (drawn, chosen):
        assert costs.fits(rounded.allocation, limits)
        assert in_multiples(rounded.allocation, costs)
        np.testing.assert_array_equal(layout.sums(rounded.kept), rounded.allocation.ranks)


def test_multiples_in_a_network_and_too_large_ones():
    solve = SolveConfig(iterations=2, refine_iterations=0, rank_multiple=8)
    options = {"macs": 0.8, "params": 0.8, "config": Config(solve=solve)}
    report = cobla_tf.compress(small_cnn(), images_and_labels(60), **options).report
    assert [site.rank is None or site.rank % 8 == 0 for site in report.sites] == [True, True, True]
    assert report.sites[0].reason == "its full rank is below the rank multiple 8"
    assert any(site.rank for site in report.sites)
    assert all(budget.reached <= budget.limit for budget in report.budgets)
    options["config"] = Config(solve=replace(solve, rank_multiple=25))
    with pytest.raises(ConfigError, match=r"at most 24, the largest full rank of a site \(shared\), got 25"):
        cobla_tf.compress(small_cnn(), images_and_labels(60), **options)
