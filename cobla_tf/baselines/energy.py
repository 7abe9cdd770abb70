"""Energy: the same share of the squared singular values kept, or more, at every site.

SVD-Energy (Alvarez and Salzmann 2017, "Compression-aware Training of Deep Networks"; as Liebenwein et al.
2021 compare with it, section 3): the smallest rank whose terms hold the share. CPTV (the paper's Eq. 10) takes the
largest rank whose terms hold no more than the share, which is one less.
"""

import numpy as np

from cobla_tf.baselines.family import highest_level
from cobla_tf.baselines.shares import energy_shares
from cobla_tf.costs import Allocation, CostTable

Array = np.ndarray


def select(sigmas: list[Array], costs: CostTable, limits: Array) -> Allocation:
    """Keep the largest share that fits; rank r + 1 is reached where the first r terms hold less than the share.

    Raises:
        BudgetError: the limits cannot be met.
    """
    return highest_level([np.append(0.0, energy_shares(sigma)[:-1]) for sigma in sigmas], costs, limits)
