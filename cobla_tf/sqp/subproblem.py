"""The quadratic program of an iteration: where the model of the loss would go."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from cobla_tf.errors import SolverError, first_line
from cobla_tf.qp.presolve import least_activity
from cobla_tf.qp.problem import QuadraticProgram
from cobla_tf.qp.solution import QPSolution
from cobla_tf.sqp.bfgs import CompactBFGS
from cobla_tf.sqp.constraints import Constraints
from cobla_tf.sqp.position import Position

ROUNDING = 1e-12
"""Relative, of the room that a row leaves a step."""


def model_step(
    at: Position, bfgs: CompactBFGS, constraints: Constraints, solve_qp: Callable[[QuadraticProgram], QPSolution]
) -> tuple[QPSolution, float]:
    """Solve for the step to the optimum of the quadratic model within the constraints.

    Args:
        at: where the step begins.
        bfgs: the Hessian's model.
        constraints: hold at the end of the step.
        solve_qp: a back end.

    Returns:
        the solution, and the change of the loss that the model predicts.

    Raises:
        SolverError: whatever the back end raises: the masks found so far are not to be lost by it.
    """
    try:
        program = _program(at, bfgs, constraints)
        qp = solve_qp(program)
        return qp, program.objective(qp.step)
    except SolverError:
        raise
    except Exception as error:
        raise SolverError(first_line(error)) from error


def _program(at: Position, bfgs: CompactBFGS, constraints: Constraints) -> QuadraticProgram:
    x, rows, limits = at.x, constraints.rows, constraints.limits
    lower, upper = constraints.lower - x, constraints.upper - x
    program = QuadraticProgram(bfgs.form(), at.gradient, rows, limits - rows @ x, lower, upper)
    least = least_activity(program)
    rounding = ROUNDING * (np.abs(rows) @ np.abs(x) + np.abs(limits))  # of the difference, whose size does not tell it
    missed = (program.limits < least) & (program.limits >= least - rounding)
    return replace(program, limits=np.where(missed, least, program.limits))
