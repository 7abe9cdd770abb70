"""The quadratic program of an iteration: where the model of the loss would go."""

from collections.abc import Callable

from cobla_tf.errors import SolverError, first_line
from cobla_tf.qp.problem import QuadraticProgram
from cobla_tf.qp.solution import QPSolution
from cobla_tf.sqp.bfgs import CompactBFGS
from cobla_tf.sqp.constraints import Constraints
from cobla_tf.sqp.position import Position


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
    x = at.x
    room = constraints.limits - constraints.rows @ x
    try:
        program = QuadraticProgram(
            bfgs.form(), at.gradient, constraints.rows, room, constraints.lower - x, constraints.upper - x
        )
        qp = solve_qp(program)
        return qp, program.objective(qp.step)
    except SolverError:
        raise
    except Exception as error:
        raise SolverError(first_line(error)) from error
