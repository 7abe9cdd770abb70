import numpy as np
import pytest
from scipy.optimize import minimize

from cobla_tf.errors import SolverError
from cobla_tf.qp import solve as solve_qp
from cobla_tf.sqp.bfgs import CompactBFGS
from cobla_tf.sqp.constraints import Constraints
from cobla_tf.sqp.evaluations import Evaluations
from cobla_tf.sqp.interface import SQPSettings
from cobla_tf.sqp.line_search import LineSearchSettings, search
from cobla_tf.sqp.loop import SQP


def dense(form):
    return np.column_stack([form @ column for column in np.eye(len(form.diagonal))])


def reference_bfgs(diagonal, pairs):
    """Damped BFGS on a dense matrix, from the textbook's update."""
    B = np.diag(diagonal)
    for s, change in pairs:
        model, curvature = s @ B @ s, s @ change
        t = min(1.0, 0.8 * model / (model - curvature)) if curvature < 0.2 * model else 1.0
        y = t * change + (1 - t) * B @ s
        B = B - np.outer(B @ s, B @ s) / model + np.outer(y, y) / (s @ y)
    return B


@pytest.mark.parametrize("noise", [0.0, 0.5, 5.0])
def test_compact_form_equals_the_dense_update(noise):
    rng = np.random.default_rng(0)
    diagonal = rng.uniform(0.5, 2.0, 12)
    pairs = [(s, s * diagonal + noise * rng.normal(size=12)) for s in rng.normal(size=(6, 12))]
    bfgs = CompactBFGS(diagonal, memory=10)
    for s, y in pairs:
        bfgs.update(s, y)
    form = bfgs.form()
    np.testing.assert_allclose(dense(form), reference_bfgs(diagonal, pairs), rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(form.basis.T @ form.basis, np.eye(12), atol=1e-10)
    assert np.linalg.eigvalsh(dense(form)).min() > 0


def test_memory_is_bounded_and_a_zero_step_is_no_pair():
    bfgs = CompactBFGS(np.ones(8), memory=2)
    for s in np.eye(8)[:5]:
        bfgs.update(s, 2 * s)
    assert bfgs.pairs == 2
    bfgs.update(np.zeros(8), np.ones(8))
    assert bfgs.pairs == 2
    np.testing.assert_allclose(dense(bfgs.form()), np.diag([1, 1, 1, 2, 2, 1, 1, 1]), atol=1e-12)


def test_line_search_takes_a_full_step_that_is_good_enough():
    assert search(lambda t: pytest.fail("no trial is due"), 0.9, [1.0], -0.1, LineSearchSettings()) == 1.0


def test_line_search_shortens_to_the_armijo_condition():
    settings = LineSearchSettings(history=1)
    length = search(lambda t: 1 - t + 4 * t**2, 4.0, [1.0], -1.0, settings)
    assert 0 < length < 1
    assert 1 - length + 4 * length**2 <= 1 - settings.decrease * length


def test_line_search_is_non_monotone():
    assert search(lambda t: 9.0, 1.5, [2.0, 1.0], -0.1, LineSearchSettings(history=2)) == 1.0
    assert search(lambda t: 9.0, 1.5, [2.0, 1.0], -0.1, LineSearchSettings(history=1)) == 0.0


def test_line_search_steps_back_from_nan():
    length = search(lambda t: 0.5 if t < 0.2 else np.nan, np.nan, [1.0], -1.0, LineSearchSettings())
    assert 0 < length < 0.2


class Quadratic:
    """A convex loss with a known minimiser, and optional trouble."""

    def __init__(self, n=20, seed=0, spoil=lambda x, loss: loss):
        rng = np.random.default_rng(seed)
        root = rng.normal(size=(n, n)) / np.sqrt(n)
        self.H, self.c, self.spoil = root @ root.T + 0.1 * np.eye(n), rng.normal(size=n), spoil

    def value(self, x):
        return self.spoil(x, float(0.5 * x @ self.H @ x - self.c @ x))

    def gradient(self, x):
        return self.value(x), self.H @ x - self.c

    def renew(self, iteration, overfitted):
        return False


def box(n=20, limit=0.3, seed=1):
    costs = np.random.default_rng(seed).random((2, n))
    costs /= costs.sum(axis=1, keepdims=True)
    return Constraints(costs, np.full(2, limit), np.zeros(n), np.ones(n))


def run(oracle, constraints, start, **settings):
    steps = []
    settings = SQPSettings(**settings)
    loop = SQP(Evaluations(oracle), constraints, settings, lambda p: solve_qp(p, "structured"), steps.append)
    return loop.minimise(start), steps


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("first_step", [0.005, 0.05, 0.5])
def test_sqp_finds_the_constrained_minimum(seed, first_step):
    oracle, constraints = Quadratic(seed=seed), box()
    result, steps = run(oracle, constraints, np.zeros(20), iterations=80, tolerance=1e-9, first_step=first_step)
    reference = minimize(
        oracle.gradient, np.zeros(20), jac=True, method="SLSQP", bounds=[(0, 1)] * 20, options={"ftol": 1e-12},
        constraints={"type": "ineq", "fun": lambda x: constraints.limits - constraints.rows @ x,
                     "jac": lambda x: -constraints.rows},
    )  # fmt: skip
    assert result.loss == pytest.approx(reference.fun, abs=1e-5)
    assert result.status.startswith("converged")
    for step in steps:
        assert not constraints.violated(step.x)
        assert (step.x >= 0).all()
        assert (step.x <= 1).all()
    assert steps[-1].gradients == result.gradients


def test_an_infeasible_start_is_feasible_after_the_first_step():
    constraints = box()
    result, steps = run(Quadratic(), constraints, np.ones(20), iterations=60, tolerance=1e-9)
    assert not constraints.violated(steps[0].x)
    assert result.loss == pytest.approx(run(Quadratic(), constraints, np.zeros(20), iterations=60)[0].loss, abs=1e-3)


def test_nan_later_keeps_the_best_masks():
    oracle = Quadratic(spoil=lambda x, loss: loss if loss > -0.05 else np.nan)
    constraints = box()
    result, _ = run(oracle, constraints, np.zeros(20), iterations=30)
    assert np.isfinite(result.loss)
    assert result.loss < 0
    assert not constraints.violated(result.x)
    assert "not finite at" in result.status


def test_nan_at_the_start_raises():
    with pytest.raises(SolverError, match="starting masks"):
        run(Quadratic(spoil=lambda x, loss: np.nan), box(), np.zeros(20))


def test_nothing_to_gain_converges_at_once():
    oracle = Quadratic()
    oracle.c = -np.ones(20)
    result, steps = run(oracle, box(), np.zeros(20))
    assert not steps
    np.testing.assert_array_equal(result.x, 0)
    assert result.status.startswith("converged")


def test_the_most_iterations_are_kept_to():
    result, steps = run(Quadratic(), box(), np.zeros(20), iterations=2, first_step=0.01)
    assert len(steps) == 2
    assert "most iterations" in result.status


def test_a_start_outside_its_bounds_is_clipped_before_the_first_gradient():
    seen = []
    oracle = Quadratic(spoil=lambda x, loss: seen.append(x.copy()) or loss)
    run(oracle, box(limit=1.0), np.full(20, 3.0), iterations=3)
    np.testing.assert_array_equal(seen[0], 1.0)


@pytest.mark.parametrize("right", [0.0, 0.3])
def test_an_equation_given_as_two_rows_is_no_obstacle(right):
    oracle, bounds = Quadratic(), box()
    row = bounds.rows[:1] - (right == 0) * bounds.rows[1:]
    constraints = Constraints(np.vstack([row, -row]), np.array([right, -right]), bounds.lower, bounds.upper)
    result, _ = run(oracle, constraints, np.full(20, 0.5), iterations=60, tolerance=1e-9)
    reference = minimize(
        oracle.gradient, np.full(20, right), jac=True, method="SLSQP", bounds=[(0, 1)] * 20, options={"ftol": 1e-12},
        constraints={"type": "eq", "fun": lambda x: row @ x - right, "jac": lambda x: row},
    )  # fmt: skip
    assert result.status.startswith("converged")
    assert result.loss == pytest.approx(reference.fun, abs=1e-6)
    assert row @ result.x == pytest.approx(right, abs=1e-8)


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_the_unit_of_the_loss_decides_nothing(factor):
    class Scaled(Quadratic):
        def value(self, x):
            return factor * super().value(x)

        def gradient(self, x):
            return self.value(x), factor * (self.H @ x - self.c)

    first, second = (run(oracle, box(), np.zeros(20), iterations=60)[0] for oracle in (Quadratic(), Scaled()))
    assert first.gradients == second.gradients
    np.testing.assert_allclose(first.x, second.x, atol=1e-6)


def test_the_unit_of_a_small_box_decides_nothing():
    unit = 1e-3

    class Shrunk(Quadratic):
        def value(self, x):
            return super().value(x / unit)

        def gradient(self, x):
            return self.value(x), (self.H @ (x / unit) - self.c) / unit

    plain = box()
    small = Constraints(plain.rows / unit, plain.limits, plain.lower, plain.upper * unit)
    first = run(Quadratic(), plain, np.zeros(20), iterations=60)[0]
    second = run(Shrunk(), small, np.zeros(20), iterations=60)[0]
    assert first.gradients == second.gradients
    np.testing.assert_allclose(first.x, second.x / unit, atol=1e-6)


def test_a_loss_that_falls_to_zero_converges():
    oracle = Quadratic()
    oracle.c = oracle.H @ np.full(20, 0.1)
    least = 0.5 * oracle.c @ np.full(20, 0.1)
    oracle.spoil = lambda x, loss: loss + least
    result, _ = run(oracle, box(), np.ones(20), iterations=200)
    assert result.status.startswith("converged")
    assert result.loss <= 1e-6 * oracle.value(np.ones(20))


@pytest.mark.parametrize("start", [0.0, 0.5, 1.0])
def test_rows_that_cannot_be_met_are_named_with_their_own_smallest_limit(start):
    unlimited, evaluated = box(), []
    constraints = Constraints(
        np.vstack([unlimited.rows, -unlimited.rows[:1]]), np.array([0.3, 0.3, -0.4]), unlimited.lower, unlimited.upper
    )
    with pytest.raises(SolverError, match=r"Row [02] .* cannot be met") as caught:
        run(Quadratic(spoil=lambda x, loss: evaluated.append(x) or loss), constraints, np.full(20, start))
    stated = float(str(caught.value).split("expected at least ")[1].split(",")[0])
    assert stated == pytest.approx(0.4 if "Row 0" in str(caught.value) else -0.3, abs=1e-6)
    assert not evaluated


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_shortens_the_step(bad):
    """The loss itself stays finite, so only the gradient can tell."""

    class Holed(Quadratic):
        def gradient(self, x):
            loss, gradient = super().gradient(x)
            return loss, np.where(x.max() > 0.2, bad, gradient)

    constraints = box()
    result, steps = run(Holed(), constraints, np.zeros(20), iterations=30, first_step=1.0)
    assert steps[0].step < 1
    assert result.loss < 0
    assert result.x.max() <= 0.2
    assert "not finite at" in result.status


@pytest.mark.parametrize(("value", "stiffer"), [(np.nan, False), (100.0, True)])
def test_only_a_finite_loss_that_is_too_high_tells_of_curvature(monkeypatch, value, stiffer):
    factors = []
    monkeypatch.setattr(CompactBFGS, "stiffen", lambda self, factor: factors.append(factor))
    wall = Quadratic(spoil=lambda x, loss: value if x.max() > 0.2 else loss)
    _, steps = run(wall, box(), np.zeros(20), iterations=3, first_step=1.0)
    assert steps[0].step < 1
    assert bool(factors) is stiffer


def test_the_way_into_the_budget_is_shortened_where_the_loss_is_not_finite():
    constraints = box()
    ends = Quadratic(spoil=lambda x, loss: np.nan if 0.2 < x.mean() < 0.9 else loss)
    with pytest.raises(SolverError, match="no finite loss"):
        run(ends, constraints, np.ones(20), iterations=60)
    beyond = Quadratic(spoil=lambda x, loss: np.nan if (constraints.rows @ x).max() < 0.29 else loss)
    result, _ = run(beyond, constraints, np.ones(20), iterations=60)
    assert not constraints.violated(result.x)


class FailsOn:
    """A QP back end that raises at some calls."""

    def __init__(self, calls, error):
        self.calls, self.error, self.count = calls, error, 0

    def __call__(self, program):
        self.count += 1
        if self.count in self.calls:
            raise self.error
        return solve_qp(program, "structured")


@pytest.mark.parametrize("error", [SolverError("away"), ZeroDivisionError("away"), MemoryError("away")])
def test_a_qp_back_end_that_raises_costs_the_pairs_then_the_rest_but_never_the_masks(error):
    def minimise(calls, start):
        settings = SQPSettings(iterations=60)
        loop = SQP(Evaluations(Quadratic()), box(), settings, FailsOn(calls, error), lambda step: None)
        return loop.minimise(start)

    with pytest.raises(SolverError, match="away"):
        minimise({1}, np.ones(20))
    assert "converged" in minimise({3}, np.zeros(20)).status
    stopped = minimise(set(range(4, 99)), np.zeros(20))
    assert "best masks" in stopped.status
    assert "away" in stopped.status
    assert stopped.loss < 0


def test_the_gradient_of_a_fixed_variable_scales_nothing():
    class Pulled(Quadratic):
        def gradient(self, x):
            loss, gradient = super().gradient(x)
            return loss, gradient + 1e10 * (np.arange(20) == 3)

    plain = box()
    fixed = Constraints(plain.rows, plain.limits, plain.lower, np.where(np.arange(20) == 3, 0.0, plain.upper))
    first, second = (run(oracle, fixed, np.zeros(20), iterations=60)[0] for oracle in (Quadratic(), Pulled()))
    assert first.gradients == second.gradients
    np.testing.assert_allclose(first.x, second.x, atol=1e-9)


def test_a_row_that_holds_x_where_it_stands_is_met_whatever_rounding_says():
    aim = np.array([1.0, 1.0, 1.0, 5.0])

    class Distance(Quadratic):
        def value(self, x):
            return float(((x - aim) ** 2).sum())

        def gradient(self, x):
            return self.value(x), 2 * (x - aim)

    rows, lower = np.array([[1.0, 1.0, 1.0, 0.0]]), np.array([0.1, 0.1, 0.1, -10.0])
    constraints = Constraints(rows, np.array([0.3]), lower, np.array([1.0, 1.0, 1.0, 10.0]))
    for start in (lower, np.append(lower[:3], 0.0), np.ones(4)):
        result, _ = run(Distance(), constraints, start, iterations=30)
        np.testing.assert_allclose(result.x, [0.1, 0.1, 0.1, 5.0], atol=1e-4)
