"""Picks within the limits, near to those that are best at given prices."""

import numpy as np

from cobla_tf.knapsack.bound import first_best
from cobla_tf.knapsack.problem import Choices

Array = np.ndarray


def priced_picks(choices: Choices, prices: Array) -> Array | None:
    """Start from the best picks at the prices; give up the least value for what is too much, then fill what is left.

    Returns:
        places [S] within the limits, or None where no single step lessens what is too much.
    """
    reduced, starts = choices.values - prices @ choices.shares, choices.starts
    picks = first_best(reduced, np.maximum.reduceat(reduced, starts), starts)
    while not choices.fits(picks):
        place = _mending(*_steps(choices, picks), choices.limits)
        if place is None:
            return None
        picks[choices.sites[place]] = place
    return filled(choices, picks)


def filled(choices: Choices, picks: Array) -> Array:
    """Take the most valuable step that the limits leave room for, from picks [S] within them, until there is none."""
    picks = picks.copy()
    while (place := _filling(*_steps(choices, picks))) is not None:
        picks[choices.sites[place]] = place
    return picks


def _steps(choices: Choices, picks: Array) -> tuple[Array, Array, Array]:
    """Of every choice, what taking it instead of its site's pick gains and adds to the costs; and the room left."""
    gains = choices.values - choices.values[picks][choices.sites]
    changes = choices.costs - choices.costs[:, picks][:, choices.sites]
    return gains, changes, choices.limits - choices.costs[:, picks].sum(axis=1)


def _filling(gains: Array, changes: Array, room: Array) -> int | None:
    allowed = (changes <= room[:, None]).all(axis=0) & (gains > 0)
    return int(np.argmax(np.where(allowed, gains, -np.inf))) if allowed.any() else None


def _mending(gains: Array, changes: Array, room: Array, limits: Array) -> int | None:
    """The step of least loss for what it takes off the excess, and that exceeds no limit by more than before."""
    excess = np.maximum(-room, 0)[:, None]
    lessened = excess - np.maximum(changes - room[:, None], 0)
    saved = (lessened / np.maximum(limits, 1)[:, None]).sum(axis=0)
    allowed = (lessened >= 0).all(axis=0) & (saved > 0)
    scores = np.where(allowed, gains / np.where(allowed, saved, 1), -np.inf)
    return int(np.argmax(scores)) if allowed.any() else None
