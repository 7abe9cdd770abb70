"""The KKT residual: zero at the optimum, blind to units, and not blind to anything else."""

from dataclasses import replace

import numpy as np
import pytest
from qp_programs import CHANGES, random_program, scaled_hessian, violated

from cobla_tf.qp import KKT_TOLERANCE, QPSolution, solve
from cobla_tf.qp.solution import bound_multipliers, kkt_residual


def _residual(program, solution, step=None, y=None, z=None):
    return kkt_residual(
        program,
        solution.step if step is None else step,
        solution.row_multipliers if y is None else y,
        solution.bound_multipliers if z is None else z,
    )


@pytest.mark.parametrize("factor", [1e-8, 1e8])
def test_residual_does_not_see_the_unit_of_rows_and_objective(factor):
    program = random_program(seed=3)
    rng = np.random.default_rng(0)
    step, y = rng.uniform(program.lower, program.upper), rng.uniform(0, 1, 2)
    z = bound_multipliers(program, step, y) + rng.normal(size=step.size)
    plain = kkt_residual(program, step, y, z)
    rows = kkt_residual(
        replace(program, rows=program.rows * factor, limits=program.limits * factor), step, y / factor, z
    )
    whole = replace(scaled_hessian(program, factor), gradient=program.gradient * factor)
    objective = kkt_residual(whole, step, y * factor, z * factor)
    for other in (rows, objective):
        for part in ("primal", "dual", "complementarity"):
            assert getattr(other, part) == pytest.approx(getattr(plain, part), rel=1e-9)
    assert min(plain.dual, plain.complementarity) > 0


@pytest.mark.parametrize("name", ["plain", "flat", "steep", "rows x 1e8", "zero gradient, rows violated"])
def test_residual_rises_when_the_optimum_is_disturbed(name):
    program = CHANGES[name](violated(random_program(seed=4)))
    solution = solve(program, "structured")
    assert _residual(program, solution).worst <= KKT_TOLERANCE
    unit = max(np.abs(program.gradient).max(), np.abs(program.hessian @ solution.step).max())
    inside = np.flatnonzero(solution.bound_multipliers == 0)
    assert _residual(program, solution, z=solution.bound_multipliers + 1e-3 * unit).dual > 1e-4
    assert _residual(program, solution, y=solution.row_multipliers * 0.99).dual > KKT_TOLERANCE
    negative = -solution.row_multipliers
    # Stationary, but with rows that push the wrong way.
    pushed = _residual(program, solution, y=negative, z=bound_multipliers(program, solution.step, negative))
    assert pushed.dual > KKT_TOLERANCE
    assert _residual(program, solution, step=program.upper).primal > 1e-2
    assert _residual(program, solution, step=solution.step + 2).primal > 0.1
    borne = np.flatnonzero(solution.bound_multipliers)
    for moved, part in ((inside, "dual"), (borne, "complementarity")):
        if moved.size:
            step = solution.step.copy()
            step[moved] += 0.1 * (0.5 * (program.lower + program.upper) - step)[moved]
            if name != "flat" or part != "dual":  # a nearly linear objective bears any step along the row
                assert getattr(_residual(program, solution, step=step), part) > 10 * KKT_TOLERANCE


def test_multiplier_of_an_absent_row_or_of_an_infinite_bound_is_no_optimum():
    program = replace(random_program(), limits=np.array([np.inf, np.inf]))
    solution = solve(program, "structured")
    assert _residual(program, solution, y=np.array([1.0, 0.0])).worst == np.inf
    open_above = replace(program, upper=np.full_like(program.upper, np.inf))
    assert _residual(open_above, solution, z=np.ones_like(program.upper)).worst == np.inf


def test_bound_multipliers_have_the_sign_of_their_side():
    program = random_program(seed=5)
    solution = solve(program, "structured")
    at_upper, at_lower = solution.step == program.upper, solution.step == program.lower
    assert at_upper.any()
    assert at_lower.any()
    assert (solution.bound_multipliers[at_upper & ~at_lower] >= 0).all()
    assert (solution.bound_multipliers[at_lower & ~at_upper] <= 0).all()


def test_judge_clips_into_the_box_and_drops_what_cannot_be():
    program = replace(random_program(), limits=np.array([np.inf, 0.0]))
    judged = QPSolution.judge(program, program.upper + 5, np.array([3.0, -1.0]), "none")
    np.testing.assert_array_equal(judged.step, program.upper)
    np.testing.assert_array_equal(judged.row_multipliers, [0.0, 0.0])
    assert judged.residual > KKT_TOLERANCE
    assert judged.solver == "none"


def test_nan_is_never_an_optimum():
    program = random_program()
    judged = QPSolution.judge(program, np.full(program.gradient.size, np.nan), np.zeros(2), "none")
    assert not judged.residual <= KKT_TOLERANCE
