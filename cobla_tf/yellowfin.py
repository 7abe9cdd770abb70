"""YellowFin: momentum SGD that measures the gradients and tunes its own learning rate and momentum."""

import math
from numbers import Real
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from cobla_tf.errors import ConfigError

SLOW_START = 10
"""Windows over which the learning rate grows in proportion to the steps taken."""
GROWTH = 100.0
"""Most that one gradient's squared norm may exceed the curvature envelope by, in all statistics."""
ROUNDING = 1e-6
"""Least variance relative to the mean squared norm: a difference of two float32 numbers is not known better."""
TINY = 1e-30
"""In place of zero under a logarithm or a division; a normal float32 whose reciprocal is one too."""


def single_step(variance: Any, distance: Any, h_max: Any, h_min: Any) -> tuple[Any, Any]:
    """Momentum and learning rate that bring one step of a noisy quadratic closest to its minimum.

    Minimises mu D^2 + alpha^2 C subject to mu >= ((sqrt(h_max / h_min) - 1) / (sqrt(h_max / h_min) + 1))^2 and
    alpha = (1 - sqrt(mu))^2 / h_min (SingleStep of Algorithm 1). With u = 1 - sqrt(mu) the free minimum is the one real
    root of u^3 + p u = p, p = (D h_min)^2 / 2C. The objective is convex in u, so the smaller of root and bound is best.

    Args:
        variance: C, of the gradient, summed over all weights; positive float scalar.
        distance: D, to the minimum; positive float scalar.
        h_max, h_min: largest and smallest curvature, positive float scalars.

    Returns:
        mu in [0, 1) and alpha > 0, float scalars.
    """
    p = ops.maximum(ops.square(distance * h_min) / (2.0 * variance), TINY)
    # The hyperbolic form of the root: Vieta's substitution cancels for large p.
    root = 2.0 * ops.sqrt(p / 3.0) * ops.sinh(ops.arcsinh(1.5 * ops.sqrt(3.0 / p)) / 3.0)
    bound = 2.0 / (1.0 + ops.sqrt(h_max / h_min))
    u = ops.minimum(ops.minimum(root, bound), 1.0)
    return ops.square(1.0 - u), ops.square(u) / h_min


