"""The step that an iteration takes: as long as the loss allows."""

import math
from dataclasses import dataclass

import numpy as np

from cobla_tf.sqp.constraints import Constraints
from cobla_tf.sqp.line_search import LineSearchSettings, search
from cobla_tf.sqp.position import Position

Array = np.ndarray


@dataclass(frozen=True)
class Trial:
    """A step that was accepted.

    Attributes:
        length: in (0, 1].
        x, loss, gradient: where it ends; float64 [n], float, float64 [n].
    """

    length: float
    x: Array
    loss: float
    gradient: Array


def try_step(
    at: Position, step: Array, constraints: Constraints, settings: LineSearchSettings, forced: bool
) -> Trial | None:
    """Try the full step with its gradient (it is nearly always taken), then shorter ones by their loss.

    Args:
        at: where the step begins.
        step: float64 [n].
        constraints: into whose bounds a point is clipped.
        settings: of the line search.
        forced: the step leads off an infeasible point, and only has to end where loss and gradient are finite.

    Returns:
        None where no length is acceptable.
    """
    evaluations, recent = at.evaluations, [math.inf] if forced else at.recent
    slope, length = float(at.gradient @ step), 1.0

    def point(shorter: float) -> Array:
        return constraints.clip(at.x + length * shorter * step)

    for _ in range(settings.trials):
        x = point(1.0)
        loss, gradient = evaluations.gradient(x)
        shorter = search(lambda t: evaluations.value(point(t)), loss, recent, length * slope, settings)
        if shorter == 1.0:
            return Trial(length, x, loss, gradient)
        if shorter == 0.0:
            return None
        length *= shorter
    return None
