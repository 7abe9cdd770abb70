import itertools
import math
import re

import numpy as np
import pytest

from cobla_tf.budgets import check_budgets, merge_budgets, parse_budgets, resolve_limits
from cobla_tf.config import SCHEMES
from cobla_tf.costs import Allocation, CostTable, kernel_costs
from cobla_tf.errors import BudgetError, ConfigError
from cobla_tf.kernels import KernelForm

VGG16 = [(224, 3, 64), (224, 64, 64), (112, 64, 128), (112, 128, 128), (56, 128, 256), (56, 256, 256), (56, 256, 256),
         (28, 256, 512), (28, 512, 512), (28, 512, 512), (14, 512, 512), (14, 512, 512), (14, 512, 512)]  # fmt: skip
TABLE_3 = [  # ranks, then what design and paper give for MACs and params
    ((5, 24, 48, 48, 64, 128, 160, 192, 192, 256, 320, 320, 320), 0.322, 0.364),
    ((5, 17, 41, 54, 77, 109, 133, 155, 180, 239, 274, 283, 314), 0.290, 0.330),
    ((5, 16, 32, 48, 64, 81, 95, 116, 126, 203, 211, 215, 232), 0.230, 0.252),
]


def table_of(*layers, scheme="spatial"):
    costs = [kernel_costs(KernelForm(scheme, (k, k, c, f)), [((size, size), (size, size))]) for size, k, c, f in layers]
    full = [min(k * f, k * c) if scheme == "spatial" else min(f, k * k * c) for _, k, c, f in layers]
    original, per_rank = (np.stack(part, axis=1) for part in zip(*costs, strict=True))
    return CostTable(("macs", "params"), original, per_rank, np.array(full))


def random_table(seed, resources, sites=5, most=1000):
    """Some costs are zero, some factors dearer than the layer at rank one, some have a fixed part."""
    rng = np.random.default_rng(seed)
    shape = (resources, sites)
    original = rng.integers(0, most, shape) * (rng.random(shape) < 0.9)
    original[:, 0] += 1
    per_rank = rng.integers(0, most // 4, shape) * (rng.random(shape) < 0.9)
    base = rng.integers(0, most // 2, shape) * (rng.random(shape) < 0.5)
    return CostTable(tuple("abcd"[:resources]), original, per_rank, rng.integers(2, 9, sites), base)


def every_start(costs):
    """All choices of rank one or the original, site by site."""
    for whole in itertools.product([False, True], repeat=len(costs.full_ranks)):
        yield Allocation(np.where(whole, costs.full_ranks, 1), np.array(whole))


@pytest.mark.parametrize(("ranks", "macs", "params"), TABLE_3)
def test_ranks_of_the_papers_table_3_give_its_cost_ratios(ranks, macs, params):
    costs = table_of(*((size, 3, c, f) for size, c, f in VGG16))
    assert costs.full_ranks.sum() == 11145
    assert costs.totals()[0] == pytest.approx(15.35e9, rel=1e-3)
    used = costs.used(Allocation(np.array(ranks), np.zeros(13, dtype=bool)))
    np.testing.assert_array_equal(np.round(used / costs.totals(), 3), [macs, params])


def test_strides_of_the_spatial_scheme_are_split_over_both_factors():
    original, per_rank = kernel_costs(KernelForm("spatial", (3, 5, 4, 6)), [((12, 10), (6, 5))])
    assert list(original) == [6 * 5 * 3 * 5 * 4 * 6, 3 * 5 * 4 * 6]
    assert list(per_rank) == [6 * 10 * 3 * 4 + 6 * 5 * 5 * 6, 3 * 4 + 5 * 6]


def test_a_shared_layer_counts_its_macs_at_every_use_and_its_params_once():
    once, twice = (kernel_costs(KernelForm("channel", (3, 3, 4, 4)), [((8, 8), (8, 8))] * uses) for uses in (1, 2))
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


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("50%", "; 50 % is 0.5."),
        ("12,5 %", "; 12.5 % is 0.125."),
        ("0.5", "; write 0.5."),
        ("500,000", "; write 500000."),
    ],
)
def test_a_budget_in_words_is_told_how_it_is_written(text, hint):
    with pytest.raises(BudgetError) as refused:
        resolve_limits(table_of((8, 3, 16, 24)), {"macs": text})
    assert str(refused.value).endswith(f"got {text!r}{hint}")


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


@pytest.mark.parametrize(("budget", "hint"), [(50, True), (50.0, True), (101, False), (1e-3, False)])
def test_who_may_have_meant_per_cent_is_told_what_to_write(budget, hint):
    costs = CostTable(("macs",), np.array([[30_000]]), np.array([[2_000]]), np.array([9]))
    with pytest.raises(BudgetError) as caught:
        resolve_limits(costs, {"macs": budget})
    assert ("50 % is 0.5" in str(caught.value)) == hint and ("%" in str(caught.value)) == hint


