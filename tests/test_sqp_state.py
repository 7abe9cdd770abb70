import dataclasses

import numpy as np
import pytest
from test_sqp import FailsOn, Quadratic, box

from cobla_tf.errors import SolverError
from cobla_tf.qp import solve as solve_qp
from cobla_tf.sqp.constraints import Constraints
from cobla_tf.sqp.evaluations import Evaluations
from cobla_tf.sqp.interface import SQPSettings
from cobla_tf.sqp.loop import SQP, STIFFEST
from cobla_tf.sqp.subproblem import Subproblem


class Renewed(Quadratic):
    """Keeps what it was told of its sample."""

    def __init__(self, **options):
        super().__init__(**options)
        self.asked = []

    def renew(self, iteration, overfitted):
        self.asked.append(overfitted)
        return False


def structured(program):
    return solve_qp(program, "structured")


def loop_of(oracle, constraints=None, solver=structured, judge=None, curvature=None, **settings):
    steps = []
    constraints = constraints or box()
    loop = SQP(Evaluations(oracle, judge), constraints, SQPSettings(**settings), solver, steps.append, curvature)
    return loop, steps


def test_the_judge_decides_which_iterate_is_best():
    steps_by_loss = loop_of(Renewed())
    steps_by_loss[0].minimise(np.zeros(20))
    middle = steps_by_loss[1][2].x
    loop, steps = loop_of(Renewed(), judge=lambda x: np.array([1.0, 3.0]) + np.abs(x - middle).sum())
    result = loop.minimise(np.zeros(20))
    np.testing.assert_array_equal(result.x, middle)
    assert result.loss == 2
    assert [step.judged for step in steps][2] == 2
    assert len(steps) > 3
    assert result.values == steps[-1].values
    assert result.values >= len(steps) + 1


class Noisy(Quadratic):
    """Falls by no step that is longer than a thousandth of the first one tried."""

    def __init__(self):
        super().__init__()
        self.first = None

    def value(self, x):
        if self.first is None and x.any():
            self.first = np.linalg.norm(x)
        return super().value(x) + 10 * bool(self.first and np.linalg.norm(x) > 1e-3 * self.first)


def test_a_very_short_step_tells_little_of_the_curvature():
    loop, steps = loop_of(Noisy(), iterations=1)
    loop.begin(np.zeros(20))
    before = loop.bfgs.diagonal.copy()
    loop.run()
    assert 0 < steps[0].step < 1 / STIFFEST
    np.testing.assert_allclose(loop.bfgs.diagonal, STIFFEST * before)


def test_an_iterate_that_breaks_a_row_is_not_judged():
    judged = []
    loop, steps = loop_of(Renewed(), judge=lambda x: judged.append(x) or np.zeros(3), iterations=4)
    loop.minimise(np.ones(20))
    assert len(judged) == len(steps)
    for x in judged:
        assert not box().violated(x)


@pytest.mark.parametrize("judge", [None, lambda x: Quadratic().value(x) + np.array([-1.0, 1.0])])
def test_the_loop_stops_at_the_loss_asked_for(judge):
    first = loop_of(Quadratic())[0].minimise(np.zeros(20))
    losses = [Quadratic().value(np.zeros(20)), first.loss]
    target = losses[1] + 0.1 * (losses[0] - losses[1])
    loop, steps = loop_of(Quadratic(), judge=judge, target=target)
    result = loop.minimise(np.zeros(20))
    assert first.loss < result.loss <= target
    assert "good enough" in result.status
    assert all(step.loss > target for step in steps[:-1])
    assert not loop.run().gradients > result.gradients


def test_a_loss_asked_for_does_not_count_outside_the_rows():
    loop, steps = loop_of(Quadratic(), target=np.inf)
    result = loop.minimise(np.ones(20))
    assert not box().violated(result.x)
    assert len(steps) == 1


