"""Ranks that grow with one number, the level, and the highest level that the budgets allow."""

import numpy as np

from cobla_tf.costs import Allocation, CostTable
from cobla_tf.limits import cheapest_within

Array = np.ndarray

BLOCK = 1024
"""Levels whose costs are computed together."""


def highest_level(thresholds: list[Array], costs: CostTable, limits: Array) -> Allocation:
    """Give every site the ranks of one level, the highest at which all limits hold with saturated sites whole.

    Only levels at which some rank grows are worth a look, and all of them are looked at, from the top: where a site
    saturates in one resource after the others, cost falls with the level, and bisection could miss the highest one.
    Sites are then kept whole where the limits leave room for it.

    Args:
        thresholds: for each site the levels from which on it has rank 1, 2, ..., ascending; below the first it has 1.
        costs: of the sites.
        limits: the budgets, float64 [R].

    Raises:
        BudgetError: the limits cannot be met.
    """
    cheapest = cheapest_within(costs, limits)
    levels = np.unique(np.concatenate(thresholds))[::-1]
    for first in range(0, len(levels), BLOCK):
        block = levels[first : first + BLOCK]
        counts = [np.searchsorted(own, block, side="right") for own in thresholds]
        ranks = np.maximum(np.stack(counts, axis=1), 1)
        fitting = np.flatnonzero((_used(ranks, cheapest.whole, costs) <= limits).all(axis=1))
        if len(fitting):
            found = costs.settle(ranks[fitting[0]], cheapest.whole)
            return costs.promote(found, limits, np.arange(len(thresholds)))
    return costs.promote(cheapest, limits, np.arange(len(thresholds)))


def _used(ranks: Array, whole: Array, costs: CostTable) -> Array:
    """Cost [K, R] of K rows of ranks [K, S], saturated sites whole."""
    found = costs.settle(ranks, whole)
    rows = zip(costs.original, costs.base, costs.per_rank, strict=True)
    return np.stack([np.where(found.whole, o, b + p * found.ranks).sum(axis=1) for o, b, p in rows], axis=1)
