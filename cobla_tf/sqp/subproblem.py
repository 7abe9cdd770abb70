"""The quadratic program at a point: where the model of the loss would go, and what that tells of the point."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from cobla_tf.errors import SolverError, first_line
from cobla_tf.qp.presolve import least_activity
from cobla_tf.qp.problem import QuadraticProgram
from cobla_tf.qp.solution import QPSolution
from cobla_tf.sqp.bfgs import CompactBFGS
from cobla_tf.sqp.constraints import Constraints
from cobla_tf.sqp.interface import Certificate

Array = np.ndarray

ROUNDING = 1e-12
"""Relative, of the room that a row leaves a step."""


@dataclass(frozen=True)
class Subproblem:
    """The quadratic model of the loss around a point, within the constraints.

    Attributes:
        x, gradient: the point, and dE/dx there; float64 [n].
        bfgs: the Hessian's model.
        constraints: hold at the end of the step.
        solve_qp: a back end.
    """

    x: Array
    gradient: Array
    bfgs: CompactBFGS
    constraints: Constraints
    solve_qp: Callable[[QuadraticProgram], QPSolution]

    def step(self) -> tuple[QPSolution, float]:
        """The step to the optimum of the model, and the change of the loss that the model predicts.

        Raises:
            SolverError: whatever the back end raises: the masks found so far are not to be lost by it.
        """
        try:
            program = self._program()
            qp = self.solve_qp(program)
            return qp, program.objective(qp.step)
        except SolverError:
            raise
        except Exception as error:
            raise SolverError(first_line(error)) from error

    def certificate(self) -> Certificate:
        """How far the point is from an optimum.

        Raises:
            SolverError: see `step`.
        """
        qp, change = self.step()
        still = QPSolution.judge(self._program(), np.zeros_like(self.x), qp.row_multipliers, qp.solver)
        return Certificate(self.x, still.residual, -change, qp)

    def _program(self) -> QuadraticProgram:
        return _program(self.x, self.gradient, self.bfgs, self.constraints)


def _program(x: Array, gradient: Array, bfgs: CompactBFGS, constraints: Constraints) -> QuadraticProgram:
    rows, limits = constraints.rows, constraints.limits
    lower, upper = constraints.lower - x, constraints.upper - x
    program = QuadraticProgram(bfgs.form(), gradient, rows, limits - rows @ x, lower, upper)
    least = least_activity(program)
    rounding = ROUNDING * (np.abs(rows) @ np.abs(x) + np.abs(limits))  # of the difference, whose size does not tell it
    missed = (program.limits < least) & (program.limits >= least - rounding)
    return replace(program, limits=np.where(missed, least, program.limits))
