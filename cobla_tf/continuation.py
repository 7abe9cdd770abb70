"""Coming down to a tight budget notch by notch: a homotopy whose criterion for the next notch is the model of the loss.

At a tight budget the first full step from a heuristic lands where the network gives the same output for every image,
and no gradient leads out of there. A looser budget is solved easily, and from one budget's masks and Hessian the loss
at a slightly tighter one is predicted well.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from absl import logging

from cobla_tf.sqp.constraints import Constraints
from cobla_tf.sqp.loop import SQP

Array = np.ndarray

FIRST_FACTOR = 0.85
"""From a budget to the next one, for the resource that has furthest to go."""
GROWTH = 1.25
"""Of the notch, in the logarithm of the budget, after one that was taken."""
LEAST_NOTCH = 1 / 64
"""Of the first notch: below it the rest of the way is one step, since the model has ceased to tell anything."""
OVERSHOOT, DRIFT, MOST = 2.0, 0.2, 0.5
"""Increase allowed in a notch: twice what is predicted or a fifth of the distance to the loss of a constant output,
whichever is more, but never more than half of that distance."""


def budget_between(used: Array, limits: Array, level: float) -> Array:
    """Limits [R] on the way from what is used (level 0) to the target (level 1), geometric in each resource."""
    ratio = np.minimum(limits / np.maximum(used, np.finfo(float).tiny), 1.0)
    return np.maximum(limits, used * ratio**level)


@dataclass(frozen=True)
class Continuation:
    """The way down.

    Attributes:
        loop: stands at masks that break the target; it ends where they meet it.
        constraints_at: the constraints for limits [R].
        used, limits: cost of the loop's masks, and the target, float64 [R].
        constant_loss: loss of a network whose output does not depend on the image.
    """

    loop: SQP
    constraints_at: Callable[[Array], Constraints]
    used: Array
    limits: Array
    constant_loss: float

    def run(self) -> str:
        """Take notches, with an iteration after each; returns one sentence.

        Raises:
            SolverError: a quadratic program cannot be solved.
        """
        first = np.log(FIRST_FACTOR) / np.log(np.min(self.limits / np.maximum(self.used, np.finfo(float).tiny)))
        level, notch, taken, refused = 0.0, min(first, 1.0), 0, 0
        while level < 1.0 and notch > LEAST_NOTCH * first:
            target = min(level + notch, 1.0)
            if self.loop.tighten(self._at(target), self._allowed):
                level, notch, taken = target, notch * GROWTH, taken + 1
                self.loop.run(1)
            else:
                notch, refused = notch / 2, refused + 1
        counts = f"{taken} notches taken, {refused} refused"
        if level < 1.0:
            logging.warning("continuation: the loss leaps at every notch; the rest of the way is one step")
            self.loop.constraints = self._at(1.0)
            return f"{counts}, the rest in one step"
        return counts

    def _at(self, level: float) -> Constraints:
        return self.constraints_at(budget_between(self.used, self.limits, level))

    def _allowed(self, predicted: float) -> float:
        """Increase that a notch may cost; none is too much where the loss is that of a constant output already."""
        gap = self.constant_loss - self.loop.loss
        return np.inf if gap <= 0 else min(max(OVERSHOOT * predicted, DRIFT * gap), MOST * gap)
