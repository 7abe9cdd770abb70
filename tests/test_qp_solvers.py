"""Every back end on random, degenerate and badly scaled programs, against its own residual and against each other."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from qp_programs import CHANGES, SHAPES, dense, random_program, violated
from scipy.optimize import LinearConstraint, minimize

from cobla_tf.qp import KKT_TOLERANCE, QuadraticForm, QuadraticProgram, mosek_solver, presolve, solve
from cobla_tf.qp.active_set import polish, residual
from cobla_tf.qp.newton import NewtonSystem
from cobla_tf.qp.structured_solver import _points

SOLVERS = ["structured", "clarabel", "mosek"]


def answer(program, solver):
    if solver == "mosek" and not mosek_solver.licence_answers():
        pytest.skip("no MOSEK licence answers")
    return solve(program, solver)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("spread", [False, True], ids=["theta", "D"])
def test_solution_meets_the_kkt_conditions(solver, change, shape, spread):
    program = CHANGES[change](random_program(*shape, seed=len(change), spread=spread))
    solution = answer(program, solver)
    assert solution.solver == solver
    assert solution.residual <= KKT_TOLERANCE
    assert (solution.step >= program.lower).all()
    assert (solution.step <= program.upper).all()
    assert (solution.row_multipliers >= 0).all()


@pytest.mark.parametrize(("change", "seed"), list(product(CHANGES, range(2))))
def test_back_ends_agree_on_the_optimum(change, seed):
    program = CHANGES[change](random_program(30, 6, 2, seed=seed))
    first, second = (solve(program, solver) for solver in ("structured", "clarabel"))
    curvature = program.objective(first.step) - program.gradient @ first.step
    size = np.abs(program.gradient).sum() + curvature + program.hessian.diagonal.sum()
    # Both lie within their residual of the optimum of a strictly convex function.
    assert program.objective(first.step) == pytest.approx(program.objective(second.step), abs=1e-8 * size)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("seed", range(4))
def test_identity_hessian_projects_on_the_feasible_set(solver, seed):
    rng = np.random.default_rng(seed)
    point, row = rng.normal(0.5, 1, 25), rng.uniform(0.1, 1, (1, 25))
    unit = QuadraticForm(np.ones(25), np.zeros((25, 0)), np.zeros(0))
    limits = 0.4 * row.sum(axis=1)
    program = QuadraticProgram(unit, -point, row, limits, np.zeros(25), np.ones(25))
    # One row: the projection is clip(point - y row) at the y where the row is met; bisection finds it.
    low, high = 0.0, 100.0
    for _ in range(200):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if row[0] @ np.clip(point - middle * row[0], 0, 1) > limits[0] else (low, middle)
    expected = np.clip(point - high * row[0], 0, 1)
    np.testing.assert_allclose(answer(program, solver).step, expected, atol=1e-6)


@pytest.mark.parametrize("solver", SOLVERS)
def test_optimum_is_that_of_a_general_purpose_solver(solver):
    program = violated(random_program(8, 3, 2, seed=6))
    matrix = dense(program.hessian)
    scale = np.linalg.norm(program.rows, axis=1)
    general = minimize(
        program.objective,
        program.lower,
        jac=lambda d: program.gradient + matrix @ d,
        bounds=list(zip(program.lower, program.upper, strict=True)),
        constraints=LinearConstraint(program.rows / scale[:, None], -np.inf, program.limits / scale),
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert general.success
    np.testing.assert_allclose(answer(program, solver).step, general.x, atol=1e-5)


@pytest.mark.parametrize("p", [1, 7, 25])
def test_structured_takes_any_number_of_rows(p):
    program = random_program(50, 8, p, seed=p)
    rows = np.sign(np.random.default_rng(p).normal(size=program.rows.shape)) * program.rows
    # A point that all rows meet, some of them with equality.
    inner = 0.3 * program.lower
    program = replace(program, rows=rows, limits=rows @ inner + np.where(np.arange(p) % 2, 0.0, np.abs(rows[:, 0])))
    solution = solve(program, "structured")
    assert solution.solver == "structured"
    assert solution.residual <= KKT_TOLERANCE


@pytest.mark.parametrize("change", CHANGES)
def test_interior_point_needs_few_iterations(change):
    program = presolve.reduce(CHANGES[change](random_program(100, 10, 2, seed=7))).program
    if program.gradient.size:
        gaps = [point.gap for point, _ in zip(_points(program), range(25), strict=False)]
        assert min(gaps) <= 1e-6


@pytest.mark.parametrize("give", [0.0, 1e-3])
def test_newton_system_solves_its_equations(give):
    program = random_program(30, 5, 3, seed=8, spread=True)
    rng = np.random.default_rng(8)
    extra = 10 ** rng.uniform(-6, 6, 30)
    rows = program.rows / np.linalg.norm(program.rows, axis=1)[:, None]
    x, y = NewtonSystem(program.hessian, rows, extra, np.full(3, give)).solve(top := rng.normal(size=30), np.ones(3))
    np.testing.assert_allclose(dense(program.hessian) @ x + extra * x + rows.T @ y, top, atol=1e-8)
    np.testing.assert_allclose(rows @ x - give * y, np.ones(3), atol=1e-8)


def test_newton_system_bears_dependent_rows():
    program = random_program(30, 5, 1, seed=9)
    rows = np.vstack([program.rows, 2e6 * program.rows, 0 * program.rows])
    x, y = NewtonSystem(program.hessian, rows, np.zeros(30), np.zeros(3)).solve(
        -program.gradient, np.array([1, 2e6, 0])
    )
    np.testing.assert_allclose(program.rows @ x, 1.0, atol=1e-9)
    np.testing.assert_allclose(dense(program.hessian) @ x + rows.T @ y, -program.gradient, atol=1e-8)


@pytest.mark.parametrize("seed", range(3))
def test_polish_turns_a_rough_point_into_the_optimum_and_never_worsens_one(seed):
    program = presolve.reduce(random_program(40, 4, 2, seed=seed)).program
    x, y, exact = polish(program, *_solved(program))
    rng = np.random.default_rng(seed)
    *_, polished = polish(program, x + 1e-5 * rng.normal(size=x.size), y * (1 + 1e-5))
    assert exact <= polished <= KKT_TOLERANCE
    wild = (rng.normal(size=x.size), rng.uniform(0, 9, y.size))
    assert polish(program, *wild)[2] <= residual(program, *wild)


def _solved(program):
    solution = solve(program, "structured")
    return solution.step, solution.row_multipliers
