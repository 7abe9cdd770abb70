"""Greedy accuracy: what compressing each layer alone costs the network, and one threshold on that for all layers.

AIMET's greedy compression-ratio selection, its default for spatial SVD (Qualcomm Innovation Center; Kuzmin et al. 2019,
"Taxonomy and Evaluation of Structured Compression of Convolutional Neural Networks"). Every layer alone is compressed
to each of the ratios 0.1, 0.2, ..., 0.9 of its cost, and the network is evaluated. For a given threshold each layer
takes the smallest ratio down to which its score never fell below it, or stays whole; the threshold is searched for.

Of ours: a score is a loss, so less is better; with several budgets a ratio holds in every one of them; rank 1 closes
the list, so that every budget that can be met is met; since only thresholds equal to a loss make a difference, all of
these are looked at, and the least that fits is taken; and the smallest ratio gets no hearing of its own, which AIMET
takes at once where its score alone is good enough, whatever the scores between.
"""

from collections.abc import Callable

import numpy as np

from cobla_tf.baselines.family import highest_level
from cobla_tf.costs import Allocation, CostTable
from cobla_tf.limits import cheapest_within

Array = np.ndarray
Evaluate = Callable[[Allocation], float]

TENTHS = range(1, 10)
"""The candidate ratios, in tenths of a layer's cost."""


def select(sigmas: list[Array], costs: CostTable, limits: Array, *, evaluate: Evaluate) -> Allocation:
    """Take the least threshold on the loss that fits; then keep sites whole where the limits leave room for it.

    Args:
        sigmas: singular values of every site; only their number counts.
        costs: of the sites.
        limits: the budgets, float64 [R].
        evaluate: the network's loss under an allocation; it is called once a site and candidate, with all other sites
            whole. NaN counts as infinite.

    Raises:
        BudgetError: the limits cannot be met.
    """
    cheapest_within(costs, limits)  # before the evaluations
    thresholds = []
    for site, sigma in enumerate(sigmas):
        ranks = candidate_ranks(costs, site, limits)
        losses = np.array([_loss(site, int(rank), costs, evaluate) for rank in ranks])
        thresholds.append(threshold_levels(ranks, losses, len(sigma)))
    return highest_level(thresholds, costs, limits)


def candidate_ranks(costs: CostTable, site: int, limits: Array) -> Array:
    """The largest rank within each of TENTHS of a layer's cost in every budgeted resource, and the least; ascending.

    None for a layer that two factors can only make dearer.
    """
    below = min(int(costs.full_ranks[site]), int(costs.saturation_ranks()[site]) - 1)
    if below < costs.multiple:
        return np.zeros(0, dtype=np.int64)
    rows = np.isfinite(limits) & (costs.per_rank[:, site] > 0)
    original, base, per_rank = (part[rows, site] for part in (costs.original, costs.base, costs.per_rank))
    most = [np.min((tenths * original - 10 * base) // (10 * per_rank), initial=below) for tenths in TENTHS]
    return np.unique(costs.multiple * np.maximum(np.array([1, *most]) // costs.multiple, 1)).astype(np.int64)


def _loss(site: int, rank: int, costs: CostTable, evaluate: Evaluate) -> float:
    whole = np.arange(len(costs.full_ranks)) != site
    loss = float(evaluate(Allocation(np.where(whole, costs.full_ranks, rank), whole)))
    return np.inf if np.isnan(loss) else loss


def threshold_levels(ranks: Array, losses: Array, full_rank: int) -> Array:
    """Level, minus the threshold on the loss, from which on the site has rank 1, 2, ..., full_rank.

    A candidate is left for the next larger one where its own loss or that of any larger one is above the threshold.
    """
    worst = np.maximum.accumulate(losses[::-1])[::-1]
    following = np.append(ranks, full_rank)[1:]
    levels = np.full(full_rank, -np.inf)
    for rank, upper, loss in zip(ranks, following, worst, strict=True):
        levels[rank:upper] = -loss
    return levels
