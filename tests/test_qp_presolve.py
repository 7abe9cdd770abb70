"""What presolve takes off and puts back, and the sentences on programs without a feasible point."""

from dataclasses import replace

import numpy as np
import pytest
from qp_programs import CHANGES, random_program, scaled_hessian

from cobla_tf.errors import SolverError
from cobla_tf.qp import KKT_TOLERANCE, QPSolution, infeasible, presolve, solve
from cobla_tf.qp.problem import QuadraticForm, QuadraticProgram


@pytest.mark.parametrize("change", CHANGES)
def test_reduced_program_is_at_unit_scale_and_has_nothing_left_to_drop(change):
    program = presolve.reduce(CHANGES[change](random_program(seed=1))).program
    assert np.isfinite(program.limits).all()
    assert (program.lower < program.upper).all()
    np.testing.assert_allclose(np.linalg.norm(program.rows, axis=1), 1.0, rtol=1e-12)
    assert np.abs(program.gradient).max(initial=0.0) <= 1 + 1e-12
    program.validate() if program.gradient.size else None


@pytest.mark.parametrize("change", ["plain", "flat", "steep", "rows x 1e8", "fixed variables", "infinite row"])
def test_objective_and_multipliers_survive_the_way_there_and_back(change):
    program = CHANGES[change](random_program(seed=2))
    reduction = presolve.reduce(program)
    rng = np.random.default_rng(0)
    points = [rng.uniform(reduction.program.lower, reduction.program.upper) for _ in range(3)]
    restored = [reduction.restore(x, np.zeros(reduction.rows.size))[0] for x in points]
    # Scaling and dropped constants leave ratios of differences as they were.
    small = [reduction.program.objective(x) for x in points]
    large = [program.objective(d) for d in restored]
    assert (small[1] - small[0]) / (small[2] - small[0]) == pytest.approx(
        (large[1] - large[0]) / (large[2] - large[0]), rel=1e-7
    )
    for x, d in zip(points, restored, strict=True):
        slack = (reduction.program.limits - reduction.program.rows @ x) > 0
        np.testing.assert_array_equal(slack, (program.limits - program.rows @ d)[reduction.rows] > 0)


def test_rows_without_room_fix_their_variables_and_get_a_multiplier():
    program = random_program(20, 4, 2, seed=3)
    rows = program.rows.copy()
    rows[0, 10:] = 0.0
    rows[1, :5] = 0.0
    # The first row holds its ten variables; given those, the second one holds the other ten.
    program = replace(program, rows=rows, limits=rows @ program.lower)
    reduction = presolve.reduce(program)
    assert reduction.kept.size == 0
    assert [forced.row for forced in reduction.forced] in ([0, 1], [1, 0])
    solution = QPSolution.judge(program, *reduction.restore(np.zeros(0), np.zeros(0)), "presolve")
    assert solution.residual <= KKT_TOLERANCE
    np.testing.assert_array_equal(solution.step, program.lower)


def test_forcing_row_leaves_the_other_variables_to_the_solver():
    program = random_program(20, 4, 2, seed=4)
    rows = program.rows.copy()
    rows[0, 10:] = 0.0
    limits = np.array([rows[0] @ program.lower, 0.4 * rows[1] @ program.lower])
    program = replace(program, rows=rows, limits=limits)
    for solver in ("structured", "clarabel"):
        solution = solve(program, solver)
        assert solution.residual <= KKT_TOLERANCE
        np.testing.assert_array_equal(solution.step[:10], program.lower[:10])


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("solver", ["structured", "clarabel"])
def test_row_against_the_bounds_is_named_with_its_smallest_feasible_limit(scale, solver):
    program = random_program(20, 4, 3, seed=5)
    rows = program.rows * scale
    least = rows @ program.lower
    limits = np.array([0.0, 1.001 * least[1], np.inf])
    with pytest.raises(SolverError, match=r"Row 1 .* cannot be met") as caught:
        solve(replace(program, rows=rows, limits=limits), solver)
    stated = float(str(caught.value).split("expected at least ")[1].split(",")[0])
    assert stated == pytest.approx(least[1], rel=1e-8)
    # What the sentence asks for helps.
    limits[1] = stated
    assert solve(replace(program, rows=rows, limits=limits), solver).residual <= KKT_TOLERANCE


@pytest.mark.parametrize("solver", ["structured", "clarabel"])
@pytest.mark.parametrize("theta", [1e-7, 1.0])
def test_rows_against_each_other_are_named(solver, theta):
    program = scaled_hessian(random_program(20, 4, 1, seed=6), theta)
    row = program.rows[0]
    middle = 0.5 * row @ (program.lower + program.upper)
    rows = np.stack([np.zeros(20), row, -row])
    program = replace(program, rows=rows, limits=np.array([1.0, middle - 1.0, -middle]))
    with pytest.raises(SolverError, match=r"Row [12] .* cannot be met.*other rows") as caught:
        solve(program, solver)
    stated = float(str(caught.value).split("expected at least ")[1].split(",")[0])
    assert stated == pytest.approx(middle if "Row 1" in str(caught.value) else 1 - middle, rel=1e-6)


def test_row_of_zeros_below_zero_is_named():
    program = random_program(20, 4, 1, seed=7)
    with pytest.raises(SolverError, match=r"Row 0 .* at least 0,"):
        solve(replace(program, rows=0 * program.rows, limits=np.array([-1.0])), "structured")


@pytest.mark.parametrize("change", ["plain", "infinite row", "infinite bounds", "room only in a corner"])
def test_feasible_programs_are_not_explained_away(change):
    assert infeasible.explain(CHANGES[change](random_program(seed=8))) is None


def test_what_cannot_be_met_is_refused_before_any_solver():
    program = random_program(20, 4, 1, seed=9)
    infeasible.require_feasible(program)
    least = program.rows @ program.lower
    with pytest.raises(SolverError, match=r"Row 0 .* over the bounds;"):
        infeasible.require_feasible(replace(program, limits=1.1 * least))
    both, limits = np.vstack([program.rows, -program.rows]), np.array([0.5, -0.4]) * least
    with pytest.raises(SolverError, match=r"Row [01] .* the other rows"):
        infeasible.require_feasible(replace(program, rows=both, limits=limits))
    with pytest.raises(SolverError, match="finite rows"):
        infeasible.require_feasible(replace(program, rows=program.rows * np.inf))


@pytest.mark.parametrize("width", [1e4, 1e7, 1e12])
def test_a_far_bound_on_the_other_side_does_not_make_a_row_forcing(width):
    hessian = QuadraticForm(np.full(2, 1e-3), np.zeros((2, 0)), np.zeros(0))
    program = QuadraticProgram(
        hessian, np.full(2, -10.0), np.ones((1, 2)), np.array([500.0]), np.zeros(2), np.full(2, width)
    )
    solution = solve(program, "structured")
    np.testing.assert_allclose(solution.step, [250, 250], rtol=1e-6)
