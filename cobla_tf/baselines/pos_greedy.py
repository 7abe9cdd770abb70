"""POS-Greedy, the greedy solution of the Product Of Sum (paper, Eq. 11).

Zhang, Zou, He and Sun 2016 (IEEE PAMI 38(10)), "Accelerating Very Deep Convolutional Networks for Classification and
Detection", section 2.4. With E = prod_i sum_{j <= k_i} sigma_ij^2, their PCA energy (a squared singular value is an
eigenvalue), start at the full ranks and, until the complexity fits, drop the last term of the site with the least
measure (dE / E) / dC: dE / E = sigma_{i, k_i}^2 / sum_{j <= k_i} sigma_ij^2, and dC is what a term of site i costs.

They have one budget. With several, dC is the term's effective cost: sum_r excess_r * c_ri over the budgets r that are
still exceeded, both as shares of the limit (Senju and Toyoda 1968, Management Science 15(4), "An Approach to Linear
Programming with 0-1 Variables"). With one budget that is the published rule. The cost to be met is the true one, with
saturated sites whole.
"""

import numpy as np

from cobla_tf.baselines.shares import energy_shares
from cobla_tf.costs import Allocation, CostTable
from cobla_tf.limits import cheapest_within

Array = np.ndarray


def select(sigmas: list[Array], costs: CostTable, limits: Array) -> Allocation:
    """Drop the term of least measure until the limits hold; then keep sites whole where they leave room for it.

    Raises:
        BudgetError: the limits cannot be met.
    """
    cheapest = cheapest_within(costs, limits)
    losses = [_relative_losses(s) for s in sigmas]
    ranks = costs.full_ranks.copy()
    while not costs.fits(found := costs.settle(ranks, cheapest.whole), limits):
        following = np.array([loss[rank - 1] for loss, rank in zip(losses, ranks, strict=True)])
        following[(ranks == 1) | cheapest.whole] = np.inf
        ranks[_least_measure(following, costs, costs.used(found), limits)] -= 1
    return costs.promote(found, limits, np.arange(len(sigmas)))


def _least_measure(losses: Array, costs: CostTable, used: Array, limits: Array) -> int:
    """The site of least loss for what dropping a term saves; one that saves nothing comes last."""
    scale = np.maximum(limits, 1)
    saved = np.maximum(used - limits, 0) / scale @ (costs.per_rank / scale[:, None])
    return int(np.lexsort([losses / np.where(saved > 0, saved, 1), saved <= 0, np.isinf(losses)])[0])


def _relative_losses(sigma: Array) -> Array:
    """What the energy loses with the k-th term, sigma_k^2 / sum_{j <= k} sigma_j^2, for k = 1, 2, ..."""
    shares = energy_shares(sigma)
    return np.diff(shares, prepend=0.0) / shares
