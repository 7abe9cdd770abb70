"""The Lagrangian bound: prices of the limits at which the best choices of all sites are worth least."""

from dataclasses import dataclass

import numpy as np

from cobla_tf.knapsack.problem import Choices

Array = np.ndarray

ACCURACY = 1e-9
"""The bound is this near to the best one of its kind: far below the distance between bound and optimum."""
ITERATIONS = 5000


@dataclass(frozen=True)
class Bound:
    """An upper bound on the value of any picks within the limits; every choice of prices gives one.

    Attributes:
        value: the bound.
        prices: of a whole limit each, not negative, float64 [R].
    """

    value: float
    prices: Array


def lagrangian_bound(choices: Choices) -> Bound:
    """Minimise sum_i max_j (v_j - prices . c_j) + sum(prices), convex in the prices, by the ellipsoid method.

    It needs nothing but the function and a subgradient, one pass over the choices, and it stops with a certificate:
    nowhere in the ellipsoid is the function lower by more than sqrt(g^T P g).
    """
    shares, starts = choices.shares, choices.starts
    prices, best = np.zeros(len(shares)), Bound(np.inf, np.zeros(len(shares)))
    if not len(shares):
        return Bound(float(np.maximum.reduceat(choices.values, starts).sum()), prices)
    ellipsoid = _Ellipsoid(prices, _radii(choices, shares))
    for _ in range(ITERATIONS):
        negative = int(np.argmin(ellipsoid.centre))
        if ellipsoid.centre[negative] < 0:
            upward, above = -np.eye(len(prices))[negative], -ellipsoid.centre[negative]
            if above >= ellipsoid.depth(upward):  # all of what is left is below zero: flat to round-off
                break
            ellipsoid.cut(upward, above)
            continue
        reduced = choices.values - ellipsoid.centre @ shares
        sums = np.maximum.reduceat(reduced, starts)
        value = float(sums.sum() + ellipsoid.centre.sum())
        if value < best.value:
            best = Bound(value, ellipsoid.centre)
        slope = 1 - shares[:, first_best(reduced, sums, starts)].sum(axis=1)
        if ellipsoid.depth(slope) <= value - best.value + ACCURACY:
            break
        ellipsoid.cut(slope, value - best.value)
    return best


def first_best(reduced: Array, best: Array, starts: Array) -> Array:
    """Place of the first choice that reaches its site's best value, int64 [S]."""
    counts = np.diff(starts, append=len(reduced))
    reached = np.flatnonzero(reduced >= np.repeat(best, counts))
    return reached[np.searchsorted(reached, starts)]


def _radii(choices: Choices, shares: Array) -> Array:
    """Prices [R] at which not even the most valuable step is worth the smallest difference in cost."""
    steps = np.abs(np.diff(shares, axis=1)) * (np.diff(choices.sites) == 0)
    smallest = np.min(steps, axis=1, where=steps > 0, initial=1.0)
    return (np.ptp(choices.values) + 1) / smallest


class _Ellipsoid:
    """Where the best prices are still to be looked for; each cut keeps the part in which a slope descends.

    Attributes:
        centre: float64 [R].
        shape: P, float64 [R, R]; the points x with (x - centre)^T P^-1 (x - centre) <= 1.
    """

    def __init__(self, centre: Array, radii: Array) -> None:
        self.centre = centre
        self.shape = np.diag(len(radii) * radii**2)

    def depth(self, slope: Array) -> float:
        """How much a function of this slope can fall from the centre to the edge."""
        return float(np.sqrt(max(slope @ self.shape @ slope, 0.0)))

    def cut(self, slope: Array, above: float) -> None:
        """Keep slope . (x - centre) <= -above, in the smallest ellipsoid around it."""
        size, depth = len(self.centre), self.depth(slope)
        share = min(above / depth, 1.0) if depth else 1.0
        step = self.shape @ slope / max(depth, np.finfo(float).tiny)
        if size == 1:
            self.centre = self.centre - (1 + share) / 2 * step
            self.shape = self.shape * ((1 - share) / 2) ** 2
            return
        self.centre = self.centre - (1 + size * share) / (size + 1) * step
        along = 2 * (1 + size * share) / ((size + 1) * (1 + share))
        growth = size**2 * (1 - share**2) / (size**2 - 1)
        self.shape = growth * (self.shape - along * np.outer(step, step))
