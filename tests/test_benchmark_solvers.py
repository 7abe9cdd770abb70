"""The comparison of solvers: every method on a convex problem with a known minimum, and the parts around them."""

import csv
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from cobla_tf.experiments.benchmarks import solver_methods, solver_outcomes, solver_problems, solvers
from networks import images_and_labels, small_cnn

from cobla_tf.baselines.pos_cvx import select as pos_cvx
from cobla_tf.budgets import resolve_limits
from cobla_tf.errors import BudgetError, DataError
from cobla_tf.examples import Sample
from cobla_tf.losses import resolve_loss
from cobla_tf.objective import Objective
from cobla_tf.qp import QuadraticForm, QuadraticProgram, solve
from cobla_tf.sites import find_sites
from cobla_tf.sqp.constraints import Constraints
from cobla_tf.surgery import mask_model


def quadratic(n=12, seed=0):
    """A strictly convex quadratic whose minimum lies on a row and on bounds, and its least value."""
    rng = np.random.default_rng(seed)
    curvature, centre = rng.uniform(0.5, 2, n), rng.uniform(-0.5, 1.5, n)
    rows = rng.uniform(0, 1, (2, n)) / n
    start = (np.arange(n) % 3 == 0).astype(float)
    constraints = Constraints(rows, rows @ start + 0.01, np.zeros(n), np.ones(n))
    form = QuadraticForm(curvature, np.zeros((n, 0)), np.zeros(0))

    def value(x):
        return float(curvature @ (x - centre) ** 2) / 2

    def gradient(x):
        return value(x), curvature * (x - centre)

    sides = (rows, constraints.limits, constraints.lower, constraints.upper)
    best = solve(QuadraticProgram(form, -curvature * centre, *sides), "clarabel")
    assert best.row_multipliers.max() > 0.01
    problem = solver_problems.Problem(0.3, start, constraints, value, gradient, value, value, lambda x: curvature, 0.1)
    return problem, value(best.step)


def feasible_points(constraints, count, rng):
    points = rng.uniform(0, 1, (count, constraints.lower.size))
    scale = np.min(constraints.limits / (points @ constraints.rows.T), axis=1)
    return points * np.minimum(scale, 1)[:, None]


OPTIMISERS = [name for name in solver_methods.METHODS if name != solver_methods.START]
TOLERANCES = {solver_methods.OURS: 1e-4, "Frank-Wolfe": 1e-3}  # ours stops by its own tolerance, Frank-Wolfe is slow


@pytest.mark.parametrize("name", OPTIMISERS)
def test_every_method_finds_the_minimum_within_its_gradients(name):
    problem, best = quadratic()
    outcome = solver_outcomes.attempt(problem, name, solver_methods.METHODS[name], 150)
    assert outcome.spent <= 150
    assert outcome.sample_loss == pytest.approx(best, abs=TOLERANCES.get(name, 1e-6))
    assert outcome.curve[0].spent <= 1
    assert outcome.curve[0].sample_loss == pytest.approx(problem.value(problem.start))


@pytest.mark.parametrize("name", OPTIMISERS)
def test_no_method_spends_more_than_it_has(name):
    problem, _ = quadratic()
    meter = solver_problems.Meter(problem, 3)
    with pytest.raises(solver_problems.BudgetSpentError):
        solver_methods.METHODS[name](problem, meter)
    assert 2 < meter.spent <= 3 + 1e-9
    np.testing.assert_array_equal(meter.visits[0].x, problem.start)


def test_a_loss_costs_a_third_unless_its_gradient_follows():
    problem, _ = quadratic()
    meter = solver_problems.Meter(problem, 2.5)
    x = problem.start.copy()
    meter.value(x)
    assert meter.spent == pytest.approx(solver_problems.LOSS_PRICE)
    meter.gradient(x)
    assert meter.spent == pytest.approx(1)
    meter.gradient(x)
    assert meter.spent == pytest.approx(2)
    x[:] = -7  # what was recorded is a copy
    assert (meter.visits[0].x == problem.start).all()
    meter.value(x)
    with pytest.raises(solver_problems.BudgetSpentError):
        meter.value(problem.start)


