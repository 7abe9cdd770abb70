import math

import numpy as np
import pytest

from cobla_tf.config import SCHEMES
from cobla_tf.costs import Allocation, CostTable, conv2d_costs, resolve_limits
from cobla_tf.errors import BudgetError

VGG16 = [(224, 3, 64), (224, 64, 64), (112, 64, 128), (112, 128, 128), (56, 128, 256), (56, 256, 256), (56, 256, 256),
         (28, 256, 512), (28, 512, 512), (28, 512, 512), (14, 512, 512), (14, 512, 512), (14, 512, 512)]  # fmt: skip
TABLE_3 = [  # ranks, then what design and paper give for MACs and params
    ((5, 24, 48, 48, 64, 128, 160, 192, 192, 256, 320, 320, 320), 0.322, 0.364),
    ((5, 17, 41, 54, 77, 109, 133, 155, 180, 239, 274, 283, 314), 0.290, 0.330),
    ((5, 16, 32, 48, 64, 81, 95, 116, 126, 203, 211, 215, 232), 0.230, 0.252),
]


def table_of(*layers, scheme="spatial"):
    costs = [conv2d_costs((k, k, c, f), scheme, [((size, size), (size, size))]) for size, k, c, f in layers]
    full = [min(k * f, k * c) if scheme == "spatial" else min(f, k * k * c) for _, k, c, f in layers]
    original, per_rank = (np.stack(part, axis=1) for part in zip(*costs, strict=True))
    return CostTable(("macs", "params"), original, per_rank, np.array(full))


@pytest.mark.parametrize(("ranks", "macs", "params"), TABLE_3)
def test_ranks_of_the_papers_table_3_give_its_cost_ratios(ranks, macs, params):
    costs = table_of(*((size, 3, c, f) for size, c, f in VGG16))
    assert costs.full_ranks.sum() == 11145
    assert costs.totals()[0] == pytest.approx(15.35e9, rel=1e-3)
    used = costs.used(Allocation(np.array(ranks), np.zeros(13, dtype=bool)))
    np.testing.assert_array_equal(np.round(used / costs.totals(), 3), [macs, params])


def test_strides_of_the_spatial_scheme_are_split_over_both_factors():
    original, per_rank = conv2d_costs((3, 5, 4, 6), "spatial", [((12, 10), (6, 5))])
    assert list(original) == [6 * 5 * 3 * 5 * 4 * 6, 3 * 5 * 4 * 6]
    assert list(per_rank) == [6 * 10 * 3 * 4 + 6 * 5 * 5 * 6, 3 * 4 + 5 * 6]


def test_a_shared_layer_counts_its_macs_at_every_use_and_its_params_once():
    once, twice = (conv2d_costs((3, 3, 4, 4), "channel", [((8, 8), (8, 8))] * uses) for uses in (1, 2))
    for alone, both in zip(once, twice, strict=True):
        assert list(both) == [2 * alone[0], alone[1]]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_saturation_rank_is_the_first_at_which_nothing_is_saved(scheme):
    costs = table_of((8, 3, 16, 24), (8, 1, 16, 24), scheme=scheme)
    ranks = costs.saturation_ranks()
    assert (ranks * costs.per_rank >= costs.original).all()
    assert ((ranks - 1) * costs.per_rank < costs.original).any(axis=0).all()
    settled = costs.settle(ranks, np.zeros(2, dtype=bool))
    np.testing.assert_array_equal(costs.used(settled), costs.totals())


def test_fractions_are_floored_and_numbers_above_one_are_absolute():
    costs = table_of((8, 3, 16, 24))
    macs, _ = costs.totals()
    np.testing.assert_array_equal(
        resolve_limits(costs, {"macs": 0.3, "params": 900.7}), [math.floor(0.3 * int(macs)), 900]
    )
    np.testing.assert_array_equal(resolve_limits(costs, {"macs": 1.0}), [macs, math.inf])


@pytest.mark.parametrize("bad", [0, -0.5, math.nan, math.inf, "half", True])
def test_a_budget_that_is_no_positive_number(bad):
    with pytest.raises(BudgetError, match="macs budget must be"):
        resolve_limits(table_of((8, 3, 16, 24)), {"macs": bad})


def test_no_budget_at_all():
    with pytest.raises(BudgetError, match="at least one"):
        resolve_limits(table_of((8, 3, 16, 24)), {})


def test_a_budget_below_the_smallest_reachable_one_says_which_that_is():
    costs = table_of((8, 3, 16, 24), (8, 1, 1, 8))
    smallest = costs.least()[1]
    assert smallest == 3 * 16 + 3 * 24 + 8
    with pytest.raises(BudgetError, match=f"smallest reachable one is {smallest}"):
        resolve_limits(costs, {"params": float(smallest - 1)})
    assert resolve_limits(costs, {"params": float(smallest)})[1] == smallest
