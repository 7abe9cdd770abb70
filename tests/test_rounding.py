import dataclasses
import itertools

import numpy as np
import pytest
from test_baselines import LAYERS, limits_of, spectra
from test_costs import random_table, table_of

from cobla_tf.costs import Allocation, CostTable
from cobla_tf.layout import Layout
from cobla_tf.rounding import LEAST_SCALE, draw_ranks, round_by_model, round_masks


def relaxed(costs, eta, seed=0):
    masks = np.random.default_rng(seed).random(costs.full_ranks.sum())
    used = Layout(costs.full_ranks).spread(costs.per_rank) @ masks
    return masks * min(1, float(np.min(limits_of(costs, eta) / used)))


@pytest.mark.parametrize("eta", [0.25, 0.3, 0.5, 0.8])
@pytest.mark.parametrize("seed", range(5))
def test_budgets_hold_exactly_and_the_largest_weights_stay(eta, seed):
    costs = table_of(*LAYERS)
    sigmas, masks = spectra(costs), relaxed(costs, eta, seed)
    limits = limits_of(costs, eta)
    rounded = round_masks(
        masks, np.zeros(len(costs.full_ranks), dtype=bool), sigmas, costs, limits, np.random.default_rng(seed)
    )
    assert (costs.used(rounded.allocation) <= limits).all()
    layout = Layout(costs.full_ranks)
    np.testing.assert_array_equal(layout.sums(rounded.kept), rounded.allocation.ranks)
    parts = zip(layout.split(masks), sigmas, layout.split(rounded.kept), rounded.allocation.whole, strict=True)
    for mask, sigma, kept, whole in parts:
        if not whole:
            assert (mask * sigma)[kept].min() >= (mask * sigma)[~kept].max(initial=0)
    np.testing.assert_array_equal(rounded.scale[~rounded.kept], 0)


def test_the_mean_rank_is_the_sum_of_the_masks():
    sums = np.array([2.74, 1.15, 3.0, 0.5])
    rng = np.random.default_rng(0)
    ranks = [draw_ranks(sums, rng) for _ in range(4000)]
    np.testing.assert_allclose(np.mean(ranks, axis=0), sums, atol=4 * 0.5 / np.sqrt(4000))
    np.testing.assert_array_equal(np.ptp(ranks, axis=0), [1, 1, 0, 1])


def test_binary_masks_are_kept_as_they_are():
    costs = table_of(*LAYERS)
    none = np.zeros(3, dtype=bool)
    ranks = np.array([3, 2, 4])
    masks = Layout(costs.full_ranks).leading(ranks)
    limits = costs.used(Allocation(ranks, none)).astype(float)
    rounded = round_masks(masks, none, spectra(costs), costs, limits, np.random.default_rng(0))
    np.testing.assert_array_equal(rounded.scale, masks)


def test_what_the_budgets_leave_keeps_sites_whole():
    costs = table_of(*LAYERS)
    masks = Layout(costs.full_ranks).leading(np.array([3, 2, 4]))
    limits = costs.totals().astype(float)
    rounded = round_masks(masks, np.zeros(3, dtype=bool), spectra(costs), costs, limits, np.random.default_rng(0))
    assert rounded.allocation.whole.all()
    np.testing.assert_array_equal(rounded.scale, 1)


def test_at_the_smallest_budget_every_site_has_rank_one():
    costs = table_of(*LAYERS)
    limits = costs.least().astype(float)
    masks = relaxed(costs, 0.5)
    rounded = round_masks(
        masks, np.zeros(len(costs.full_ranks), dtype=bool), spectra(costs), costs, limits, np.random.default_rng(0)
    )
    np.testing.assert_array_equal(rounded.allocation.ranks, 1)


@pytest.mark.parametrize(("multiple", "eta"), [(1, 0.4), (2, 0.6)])
@pytest.mark.parametrize("seed", range(6))
def test_draws_are_filled_up_until_nothing_more_fits(seed, multiple, eta):
    costs = dataclasses.replace(table_of(*LAYERS), multiple=multiple)
    sigmas, masks, limits = spectra(costs), relaxed(costs, eta, seed), limits_of(costs, eta)
    none = np.zeros(len(costs.full_ranks), dtype=bool)
    plain, filled = (
        round_masks(masks, none, sigmas, costs, limits, np.random.default_rng(seed), fill=fill).allocation
        for fill in (False, True)
    )
    assert costs.fits(filled, limits) and (filled.ranks >= plain.ranks).all()
    for i in np.flatnonzero(~filled.whole):
        ranks = filled.ranks.copy()
        ranks[i] = min(ranks[i] + multiple, costs.full_ranks[i])
        more = costs.settle(ranks, filled.whole)
        assert not costs.fits(more, limits) or (more.ranks == filled.ranks).all()