@pytest.mark.parametrize("patience", [2, 4])
def test_patience_ends_where_the_judge_sees_no_gain(patience):
    settings = {"patience": patience, "iterations": 50, "tolerance": 0.0, "first_step": 1e-3}
    loop, steps = loop_of(Renewed(), judge=lambda x: np.zeros(3), **settings)
    result = loop.minimise(np.zeros(20))
    assert result.status == f"converged: no gain beyond the noise in {patience} iterations"
    assert len(steps) == patience


class EverNew(Renewed):
    """Always has another sample, which is the same."""

    def renew(self, iteration, overfitted):
        super().renew(iteration, overfitted)
        return iteration > 1


def test_a_converged_loop_ends_by_the_patience_of_a_judge_that_sees_no_gain():
    oracle = EverNew()
    loop, steps = loop_of(oracle, judge=lambda x: np.full(3, 1.0 - 1e-6 * x.sum()), tolerance=1e-2, iterations=40)
    result = loop.minimise(np.zeros(20))
    assert result.status.startswith("converged: predicted decrease")
    assert loop.at.stale == SQPSettings().patience
    assert result.gradients <= 2 * len(steps) + 2 * SQPSettings().patience


@pytest.mark.parametrize("gain", [1.0, -1.0])
def test_a_sample_is_overfitted_where_the_judge_sees_no_gain(gain):
    oracle = Renewed()
    loop, _ = loop_of(oracle, judge=lambda x: np.full(3, -gain * x.sum()), iterations=4, first_step=1e-3)
    loop.minimise(np.zeros(20))
    assert oracle.asked == [gain < 0] * 3


def test_a_judge_that_sees_progress_lets_it_go_on():
    oracle = Renewed()
    loop, steps = loop_of(oracle, judge=lambda x: np.array([oracle.value(x)]), patience=1, iterations=40)
    result = loop.minimise(np.zeros(20))
    assert "predicted decrease" in result.status
    assert result.loss == pytest.approx(min(step.loss for step in steps))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_judgements_that_are_not_finite_lose(bad):
    loop, steps = loop_of(
        Renewed(), judge=lambda x: np.array([1.0 if 0 < x.max() < 0.2 else bad, 1.0]), first_step=0.01
    )
    result = loop.minimise(np.zeros(20))
    assert any(np.isfinite(step.judged) for step in steps)
    assert 0 < result.x.max() < 0.2


def test_without_a_feasible_iterate_the_status_says_so():
    oracle = Renewed(spoil=lambda x, loss: np.nan if (box().rows @ x).max() < 0.5 else loss)
    result = loop_of(oracle, iterations=1)[0].minimise(np.ones(20))
    assert box().violated(result.x)
    assert "the rows are not met yet" in result.status


def test_a_new_start_forgets_the_trouble_of_the_last_one_but_not_the_curvature():
    oracle = Renewed(spoil=lambda x, loss: loss if loss > -0.05 else np.nan)
    loop, steps = loop_of(oracle, iterations=5)
    assert "not finite" in loop.minimise(np.zeros(20)).status
    oracle.spoil = lambda x, loss: loss
    pairs, spent = loop.bfgs.pairs, loop.evaluations.gradients
    assert pairs > 0
    loop.begin(np.full(20, 0.1))
    assert loop.bfgs.pairs == pairs
    assert loop.evaluations.gradients == spent + 1
    result = loop.run()
    assert "not finite" not in result.status
    assert [step.number for step in steps] == list(range(1, len(steps) + 1))


def begun(oracle=None, **options):
    loop, steps = loop_of(oracle or Renewed(), box(limit=0.4), iterations=3, **options)
    loop.minimise(np.zeros(20))
    return loop, steps


def test_tighten_takes_one_gradient_to_where_tighter_rows_are_met():
    loop, steps = begun()
    before, spent, taken = loop.at.x, loop.evaluations.gradients, len(steps)
    assert box(limit=0.2).violated(before)
    assert loop.tighten(box(limit=0.2), lambda predicted: np.inf)
    assert not box(limit=0.2).violated(loop.at.x)
    assert loop.evaluations.gradients == spent + 1
    assert len(steps) == taken + 1
    assert steps[-1].predicted_decrease < 0
    assert steps[-1].number == taken + 1
    np.testing.assert_array_equal(steps[-1].x, loop.at.x)
    np.testing.assert_array_equal(loop.constraints.limits, 0.2)
    assert not box(limit=0.2).violated(loop.run().x)


