"""The Fusion model, read back through MOSEK's Optimizer API coefficient by coefficient and solved by Clarabel.

Neither writing nor reading a task needs a licence; only the last test does.
"""

from dataclasses import dataclass

import clarabel
import mosek
import numpy as np
import pytest
from qp_programs import CHANGES, random_program
from scipy import sparse

from cobla_tf.errors import SolverError
from cobla_tf.qp import KKT_TOLERANCE, mosek_solver, presolve, solve
from cobla_tf.qp.active_set import residual

CASES = [(7, 3, 2, "plain"), (5, 1, 0, "plain"), (6, 0, 1, "plain"), (9, 2, 2, "infinite bounds")]
CASES += [(30, 6, 2, "flat"), (30, 6, 2, "ties"), (1, 1, 1, "plain")]  # (n, k, p, change)


@dataclass
class ReadBack:
    """A conic problem: minimise cost x with low <= rows x <= high, bounds on x, affine F x + g in each cone."""

    names: list
    cost: np.ndarray
    rows: dict  # constraint's name -> (coefficients by variable's name, low, high)
    bounds: dict
    cones: dict  # name -> list of (coefficients by name, constant)
    cone_types: set


def _bounds(key, low, high):
    return (
        low if key in (mosek.boundkey.lo, mosek.boundkey.ra, mosek.boundkey.fx) else -np.inf,
        high if key in (mosek.boundkey.up, mosek.boundkey.ra, mosek.boundkey.fx) else np.inf,
    )


def _affine(task, index, names):
    *_, columns, values = task.getafefrow(index)
    return {names[j]: v for j, v in zip(columns, values, strict=True)}, task.getafeg(index)


def read_back(program, folder):
    path = str(folder / "model.task")
    with mosek_solver.build_model(program) as model:
        model.writeTask(path)
    with mosek.Env() as environment, environment.Task() as task:
        task.readdata(path)
        assert task.getobjsense() == mosek.objsense.minimize
        assert task.getcfix() == 0
        names = [task.getvarname(j) for j in range(task.getnumvar())]
        rows = {}
        for i in range(task.getnumcon()):
            *_, columns, values = task.getarow(i)
            coefficients = {names[j]: v for j, v in zip(columns, values, strict=True)}
            rows[task.getconname(i)] = (coefficients, *_bounds(*task.getconbound(i)))
        cones = {
            task.getaccname(i).removesuffix("[]"): [_affine(task, a, names) for a in task.getaccafeidxlist(i)]
            for i in range(task.getnumacc())
        }
        assert all(not np.any(task.getaccb(i)) for i in range(task.getnumacc()))
        kinds = {task.getdomaintype(task.getaccdomain(i)) for i in range(task.getnumacc())}
        cost = np.array([task.getcj(j) for j in range(len(names))])
        bounds = {name: _bounds(*task.getvarbound(j)) for j, name in enumerate(names)}
    return ReadBack(names, cost, rows, bounds, cones, kinds)


def program_of(n, k, p, change):
    return presolve.reduce(CHANGES[change](random_program(n, k, p, seed=n, spread=True))).program


def nonzero(coefficients):
    return {name: value for name, value in coefficients.items() if value != 0}


def expected_rows(program):
    """What the model's linear constraints must be, from the lifting itself."""
    n, k = program.hessian.basis.shape
    basis, root = program.hessian.basis, np.sqrt(program.hessian.diagonal)
    rows = {}
    for j in range(n):
        split = {f"rest[{j}]": 1.0, f"step[{j}]": -root[j]}
        rows[f"split[{j}]"] = (split | {f"low_rank[{i}]": basis[j, i] for i in range(k)}, 0.0, 0.0)
    for i in range(k):
        rows[f"orthogonal[{i}]"] = ({f"rest[{j}]": basis[j, i] for j in range(n)}, 0.0, 0.0)
    for i, limit in enumerate(program.limits):
        rows[f"rows[{i}]"] = ({f"step[{j}]": program.rows[i, j] for j in range(n)}, -np.inf, limit)
    for at, j in enumerate(np.flatnonzero(np.isfinite(program.lower))):
        rows[f"lower[{at}]"] = ({f"step[{j}]": 1.0}, program.lower[j], np.inf)
    for at, j in enumerate(np.flatnonzero(np.isfinite(program.upper))):
        rows[f"upper[{at}]"] = ({f"step[{j}]": 1.0}, -np.inf, program.upper[j])
    return rows