def test_a_fraction_is_what_its_decimals_say():
    costs = CostTable(("macs",), np.array([[100]]), np.array([[1]]), np.array([9]))
    assert 0.29 * 100 < 29
    assert resolve_limits(costs, {"macs": 0.29})[0] == 29


def test_a_site_that_saves_anything_in_any_resource_is_not_saturated():
    costs = CostTable(
        ("a", "b", "c"),
        original=np.array([[10, 10, 10, 0], [10, 10, 10, 0], [10, 10, 10, 0]]),
        per_rank=np.array([[4, 4, 4, 0], [4, 1, 4, 3], [4, 4, 0, 0]]),
        full_ranks=np.array([7, 7, 7, 7]),
        base=np.array([[0, 3, 0, 0], [0, 2, 0, 0], [9, 0, 0, 0]]),
    )
    np.testing.assert_array_equal(costs.saturation_ranks(), [3, 8, 8, 0])
    assert costs.settle(np.array([1, 1, 1, 1]), np.zeros(4, dtype=bool)).whole.tolist() == [False, False, False, True]


@pytest.mark.parametrize("resources", [1, 3, 4])
@pytest.mark.parametrize("seed", range(10))
def test_saturated_sites_cost_no_less_in_any_resource(seed, resources):
    costs = random_table(seed, resources)
    for rank in range(1, 10):
        ranks = np.minimum(rank, costs.full_ranks)
        factors = costs.base + costs.per_rank * ranks
        saturated = costs.settle(ranks, np.zeros(5, dtype=bool)).whole
        np.testing.assert_array_equal(saturated, (factors >= costs.original).all(axis=0))


@pytest.mark.parametrize("resources", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(25))
def test_the_cheapest_allocation_fits_wherever_any_does(seed, resources):
    costs = random_table(seed, resources)
    rng = np.random.default_rng(seed)
    used = np.array([costs.used(start) for start in every_start(costs)])
    assert (used >= costs.least()).all()
    exactly = used[rng.integers(len(used))].astype(float)
    anywhere = np.ceil(used.min(axis=0) + rng.random(resources) * np.ptp(used, axis=0) / 2).clip(1)
    for limits in (exactly.clip(1), anywhere):
        possible = (used <= limits).all(axis=1).any()
        assert costs.fits(costs.cheapest(limits), limits) == possible
        for row in range(resources):
            others = np.delete(used <= limits, row, axis=1).all(axis=1)
            found = costs.least_given(row, limits)
            least = None if found is None else costs.used(found)[row]
            assert least == (used[others, row].min() if others.any() else None)


@pytest.mark.parametrize("seed", range(20))
def test_budgets_that_exclude_each_other_come_with_the_smallest_that_do_not(seed):
    costs = random_table(seed, 3)
    used = np.array([costs.used(start) for start in every_start(costs)])
    limits = np.maximum(used.min(axis=0), 2)
    budgets = dict(zip("abc", map(float, limits), strict=True))
    if (used <= limits).all(axis=1).any():
        pytest.skip("these can be met")
    with pytest.raises(BudgetError, match="cannot be met together") as caught:
        resolve_limits(costs, budgets)
    offers = re.findall(r"(\w) to ([\d,]+)", str(caught.value))
    for name, amount in offers:
        row, least = "abc".index(name), int(amount.replace(",", ""))
        others = np.delete(used <= limits, row, axis=1).all(axis=1)
        assert least == used[others, row].min()
        assert resolve_limits(costs, budgets | {name: float(least)})[row] == least
    if not offers:
        needs = {name: float(n.replace(",", "")) for name, n in re.findall(r"(\w) ([\d,]+) \(", str(caught.value))}
        resolve_limits(costs, needs)


@pytest.mark.parametrize(
    ("budgets", "sentence"),
    [
        ({"latencyy": 0.5}, "'latencyy'.*did you mean latency"),
        ({"macs": None, "latency": None}, "at least one of macs, params, latency"),
        ({"latency": -1.0}, "latency budget must be"),
    ],
)
def test_budgets_that_name_or_say_nothing_usable(budgets, sentence):
    with pytest.raises(BudgetError, match=sentence):
        check_budgets(budgets, ["latency"])


def test_short_forms_and_named_budgets_are_one_mapping():
    assert merge_budgets(0.5, None, {"params": 0.4, "latency": None}) == {"macs": 0.5, "params": 0.4, "latency": None}
    with pytest.raises(BudgetError, match="macs has two budgets"):
        merge_budgets(0.5, None, {"macs": 0.4})
    with pytest.raises(BudgetError, match="must map"):
        merge_budgets(0.5, None, ["latency"])


@pytest.mark.parametrize("entries", [["latency"], ["a=1", "a=2"], ["a=half"]])
def test_budgets_as_text(entries):
    assert parse_budgets("--budgets", ["a=0.5", "b = 2e3", "c=none"]) == {"a": 0.5, "b": 2000.0, "c": None}
    with pytest.raises(ConfigError, match="--budgets"):
        parse_budgets("--budgets", entries)
