"""One signature for the SQP loop and for the general solvers that it is measured against."""

from collections.abc import Callable

import numpy as np
from cobla_tf.experiments.benchmarks.s2mpj_problems import LinearProblem, Meter
from scipy.optimize import LinearConstraint, minimize

from cobla_tf.qp import solve as solve_qp
from cobla_tf.sqp.constraints import Constraints
from cobla_tf.sqp.evaluations import Evaluations
from cobla_tf.sqp.interface import SQPSettings
from cobla_tf.sqp.line_search import LineSearchSettings
from cobla_tf.sqp.loop import SQP

Array = np.ndarray
Solver = Callable[[LinearProblem, Meter, int], tuple[Array, str]]
"""Takes a problem, its meter and the most iterations; returns x [n] and the solver's own words."""

_TOLERANCE = 1e-9
"""Asked of every solver, in its own measure: tighter than what the judge asks for."""


class _Exact:
    """A loss without samples, as the SQP loop sees it."""

    def __init__(self, meter: Meter) -> None:
        self.value, self._meter = meter.loss, meter

    def gradient(self, x: Array) -> tuple[float, Array]:
        return self._meter.loss(x), self._meter.gradient(x)

    def renew(self, iteration: int, overfitted: bool) -> bool:
        del iteration, overfitted
        return False


def sqp(history: int) -> Solver:
    """Our loop with the open QP solver; equations are two rows each.

    Args:
        history: see `LineSearchSettings`; 1 is the monotone search.
    """

    def run(problem: LinearProblem, meter: Meter, iterations: int) -> tuple[Array, str]:
        """As `Solver`."""
        rows = np.vstack([problem.rows, problem.equations, -problem.equations])
        limits = np.concatenate([problem.limits, problem.values, -problem.values])
        search = LineSearchSettings(history=history)
        settings = SQPSettings(iterations=iterations, tolerance=_TOLERANCE, line_search=search)
        constraints = Constraints(rows, limits, problem.lower, problem.upper)
        evaluations = Evaluations(_Exact(meter))
        loop = SQP(evaluations, constraints, settings, lambda qp: solve_qp(qp, "structured"), lambda step: None)
        result = loop.minimise(problem.start)
        return result.x, result.status

    return run


def slsqp(problem: LinearProblem, meter: Meter, iterations: int) -> tuple[Array, str]:
    """SciPy's SLSQP."""
    sides = [("eq", -problem.equations, problem.values), ("ineq", -problem.rows, problem.limits)]
    constraints = [
        {"type": kind, "fun": lambda x, A=matrix, b=right: A @ x + b, "jac": lambda x, A=matrix: A}
        for kind, matrix, right in sides
        if right.size
    ]
    answer = minimize(
        meter.loss, problem.start, jac=meter.gradient, method="SLSQP", bounds=_bounds(problem),
        constraints=constraints, options={"maxiter": iterations, "ftol": _TOLERANCE},
    )  # fmt: skip
    return answer.x, str(answer.message)


def trust_constr(problem: LinearProblem, meter: Meter, iterations: int) -> tuple[Array, str]:
    """SciPy's trust-constr with its BFGS Hessian."""
    sides = [
        (problem.equations, problem.values, problem.values),
        (problem.rows, np.full(problem.limits.size, -np.inf), problem.limits),
    ]
    constraints = [LinearConstraint(matrix, low, high) for matrix, low, high in sides if high.size]
    answer = minimize(
        meter.loss, problem.start, jac=meter.gradient, method="trust-constr", bounds=_bounds(problem),
        constraints=constraints, options={"maxiter": iterations, "gtol": _TOLERANCE, "xtol": _TOLERANCE},
    )  # fmt: skip
    return answer.x, str(answer.message)


def ipopt(problem: LinearProblem, meter: Meter, iterations: int) -> tuple[Array, str]:
    """IPOPT with its limited-memory Hessian."""
    import cyipopt

    matrix = np.vstack([problem.equations, problem.rows])
    low = np.concatenate([problem.values, np.full(problem.limits.size, -np.inf)])
    high = np.concatenate([problem.values, problem.limits])
    program = cyipopt.Problem(
        n=problem.start.size, m=low.size, lb=problem.lower, ub=problem.upper, cl=low, cu=high,
        problem_obj=_IpoptLoss(meter, matrix),
    )  # fmt: skip
    options = {"print_level": 0, "sb": "yes", "tol": _TOLERANCE, "max_iter": iterations, "jac_c_constant": "yes",
               "jac_d_constant": "yes", "hessian_approximation": "limited-memory"}  # fmt: skip
    for option, value in options.items():
        program.add_option(option, value)
    x, info = program.solve(problem.start)
    return x, info["status_msg"].decode()


class _IpoptLoss:
    """The callbacks that cyipopt asks for."""

    def __init__(self, meter: Meter, matrix: Array) -> None:
        self.objective, self.gradient, self._matrix = meter.loss, meter.gradient, matrix

    def constraints(self, x: Array) -> Array:
        return self._matrix @ x

    def jacobian(self, x: Array) -> Array:
        del x
        return self._matrix.ravel()


def _bounds(problem: LinearProblem) -> list[tuple[float, float]]:
    return list(zip(problem.lower, problem.upper, strict=True))
