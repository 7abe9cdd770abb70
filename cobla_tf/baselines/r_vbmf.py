"""R-VBMF: the rank that variational Bayes gives a matrix, in closed form (the paper's [20], used as in its [13]).

Nakajima, Sugiyama, Babacan and Tomioka 2013 (JMLR 14), "Global Analytic Solution of Fully-Observed Variational Bayesian
Matrix Factorization", empirical case. The variance of the noise is estimated as by Nakajima, Tomioka, Sugiyama and
Babacan 2012 (NIPS), "Perfect Dimensionality Recovery by Variational Bayesian PCA".

L <= M are the sides of the matrix, alpha = L / M, gamma_h its singular values and x_h = gamma_h^2 / (M sigma^2). A term
is kept where x_h > x_bar = (1 + tau_bar)(1 + alpha / tau_bar); tau_bar is the root of Phi(t) + Phi(t / alpha), with
Phi(z) = log(z + 1) / z - 1/2. sigma^2 minimises the free energy, to which a dropped term adds x - log x, and a kept one
log(tau + 1) + alpha log(tau / alpha + 1) - tau more, with 2 tau = x - 1 - alpha + sqrt((x - 1 - alpha)^2 - 4 alpha).

The method sets its own ranks, and with them its own cost: it takes no budget.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq, minimize_scalar

from cobla_tf.costs import Allocation, CostTable
from cobla_tf.limits import refuse_budget

Array = np.ndarray

GRID = 500
"""Points at which the free energy is looked at, beside those at which a term is dropped: it has many minima."""
FLOOR = 1e-30
"""Least noise variance looked at, as a share of its upper bound."""
BLOCK = 2_000_000
"""Numbers held at once."""


@dataclass(frozen=True)
class Estimate:
    """What empirical variational Bayes finds in one matrix.

    Attributes:
        rank: of the signal; 0 for pure noise.
        noise: sigma^2, the variance of the noise in one entry.
    """

    rank: int
    noise: float


def select(
    sigmas: list[Array], costs: CostTable, limits: Array | None = None, *, shapes: list[tuple[int, int]]
) -> Allocation:
    """Give every site the estimated rank of its matrix, at least 1; saturated sites are whole.

    Args:
        sigmas: singular values of every site, descending.
        costs: of the sites.
        limits: must allow everything.
        shapes: rows and columns of every matricised kernel.

    Raises:
        BudgetError: there is a budget.
    """
    refuse_budget("r_vbmf", limits)
    ranks = [max(1, evbmf(sigma, shape).rank) for sigma, shape in zip(sigmas, shapes, strict=True)]
    return costs.settle(np.array(ranks), np.zeros(len(ranks), dtype=bool))


def evbmf(sigma: Array, shape: tuple[int, int]) -> Estimate:
    """Global solution of empirical variational Bayesian matrix factorization.

    Args:
        sigma: all min(shape) singular values, descending.
        shape: of the matrix.
    """
    short, long = min(shape), max(shape)
    alpha = short / long
    squares = sigma.astype(np.float64) ** 2 / long
    noise = _noise(squares, alpha)
    return Estimate(int(np.sum(squares > noise * threshold(alpha))), noise)


def threshold(alpha: float) -> float:
    """x_bar, the least gamma^2 / (M sigma^2) at which a term is kept, for alpha = L / M in (0, 1]."""

    def energy(tau: float) -> float:
        return _phi(tau) + _phi(tau / alpha)

    tau = brentq(energy, 1e-8 * alpha, 10.0, xtol=1e-14)
    return (1 + tau) * (1 + alpha / tau)


def _phi(z: float) -> float:
    return np.log1p(z) / z - 0.5


def free_energy(noise: Array, squares: Array, alpha: float) -> Array:
    """Free energy at noise variances [K], up to a factor and a term that does not depend on them, float64 [K].

    Args:
        noise: sigma^2, positive.
        squares: gamma_h^2 / M, float64 [L].
        alpha: L / M.
    """
    x = squares / noise[:, None]
    kept = x > threshold(alpha)
    shifted = np.where(kept, x, 1 + alpha + 2 * np.sqrt(alpha)) - 1 - alpha
    tau = (shifted + np.sqrt(np.maximum(shifted**2 - 4 * alpha, 0))) / 2
    lowered = np.log1p(tau) + alpha * np.log1p(tau / alpha) - tau
    return (x + np.log(noise)[:, None] + np.where(kept, lowered, 0)).sum(axis=1)


def _noise(squares: Array, alpha: float) -> float:
    """The noise variance of least free energy: the best of a grid between its bounds, then refined."""
    highest, terms = squares.mean(), int(np.ceil(len(squares) / (1 + alpha))) - 1
    tail = squares[terms:]
    if not tail.any():
        return 0.0  # so few terms without any noise: the free energy falls without bound
    lowest = max(tail[0] / threshold(alpha), tail.mean(), FLOOR * highest)
    drops = squares / threshold(alpha)
    drops = drops[(drops > lowest) & (drops < highest)]
    grid = np.unique(np.concatenate([np.geomspace(lowest, highest, GRID), drops]))
    blocks = np.array_split(grid, -(-len(grid) * len(squares) // BLOCK))
    best = int(np.argmin(np.concatenate([free_energy(block, squares, alpha) for block in blocks])))
    around = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    refined = minimize_scalar(
        lambda log_noise: free_energy(np.exp([log_noise]), squares, alpha)[0],
        bounds=np.log(around), method="bounded", options={"xatol": 1e-10},
    )  # fmt: skip
    return float(np.exp(refined.x))
