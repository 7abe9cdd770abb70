"""ALDS: the least largest relative error over all sites.

Liebenwein, Maalouf, Feldman and Rus 2021 (NeurIPS), "Compressing Neural Networks: Towards Determining the Optimal
Layer-wise Decomposition", section 2.2: minimise max_i eps_i within the budget, where
eps_i = |W_i - W_i(r_i)| / |W_i| in the operator norm, that is sigma_{i, r_i + 1} / sigma_{i, 1}. For a given eps every
site has the least rank whose error is no larger, and eps is found in one dimension. The other half of ALDS, a choice of
foldings and of slices for every layer, has no place here: the scheme is given, and is the same for every method.
"""

import numpy as np

from cobla_tf.baselines.family import highest_level
from cobla_tf.costs import Allocation, CostTable

Array = np.ndarray


def select(sigmas: list[Array], costs: CostTable, limits: Array) -> Allocation:
    """Take the least error that fits; the rank is the number of relative singular values above it, at least 1.

    Raises:
        BudgetError: the limits cannot be met.
    """
    return highest_level([-s / max(s[0], np.finfo(float).tiny) for s in sigmas], costs, limits)
