"""CPTV, Certain Percentage of Total Variation (paper, Eq. 10; Tai et al. 2016)."""

import numpy as np

from cobla_tf.baselines.family import highest_level
from cobla_tf.baselines.shares import energy_shares
from cobla_tf.costs import Allocation, CostTable

Array = np.ndarray


def select(sigmas: list[Array], costs: CostTable, limits: Array) -> Allocation:
    """Keep the same share beta of the squared singular values in every site, the largest share that fits.

    The paper finds beta by bisection; the ranks change at the sites' own shares only, so all of these are looked at.

    Raises:
        BudgetError: the limits cannot be met.
    """
    return highest_level([energy_shares(sigma) for sigma in sigmas], costs, limits)
