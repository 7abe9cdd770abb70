"""Uniform: the same fraction of the full rank at every site.

The baseline with one compression ratio for all layers (Denton et al. 2014, "Exploiting Linear Structure Within
Convolutional Networks for Efficient Evaluation", as Liebenwein et al. 2021 compare with it, section 3): the rank is the
fraction of the full rank, rounded to the nearest number, at least 1.
"""

import numpy as np

from cobla_tf.baselines.family import highest_level
from cobla_tf.costs import Allocation, CostTable

Array = np.ndarray


def select(sigmas: list[Array], costs: CostTable, limits: Array) -> Allocation:
    """Keep the largest fraction that fits; rank r is reached where fraction * full rank is r - 1/2.

    Raises:
        BudgetError: the limits cannot be met.
    """
    return highest_level([(np.arange(len(s)) + 0.5) / len(s) for s in sigmas], costs, limits)