def test_projection_is_the_nearest_feasible_point():
    problem, _ = quadratic()
    rng = np.random.default_rng(1)
    others = feasible_points(problem.constraints, 200, rng)
    for size in (0.1, 1.0, 1e3):
        z = size * rng.normal(size=problem.start.size)
        nearest = solver_methods.project(problem.constraints, z)
        assert not problem.constraints.violated(nearest)
        # for a convex set, (z - p)^T (y - p) <= 0 at every feasible y if and only if p is the projection
        assert ((others - nearest) @ (z - nearest)).max() <= 1e-5 * max(size, 1)
    np.testing.assert_allclose(solver_methods.project(problem.constraints, others[0]), others[0], atol=1e-7)


def test_vertex_minimises_the_linear_model():
    problem, _ = quadratic()
    rng = np.random.default_rng(2)
    others = feasible_points(problem.constraints, 200, rng)
    for size in (1e-6, 1.0):
        gradient = size * rng.normal(size=problem.start.size)
        found = solver_methods.vertex(problem.constraints, gradient)
        assert not problem.constraints.violated(found)
        assert gradient @ found <= (others @ gradient).min()


def test_the_judge_projects_and_keeps_the_running_best():
    problem, _ = quadratic()
    outside = np.ones_like(problem.start)
    points = [problem.start, outside, np.full_like(outside, np.nan), 0.5 * problem.start]
    visits = [solver_problems.Visit(i, x, problem.value(x)) for i, x in enumerate(points)]
    curve = solver_outcomes.judge(problem, visits)
    losses = [point.sample_loss for point in curve]
    assert losses == sorted(losses, reverse=True)
    projected = problem.value(solver_methods.project(problem.constraints, outside))
    assert projected < losses[0]
    assert curve[1] == solver_outcomes.Point(1, projected, projected, projected)


def test_the_answer_is_the_judges_choice_and_not_the_samples():
    problem, _ = quadratic()
    start = problem.start
    overfitted = replace(problem, judge=lambda x: float(np.abs(x - start).sum()))
    visits = [solver_problems.Visit(i, x, -i) for i, x in enumerate([0.9 * start, start, 0.5 * start])]
    curve = solver_outcomes.judge(overfitted, visits)
    assert [point.spent for point in curve] == [0, 1]
    assert curve[-1].held_out_loss == problem.value(start)


def test_a_failure_keeps_what_was_found_and_is_named():
    problem, _ = quadratic()

    def breaks(problem, meter):
        meter.gradient(problem.start)
        raise ZeroDivisionError("no step")

    outcome = solver_outcomes.attempt(problem, "broken", breaks, 5)
    assert outcome.ended == "ZeroDivisionError: no step"
    assert outcome.sample_loss == pytest.approx(problem.value(problem.start))


def test_slsqp_is_left_out_aloud_where_it_does_not_fit(monkeypatch):
    monkeypatch.setattr(solver_methods, "SLSQP_LARGEST", 5)
    problem, _ = quadratic()
    outcomes = solver_outcomes.compare(problem, 3, 3)
    left_out = next(outcome for outcome in outcomes if outcome.method == "SLSQP")
    assert "n = 12 > 5" in left_out.ended
    assert not left_out.curve
    assert "left out" in solver_outcomes.table(outcomes)


@pytest.mark.parametrize(("rival", "met"), [(0.5, True), (0.4, False), (0.3, False)])
def test_the_verdict_says_who_is_ahead(rival, met):
    def outcome(name, loss):
        return solver_outcomes.Outcome(
            0.2, name, 3, 10, 10, 0.0, "by itself", (solver_outcomes.Point(1.0, 1.0, 1.0, loss),)
        )

    text, answer = solver_outcomes.verdict([outcome(solver_methods.OURS, 0.4), outcome("Frank-Wolfe", rival)])
    assert answer == met
    assert ("is beaten by Frank-Wolfe" in text) != met


