"""The methods that are compared, all of one signature."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from cobla_tf.experiments.benchmarks import general_solvers
from cobla_tf.experiments.benchmarks.s2mpj_problems import LinearProblem
from cobla_tf.experiments.benchmarks.solver_problems import Meter, Problem
from scipy.optimize import LinearConstraint, linprog, minimize
from scipy.sparse import csr_array

from cobla_tf.errors import ConfigError
from cobla_tf.qp import QuadraticForm, QuadraticProgram
from cobla_tf.qp import solve as solve_qp
from cobla_tf.sqp.constraints import Constraints
from cobla_tf.sqp.evaluations import Evaluations
from cobla_tf.sqp.interface import SQPSettings
from cobla_tf.sqp.line_search import LineSearchSettings, search
from cobla_tf.sqp.loop import SQP

Array = np.ndarray

SLSQP_LARGEST = 1000
"""Variables up to which SLSQP takes part: its dense O(n^3) steps took some 15 s there and above a minute at 1,900."""
ENDLESS = 10**6
"""Iterations allowed to every method: gradients are what it runs out of."""
SPG_SEARCH = LineSearchSettings(history=10, decrease=1e-4, shrink=(0.1, 0.9), trials=20)
"""Birgin, Martinez and Raydan's M, gamma, sigma_1 and sigma_2."""
FARTHEST = 1e4
"""Largest entry of a spectral step before its projection: far outside a box of width 1."""
BARRIER = 1e-3
"""trust-constr's first barrier and its tolerance: SciPy's 0.1, beside a cross-entropy, never leaves the start."""
OURS, START = "COBLA's SQP", "the start itself"


Method = Callable[[Problem, Meter], None]


def ours(problem: Problem, meter: Meter) -> None:
    """The package's own SQP with its defaults; the one place here that knows how it is called."""
    settings = SQPSettings(iterations=ENDLESS)
    back_end = partial(solve_qp, solver="structured")
    loop = SQP(
        Evaluations(meter), problem.constraints, settings, back_end, lambda step: None, curvature=meter.curvature
    )
    loop.minimise(problem.start)


def spectral_gradient(problem: Problem, meter: Meter) -> None:
    """SPG2 of Birgin, Martinez and Raydan (SIAM J. Optim. 10, 2000), non-monotone; projections are exact QPs."""
    x, limits = problem.start, problem.constraints
    loss, gradient = meter.gradient(x)
    recent = [loss]
    length = 1 / max(np.abs(project(limits, x - gradient) - x).max(), 1e-30)
    while True:
        length = min(length, FARTHEST / max(np.abs(gradient).max(), 1e-30))
        step = project(limits, x - length * gradient) - x
        slope = float(gradient @ step)
        if not slope < 0:
            return
        moved = _search(meter, x, step, recent, slope, SPG_SEARCH)
        if moved is None:
            return
        loss, changed = meter.gradient(moved)
        recent.append(loss)
        s, y = moved - x, changed - gradient
        length = float(s @ s) / float(s @ y) if s @ y > 0 else math.inf
        x, gradient = moved, changed


def frank_wolfe(problem: Problem, meter: Meter) -> None:
    """Frank and Wolfe (1956) with an Armijo search that begins at twice the last length; vertices by HiGHS."""
    x, limits, length = problem.start, problem.constraints, 1.0
    while True:
        loss, gradient = meter.gradient(x)
        step = vertex(limits, gradient) - x
        slope = float(gradient @ step)
        if not slope < 0:
            return
        longest = min(1.0, 2 * length)
        moved = _search(meter, x, longest * step, [loss], longest * slope, LineSearchSettings(trials=20))
        if moved is None:
            return
        length = float(np.linalg.norm(moved - x) / np.linalg.norm(step))
        x = moved


def trust_constr(problem: Problem, meter: Meter) -> None:
    """SciPy's interior point with its BFGS Hessian, a dense matrix; sparse rows spare it dense factorisations."""
    limits, apart = problem.constraints, _Separate(meter)
    barrier = {"initial_barrier_parameter": BARRIER, "initial_barrier_tolerance": BARRIER}
    minimize(
        apart.loss, problem.start, jac=apart.gradient, method="trust-constr",
        bounds=np.column_stack([limits.lower, limits.upper]),
        constraints=LinearConstraint(csr_array(limits.rows), -np.inf, limits.limits),
        options={"maxiter": ENDLESS, "gtol": 1e-9, "xtol": 1e-9, **barrier},
    )  # fmt: skip


def slsqp(problem: Problem, meter: Meter) -> None:
    """SciPy's SLSQP.

    Raises:
        ConfigError: the problem is larger than SLSQP_LARGEST.
    """
    if problem.start.size > SLSQP_LARGEST:
        raise ConfigError(f"left out: its dense O(n^3) steps do not fit n = {problem.start.size} > {SLSQP_LARGEST}")
    limits, none = problem.constraints, np.zeros((0, problem.start.size))
    sides = (limits.lower, limits.upper, limits.rows, limits.limits, none, none[:, 0])
    linear = LinearProblem("masks", problem.start, *sides, problem.value, problem.gradient)
    general_solvers.slsqp(linear, _Separate(meter), ENDLESS)


def stay(problem: Problem, meter: Meter) -> None:
    """Optimise nothing: what the start itself is worth."""
    meter.value(problem.start)


METHODS: dict[str, Method] = {
    OURS: ours,
    "spectral projected gradient": spectral_gradient,
    "Frank-Wolfe": frank_wolfe,
    "trust-constr": trust_constr,
    "SLSQP": slsqp,
    START: stay,
}


class _Separate:
    """Loss and gradient as SciPy asks for them, apart."""

    def __init__(self, meter: Meter) -> None:
        self.loss, self._meter = meter.value, meter

    def gradient(self, x: Array) -> Array:
        return self._meter.gradient(x)[1]


def _search(
    meter: Meter, x: Array, step: Array, recent: Sequence[float], slope: float, settings: LineSearchSettings
) -> Array | None:
    """The accepted point on the way from x to x + step, None if there is none."""
    length = search(lambda t: meter.value(x + t * step), meter.value(x + 1.0 * step), recent, slope, settings)
    return x + length * step if length else None


def project(constraints: Constraints, z: Array) -> Array:
    """The point of the feasible set nearest to z [n]: a quadratic program with B = I."""
    near = constraints.clip(z)
    unit = QuadraticForm(np.ones(z.size), np.zeros((z.size, 0)), np.zeros(0))
    limits = constraints.limits - constraints.rows @ near
    sides = (constraints.rows, limits, constraints.lower - near, constraints.upper - near)
    return constraints.clip(near + solve_qp(QuadraticProgram(unit, near - z, *sides), "structured").step)


def vertex(constraints: Constraints, gradient: Array) -> Array:
    """A feasible point [n] of least gradient^T x."""
    bounds = np.column_stack([constraints.lower, constraints.upper])
    size = np.abs(gradient).max() or 1.0  # HiGHS' tolerances are absolute
    answer = linprog(gradient / size, A_ub=constraints.rows, b_ub=constraints.limits, bounds=bounds, method="highs")
    return constraints.clip(answer.x)
