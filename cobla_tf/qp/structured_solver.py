"""Interior point that eliminates the diagonal plus low rank Hessian, polished by an active set."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cobla_tf.qp.active_set import polish
from cobla_tf.qp.newton import NewtonSystem
from cobla_tf.qp.problem import Array, QuadraticProgram

_ITERATIONS = 100
_TARGET = 1e-9
"""Residual at which the polished point is taken without asking the interior point for a better start."""
_FIRST_POLISH = 1e-6
"""Mean complementarity of the first try to polish; the next ones follow each at a hundredth of the last."""
_INTERIOR = 0.995
"""Share of the way to the boundary that a step may go (Mehrotra 1992)."""


@dataclass(frozen=True)
class _Inequalities:
    """G x <= h, stacked: rows, finite lower bounds, finite upper bounds.

    Attributes:
        program: whose constraints they are.
        low, up: int indices of variables with a finite bound.
    """

    program: QuadraticProgram
    low: Array
    up: Array

    @classmethod
    def of(cls, program: QuadraticProgram) -> "_Inequalities":
        low, up = (np.flatnonzero(np.isfinite(bound)) for bound in (program.lower, program.upper))
        return cls(program, low, up)

    @property
    def limits(self) -> Array:
        """h."""
        return np.concatenate([self.program.limits, -self.program.lower[self.low], self.program.upper[self.up]])

    def apply(self, x: Array) -> Array:
        """G x."""
        return np.concatenate([self.program.rows @ x, -x[self.low], x[self.up]])

    def scatter(self, values: Array, low_sign: float = -1.0) -> Array:
        """Bound entries of a stacked vector, added up on their variables [n]."""
        p, total = self.program.limits.size, np.zeros(self.program.gradient.size)
        total[self.low] += low_sign * values[p : p + self.low.size]
        total[self.up] += values[p + self.low.size :]
        return total

    def transpose(self, values: Array) -> Array:
        """G^T values, float64 [n]."""
        return self.program.rows.T @ values[: self.program.limits.size] + self.scatter(values)


@dataclass(frozen=True)
class _Point:
    """Primal point x, slacks s > 0 and multipliers m > 0 of the stacked inequalities."""

    x: Array
    slack: Array
    multiplier: Array

    @property
    def gap(self) -> float:
        """Mean complementarity; 0 without inequalities."""
        return float(self.slack @ self.multiplier / max(self.slack.size, 1))

    def longest(self, move: "_Point") -> float:
        """Largest step along `move` that keeps slacks and multipliers at or above 0; may be infinite."""
        value = np.concatenate([self.slack, self.multiplier])
        change = np.concatenate([move.slack, move.multiplier])
        falling = change < 0
        return float(np.min(-value[falling] / change[falling], initial=np.inf))

    def moved(self, move: "_Point", length: float) -> "_Point":
        """This point plus `length` times `move`."""
        return _Point(
            self.x + length * move.x, self.slack + length * move.slack, self.multiplier + length * move.multiplier
        )


class _Linearised:
    """The KKT conditions at one point, factored once for the predictor and the corrector."""

    def __init__(self, inequalities: _Inequalities, point: _Point) -> None:
        program = inequalities.program
        self._inequalities, self._point, self._p = inequalities, point, program.limits.size
        self._dual = program.hessian @ point.x + program.gradient + inequalities.transpose(point.multiplier)
        self._primal = inequalities.apply(point.x) + point.slack - inequalities.limits
        stiffness = point.multiplier / point.slack
        extra = inequalities.scatter(stiffness, low_sign=1.0)
        self._system = NewtonSystem(program.hessian, program.rows, extra, 1.0 / stiffness[: self._p])

    def direction(self, product: Array) -> _Point:
        """Newton step to slack * multiplier = current - product, both residuals to 0."""
        slack, multiplier, p = self._point.slack, self._point.multiplier, self._p
        load = (multiplier * self._primal - product) / slack
        x, y = self._system.solve(
            -self._dual - self._inequalities.scatter(load), (product / multiplier - self._primal)[:p]
        )
        change = -self._primal - self._inequalities.apply(x)
        multipliers = (-product - multiplier * change) / slack
        multipliers[:p] = y
        return _Point(x, change, multipliers)


def _start(inequalities: _Inequalities) -> _Point:
    """A point well inside its bounds, near 0; violated rows get a slack of their own."""
    program = inequalities.program
    inset = np.minimum(0.5 * (program.upper - program.lower), 1.0)
    x = np.clip(0.0, program.lower + 0.5 * inset, program.upper - 0.5 * inset)
    slack = np.maximum(inequalities.limits - inequalities.apply(x), 0.0)
    slack[: program.limits.size] = np.maximum(slack[: program.limits.size], 1.0)
    return _Point(x, slack, 1.0 / np.maximum(slack, 1.0))


def _points(program: QuadraticProgram) -> Iterator[_Point]:
    """Iterates of Mehrotra's predictor-corrector method (1992), one step length for primal and dual."""
    inequalities = _Inequalities.of(program)
    point = _start(inequalities)
    for _ in range(_ITERATIONS):
        linearised = _Linearised(inequalities, point)
        complementarity = point.slack * point.multiplier
        affine = linearised.direction(complementarity)
        reached = point.moved(affine, min(1.0, point.longest(affine))).gap
        centre = point.gap * (reached / point.gap) ** 3 if point.gap > 0 else 0.0
        move = linearised.direction(complementarity + affine.slack * affine.multiplier - centre)
        point = point.moved(move, min(1.0, _INTERIOR * point.longest(move)))
        yield point


def solve(program: QuadraticProgram) -> tuple[Array, Array]:
    """Minimise a reduced program (see `presolve`); never raises for want of convergence: judge the answer.

    Returns:
        x, float64 [n], and row multipliers, float64 [p].
    """
    best, threshold = (np.clip(0.0, program.lower, program.upper), np.zeros(program.limits.size), np.inf), _FIRST_POLISH
    for number, point in enumerate(_points(program), start=1):
        if not np.isfinite(point.gap):
            break
        if point.gap > threshold and number < _ITERATIONS:
            continue
        threshold = point.gap / 100
        polished = polish(program, point.x, point.multiplier[: program.limits.size])
        best = min(best, polished, key=lambda found: found[2])
        if best[2] <= _TARGET:
            break
    return best[0], best[1]
