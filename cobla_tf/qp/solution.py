"""The answer to a quadratic program, and how far it is from the optimality conditions."""

from dataclasses import dataclass

import numpy as np

from cobla_tf.qp.problem import Array, QuadraticProgram

KKT_TOLERANCE = 1e-6
"""Largest scaled KKT residual at which an answer counts as solved."""


@dataclass(frozen=True)
class KKTResidual:
    """The three parts of the scaled residual; every one is without unit, and 0 at the optimum."""

    primal: float
    dual: float
    complementarity: float

    @property
    def worst(self) -> float:
        """The largest part; infinite where a part is not a number."""
        value = max(self.primal, self.dual, self.complementarity)
        return value if np.isfinite([self.primal, self.dual, self.complementarity]).all() else float("inf")


def row_norms(program: QuadraticProgram) -> Array:
    """Euclidean norm of every row over the variables that can move; the whole row's where none can; never 0.

    Returns:
        float64 [p].
    """
    moving = np.linalg.norm(program.rows[:, program.lower < program.upper], axis=1)
    norms = np.where(moving > 0, moving, np.linalg.norm(program.rows, axis=1))
    return np.where(norms > 0, norms, 1.0)


def bound_multipliers(program: QuadraticProgram, step: Array, row_multipliers: Array) -> Array:
    """The multipliers z that make B d + g + A^T y + z vanish, zero where no finite bound could bear them.

    A bound that the step does not touch then has no right to its z: that shows as complementarity.

    Returns:
        float64 [n]; positive at an upper bound, negative at a lower one.
    """
    slope = program.hessian @ step + program.gradient + program.rows.T @ row_multipliers
    borne = np.where(slope > 0, np.isfinite(program.lower), np.isfinite(program.upper))
    return np.where(borne, -slope, 0.0)


def _force(program: QuadraticProgram, step: Array) -> float:
    """Unit of the Lagrangian's gradient."""
    free = program.lower < program.upper
    pull = np.abs(program.gradient[free]).max(initial=0.0)
    if pull > 0:
        return max(pull, np.abs((program.hessian @ step)[free]).max(initial=0.0))
    # Without a gradient nothing but curvature times length has its unit.
    return float(program.hessian.diagonal.max(initial=0.0)) * max(1.0, np.abs(step).max(initial=0.0)) or 1.0


def kkt_residual(program: QuadraticProgram, step: Array, row_multipliers: Array, z: Array) -> KKTResidual:
    """Distance from the KKT conditions, unchanged when a row, or the whole objective, is multiplied by a constant.

    With force F = max(|g|, |B d|) over variables that can move (where g = 0, the largest D times the length), length
    L = max(1, |d|), |.| the largest entry, and rows divided by their Euclidean norm over variables that can move:

    - primal: the largest excess over a bound or a normalised row, over L; a distance in the space of d.
    - dual: |B d + g + A^T y + z| / F over variables that can move, and a negative row multiplier's size over F.
    - complementarity: largest product of a multiplier over F (a row's: y times its largest coefficient) and the
      distance to its constraint over L, or over the box's width where that is smaller than L.

    Rows with an infinite limit count as absent: a multiplier there is an infinite residual.

    Args:
        program: The quadratic program.
        step: d, float64 [n].
        row_multipliers: y, float64 [p].
        z: bound multipliers, float64 [n], positive at an upper bound.
    """
    free = program.lower < program.upper
    force, length = _force(program, step), max(1.0, np.abs(step).max(initial=0.0))
    norms = row_norms(program)
    # An empty row's multiplier pulls at nothing.
    pull = row_multipliers * np.abs(program.rows[:, free]).max(axis=1, initial=0.0) / force
    slack = (program.limits - program.rows @ step) / norms / length
    slope = program.hessian @ step + program.gradient + program.rows.T @ row_multipliers + z
    gap = np.where(z > 0, program.upper - step, step - program.lower)
    room = np.minimum(program.upper - program.lower, length)
    excess = np.maximum(program.lower - step, step - program.upper) / length
    with np.errstate(invalid="ignore"):
        row_gap = np.where(pull == 0, 0.0, np.abs(pull) * np.maximum(slack, 0.0))
        bound_gap = np.where(z == 0, 0.0, np.abs(z) / force * np.maximum(gap, 0.0) / np.where(free, room, 1.0))
    return KKTResidual(
        primal=float(max(np.max(-slack, initial=0.0), np.max(excess, initial=0.0))),
        dual=float(max(np.abs(slope[free]).max(initial=0.0) / force, np.max(-pull, initial=0.0))),
        complementarity=float(max(row_gap.max(initial=0.0), bound_gap.max(initial=0.0))),
    )


@dataclass(frozen=True)
class QPSolution:
    """What a solver returned.

    Attributes:
        step: d, float64 [n], inside its bounds exactly.
        row_multipliers: y, float64 [p], at or above 0.
        bound_multipliers: z, float64 [n], positive at an upper bound, negative at a lower one.
        solver: name of the back end that found it.
        residual: worst part of `kkt_residual`.
    """

    step: Array
    row_multipliers: Array
    bound_multipliers: Array
    solver: str
    residual: float

    @classmethod
    def judge(cls, program: QuadraticProgram, step: Array, y: Array, solver: str) -> "QPSolution":
        """Clip step and row multipliers into their ranges, derive the bound multipliers and measure the residual."""
        step = np.clip(step, program.lower, program.upper)
        y = np.where(np.isfinite(program.limits), np.maximum(y, 0.0), 0.0)
        z = bound_multipliers(program, step, y)
        return cls(step, y, z, solver, kkt_residual(program, step, y, z).worst)
