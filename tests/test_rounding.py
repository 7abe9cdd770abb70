import numpy as np
import pytest
from test_baselines import LAYERS, limits_of, spectra
from test_costs import table_of

from cobla_tf.costs import Allocation
from cobla_tf.layout import Layout
from cobla_tf.rounding import draw_ranks, round_masks


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
