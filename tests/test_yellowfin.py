import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.optimize import brentq, minimize_scalar

from cobla_tf.errors import ConfigError
from cobla_tf.yellowfin import YellowFin, single_step


def solve_single_step(variance, distance, h_max, h_min):
    """The stationary point of x^2 D^2 + (1 - x)^4 C / h_min^2 for x = sqrt(mu) by bisection, and the bound on mu."""

    def slope(x):
        return x * distance**2 - 2 * (1 - x) ** 3 * variance / h_min**2

    root = brentq(slope, 0, 1, xtol=1e-15)
    ratio = np.sqrt(h_max / h_min)
    mu = max(root**2, ((ratio - 1) / (ratio + 1)) ** 2)
    return mu, (1 - np.sqrt(mu)) ** 2 / h_min


def random_problem(seed):
    rng = np.random.default_rng(seed)
    variance, distance, h_min = 10 ** rng.uniform(-2, 2, 3)
    return variance, distance, h_min * 10 ** rng.uniform(0, 3), h_min


@pytest.mark.parametrize("seed", range(20))
def test_single_step_solves_the_cubic(seed):
    problem = random_problem(seed)
    momentum, rate = single_step(*np.float32(problem))
    mu, alpha = solve_single_step(*problem)
    assert float(momentum) == pytest.approx(mu, rel=1e-4, abs=1e-6)
    assert float(rate) == pytest.approx(alpha, rel=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_single_step_agrees_with_the_roots_of_the_polynomial(seed):
    variance, distance, _, h_min = random_problem(seed)
    cubic = [1, -3, 3 + (distance * h_min) ** 2 / (2 * variance), -1]
    (root,) = [x.real for x in np.roots(cubic) if abs(x.imag) < 1e-6 and 0 < x.real < 1]
    momentum, _ = single_step(*np.float32([variance, distance, h_min, h_min]))  # h_max = h_min: the bound is 0
    assert float(momentum) == pytest.approx(root**2, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("problem", [(1e-12, 1.0, 1.0, 1.0), (1e12, 1e-6, 1e3, 1.0), (1.0, 1e-15, 1.0, 1e-15)])
def test_single_step_stays_in_range_at_the_extremes(problem):
    momentum, rate = (float(value) for value in single_step(*np.float32(problem)))
    assert 0 <= momentum <= 1
    assert np.isfinite(rate)
    assert rate > 0


def test_defaults_are_the_papers():
    assert (YellowFin().beta, YellowFin().window, float(YellowFin().learning_rate)) == (0.999, 20, 1.0)


class PaperYellowFin:
    """Algorithms 1 to 4 in float64, with the averages written as they are published: biased, then corrected."""

    def __init__(self, start, beta, window):
        self.x, self.velocity, self.beta, self.window = start, 0 * start, beta, window
        self.curvatures, self.sums, self.t = [], {}, 0

    def mean(self, name, value):
        self.sums[name] = self.beta * self.sums.get(name, 0) + (1 - self.beta) * value
        return self.sums[name] / (1 - self.beta**self.t)

    def step(self, gradient):
        seen = gradient
        if self.t:
            seen = gradient * min(1, np.sqrt(100 * self.h_max / (gradient @ gradient)))
        self.t += 1
        self.curvatures = [*self.curvatures, seen @ seen][-self.window :]
        self.h_max = np.exp(self.mean("h_max", np.log(max(self.curvatures))))
        h_min = np.exp(self.mean("h_min", np.log(min(self.curvatures))))
        square = self.mean("square", seen @ seen)
        mean = self.mean("gradient", seen)
        distance = self.mean("distance", self.mean("norm", np.sqrt(seen @ seen)) / square)
        variance = max(square - mean @ mean, 1e-6 * square)
        self.mu, alpha = solve_single_step(variance, distance, self.h_max, h_min)
        self.alpha = alpha * min(1, self.t / (10 * self.window))
        taken = gradient * min(1, np.sqrt(self.h_max / (gradient @ gradient)))
        self.velocity = self.mu * self.velocity + taken
        self.x = self.x - self.alpha * self.velocity


def test_every_step_is_the_papers():
    rng = np.random.default_rng(0)
    start = rng.normal(size=7)
    paper = PaperYellowFin(start, beta=0.99, window=5)
    variables = [keras.Variable(start[:4].astype("float32")), keras.Variable(start[4:].astype("float32"))]
    optimizer = YellowFin(beta=0.99, window=5)
    for step in range(80):  # past the slow start of 50 steps, with one gradient far above the envelope
        gradient = (1 + rng.normal(size=7)) * (300 if step == 30 else 1)
        optimizer.apply([tf.constant(part, "float32") for part in (gradient[:4], gradient[4:])], variables)
        paper.step(gradient)
        if step:  # the first gradient has no variance, up to rounding
            assert float(optimizer.tuned_momentum) == pytest.approx(paper.mu, rel=1e-3, abs=1e-5)
            assert float(optimizer.tuned_rate) == pytest.approx(paper.alpha, rel=2e-3)
    np.testing.assert_allclose(np.concatenate([v.numpy() for v in variables]), paper.x, rtol=1e-3, atol=1e-3)


def run_quadratic(optimizer, start, noise, steps, seed=0):
    """Minimise |x|^2 / 2 from gradients x + noise * N(0, I); the mean of |x|^2 over the last fifth."""
    x = keras.Variable(start)
    optimizer.build([x])

    @tf.function
    def run():
        total = 0.0
        for step in tf.range(steps):
            draw = tf.random.stateless_normal(tf.shape(start), [seed, step])
            optimizer.apply([x.value + noise * draw], [x])
            total += tf.where(step >= steps * 4 // 5, tf.reduce_sum(x.value**2), 0.0)
        return total / tf.cast(steps // 5, tf.float32)

    return float(run())


def test_noisy_quadratic_is_measured_to_its_optimal_rate_and_momentum():
    """The factor 0 keeps x in place, so that variance, distance and curvature range are known."""
    size, noise, point = 50, 0.3, np.full(50, 0.2, "float32")
    optimizer = YellowFin(learning_rate=0.0, beta=0.998)
    run_quadratic(optimizer, point, noise, steps=5000)
    draws = point + noise * np.random.default_rng(1).normal(size=(2000, 20, size))
    squares = (draws**2).sum(axis=-1)
    h_max, h_min = (np.exp(np.log(extreme(squares, axis=1)).mean()) for extreme in (np.max, np.min))
    distance = np.sqrt(squares).mean() / squares.mean()

    def after_one_step(root):
        return root**2 * distance**2 + (1 - root) ** 4 * size * noise**2 / h_min**2

    least = (np.sqrt(h_max / h_min) - 1) / (np.sqrt(h_max / h_min) + 1)
    best = minimize_scalar(after_one_step, bounds=(least, 1), method="bounded", options={"xatol": 1e-9}).x
    assert float(optimizer.tuned_momentum) == pytest.approx(best**2, rel=0.05)
    assert float(optimizer.tuned_rate) == pytest.approx((1 - best) ** 2 / h_min, rel=0.05)


def test_noisy_quadratic_is_minimised_untuned():
    """The optimum is 0; constant rates end at noise^2 * size * rate / (2 - rate), or have not arrived yet."""
    start, noise = np.full(10, 3.0, "float32"), 0.3
    grid = [run_quadratic(keras.optimizers.SGD(rate), start, noise, steps=3000) for rate in (1e-4, 1e-2, 1.0, 3.0)]
    tuned = run_quadratic(YellowFin(), start, noise, steps=3000)
    assert not grid[-1] < 1e6
    assert tuned < 0.1 * grid[0]
    assert tuned < noise**2 * 10


def test_learning_rate_is_a_factor_and_a_schedule_multiplies():
    moved = []
    halved = keras.optimizers.schedules.PiecewiseConstantDecay([0], [1.0, 0.5])
    for rate in (1.0, 0.5, halved):
        x = keras.Variable([1.0, 2.0])
        optimizer = YellowFin(learning_rate=rate)
        for gradient in ([1.0, 0.5], [0.5, 1.0]):
            optimizer.apply([tf.constant(gradient)], [x])
        moved.append(x.numpy() - [1.0, 2.0])
    full, half, falling = moved
    np.testing.assert_allclose(half, full / 2, rtol=1e-4)
    assert np.all(np.abs(half) < np.abs(falling))
    assert np.all(np.abs(falling) < np.abs(full))


def test_a_rate_of_zero_ends_all_movement():
    x, ended = keras.Variable([1.0, 2.0]), keras.optimizers.schedules.PiecewiseConstantDecay([1], [1.0, 0.0])
    optimizer = YellowFin(learning_rate=ended)
    for gradient in ([1.0, 0.5], [0.5, 1.0]):
        optimizer.apply([tf.constant(gradient)], [x])
    before = x.numpy()
    assert not np.array_equal(before, [1.0, 2.0])
    optimizer.apply([tf.constant([1.0, 1.0])], [x])
    assert float(optimizer.tuned_momentum) > 0
    np.testing.assert_array_equal(x, before)


def test_weight_decay_takes_the_rate_really_taken():
    plain, decayed = keras.Variable([1.0, 2.0]), keras.Variable([1.0, 2.0])
    without, optimizer = YellowFin(), YellowFin(weight_decay=0.1)
    for each, x in ((without, plain), (optimizer, decayed)):
        each.apply([tf.constant([1.0, 0.5])], [x])
    share = 0.1 * float(optimizer.tuned_rate)
    np.testing.assert_allclose(plain.numpy() - decayed.numpy(), share * np.array([1.0, 2.0]), rtol=1e-3)


def test_gradients_of_zero_leave_everything_finite():
    x = keras.Variable([1.0, 2.0])
    optimizer = YellowFin()
    for gradient in ([0.0, 0.0], [1.0, 0.5], [0.0, 0.0]):
        optimizer.apply([tf.constant(gradient)], [x])
    assert all(np.isfinite(value).all() for value in (x, *optimizer.variables))


def test_a_keras_that_never_shows_the_whole_gradient_is_an_error():
    class Passed(YellowFin):
        def _all_reduce_sum_gradients(self, grads_and_vars):  # as if Keras called something else
            return grads_and_vars

    weight = keras.Variable([1.0, 2.0])
    with pytest.raises(ConfigError, match=f"which Keras {keras.__version__} does not call: use Keras 3.15"):
        Passed().apply([tf.constant([1.0, 0.5])], [weight])
    np.testing.assert_array_equal(weight, [1.0, 2.0])


@pytest.mark.parametrize("options", [{"beta": 1.0}, {"beta": -0.1}, {"beta": "0.9"}, {"window": 0}, {"window": 2.5}])
def test_bad_settings_are_refused(options):
    with pytest.raises(ConfigError, match=f"{next(iter(options))}.* got"):
        YellowFin(**options)


@pytest.mark.parametrize("zeros", [1, 3])
def test_gradients_of_zero_change_nothing(zeros):
    start, gradients = np.ones(3, "float32"), np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
    ends = []
    for before in (0, zeros):
        weight, optimizer = keras.Variable(start), YellowFin(beta=0.99, window=5)
        optimizer.build([weight])
        for gradient in [*np.zeros((before, 3), "float32"), *gradients]:
            optimizer.apply([keras.ops.convert_to_tensor(gradient)])
        ends.append(np.asarray(weight))
    np.testing.assert_array_equal(*ends)