@keras.saving.register_keras_serializable(package="cobla_tf")
class YellowFin(keras.optimizers.Optimizer):
    """Momentum SGD tuned by itself after Zhang and Mitliagkas (2019), Algorithms 1 to 4; TensorFlow back end only.

    All averages are exponential and without the bias of a start at zero, those of the curvatures in logarithms. A
    gradient of zero is left out of them.
    The gradient is clipped to the norm sqrt(h_max); what the statistics see of it is clipped to 10 sqrt(h_max).
    Curvature is read from the squared norm of the gradient, which holds for losses that are a negative
    log-likelihood, such as cross-entropy, averaged over the batch.

    Under tf.distribute the statistics are those of the gradients summed over the replicas, as on one device.

    Args:
        learning_rate: factor on the tuned learning rate, the published lr_factor: a float, or a schedule or callable,
            whose value multiplies the tuned rate at each step. 1.0 is the paper's optimiser.
        beta: share of the old value in every average, in (0, 1).
        window: past gradients among which the largest and smallest curvature are sought, at least 1.
        **kwargs: of keras.optimizers.Optimizer. weight_decay is a share of the weights times the rate really taken.

    Attributes:
        tuned_rate: the learning rate of the last step before the factor, a float32 scalar variable.
        tuned_momentum: the momentum of the last step, a float32 scalar variable.

    Raises:
        ConfigError: beta or window out of range.
    """

    def __init__(self, learning_rate: Any = 1.0, beta: float = 0.999, window: int = 20, **kwargs: Any) -> None:
        """Check and store the settings."""
        super().__init__(learning_rate=learning_rate, **kwargs)
        if not (isinstance(beta, Real) and 0 < beta < 1):
            raise ConfigError(f"expected beta in (0, 1), got {beta!r}; 0.999 is the paper's.")
        if not (isinstance(window, int) and window >= 1):
            raise ConfigError(f"expected a window of at least 1 whole step, got {window!r}; 20 is the paper's.")
        self.beta = beta
        self.window = window
        self._is_tuned = False

    def build(self, variables: list[keras.Variable]) -> None:
        """Create a velocity and a mean gradient for each variable, and the shared scalars."""
        if self.built:
            return
        super().build(variables)
        self.velocities, self.mean_gradients = self.add_optimizer_variables(variables, ["velocity", "mean_gradient"])
        self.log_curvatures = self._scalar("log_curvatures", (self.window,))
        self.log_h_max = self._scalar("log_h_max")
        self.log_h_min = self._scalar("log_h_min")
        self.mean_norm = self._scalar("mean_norm")
        self.mean_square = self._scalar("mean_square")
        self.distance = self._scalar("distance")
        self.tuned_rate = self._scalar("tuned_rate")
        self.tuned_momentum = self._scalar("tuned_momentum")
        self.counted = self._scalar("counted")
        self.newest = self._scalar("newest")
        self.seen = self._scalar("seen")
        self.taken = self._scalar("taken")

    def _scalar(self, name: str, shape: tuple[int, ...] = ()) -> keras.Variable:
        return self.add_variable(shape, dtype="float32", aggregation="only_first_replica", name=name)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Move one variable by Polyak's momentum, v = mu v + g, x - alpha v, and average its gradient.

        The paper writes x + mu (x - x_before) - alpha g, which is the same at a constant alpha. Its authors' code has
        this form, in which a rate that falls to zero ends all movement, however long momentum remembers.

        Raises:
            ConfigError: Keras has changed, and rate and momentum would stay 0.
        """
        if not self._is_tuned:
            raise ConfigError(
                "YellowFin is tuned in Keras' private _all_reduce_sum_gradients, which Keras "
                f"{keras.__version__} does not call: use Keras 3.15, or another optimizer."
            )
        index = self._get_variable_index(variable)
        velocity, mean = self.velocities[index], self.mean_gradients[index]
        dtype = variable.dtype
        rate = ops.cast(ops.cast(learning_rate, "float32") * self.tuned_rate, dtype)
        if self.weight_decay is not None and self._use_weight_decay(variable):
            self.assign_sub(variable, variable * rate * self.weight_decay)
        self.assign(mean, self._mean_gradient(gradient, mean))
        clipped = ops.cast(self.taken, dtype) * ops.cast(gradient, dtype)
        self.assign(velocity, velocity * ops.cast(self.tuned_momentum, dtype) + clipped)
        self.assign_sub(variable, rate * velocity)

    def get_config(self) -> dict[str, Any]:
        """All arguments of the constructor."""
        return {**super().get_config(), "beta": self.beta, "window": self.window}

    def _apply_weight_decay(self, variables: list[keras.Variable]) -> None:
        """Left to update_step: Keras would decay before the rate of this step is known."""

    def _all_reduce_sum_gradients(self, grads_and_vars: Any) -> list[tuple[Any, Any]]:
        """Where Keras has the whole gradient at once, on each replica, before any variable moves."""
        pairs = [(tf.convert_to_tensor(g), v) for g, v in super()._all_reduce_sum_gradients(grads_and_vars)]
        self._tune(pairs)
        return pairs

    def _tune(self, pairs: list[tuple[Any, Any]]) -> None:
        """Take the gradient into the statistics and set rate, momentum and clipping of this step (Algorithm 1)."""
        self._is_tuned = True
        square = _squared_norm([gradient for gradient, _ in pairs])
        known = ops.cast(square > 0, "float32")  # a gradient of zero tells nothing of a curvature
        self.assign_add(self.counted, known)
        self.assign(self.newest, known * self._weight())
        first, square = self.counted <= 1, ops.maximum(square, TINY)
        kept = ops.minimum(square, ops.where(first, square, GROWTH * ops.exp(self.log_h_max)))
        self.assign(self.seen, ops.sqrt(kept / square))
        h_max, h_min = self._curvature_range(ops.log(kept), first, known)
        self._average(self.mean_square, kept)
        distance = self._distance(kept)
        momentum, rate = single_step(self._variance(pairs), distance, h_max, h_min)
        self.assign(self.tuned_rate, rate * ops.minimum(1.0, self.counted / (SLOW_START * self.window)))
        self.assign(self.tuned_momentum, momentum)
        self.assign(self.taken, ops.sqrt(ops.minimum(kept, h_max) / square))

    def _curvature_range(self, log_curvature: Any, first: Any, known: Any) -> tuple[Any, Any]:
        """Algorithm 2: averages of the largest and the smallest curvature in the window."""
        shifted = ops.concatenate([self.log_curvatures[1:], ops.reshape(log_curvature, (1,))])
        # The first gradient fills the window, and leaves it when it is `window` steps old like any other.
        window = ops.where(first, ops.full_like(shifted, log_curvature), shifted)
        self.assign(self.log_curvatures, ops.where(known > 0, window, self.log_curvatures))
        largest = self._average(self.log_h_max, ops.max(self.log_curvatures))
        smallest = self._average(self.log_h_min, ops.min(self.log_curvatures))
        return ops.exp(largest), ops.exp(smallest)

    def _variance(self, pairs: list[tuple[Any, Any]]) -> Any:
        """Algorithm 3, summed over all weights: the mean square less the square of the mean gradient."""
        means = [self._mean_gradient(g, self.mean_gradients[self._get_variable_index(v)]) for g, v in pairs]
        variance = ops.maximum(self.mean_square - _squared_norm(means), ROUNDING * self.mean_square)
        return ops.maximum(variance, TINY)

    def _distance(self, square: Any) -> Any:
        """Algorithm 4: the gradient's mean norm over its mean squared norm, averaged."""
        norm = self._average(self.mean_norm, ops.sqrt(square))
        return self._average(self.distance, norm / ops.maximum(self.mean_square, TINY))

    def _mean_gradient(self, gradient: Any, mean: keras.Variable) -> Any:
        """The average with this gradient taken in; stored by update_step only, as a replica must not."""
        seen = ops.cast(self.seen, mean.dtype) * ops.cast(gradient, mean.dtype)
        return mean + ops.cast(self.newest, mean.dtype) * (seen - mean)

    def _average(self, average: keras.Variable, value: Any) -> Any:
        self.assign(average, average + self.newest * (value - average))
        return ops.convert_to_tensor(average)

    def _weight(self) -> Any:
        """Share of the newest value in an average: (1 - beta) / (1 - beta^t) keeps it free of the zero it began at."""
        return (1.0 - self.beta) / -ops.expm1(ops.maximum(self.counted, 1.0) * math.log(self.beta))


def _squared_norm(tensors: list[Any]) -> Any:
    return sum(ops.sum(ops.square(ops.cast(tensor, "float32"))) for tensor in tensors)