def test_tighten_allows_what_it_was_told():
    predictions = []
    loop, _ = begun()
    before = loop.at.loss
    assert not loop.tighten(box(limit=0.2), lambda predicted: predictions.append(predicted) or 0.0)
    assert predictions[0] > 0
    risen = Renewed().value(loop_after(box(limit=0.2)))
    assert begun()[0].tighten(box(limit=0.2), lambda predicted: risen - before + 1e-12)
    assert not begun()[0].tighten(box(limit=0.2), lambda predicted: risen - before - 1e-9)


def loop_after(constraints):
    loop, _ = begun()
    loop.tighten(constraints, lambda predicted: np.inf)
    return loop.at.x


def test_a_refused_tightening_leaves_all_but_the_curvature():
    loop, steps = begun()
    state = {**vars(loop.at), "constraints": loop.constraints}
    pairs, taken = loop.bfgs.pairs, len(steps)
    assert not loop.tighten(box(limit=0.2), lambda predicted: 0.0)
    for name, new in {**vars(loop.at), "constraints": loop.constraints}.items():
        assert state[name] is new
    assert loop.bfgs.pairs == pairs + 1
    assert len(steps) == taken


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_tightening_that_ends_where_nothing_is_finite_teaches_nothing(bad):
    oracle = Renewed()
    loop, _ = begun(oracle)
    oracle.spoil = lambda x, loss: bad
    x, pairs = loop.at.x, loop.bfgs.pairs
    before = loop.constraints
    assert not loop.tighten(box(limit=0.2), lambda predicted: np.inf)
    assert loop.at.x is x
    assert loop.bfgs.pairs == pairs
    assert loop.constraints is before


@pytest.mark.parametrize("error", [SolverError("away"), ZeroDivisionError("away")])
def test_a_back_end_that_fails_while_tightening_costs_the_pairs_and_then_raises(error):
    loop, _ = begun(solver=FailsOn({4, 5}, error))
    before = loop.constraints
    assert loop.bfgs.pairs
    assert not loop.tighten(box(limit=0.2), lambda predicted: np.inf)
    assert not loop.bfgs.pairs
    assert loop.constraints is before
    with pytest.raises(SolverError, match="away"):
        loop.tighten(box(limit=0.2), lambda predicted: np.inf)
    assert loop.constraints is before
    assert loop.tighten(box(limit=0.2), lambda predicted: np.inf)


@pytest.mark.parametrize("judged", [False, True])
def test_what_met_looser_rows_is_no_answer_to_tighter_ones(judged):
    oracle = Renewed()
    loop, _ = begun(oracle, judge=(lambda x: np.full(3, oracle.value(x))) if judged else None)
    loop.move_rows(box(limit=0.2))
    assert loop.at.incumbent is None
    result = loop.run()
    assert not box(limit=0.2).violated(result.x)
    loop.move_rows(box(limit=0.3))
    np.testing.assert_array_equal(loop.at.incumbent.x, loop.at.x)


def test_a_change_of_the_judge_judges_anew():
    loop, _ = begun()
    loop.use_judge(lambda x: np.array([7.0, 9.0]))
    assert loop.at.incumbent.loss == 8
    np.testing.assert_array_equal(loop.at.incumbent.x, loop.at.x)
    loop.use_judge(None)
    assert loop.at.incumbent.loss == loop.at.loss


