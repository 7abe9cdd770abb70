"""Low-rank signal recovery: singular values above the optimal hard threshold (the paper's [5]).

Gavish and Donoho 2014 (IEEE Transactions on Information Theory 60(8)), "The Optimal Hard Threshold for Singular Values
is 4/sqrt(3)": for a matrix with sides m <= n, beta = m / n, in white noise of unknown level, keep what exceeds
omega(beta) * the median singular value. omega(beta) = lambda(beta) / sqrt(mu_beta), their Eqs. 11 and section III, with
lambda(beta) = sqrt(2 (beta + 1) + 8 beta / (beta + 1 + sqrt(beta^2 + 14 beta + 1))) and mu_beta the median of the
Marchenko-Pastur law. For a square matrix omega is 2.858, which the paper applies to every matrix.

The method sets its own ranks, and with them its own cost: it takes no budget.
"""

import numpy as np
from scipy.integrate import quad
from scipy.optimize import brentq

from cobla_tf.costs import Allocation, CostTable
from cobla_tf.limits import refuse_budget

Array = np.ndarray

SQUARE = 2.858
"""omega(1) as printed."""


def select(
    sigmas: list[Array], costs: CostTable, limits: Array | None = None, *, shapes: list[tuple[int, int]] | None = None
) -> Allocation:
    """Keep what exceeds omega times the median singular value, at least rank 1; saturated sites are whole.

    Args:
        sigmas: singular values of every site, descending.
        costs: of the sites.
        limits: must allow everything.
        shapes: rows and columns of every matricised kernel, for the exact omega(beta); None is the paper's 2.858.

    Raises:
        BudgetError: there is a budget.
    """
    refuse_budget("signal_recovery", limits)
    omegas = [SQUARE] * len(sigmas) if shapes is None else [omega(min(shape) / max(shape)) for shape in shapes]
    ranks = [max(1, int(np.sum(s > factor * np.median(s)))) for s, factor in zip(sigmas, omegas, strict=True)]
    return costs.settle(np.array(ranks), np.zeros(len(ranks), dtype=bool))


def omega(beta: float) -> float:
    """The threshold in median singular values, for beta in (0, 1]."""
    return coefficient(beta) / np.sqrt(median_of_noise(beta))


def coefficient(beta: float) -> float:
    """lambda(beta), the threshold in sqrt(n) times the standard deviation of the noise, where that is known."""
    return np.sqrt(2 * (beta + 1) + 8 * beta / (beta + 1 + np.sqrt(beta**2 + 14 * beta + 1)))


def median_of_noise(beta: float) -> float:
    """mu_beta: half of the mass of sqrt((b - t)(t - a)) / (2 pi beta t) on [a, b] = (1 -+ sqrt(beta))^2 lies below it.

    With t = 1 + beta + 2 sqrt(beta) cos(u) the density is smooth up to the ends, and is integrated numerically.
    """
    middle, half = 1 + beta, 2 * np.sqrt(beta)

    def density(angle: float) -> float:
        return half**2 * np.sin(angle) ** 2 / (2 * np.pi * beta * (middle + half * np.cos(angle)))

    angle = brentq(lambda angle: quad(density, 0, angle)[0] - 0.5, 1e-6, np.pi - 1e-6, xtol=1e-13)
    return middle + half * np.cos(angle)
