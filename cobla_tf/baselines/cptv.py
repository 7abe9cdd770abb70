"""CPTV, Certain Percentage of Total Variation (paper, Eq. 10; Tai et al. 2016)."""

import numpy as np

from cobla_tf.baselines.shares import energy_shares
from cobla_tf.costs import Allocation, CostTable
from cobla_tf.limits import cheapest_within

Array = np.ndarray

BISECTIONS = 60
"""After which the share is known to the last bit of float64."""


def select(sigmas: list[Array], costs: CostTable, limits: Array) -> Allocation:
    """Keep the same share beta of the squared singular values in every site, the largest share that fits.

    The cost is non-decreasing in beta, but for the small steps down where a site saturates in one resource after the
    others, so beta is found by bisection, from ranks of one up; what comes out fits in any case. Sites are then kept
    whole where the budgets leave room for it.
    """
    shares = [energy_shares(sigma) for sigma in sigmas]
    whole = cheapest_within(costs, limits).whole

    def at(beta: float) -> Allocation:
        ranks = [max(1, int(np.searchsorted(share, beta, side="right"))) for share in shares]
        return costs.settle(np.array(ranks), whole)

    low, high = 0.0, 1.0
    if costs.fits(at(high), limits):
        return at(high)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if costs.fits(at(middle), limits) else (low, middle)
    return costs.promote(at(low), limits, np.arange(len(sigmas)))
