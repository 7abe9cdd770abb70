"""What is taken off a quadratic program before any back end sees it, and put back afterwards."""

from dataclasses import dataclass

import numpy as np

from cobla_tf.errors import SolverError
from cobla_tf.qp.problem import Array, QuadraticProgram
from cobla_tf.qp.solution import row_norms

_ROUNDING = 1e-9
"""Share of a row's size below which room left by the bounds is rounding."""


@dataclass(frozen=True)
class _Forced:
    """A row that only one corner of the box meets, and the variables that it fixes there."""

    row: int
    columns: Array


@dataclass(frozen=True)
class Reduction:
    """A scaled program in fewer variables and rows, with the way back.

    Attributes:
        original: the program as given.
        program: only variables that can move, finite rows of norm 1, largest gradient and typical step near 1.
        kept, rows: int indices of what is left of the original variables and rows.
        fixed: float64 [n], the step of the variables that are not left, 0 elsewhere.
        length: original step of a scaled step of 1.
        row_scale: float64 [rows left], original multiplier of a scaled multiplier of 1.
        forced: rows that fix variables, in the order in which they were met.
    """

    original: QuadraticProgram
    program: QuadraticProgram
    kept: Array
    rows: Array
    fixed: Array
    length: float
    row_scale: Array
    forced: tuple[_Forced, ...]

    def restore(self, scaled_step: Array, scaled_multipliers: Array) -> tuple[Array, Array]:
        """Step [n] and row multipliers [p] of the original program."""
        step = self.fixed.copy()
        step[self.kept] = scaled_step * self.length
        multipliers = np.zeros(self.original.limits.size)
        multipliers[self.rows] = scaled_multipliers * self.row_scale
        slope = self.original.hessian @ step + self.original.gradient
        # A forcing row does not touch variables fixed before it, so the last one's multiplier is known first.
        for forced in reversed(self.forced):
            column = self.original.rows[forced.row, forced.columns]
            push = slope[forced.columns] + self.original.rows[:, forced.columns].T @ multipliers
            multipliers[forced.row] = np.max(-push / column, initial=0.0)
        return step, multipliers


def least_activity(program: QuadraticProgram) -> Array:
    """Smallest value of A d over the bounds, float64 [p]; -infinity where a bound that matters is infinite."""
    return (program.rows * _corners(program)).sum(axis=1)


def _corners(program: QuadraticProgram) -> Array:
    """Where each row is least, float64 [p, n]; 0 for a variable that it does not hold, whose bound may be infinite."""
    corner = np.where(program.rows > 0, program.lower, program.upper)
    return np.where(program.rows == 0, 0.0, corner)


def _row_sizes(program: QuadraticProgram) -> Array:
    """Sum of the sizes of what is added up in a row where it is least, to which rounding is relative."""
    corners = np.abs(_corners(program))
    added = np.where(np.isfinite(corners), np.abs(program.rows) * corners, 0.0).sum(axis=1)
    return added + np.where(np.isfinite(program.limits), np.abs(program.limits), 0.0)


def _narrow(program: QuadraticProgram, row: int, tolerance: float) -> tuple[QuadraticProgram, _Forced]:
    """Fix the variables of a row that its limit holds at the corner of the box, and switch the row off."""
    a = program.rows[row]
    swing = np.abs(a) * np.where(a != 0, program.upper - program.lower, 0.0)
    columns = np.flatnonzero(swing > tolerance / a.size)
    lower, upper, limits = program.lower.copy(), program.upper.copy(), program.limits.copy()
    corner = np.where(a > 0, lower, upper)[columns]
    lower[columns], upper[columns], limits[row] = corner, corner, np.inf
    narrowed = QuadraticProgram(program.hessian, program.gradient, program.rows, limits, lower, upper)
    return narrowed, _Forced(row, columns)


