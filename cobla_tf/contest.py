"""Which of several roundings the loss prefers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from absl import logging

from cobla_tf.continuation import DRIFT
from cobla_tf.rounding import Rounded
from cobla_tf.start import CHANCE

Array = np.ndarray

WAYS = (1.0, 0.5, 0.25)
"""How far to go from the relaxed masks to a rounding to compare it with others: further back where all are lost."""


@dataclass(frozen=True)
class Verdict:
    """What to do.

    Attributes:
        best: name of the rounding of least loss.
        loss: this loss.
        relaxed: that of the masks before rounding.
        fading: name of the rounding whose dropped terms should fade out, since even the best one loses much; None where
            it does not.
    """

    best: str
    loss: float
    relaxed: float
    fading: str | None = None


@dataclass(frozen=True)
class Contest:
    """Roundings of the same masks, compared on the same images.

    Attributes:
        masks: relaxed, float64 [n].
        value: the loss at masks.
        constant_loss: gives the loss of a network whose output does not depend on the image.
    """

    masks: Array
    value: Callable[[Array], float]
    constant_loss: Callable[[], float]

    def verdict(self, candidates: Mapping[str, Rounded], may_fade: bool) -> Verdict:
        """Compare them by their losses, of which those that are not finite lose.

        Where all of them are near the loss of a constant output, which tells nothing, they are compared on their way
        there to choose which is to fade.

        Args:
            candidates: by name, at least one.
            may_fade: whether anything may.
        """
        losses = self._losses(candidates, WAYS[0])
        best = min(losses, key=losses.__getitem__)
        if not may_fade or losses[best] <= self._relaxed + DRIFT * self._gap or self._gap == 0:
            return Verdict(best, losses[best], self._relaxed)
        able = {name: rounded for name, rounded in candidates.items() if losses[name] < np.inf} or candidates
        on_way = losses
        for share in WAYS[1:]:
            if min(on_way.values()) <= self._relaxed + CHANCE * self._gap:
                break
            on_way = self._losses(able, share)
        return Verdict(best, losses[best], self._relaxed, min(able, key=on_way.__getitem__))

    @cached_property
    def _relaxed(self) -> float:
        return self.value(self.masks)

    @cached_property
    def _gap(self) -> float:
        gap = self.constant_loss() - self._relaxed
        return gap if gap > 0 else 0.0

    def _losses(self, candidates: Mapping[str, Rounded], share: float) -> dict[str, float]:
        losses = {}
        for name, rounded in candidates.items():
            loss = self.value((1 - share) * self.masks + share * rounded.scale)
            losses[name] = loss if np.isfinite(loss) else np.inf
        logging.info("rounding, %g of the way: %s", share, ", ".join(f"{n} {loss:.4f}" for n, loss in losses.items()))
        return losses
