"""Primal-dual active set: turns a nearly optimal point into one that meets its active constraints exactly."""

from dataclasses import dataclass

import numpy as np

from cobla_tf.qp.newton import NewtonSystem
from cobla_tf.qp.problem import Array, QuadraticProgram
from cobla_tf.qp.solution import bound_multipliers, kkt_residual

_ROUNDS = 12
"""Guesses of the active set; from a good point one to three are enough, without one it may cycle."""


@dataclass(frozen=True)
class ActiveSet:
    """Which constraints are taken as equations.

    Attributes:
        side: int8 [n], -1 at the lower bound, 1 at the upper one, 0 free.
        rows: bool [p].
    """

    side: Array
    rows: Array

    def same(self, other: "ActiveSet") -> bool:
        """Whether both hold the same constraints."""
        return np.array_equal(self.side, other.side) and np.array_equal(self.rows, other.rows)

    @classmethod
    def guess(cls, program: QuadraticProgram, x: Array, y: Array) -> "ActiveSet":
        """A constraint is active where its multiplier is above its room: exact on points of an active set itself."""
        z = bound_multipliers(program, x, y)
        side = (z > program.upper - x).astype(np.int8) - (-z > x - program.lower)
        return cls(side, y > program.limits - program.rows @ x)

    def solve(self, program: QuadraticProgram) -> tuple[Array, Array]:
        """Optimum x [n] and row multipliers y [p] with the active constraints as equations and no others."""
        free = self.side == 0
        x = np.where(self.side < 0, program.lower, np.where(self.side > 0, program.upper, 0.0))
        rows, y = program.rows[self.rows], np.zeros(program.limits.size)
        system = NewtonSystem(program.hessian.take(free), rows[:, free], np.zeros(int(free.sum())), np.zeros(len(rows)))
        pull = (program.gradient + program.hessian @ x)[free]
        x[free], y[self.rows] = system.solve(-pull, program.limits[self.rows] - rows @ x)
        return x, y


def residual(program: QuadraticProgram, x: Array, y: Array) -> float:
    """Worst scaled KKT residual of x, clipped into its bounds, and of y, clipped at 0."""
    x, y = np.clip(x, program.lower, program.upper), np.maximum(y, 0.0)
    return kkt_residual(program, x, y, bound_multipliers(program, x, y)).worst


def polish(program: QuadraticProgram, x: Array, y: Array) -> tuple[Array, Array, float]:
    """The best of the given point and of the points of up to `_ROUNDS` active sets, started at its own.

    Args:
        program: the quadratic program, at unit scale (see `presolve`).
        x: float64 [n].
        y: row multipliers, float64 [p].

    Returns:
        x, y and their `residual`.
    """
    best = (x, y, residual(program, x, y))
    active = ActiveSet.guess(program, x, y)
    for _ in range(_ROUNDS):
        x, y = active.solve(program)
        error = residual(program, x, y)
        if error < best[2]:
            best = (x, y, error)
        following = ActiveSet.guess(program, x, y)
        if following.same(active):
            break
        active = following
    return best
