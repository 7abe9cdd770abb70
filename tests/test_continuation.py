from types import SimpleNamespace

import numpy as np
import pytest

from cobla_tf.continuation import FIRST_FACTOR, GROWTH, LEAST_NOTCH, Continuation, budget_between, first_notch
from cobla_tf.qp import solve as solve_qp
from cobla_tf.sqp.constraints import Constraints
from cobla_tf.sqp.evaluations import Evaluations
from cobla_tf.sqp.interface import SQPSettings
from cobla_tf.sqp.loop import SQP

N = 12
ROWS = np.vstack([np.full(N, 1 / N), np.linspace(0.5, 1.5, N) / N])
TARGET = np.array([0.35, 0.4])


def constraints_at(limits):
    return Constraints(ROWS, limits, np.zeros(N), np.ones(N))


class Loss:
    """E from what it is of half a weighted square distance to one; by default the distance itself."""

    def __init__(self, weights=None, shape=lambda x, q: (q, 1.0)):
        self.weights, self.shape = np.ones(N) if weights is None else weights, shape

    def gradient(self, x):
        loss, slope = self.shape(x, 0.5 * self.weights @ (1 - x) ** 2)
        return loss, -slope * self.weights * (1 - x)

    def value(self, x):
        return self.gradient(x)[0]

    def renew(self, iteration, overfitted):
        return False


def loop_of(loss, judged=False, solver=lambda program: solve_qp(program, "structured")):
    steps = []
    judge = (lambda x: np.full(5, loss.value(x))) if judged else None
    loop = SQP(Evaluations(loss, judge), constraints_at(TARGET), SQPSettings(), solver, steps.append)
    loop.begin(np.ones(N))
    return loop, steps


def way_of(loop, constraints_of, used, limits, constant):
    return Continuation(
        loop, lambda level: constraints_of(budget_between(used, limits, level)), first_notch(used, limits), constant
    )


def come_down(loss, constant, judged=False):
    loop, steps = loop_of(loss, judged)
    status = way_of(loop, constraints_at, ROWS @ np.ones(N), TARGET, constant).run()
    assert (loop.evaluations.judge is not None) == judged
    return status, loop.run(), steps


@pytest.mark.parametrize("seed", range(20))
def test_budgets_between_are_geometric_monotone_and_exact_at_both_ends(seed):
    rng = np.random.default_rng(seed)
    used, limits = 10 ** rng.uniform(0, 11, (2, 3))
    levels = np.sort(rng.random(30))
    way = np.array([budget_between(used, limits, level) for level in (0.0, *levels, 1.0)])
    np.testing.assert_array_equal(way[0], np.maximum(used, limits))
    np.testing.assert_array_equal(way[-1], limits)
    assert (np.diff(way, axis=0) <= 1e-12 * way[:-1]).all()
    tight = used > limits
    shares = np.log(way[1:-1] / used)[:, tight] / np.log(limits / used)[tight]
    np.testing.assert_allclose(shares, np.repeat(levels[:, None], tight.sum(), axis=1), atol=1e-9)
    np.testing.assert_array_equal(way[:, ~tight], np.repeat(limits[None, ~tight], len(way), axis=0))


def test_a_resource_that_is_not_used_keeps_its_limit():
    np.testing.assert_array_equal(budget_between(np.array([0.0]), np.array([3.0]), 0.5), [3.0])


CONSTANT = 2.3
IMPORTANT = np.where(np.arange(N) % 4 == 0, 50.0, 0.05)


def trap(x, q):
    """Flat and high far from one, as the loss of a network whose output has become a constant."""
    rest = np.exp(-q / CONSTANT)
    return CONSTANT * (1 - rest), rest


@pytest.mark.parametrize("judged", [False, True])
def test_notches_end_at_the_target_where_one_step_ends_in_the_trap(judged):
    loss = Loss(IMPORTANT, trap)
    one_step, _ = loop_of(loss, judged)
    trapped = one_step.run()
    status, result, steps = come_down(loss, CONSTANT, judged)
    for found in (trapped, result):
        assert not constraints_at(TARGET).violated(found.x)
    assert trapped.loss > 0.9 * CONSTANT
    assert result.loss < 0.1 * CONSTANT
    assert " taken, " in status
    assert "one step" not in status
    assert not constraints_at(TARGET).violated(steps[-1].x)