def model_of(costs, seed):
    """Masks of which some are zero, and a gradient and curvature by which some terms seem useless."""
    rng = np.random.default_rng(seed)
    n = costs.full_ranks.sum()
    masks = rng.random(n) * (rng.random(n) < 0.8)
    return masks, rng.normal(-0.5, 1.0, n), rng.exponential(size=n)


def reachable_limits(costs, seed):
    """Between what the cheapest network needs and what the original does, in every resource."""
    totals = costs.totals().astype(float)
    least = costs.used(costs.cheapest(totals))
    return np.floor(least + np.random.default_rng(seed).uniform(0, 0.7, len(totals)) * np.maximum(totals - least, 0))


def predicted(masks, gradient, curvature):
    return np.maximum(-gradient * masks + curvature * masks**2 / 2, 0)


@pytest.mark.parametrize("resources", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(5))
def test_rounding_by_model_meets_every_budget(resources, seed):
    costs = random_table(seed, resources)
    limits = reachable_limits(costs, seed)
    model = model_of(costs, seed)
    rounded = round_by_model(*model, spectra(costs, seed), costs, limits)
    allocation, layout = rounded.allocation, Layout(costs.full_ranks)
    assert (costs.used(allocation) <= limits).all()
    assert (allocation.ranks >= 1).all()
    np.testing.assert_array_equal(layout.sums(rounded.kept), allocation.ranks)
    np.testing.assert_array_equal(rounded.scale > 0, rounded.kept)
    np.testing.assert_array_equal(rounded.scale[layout.spread(allocation.whole)], 1)
    kept = rounded.kept & ~layout.spread(allocation.whole)
    np.testing.assert_allclose(rounded.scale[kept], np.maximum(model[0][kept], LEAST_SCALE))


def choices_of(losses, index, costs):
    """(cost [R], predicted loss) of every subset of a site's terms, and of the whole site."""
    yield costs.original[:, index], 0.0
    for count in range(1, len(losses) + 1):
        for kept in itertools.combinations(range(len(losses)), count):
            yield costs.base[:, index] + count * costs.per_rank[:, index], losses.sum() - losses[list(kept)].sum()


@pytest.mark.parametrize("resources", [1, 2, 3])
@pytest.mark.parametrize("seed", range(8))
def test_rounding_by_model_is_the_best_of_all_choices(resources, seed):
    table = random_table(seed, resources, sites=3)
    costs = CostTable(table.resources, table.original, table.per_rank, np.array([3, 4, 2]), table.base)
    limits = reachable_limits(costs, seed)
    model = model_of(costs, seed)
    losses, layout = predicted(*model), Layout(costs.full_ranks)
    every = [list(choices_of(part, i, costs)) for i, part in enumerate(layout.split(losses))]
    best = min(
        sum(loss for _, loss in chosen)
        for chosen in itertools.product(*every)
        if (sum(cost for cost, _ in chosen) <= limits).all()
    )
    rounded = round_by_model(*model, spectra(costs, seed), costs, limits)
    dropped = ~rounded.kept & ~layout.spread(rounded.allocation.whole)
    assert losses[dropped].sum() == pytest.approx(best, abs=1e-7 * losses.max())


def test_rounding_by_model_keeps_a_site_whole_exactly_where_it_fits():
    costs = table_of(*LAYERS)
    model = model_of(costs, 0)
    enough = costs.totals().astype(float)
    assert round_by_model(*model, spectra(costs), costs, enough).allocation.whole.all()
    less = round_by_model(*model, spectra(costs), costs, enough - [1, 0])
    assert not less.allocation.whole.all()
    assert costs.fits(less.allocation, enough - [1, 0])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("eta", [0.3, 0.6])
def test_a_term_of_mask_zero_never_takes_the_place_of_another(seed, eta):
    """Not even where the model predicts a gain by dropping all others."""
    costs = table_of(*LAYERS)
    masks, _, curvature = model_of(costs, seed)
    for gradient in (np.full(len(masks), 10.0), model_of(costs, seed)[1]):
        rounded = round_by_model(masks, gradient, curvature, spectra(costs), costs, limits_of(costs, eta))
        layout = Layout(costs.full_ranks)
        for mask, kept in zip(layout.split(masks), layout.split(rounded.kept), strict=True):
            if (mask[kept] == 0).any():
                assert (mask[~kept] == 0).all()
