"""POS-CVX, Product Of Sum by convex programming (paper, Eq. 12)."""

import numpy as np
from scipy.optimize import linprog

from cobla_tf.costs import Allocation, CostTable
from cobla_tf.layout import Layout

Array = np.ndarray

SCALE = 1e3
"""HiGHS' tolerances are absolute, and gains lie between 1e-6 and 1."""


def select(sigmas: list[Array], costs: CostTable, limits: Array) -> Allocation:
    """Maximise sum_i log(sum_{j <= k_i} sigma_ij^2) within the limits.

    The logarithm of a site's sum is concave in its rank, so the relaxed problem is a linear program in marginal gains,
    with at most as many fractional variables as there are budgets. These are dropped, and what the budgets leave is
    spent greedily, in integers: the result is short of the optimum by less than the dropped gains.
    Sites that come out saturated are kept whole and the rest is solved again with what that frees; at last, sites
    are kept whole where the budgets leave room for it.
    """
    whole = costs.cheapest(limits).whole
    while True:
        ranks = _ranks(sigmas, costs, limits, whole)
        settled = costs.settle(ranks, whole)
        if (settled.whole == whole).all():
            return costs.promote(settled, limits, np.arange(len(sigmas)))
        whole = settled.whole


def _ranks(sigmas: list[Array], costs: CostTable, limits: Array, whole: Array) -> Array:
    layout = Layout(costs.full_ranks)
    gains = _gains(sigmas)
    first = layout.leading(np.ones(len(sigmas), dtype=np.int64)).astype(bool)
    free = ~first & ~layout.spread(whole).astype(bool)
    base = costs.used(Allocation(np.where(whole, costs.full_ranks, 1), whole))
    ranks = np.where(whole, costs.full_ranks, 1)
    if free.any():
        rows = layout.spread(costs.per_rank)[:, free] / np.maximum(costs.totals(), 1)[:, None]
        room = (limits - base) / np.maximum(costs.totals(), 1)
        answer = linprog(-SCALE * gains[free], rows, np.maximum(room, 0), bounds=(0, 1), method="highs")
        taken = np.zeros(layout.size)
        taken[free] = np.floor(answer.x + 1e-9)
        ranks = ranks + layout.sums(taken).astype(np.int64)
        ranks = _lowered(ranks, gains, costs, limits, whole)
    return _top_up(ranks, gains, costs, limits, whole)


def _gains(sigmas: list[Array]) -> Array:
    """log of the sum with a term over the log without it, [n]; the first term of a site has no finite gain."""
    parts = []
    for sigma in sigmas:
        sums = np.log(np.cumsum(sigma**2) + np.finfo(float).tiny)
        parts.append(np.diff(sums, prepend=sums[0]))
    return np.concatenate(parts)


def _lowered(ranks: Array, gains: Array, costs: CostTable, limits: Array, whole: Array) -> Array:
    """Take back the least gains where the solver's tolerance broke a budget by a few units."""
    parts = Layout(costs.full_ranks).split(gains)
    ranks = ranks.copy()
    while not costs.fits(Allocation(ranks, whole), limits):
        last = [parts[i][r - 1] if r > 1 and not whole[i] else np.inf for i, r in enumerate(ranks)]
        ranks[int(np.argmin(last))] -= 1
    return ranks


def _top_up(ranks: Array, gains: Array, costs: CostTable, limits: Array, whole: Array) -> Array:
    """Spend what is left: the largest next gain that still fits, until none does."""
    layout = Layout(costs.full_ranks)
    parts = layout.split(gains)
    ranks = ranks.copy()
    while True:
        room = limits - costs.used(Allocation(ranks, whole))
        fits = (costs.per_rank <= room[:, None]).all(axis=0) & ~whole & (ranks < costs.full_ranks)
        if not fits.any():
            return ranks
        following = [parts[i][ranks[i]] if fits[i] else -np.inf for i in range(len(parts))]
        ranks[int(np.argmax(following))] += 1
