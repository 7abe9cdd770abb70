"""The diagonal that the Hessian's model begins with: measured, or guessed from the gradient."""

from collections.abc import Callable

import numpy as np
from absl import logging

from cobla_tf.sqp.constraints import Constraints

Array = np.ndarray

CURVATURE_FLOOR = 0.1
"""Of the mean measured curvature, what is added to each: most terms show next to none on their own."""


def raised(measured: Array, moving: Array) -> Array | None:
    """A measured diagonal [n] with a floor from the variables that can move, bool [n]; None where it tells nothing."""
    floor = CURVATURE_FLOOR * float(np.mean(measured[moving]))
    return measured + floor if np.isfinite(measured).all() and floor > 0 else None


def first_diagonal(
    x: Array,
    gradient: Array,
    constraints: Constraints,
    first_step: float,
    curvature: Callable[[Array], Array] | None = None,
) -> Array:
    """A positive diagonal, float64 [n].

    Args:
        x, gradient: where it is to hold, and the gradient there, float64 [n].
        constraints: variables that cannot move say nothing of the scale.
        first_step: see `SQPSettings`; scales the guess.
        curvature: measures a diagonal at x; None guesses a multiple of the identity.
    """
    moving = constraints.lower < constraints.upper
    if curvature is not None:
        measured = raised(curvature(x), moving)
        if measured is not None:
            return measured
        logging.warning(
            "the curvature measured is zero, or not finite, as where the network is far too sure of its answers; a "
            "multiple of the identity is used"
        )
    sizes = constraints.sizes(x)
    pull = float(np.sqrt(np.mean((gradient * sizes)[moving] ** 2))) if moving.any() else 0.0
    return (pull / first_step if pull > 0 else 1.0) / sizes**2