@pytest.mark.parametrize("judged", [False, True])
@pytest.mark.parametrize("edge", [0.6, 0.999])
def test_a_loss_that_leaps_ends_with_one_step_into_the_budgets(judged, edge):
    """The points before the leap are the best by far, and must not be taken for an answer."""
    leaping = Loss(shape=lambda x, q: (q / 100 + (x.mean() < edge), 0.01))
    status, result, _ = come_down(leaping, 1.0, judged)
    assert status.endswith("the rest in one step")
    assert (int(status.split()[0]) > 0) == (edge == 0.6)
    assert not constraints_at(TARGET).violated(result.x)
    assert result.loss == pytest.approx(leaping.value(result.x))


def test_nothing_is_too_high_where_the_start_is_a_constant_output_already():
    leaping = Loss(shape=lambda x, q: (q / 100 + (x.mean() < 0.9), 0.01))
    status, result, _ = come_down(leaping, -1.0)
    assert status.endswith(" 0 refused")
    assert not constraints_at(TARGET).violated(result.x)


def test_a_gradient_that_is_not_finite_refuses_its_notch():
    def holed(x, q):
        return q, np.nan if abs(x.mean() - FIRST_FACTOR) < 0.005 else 1.0

    status, result, steps = come_down(Loss(shape=holed), 100.0)
    assert status.endswith(", 1 refused")
    assert "not finite at 1 trial points" in result.status
    assert not constraints_at(TARGET).violated(result.x)
    assert FIRST_FACTOR + 0.005 < steps[0].x.mean() < 1


def test_a_start_from_which_no_step_is_acceptable_is_no_reason_to_stop():
    """At one the gradient points the wrong way, so that the line search before the first notch fails."""

    class Wrong(Loss):
        def gradient(self, x):
            loss, gradient = super().gradient(x)
            return (loss, gradient) if x.min() < 1 else (loss, np.ones(N))

    status, result, _ = come_down(Wrong(), 100.0)
    assert not constraints_at(TARGET).violated(result.x)
    assert "taken" in status


class Scripted:
    """A loop that answers as told, and remembers what it was asked."""

    def __init__(self, answers):
        self.answers, self.asked, self.limits, self.runs = answers, [], [], []
        self.evaluations, self.at, self.constraints = SimpleNamespace(judge=None), SimpleNamespace(loss=0.0), None

    def tighten(self, limits, allowed):
        self.limits.append(limits)
        self.asked.append(np.log(limits[0]) / np.log(TARGET[0]))
        answer = self.answers(len(self.asked))
        self.constraints = limits if answer else self.constraints
        return answer

    def move_rows(self, limits):
        self.constraints = limits

    def run(self, iterations):
        self.runs.append(self.constraints[0])

    def use_judge(self, judge):
        self.evaluations.judge = judge


def walk(answers):
    loop = Scripted(answers)
    return loop, way_of(loop, lambda limits: limits, np.ones(1), TARGET[:1], 1.0).run()


def test_refused_notches_are_halved_and_taken_ones_grow():
    loop, status = walk(lambda call: call not in (1, 4))
    first = np.log(FIRST_FACTOR) / np.log(TARGET[0])
    half = first / 2
    tried = [first, half, half * (1 + GROWTH), half * (1 + GROWTH + GROWTH**2), half * (1 + GROWTH + GROWTH**2 / 2)]
    np.testing.assert_allclose(loop.asked[:5], tried)
    assert loop.asked[-1] == 1
    assert status == f"{len(loop.asked) - 2} notches taken, 2 refused"
    assert len(loop.runs) == len(loop.asked) - 2 + 1
    assert loop.runs[0] == 1
    assert (np.diff(loop.runs) < 0).all()
    np.testing.assert_array_equal(loop.constraints, TARGET[:1])


def test_a_way_that_is_refused_throughout_ends_at_the_target():
    loop, status = walk(lambda call: False)
    assert len(loop.asked) == round(np.log2(1 / LEAST_NOTCH))
    assert status == f"0 notches taken, {len(loop.asked)} refused, the rest in one step"
    np.testing.assert_array_equal(loop.constraints, TARGET[:1])


@pytest.mark.parametrize("excess", [1e-5, 0.01, 0.2])
def test_a_short_way_is_one_notch(excess):
    loop = Scripted(lambda call: True)
    used = TARGET[:1] * (1 + excess)
    status = way_of(loop, lambda limits: limits, used, TARGET[:1], 1.0).run()
    assert status == ("1 notches taken, 0 refused" if excess < 0.1 else "2 notches taken, 0 refused")


def test_a_short_way_that_is_refused_is_halved():
    loop = Scripted(lambda call: call > 2)
    way_of(loop, lambda limits: limits, TARGET[:1] * 1.01, TARGET[:1], 1.0).run()
    shares = [1 - np.log(limits[0] / TARGET[0]) / np.log(1.01) for limits in loop.limits]
    np.testing.assert_allclose(shares[:3], [1, 0.5, 0.25], atol=1e-9)