def _force_rows(program: QuadraticProgram) -> tuple[QuadraticProgram, tuple[_Forced, ...]]:
    """Fix what rows without room force, until every row left has room; raises SolverError where a row has none."""
    forced: list[_Forced] = []
    sizes = _row_sizes(program) * _ROUNDING
    while True:
        least = least_activity(program)
        tight = np.flatnonzero(np.isfinite(program.limits) & (program.limits <= least + sizes))
        if tight.size == 0:
            return program, tuple(forced)
        row = int(tight[np.argmin((program.limits - least)[tight])])
        if program.limits[row] < least[row] - sizes[row]:
            raise SolverError(too_tight(program, row, float(least[row])))
        program, fixed = _narrow(program, row, sizes[row])
        forced.append(fixed)


def too_tight(program: QuadraticProgram, row: int, least: float, over: str = "over the bounds") -> str:
    """The sentence on a row that the bounds, and maybe other rows, do not let down to its limit."""
    return (
        f"Row {row} of the quadratic program cannot be met: its right-hand side is {program.limits[row]:.9g}, expected "
        f"at least {least:.9g}, the smallest feasible one {over}; raise it (a larger budget) or free variables."
    )


def _typical_step(program: QuadraticProgram) -> float:
    """How far the optimum is likely to be, so that a steep or a flat Hessian does not set the solvers' unit."""
    free = np.abs(program.gradient).max(initial=0.0) / np.median(program.hessian.diagonal)
    start = np.clip(0.0, program.lower, program.upper)
    lack = np.maximum(program.rows @ start - program.limits, 0.0) / np.abs(program.rows).sum(axis=1)
    nearest = max(np.abs(start).max(initial=0.0), lack.max(initial=0.0))
    width = program.upper - program.lower
    step = min(max(free, nearest), width[np.isfinite(width)].max(initial=0.0) or np.inf)
    return float(step) if step > 0 else 1.0


def _scale(program: QuadraticProgram) -> tuple[QuadraticProgram, float, Array]:
    """Unit rows, unit gradient, unit step; the unit of the step; the unit of the row multipliers."""
    length, norms, hessian = _typical_step(program), row_norms(program), program.hessian
    force = max(np.abs(program.gradient).max(), length * float(np.median(hessian.diagonal)))
    scaled = QuadraticProgram(
        hessian=type(hessian)(hessian.diagonal * (length / force), hessian.basis, hessian.shift),
        gradient=program.gradient / force,
        rows=program.rows / norms[:, None],
        limits=program.limits / norms / length,
        lower=program.lower / length,
        upper=program.upper / length,
    )
    return scaled, length, force / norms


def reduce(program: QuadraticProgram) -> Reduction:
    """Drop infinite and empty rows and fixed variables, and bring the rest to the unit scale.

    Args:
        program: a validated program; where no variable can move, the reduced one has none.

    Raises:
        SolverError: a row cannot be met over the bounds; the sentence names it and the smallest feasible limit.
    """
    narrowed, forced = _force_rows(program)
    kept = np.flatnonzero(narrowed.lower < narrowed.upper)
    rows = np.flatnonzero(np.isfinite(narrowed.limits) & narrowed.rows[:, kept].any(axis=1))
    fixed = narrowed.lower.copy()
    fixed[kept] = 0.0
    small = _part(narrowed, kept, rows, fixed)
    scaled, length, row_scale = _scale(small) if kept.size else (small, 1.0, np.zeros(0))
    return Reduction(program, scaled, kept, rows, fixed, length, row_scale, forced)


def _part(program: QuadraticProgram, kept: Array, rows: Array, fixed: Array) -> QuadraticProgram:
    """The program in the kept variables and rows, the others held at `fixed`."""
    whole = kept.size == program.gradient.size
    return QuadraticProgram(
        hessian=program.hessian if whole else program.hessian.restrict(kept),
        gradient=(program.gradient + program.hessian @ fixed)[kept],
        rows=program.rows[np.ix_(rows, kept)],
        limits=(program.limits - program.rows @ fixed)[rows],
        lower=program.lower[kept],
        upper=program.upper[kept],
    )
