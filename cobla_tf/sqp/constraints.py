"""The feasible set of the SQP loop: linear rows over a box."""

from dataclasses import dataclass

import numpy as np

from cobla_tf.qp.infeasible import require_feasible
from cobla_tf.qp.problem import QuadraticForm, QuadraticProgram

Array = np.ndarray

_SLACK, _ROUNDING = 1e-6, 1e-9
"""Excess over a row that does not count, as a share of its limit and of what is added up in it."""


@dataclass(frozen=True)
class Constraints:
    """A x <= b and lower <= x <= upper.

    Attributes:
        rows: A, float64 [p, n].
        limits: b, float64 [p].
        lower, upper: float64 [n].
    """

    rows: Array
    limits: Array
    lower: Array
    upper: Array

    def violated(self, x: Array) -> bool:
        """Whether x breaks a row by more than round-off, which is that of the sum where the limit is near 0."""
        room = _SLACK * np.abs(self.limits) + _ROUNDING * (np.abs(self.rows) @ np.abs(x))
        return bool((self.rows @ x > self.limits + room).any())

    def clip(self, x: Array) -> Array:
        """The nearest point inside the bounds."""
        return np.clip(x, self.lower, self.upper)

    def require_feasible(self) -> None:
        """Raise SolverError where no point meets rows and bounds, with a row and its smallest feasible limit."""
        n = self.lower.size
        unit = QuadraticForm(np.ones(n), np.zeros((n, 0)), np.zeros(0))
        require_feasible(QuadraticProgram(unit, np.zeros(n), self.rows, self.limits, self.lower, self.upper))

    def sizes(self, x: Array) -> Array:
        """What a step counts as long against, float64 [n]: a variable's own size, at least 1, at most its width."""
        width = self.upper - self.lower
        return np.where(width > 0, np.minimum(width, np.maximum(1.0, np.abs(x))), 1.0)
