"""POS-CVX, Product Of Sum by convex programming (paper, Eq. 12), solved to proven optimality.

Two programs are solved, both over integer ranks k_i >= 1 and within every budget, in integers:

- Eq. 12 as printed: maximise prod_i sum_{j <= k_i} sigma_ij^2, each site at the cost of its two factors;
- the same with saturation, which is what `select` returns: a site has the ranks below saturation, at the cost of two
  factors, and beside them the choice to stay whole, at its original cost and with all of its energy. Every rank that
  the first program can use well is there, or is whole at no higher cost, so its optimum is never worse.

The logarithm turns the product into a sum, and that into a knapsack with one choice a site (`cobla_tf.knapsack`).
The paper used MOSEK's mixed-integer solver. As the open method proves its optimum, no licence could improve on it, and
it is used everywhere; the gap of the proof is in the result.
"""

import numpy as np
from absl import logging

from cobla_tf.allocate import Optimum, allocate
from cobla_tf.baselines.shares import energy_shares
from cobla_tf.costs import Allocation, CostTable

Array = np.ndarray


def select(sigmas: list[Array], costs: CostTable, limits: Array) -> Allocation:
    """Maximise Eq. 12 with saturation within the limits.

    Raises:
        BudgetError: the limits cannot be met.
    """
    return optimum(sigmas, costs, limits).allocation


def optimum(sigmas: list[Array], costs: CostTable, limits: Array, saturation: bool = True) -> Optimum:
    """Solve Eq. 12 and prove it.

    Args:
        sigmas: singular values of every site, descending.
        costs: of the sites.
        limits: the budgets, float64 [R]; an infinite one is none.
        saturation: whether a site may stay whole; False is Eq. 12 as printed.

    Raises:
        BudgetError: the limits cannot be met.
    """
    best = allocate([log_shares(sigma) for sigma in sigmas], costs, limits, saturation)
    if best.gap:
        logging.warning("POS-CVX: the optimum is proved only up to %.1e in the logarithm of Eq. 12", best.gap)
    return best


def log_shares(sigma: Array) -> Array:
    """log(sum_{j <= k} sigma_j^2 / sum_j sigma_j^2) for k = 1, 2, ...; a kernel of zeros loses nothing."""
    return np.log(energy_shares(sigma))