@pytest.mark.parametrize(("n", "k", "p", "change"), CASES)
def test_linear_part_is_the_lifting_coefficient_by_coefficient(n, k, p, change, tmp_path):
    program = program_of(n, k, p, change)
    written, expected = read_back(program, tmp_path), expected_rows(program)
    assert written.rows.keys() == expected.keys()
    for name, (coefficients, low, high) in expected.items():
        assert nonzero(written.rows[name][0]) == nonzero(coefficients), name
        assert written.rows[name][1:] == (low, high), name
    cost = {f"step[{j}]": g for j, g in enumerate(program.gradient)} | {
        f"curvature[{i}]": 1.0 for i in range(2 if k else 1)
    }
    assert nonzero(dict(zip(written.names, written.cost, strict=True))) == nonzero(cost)
    free = {name for name, bounds in written.bounds.items() if bounds == (-np.inf, np.inf)}
    constants = {name for name, bounds in written.bounds.items() if bounds == (1.0, 1.0)}
    assert free | constants == set(written.names)
    assert not any(constants & set(row[0]) for row in written.rows.values())


@pytest.mark.parametrize(("n", "k", "p", "change"), CASES)
def test_cones_are_the_two_rotated_quadratic_ones(n, k, p, change, tmp_path):
    program = program_of(n, k, p, change)
    written = read_back(program, tmp_path)
    expected = {"cone_rest": [({"curvature[0]": 1.0}, 0.0), ({}, 1.0)]}
    expected["cone_rest"] += [({f"rest[{j}]": 1.0}, 0.0) for j in range(n)]
    if k:
        weights = np.sqrt(1 + program.hessian.shift)
        expected["cone_low_rank"] = [({"curvature[1]": 1.0}, 0.0), ({}, 1.0)]
        expected["cone_low_rank"] += [({f"low_rank[{i}]": weights[i]}, 0.0) for i in range(k)]
    assert written.cones == expected
    assert written.cone_types == {mosek.domaintype.rquadratic_cone}


def _vector(coefficients, names):
    place = {name: j for j, name in enumerate(names)}
    row = np.zeros(len(names))
    for name, value in coefficients.items():
        row[place[name]] = value
    return row


def solve_read_back(written):
    """Clarabel on exactly what was written: linear rows and bounds, and each rotated cone turned by 45 degrees."""
    equal, above, cones = [], [], []
    unit = [({name: 1.0}, *written.bounds[name]) for name in written.names]
    for coefficients, low, high in [*written.rows.values(), *unit]:
        row = _vector(coefficients, written.names)
        if low == high:
            equal.append((row, high))
        else:
            above += [(row, high)] * int(np.isfinite(high)) + [(-row, -low)] * int(np.isfinite(low))
    blocks = [*equal, *above]
    for entries in written.cones.values():
        F = np.array([_vector(coefficients, written.names) for coefficients, _ in entries])
        g = np.array([constant for _, constant in entries])
        turn = np.eye(len(entries))
        turn[:2, :2] = np.array([[1, 1], [1, -1]]) / np.sqrt(2)
        blocks += list(zip(-turn @ F, turn @ g, strict=True))
        cones.append(clarabel.SecondOrderConeT(len(entries)))
    left, right = sparse.csc_matrix(np.array([row for row, _ in blocks])), np.array([value for _, value in blocks])
    linear = [clarabel.ZeroConeT(len(equal)), clarabel.NonnegativeConeT(len(above))]
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    size = written.cost.size
    answer = clarabel.DefaultSolver(
        sparse.csc_matrix((size, size)), written.cost, left, right, linear + cones, settings
    ).solve()
    assert str(answer.status) == "Solved"
    return answer.obj_val, dict(zip(written.names, answer.x, strict=True))


@pytest.mark.parametrize(("n", "k", "p", "change"), CASES)
def test_what_was_written_has_our_optimum(n, k, p, change, tmp_path):
    program = program_of(n, k, p, change)
    objective, point = solve_read_back(read_back(program, tmp_path))
    ours = solve(program, "structured")
    assert objective == pytest.approx(program.objective(ours.step), rel=1e-6, abs=1e-6)
    if change != "flat":  # there many steps have almost the same objective
        step = [point[f"step[{j}]"] for j in range(program.gradient.size)]
        np.testing.assert_allclose(step, ours.step, atol=1e-3)  # root of the objective's accuracy


def test_solving_without_a_licence_is_our_error():
    if mosek_solver.licence_answers():
        pytest.skip("a MOSEK licence answers")
    with pytest.raises(SolverError, match="MOSEKLM_LICENSE_FILE"):
        mosek_solver.solve(program_of(*CASES[0]))


@pytest.mark.parametrize(("n", "k", "p", "change"), CASES)
def test_mosek_itself_meets_the_kkt_conditions(n, k, p, change):
    if not mosek_solver.licence_answers():
        pytest.skip("no MOSEK licence answers")
    program = program_of(n, k, p, change)
    assert residual(program, *mosek_solver.solve(program)) <= KKT_TOLERANCE