@pytest.fixture(scope="module")
def network():
    model = small_cnn()
    sample = Sample(*images_and_labels())
    sites = find_sites(model, "spatial")
    return Objective(mask_model(model, sites), resolve_loss(None, model, sample), 40, sample), sites, sample


def test_the_problem_is_the_networks_from_pos_cvx(network):
    objective, sites, sample = network
    problem = solver_problems.mask_problem(
        objective, sites, (sample, sample, sample.draw(10, np.random.default_rng(0))), 0.6
    )
    limits = resolve_limits(sites.costs, {"macs": 0.6, "params": 0.6})
    start = pos_cvx(sites.sigmas, sites.costs, limits)
    masks = sites.layout.leading(start.ranks)
    assert start.whole.any()
    assert problem.start.size == int(sites.costs.full_ranks[~start.whole].sum())
    assert problem.value(problem.start) == pytest.approx(objective.value(masks, sample))
    assert problem.held_out(problem.start) != problem.value(problem.start)
    left = (problem.constraints.limits - problem.constraints.rows @ problem.start) * sites.costs.totals()
    np.testing.assert_allclose(left, limits - sites.costs.used(start), atol=1e-6 * limits.max())
    curvature = problem.curvature(problem.start)
    assert curvature.shape == problem.start.shape
    assert (curvature >= 0).all()
    assert curvature.any()
    assert problem.curvature_price == 1  # the sample is smaller than what a curvature takes
    loss, gradient = problem.gradient(problem.start)
    shift = 1e-2 * np.eye(problem.start.size)[3]
    slope = (problem.value(problem.start + shift) - problem.value(problem.start - shift)) / 2e-2
    assert loss == pytest.approx(problem.value(problem.start), rel=1e-5)
    assert gradient[3] == pytest.approx(slope, abs=1e-3 * np.abs(gradient).max() + 1e-4)  # float32, central differences


def test_budgets_and_samples_that_leave_nothing_to_compare(network):
    objective, sites, sample = network
    with pytest.raises(BudgetError, match="whole"):
        solver_problems.mask_problem(objective, sites, [sample] * 3, 1.0)
    with pytest.raises(DataError, match=r"expected 60 training images \(20 \+ 10 \+ 30: gradients"):
        solver_problems.draw_apart(sample, (20, 10, 30), np.random.default_rng(0))
    first, second = solver_problems.draw_apart(sample, (15, 25), np.random.default_rng(0))
    assert (first.size, second.size) == (15, 25)
    both = np.concatenate([first.images, second.images]).reshape(40, -1)
    assert len(np.unique(both, axis=0)) == 40


def test_smoke_run_writes_table_curves_and_picture(tmp_path, capsys):
    settings = solver_problems.Settings(**solvers.SMOKE)
    solvers.run(settings, str(tmp_path / "curves"))
    printed = capsys.readouterr().out
    written = json.loads((tmp_path / "curves.json").read_text(encoding="utf-8"))
    rows = list(csv.DictReader((tmp_path / "curves.csv").read_text(encoding="utf-8").splitlines()))
    for budget in settings.budgets:
        outcomes = [o for o in written["outcomes"] if o["budget"] == budget]
        assert [o["method"] for o in outcomes] == list(solver_methods.METHODS)
        starts = {(o["curve"][0]["sample_loss"], o["curve"][0]["held_out_loss"]) for o in outcomes}
        assert len(starts) == 1  # one start, one sample
        for outcome in outcomes:
            assert outcome["method"] in printed
            mine = outcome["method"] == solver_methods.OURS
            assert outcome["allowed"] == (settings.ours if mine else settings.theirs)
            assert outcome["spent"] <= outcome["allowed"] + 1e-9
            curve = [
                float(r["held_out_loss"])
                for r in rows
                if (r["budget"], r["method"]) == (str(budget), outcome["method"])
            ]
            assert curve == [point["held_out_loss"] for point in outcome["curve"]]
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_bad_input_ends_with_a_sentence_and_code_2():
    command = [sys.executable, "-m", "cobla_tf.experiments.benchmarks.solvers", "--budgets=half"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--budgets must be a number" in done.stderr
