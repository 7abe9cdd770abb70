"""Non-monotone line search after Dai and Schittkowski, Pacific J. Optim. 4 (2008) 335-351 (paper, reference [4])."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LineSearchSettings:
    """Parameters of the search, with the symbols of the reference.

    The documentation of NLPQLP, which is Schittkowski's program of it, gives as examples 10 past values (MAXNM, at most
    50; 0 is the monotone search) and 20 evaluations a search (MAXFUN). Ours are lower: a sample of the loss lasts five
    iterations, and an evaluation is dear. What `history` changes is printed by experiments/benchmarks/s2mpj.py.

    Attributes:
        history: L + 1, the losses, the current one included, whose largest a step is held against; 1 is monotone.
        decrease: mu, the share of the promised decrease that a step must keep (Armijo's usual 1e-4).
        shrink: beta, the smallest factor from one trial step to the next, and the largest.
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
) -> float:
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
        the accepted step length, 0.0 if there is none.
    """
    bound = max(recent[-settings.history :])
    length, trial = 1.0, first_value
    for calls in range(settings.trials + 1):
        if np.isfinite(trial) and trial <= bound + settings.decrease * length * slope:
            return length
        if calls < settings.trials:
            length = _shorter(length, trial, recent[-1], slope, settings.shrink)
            trial = value(length)
    return 0.0


def _shorter(length: float, trial: float, current: float, slope: float, shrink: tuple[float, float]) -> float:
    if not np.isfinite(trial):
        return length * shrink[0]
    excess = trial - current - length * slope
    best = -slope * length**2 / (2 * excess) if excess > 0 else length
    return float(np.clip(best, shrink[0] * length, shrink[1] * length))
