"""What the loop asks of a loss, counted; where a gradient is not finite, its loss is NaN."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cobla_tf.sqp.interface import Oracle

Array = np.ndarray


@dataclass
class Evaluations:
    """A loss, and a judge of its iterates.

    Attributes:
        oracle: the loss.
        judge: losses at x by which iterates are compared, on data that the gradients never see; None takes the loss.
        gradients, values: evaluations so far, with and without gradient.
        not_finite: how many of them gave no finite loss, or no finite gradient.
    """

    oracle: Oracle
    judge: Callable[[Array], Array] | None = None
    gradients: int = 0
    values: int = 0
    not_finite: int = 0

    def gradient(self, x: Array) -> tuple[float, Array]:
        """E(x), NaN where it or its gradient is not finite, and dE/dx, float64 [n]."""
        self.gradients += 1
        loss, gradient = self.oracle.gradient(x)
        finite = math.isfinite(loss) and bool(np.isfinite(gradient).all())
        self.not_finite += not finite
        return (loss if finite else math.nan), gradient

    def value(self, x: Array) -> float:
        """E(x)."""
        self.values += 1
        loss = self.oracle.value(x)
        self.not_finite += not math.isfinite(loss)
        return loss

    def judged(self, x: Array, loss: float) -> Array:
        """What x, of this loss, is compared by, float64 [groups]."""
        if self.judge is None:
            return np.array([loss])
        self.values += 1
        return self.judge(x)
