"""Ranks and whole sites of most value within the budgets: an integer program, exact and proved."""

from dataclasses import dataclass

import numpy as np

from cobla_tf.costs import Allocation, CostTable
from cobla_tf.errors import BudgetError
from cobla_tf.knapsack import Choices, Proved, solve
from cobla_tf.limits import cheapest_within

Array = np.ndarray


@dataclass(frozen=True)
class Optimum(Proved):
    """The best ranks, and how far that is proved; the value is the sum over the sites.

    Attributes:
        allocation: within the budgets.
    """

    allocation: Allocation


def allocate(values: list[Array], costs: CostTable, limits: Array, saturation: bool = True) -> Optimum:
    """Give every site a rank k >= 1, a multiple of `costs.multiple`, or, with saturation, leave it whole.

    Args:
        values: of the ranks 1, 2, ... of every site, float64 [full rank] each, increasing and best concave; a whole
            site has the value 0.
        costs: of the sites.
        limits: the budgets, float64 [R]; an infinite one is none.
        saturation: whether a site has the choice to stay whole, at its original cost, in place of the ranks at which
            two factors save nothing.

    Raises:
        BudgetError: the limits cannot be met.
    """
    sites = [site_choices(value, costs, i, saturation) for i, value in enumerate(values)]
    choices = _choices(sites, costs, limits)
    solution = solve(choices, _start(choices, costs, limits, saturation))
    ranks = np.concatenate([site.ranks for site in sites])[solution.picks]
    whole = ranks == 0
    allocation = Allocation(np.where(whole, costs.full_ranks, ranks).astype(np.int64), whole)
    return Optimum(solution.value, solution.bound, allocation)


@dataclass(frozen=True)
class SiteChoices:
    """What one site can be given.

    Attributes:
        ranks: int64 [n]; 0 stands for the whole layer.
        values: float64 [n].
        costs: int64 [R, n].
    """

    ranks: Array
    values: Array
    costs: Array


def site_choices(values: Array, costs: CostTable, index: int, saturation: bool = True) -> SiteChoices:
    """Multiples below saturation and, last, the whole layer; the arguments are those of `allocate`, for one site."""
    most = min(costs.saturation_ranks()[index] - 1, len(values)) if saturation else len(values)
    ranks = np.arange(costs.multiple, most + 1, costs.multiple)
    factors = costs.base[:, [index]] + costs.per_rank[:, [index]] * ranks
    if not saturation:
        return SiteChoices(ranks, values[ranks - 1], factors)
    whole = costs.original[:, [index]]
    return SiteChoices(np.append(ranks, 0), np.append(values[ranks - 1], 0.0), np.column_stack([factors, whole]))


def _choices(sites: list[SiteChoices], costs: CostTable, limits: Array) -> Choices:
    finite = np.isfinite(limits)
    return Choices.of(
        [site.values for site in sites],
        [site.costs[finite] for site in sites],
        [site.ranks == 0 for site in sites],
        [costs.base[:, i].tobytes() + costs.per_rank[:, i].tobytes() for i in range(len(sites))],
        limits[finite],
    )


def _start(choices: Choices, costs: CostTable, limits: Array, saturation: bool) -> Array:
    """Picks within the limits: the least rank, the first choice of a site, or the whole layer, the last one."""
    ends = np.append(choices.starts[1:], len(choices.values)) - 1
    if saturation:
        return np.where(cheapest_within(costs, limits).whole, ends, choices.starts)
    if not choices.fits(choices.starts):
        raise BudgetError("the budgets cannot be met with two factors at every site; raise them, or allow whole sites.")
    return choices.starts
