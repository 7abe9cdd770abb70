"""The one way into the quadratic-program solvers: choose a back end, solve, judge, fall back aloud."""

from collections.abc import Callable
from functools import cache

import numpy as np
from absl import logging

from cobla_tf.blas import one_blas_thread
from cobla_tf.config import QP_SOLVERS
from cobla_tf.errors import SolverError, first_line
from cobla_tf.qp import clarabel_solver, infeasible, mosek_solver, structured_solver
from cobla_tf.qp.presolve import Reduction, reduce
from cobla_tf.qp.problem import Array, QuadraticProgram
from cobla_tf.qp.solution import KKT_TOLERANCE, QPSolution

BackEnd = Callable[[QuadraticProgram], tuple[Array, Array]]

_BACK_ENDS: dict[str, BackEnd] = {
    "mosek": mosek_solver.solve,
    "structured": structured_solver.solve,
    "clarabel": clarabel_solver.solve,
}
_UNUSABLE = 1e-3
"""Residual above which an answer is an error; between this and KKT_TOLERANCE it is a warning."""


def resolve_solver(name: str) -> str:
    """The back end that a choice stands for: 'auto' is MOSEK where a licence answers, 'structured' elsewhere.

    Args:
        name: one of `config.QP_SOLVERS`.

    Raises:
        SolverError: an unknown name, or 'mosek' without a licence.
    """
    if name not in QP_SOLVERS:
        raise SolverError(f"The QP solver must be one of {', '.join(QP_SOLVERS)}, got {name!r}.")
    if name == "mosek" and not mosek_solver.licence_answers():
        raise SolverError(mosek_solver.NO_LICENCE)
    if name != "auto":
        return name
    chosen = "mosek" if mosek_solver.licence_answers() else "structured"
    why = "its licence answers" if chosen == "mosek" else "MOSEK, which needs a licence, is not set up"
    _announce(chosen, why)
    return chosen


@cache
def _announce(chosen: str, why: str) -> None:
    """Once a process: a run resolves the choice several times, and a sweep once a point."""
    logging.info("QP solver: %s (%s)", chosen, why)


def _attempt(program: QuadraticProgram, reduction: Reduction, solver: str) -> QPSolution:
    """One back end's judged answer; raises SolverError whatever the back end raised."""
    try:
        if reduction.kept.size:
            x, y = _BACK_ENDS[solver](reduction.program)
        else:
            x, y = np.zeros(0), np.zeros(reduction.rows.size)
    except SolverError:
        raise
    except Exception as error:  # a back end's own failure must not leave this package under a foreign name
        raise SolverError(f"The QP solver {solver!r} failed: {first_line(error)}") from error
    return QPSolution.judge(program, *reduction.restore(x, y), solver)


def _with_fallback(program: QuadraticProgram, reduction: Reduction, solver: str) -> QPSolution:
    """The answer of `solver`; where 'structured' misses the tolerance, the better one of it and Clarabel's."""
    try:
        solution = _attempt(program, reduction, solver)
        reason = f"its KKT residual is {solution.residual:.1e}"
    except SolverError as error:
        if solver != "structured":
            raise
        solution, reason = None, str(error)
    if solver != "structured" or (solution is not None and solution.residual <= KKT_TOLERANCE):
        return solution
    logging.warning("QP solver 'structured' gives way to 'clarabel': %s.", reason)
    try:
        second = _attempt(program, reduction, "clarabel")
    except SolverError as error:
        if solution is None:
            raise
        logging.warning("'structured' keeps its answer: %s", error)
        return solution
    return second if solution is None or second.residual <= solution.residual else solution


def solve(program: QuadraticProgram, solver: str) -> QPSolution:
    """Minimise a convex quadratic program.

    Args:
        program: float64 arrays; see `QuadraticProgram`.
        solver: a back end, or 'auto' (see `resolve_solver`; 'auto' and 'mosek' cost a licence probe, some 0.05 s).

    Returns:
        The step with its multipliers and KKT residual; a residual above KKT_TOLERANCE is logged as a warning.

    Raises:
        SolverError: the program is malformed or infeasible (the sentence names the row and the smallest feasible
            right-hand side), the back end is missing or has no licence, or no usable answer was found.
    """
    program.validate()
    name = resolve_solver(solver)
    with one_blas_thread():
        return _judged(program, name)


def _judged(program: QuadraticProgram, solver: str) -> QPSolution:
    reduction = reduce(program)
    try:
        solution = _with_fallback(program, reduction, solver)
    except SolverError as error:
        reason = infeasible.explain(program)
        raise (SolverError(reason) if reason else error) from error
    if not solution.residual <= KKT_TOLERANCE:
        _judge_miss(program, solution)
    return solution


def _judge_miss(program: QuadraticProgram, solution: QPSolution) -> None:
    """Warn of an inaccurate answer; raises SolverError where it is of no use, or no point is feasible."""
    reason = infeasible.explain(program)
    if reason or solution.residual > _UNUSABLE:
        advice = f"expected at most {KKT_TOLERANCE:.0e}; choose another QP solver or rescale the program."
        raise SolverError(reason or f"The KKT residual of {solution.solver!r} is {solution.residual:.1e}, {advice}")
    logging.warning("QP solver %r: KKT residual %.1e above %.0e.", solution.solver, solution.residual, KKT_TOLERANCE)
