"""Why a quadratic program has no feasible point, in one sentence."""

import numpy as np
from scipy.optimize import linprog

from cobla_tf.errors import SolverError
from cobla_tf.qp.presolve import reduce, too_tight
from cobla_tf.qp.problem import Array, QuadraticProgram
from cobla_tf.qp.solution import KKT_TOLERANCE, row_norms


def _bounds(program: QuadraticProgram) -> Array:
    return np.stack([program.lower, program.upper], axis=1)


def least_excess(program: QuadraticProgram) -> tuple[float, Array]:
    """Smallest distance by which every normalised row must be exceeded, and the dual weight of the rows.

    Args:
        program: a program whose rows have finite limits; at least one row.

    Returns:
        The distance (0: feasible), and float64 [p], at or above 0: rows that make it so have a positive weight.
    """
    norms = row_norms(program)
    cost = np.append(np.zeros(program.gradient.size), 1.0)
    left = np.column_stack([program.rows / norms[:, None], -np.ones(norms.size)])
    bounds = np.vstack([_bounds(program), [0.0, np.inf]])
    answer = linprog(cost, left, program.limits / norms, bounds=bounds)
    return (float(answer.fun), -answer.ineqlin.marginals) if answer.success else (0.0, np.zeros(norms.size))


def least_limit(program: QuadraticProgram, row: int) -> float | None:
    """Smallest right-hand side of one row over the bounds and the other rows; None where those have no point."""
    others = np.delete(np.arange(program.limits.size), row)
    answer = linprog(program.rows[row], program.rows[others], program.limits[others], bounds=_bounds(program))
    return float(answer.fun) if answer.success else None


def explain(program: QuadraticProgram) -> str | None:
    """The sentence on rows that contradict each other within the bounds; None where a feasible point exists.

    Rows that contradict the bounds alone are found by `presolve.reduce`, without a linear program.
    """
    used = np.flatnonzero(np.isfinite(program.limits))
    if used.size == 0:
        return None
    finite = QuadraticProgram(
        program.hessian, program.gradient, program.rows[used], program.limits[used], program.lower, program.upper
    )
    excess, weights = least_excess(finite)
    if excess <= KKT_TOLERANCE:
        return None
    for row in np.argsort(-weights):
        least = least_limit(finite, int(row))
        if least is not None:
            return too_tight(program, int(used[row]), least, "over the bounds and the other rows")
    return (
        f"Rows {used.tolist()} of the quadratic program contradict each other within the bounds; raise more than one."
    )


def require_feasible(program: QuadraticProgram) -> None:
    """Raise SolverError where the program is malformed, or its rows and bounds leave no point."""
    program.validate()
    reduce(program)
    reason = explain(program)
    if reason:
        raise SolverError(reason)
