"""Coming down to where less is allowed notch by notch: a homotopy that the model of the loss leads.

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
"""Of the notch after one that was taken."""
LEAST_NOTCH = 1 / 64
"""Of the first notch: below it the rest of the way is one step, since the model has ceased to tell anything."""
MOST_TRIALS = 40
"""Notches tried; the rest of the way is one step then, too."""
OVERSHOOT, DRIFT, MOST = 2.0, 0.2, 0.5
"""Increase allowed in a notch: twice what is predicted or a fifth of the distance to the loss of a constant output,
whichever is more, but never more than half of that distance."""


def budget_between(used: Array, limits: Array, level: float) -> Array:
    """Limits [R] on the way from what is used (level 0) to the target (level 1), geometric in each resource.

    A resource that is within its limit already has that limit all the way.
    """
    return np.maximum(limits, used ** (1 - level) * limits**level)


def first_notch(used: Array, limits: Array) -> float:
    """The first notch to try between such budgets, of which one is broken."""
    return float(min(-np.log(FIRST_FACTOR) / np.log(np.max(used / limits)), 1.0))


@dataclass(frozen=True)
class Continuation:
    """The way down.

    Attributes:
        loop: stands at masks that break the target; it ends where they meet it, or before that if the rest is one step.
        constraints_at: the constraints at a level: 0 allows the loop's masks, 1 is the target.
        first: notch to try, in (0, 1].
        constant_loss: loss of a network whose output does not depend on the image.
    """

    loop: SQP
    constraints_at: Callable[[float], Constraints]
    first: float
    constant_loss: float

    def run(self) -> str:
        """Take notches, with an iteration after each; returns one sentence.

        Raises:
            SolverError: a quadratic program cannot be solved, even without BFGS pairs.
        """
        level, notch, taken, refused = 0.0, self.first, 0, 0
        judge = self.loop.evaluations.judge
        self.loop.use_judge(None)  # points on the way are no answers
        self.loop.move_rows(self.constraints_at(0.0))
        self.loop.run(1)  # a line search first: it tells how far the measured curvature can be trusted
        while level < 1.0 and notch > LEAST_NOTCH * self.first and taken + refused < MOST_TRIALS:
            target = min(level + notch, 1.0)
            if self.loop.tighten(self.constraints_at(target), self._allowed):
                level, notch, taken = target, notch * GROWTH, taken + 1
                self.loop.run(1)
            else:
                notch, refused = notch / 2, refused + 1
        if level < 1.0:
            logging.warning("continuation: the loss leaps at the last notches; the rest of the way is one step")
            self.loop.move_rows(self.constraints_at(1.0))
        self.loop.use_judge(judge)
        return f"{taken} notches taken, {refused} refused{', the rest in one step' if level < 1.0 else ''}"

    def _allowed(self, predicted: float) -> float:
        """Increase that a notch may cost; any is allowed where the loss is that of a constant output already."""
        gap = self.constant_loss - self.loop.at.loss
        return np.inf if gap <= 0 else min(max(OVERSHOOT * predicted, DRIFT * gap), MOST * gap)
