"""Non-monotone line search after Dai and Schittkowski (paper, reference [4])."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LineSearchSettings:
    """Parameters of the search.

    Attributes:
        history: number of past losses whose largest one a step is held against; 1 is the monotone search.
        decrease: share of the decrease that the gradient promises and a step must keep (Armijo's condition).
        shrink: smallest and largest factor from one trial step to the next.
        trials: most losses evaluated in one search.
    """

    history: int = 5
    decrease: float = 1e-4
    shrink: tuple[float, float] = (0.1, 0.5)
    trials: int = 6


def search(
    value: Callable[[float], float],
    first_value: float,
    recent: Sequence[float],
    slope: float,
    settings: LineSearchSettings,
) -> tuple[float, int]:
    """Shorten a step until the loss is acceptable.

    Accepts the first t with  E(t) <= max(recent) + decrease * t * slope; the next trial is the minimiser of the
    parabola through the current loss, the slope and E(t), kept within `shrink`.

    Args:
        value: loss at a step length; may return NaN or infinity, which count as unacceptable.
        first_value: value(1.0), which the caller has already.
        recent: losses of the last iterates on the same sample, the current one last.
        slope: g^T d, negative.
        settings: see there.

    Returns:
        the accepted step length, 0.0 if there is none, and the number of calls of `value`.
    """
    bound = max(recent[-settings.history :])
    length, trial = 1.0, first_value
    for calls in range(settings.trials + 1):
        if np.isfinite(trial) and trial <= bound + settings.decrease * length * slope:
            return length, calls
        if calls < settings.trials:
            length = _shorter(length, trial, recent[-1], slope, settings.shrink)
            trial = value(length)
    return 0.0, settings.trials


def _shorter(length: float, trial: float, current: float, slope: float, shrink: tuple[float, float]) -> float:
    if not np.isfinite(trial):
        return length * shrink[0]
    excess = trial - current - length * slope
    best = -slope * length**2 / (2 * excess) if excess > 0 else length
    return float(np.clip(best, shrink[0] * length, shrink[1] * length))
