"""From relaxed masks to a rounding of them: what is to be dropped fades out, and what is kept takes its place."""

import numpy as np

from cobla_tf.continuation import Continuation, first_notch
from cobla_tf.layout import Layout
from cobla_tf.refinement import LARGEST_SCALE
from cobla_tf.rounding import LEAST_SCALE, Rounded
from cobla_tf.sqp.constraints import Constraints
from cobla_tf.sqp.loop import SQP

Array = np.ndarray

REST = 0.02
"""Of the masks' sum, what is dropped at the last notch: the nearer to 0, the more the loss rises."""


def fade(loop: SQP, masks: Array, rounded: Rounded, layout: Layout, constant_loss: float) -> tuple[Rounded, str]:
    """Bring the sum of the masks of dropped terms down to 0 notch by notch; the kept ones are free meanwhile.

    Where many masks are fractional, dropping their terms at once may leave a network that gives the same output for
    every image, out of which no gradient leads.

    Args:
        loop: over all masks; goes on with what it knows of the Hessian.
        masks: relaxed, float64 [n].
        rounded: what is kept.
        layout: of the masks.
        constant_loss: loss of a network whose output does not depend on the image.

    Returns:
        the solution with the scale that this ended with, and one sentence.

    Raises:
        SolverError: a quadratic program cannot be solved, or the loss is not finite at the masks.
    """
    kept, whole = rounded.kept, layout.spread(rounded.allocation.whole)
    lower = np.where(whole, 1.0, np.where(kept, LEAST_SCALE, 0.0))
    upper = np.where(kept & ~whole, LARGEST_SCALE, 1.0)
    row, total = (~kept).astype(float)[None], masks[~kept].sum(keepdims=True)
    if not total.any():
        return rounded, "nothing to fade"

    def constraints_at(level: float) -> Constraints:
        return Constraints(row, total * (REST**level if level < 1 else 0.0), lower, upper)

    loop.constraints = constraints_at(0.0)
    loop.return_to(loop.constraints.clip(masks))
    first = first_notch(np.ones(1), np.full(1, REST))
    sentence = Continuation(loop, constraints_at, first, constant_loss).run()
    return Rounded(kept, np.where(kept, loop.at.x, 0.0), rounded.allocation), sentence