class Scaled:
    """A quadratic whose variables differ in curvature by orders of magnitude."""

    def __init__(self, seed, n=30):
        rng = np.random.default_rng(seed)
        self.root = np.sqrt(10 ** rng.uniform(-2, 2, n))
        coupling = rng.normal(size=(n, n)) / np.sqrt(n)
        self.H = self.root[:, None] * (np.eye(n) + 0.1 * coupling @ coupling.T) * self.root
        self.c = self.H @ rng.uniform(-0.2, 1.2, n)

    def gradient(self, x):
        return float(0.5 * x @ self.H @ x - self.c @ x), self.H @ x - self.c

    def value(self, x):
        return self.gradient(x)[0]

    def renew(self, iteration, overfitted):
        return False


@pytest.mark.parametrize("seed", range(4))
def test_measured_curvature_solves_a_badly_scaled_problem_in_far_fewer_gradients(seed):
    oracle = Scaled(seed)
    constraints = Constraints(np.full((1, 30), 1 / 30), np.array([0.4]), np.zeros(30), np.ones(30))
    results = [
        loop_of(oracle, constraints, curvature=curvature, iterations=300)[0].minimise(np.full(30, 0.3))
        for curvature in (lambda x: np.diag(oracle.H), None)
    ]
    assert all(result.status.startswith("converged") for result in results)
    assert results[0].loss == pytest.approx(results[1].loss, rel=1e-3)
    assert results[0].gradients <= results[1].gradients / 2


@pytest.mark.parametrize("measured", [np.zeros(20), np.full(20, np.nan), np.where(np.arange(20) == 3, np.inf, 1.0)])
def test_a_curvature_that_cannot_be_used_is_as_good_as_none(measured):
    with_it = loop_of(Renewed(), curvature=lambda x: measured)[0].minimise(np.zeros(20))
    without = loop_of(Renewed())[0].minimise(np.zeros(20))
    np.testing.assert_array_equal(with_it.x, without.x)


def test_the_certificate_of_an_optimum_is_its_multipliers_and_no_residual():
    oracle, constraints = Quadratic(), box()
    loop, _ = loop_of(oracle, constraints, iterations=80, tolerance=1e-12)
    result = loop.minimise(np.zeros(20))
    certificate = loop.certificate()
    np.testing.assert_array_equal(certificate.x, result.x)
    assert certificate.residual < 1e-4
    assert certificate.qp.residual <= 1e-6
    assert 0 <= certificate.predicted_decrease < 1e-8
    for row, price in enumerate(certificate.qp.row_multipliers):
        wider = constraints.limits + 1e-4 * (np.arange(2) == row)
        loop.move_rows(dataclasses.replace(constraints, limits=wider))
        assert result.loss - loop.run().loss == pytest.approx(1e-4 * price, abs=1e-6)


@pytest.mark.parametrize("iterations", [1, 3])
def test_the_certificate_far_from_an_optimum_says_so_and_asks_for_no_loss(iterations):
    oracle = Quadratic()
    loop, _ = loop_of(oracle, iterations=iterations)
    result = loop.minimise(np.zeros(20))
    certificate = loop.certificate()
    assert certificate.residual > 1e-3
    assert certificate.predicted_decrease > 1e-4
    assert certificate.qp.residual <= 1e-6
    assert (loop.evaluations.gradients, loop.evaluations.values) == (result.gradients, result.values)


def test_the_certificate_is_of_the_best_iterate_and_not_of_the_last():
    middle = np.full(20, 0.1)
    loop, steps = loop_of(Quadratic(), judge=lambda x: np.array([1.0, 3.0]) + np.abs(x - middle).sum())
    result = loop.minimise(np.zeros(20))
    assert not np.array_equal(result.x, steps[-1].x)
    certificate = loop.certificate()
    np.testing.assert_array_equal(certificate.x, result.x)
    gradient = Quadratic().gradient(result.x)[1]
    still = Subproblem(result.x, gradient, loop.bfgs, loop.constraints, structured)
    assert certificate.residual == still.certificate().residual


def test_a_sample_on_which_the_loss_is_not_finite_is_an_error():
    oracle = Quadratic()
    loop, _ = loop_of(oracle)
    loop.begin(np.zeros(20))
    oracle.spoil = lambda x, loss: np.nan
    with pytest.raises(SolverError, match="not finite on a new sample"):
        loop.refresh()
