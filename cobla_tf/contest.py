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
class Contest:
    """Roundings of the same masks, compared on the same images.

    Attributes:
        masks: relaxed, float64 [n].
        value: the loss at masks.
        constant_loss: loss of a network whose output does not depend on the image.
    """

    masks: Array
    value: Callable[[Array], float]
    constant_loss: float

    def winner(self, candidates: Mapping[str, Rounded]) -> tuple[str, bool]:
        """The name of the one of least loss, and whether it has lost so much that its terms should fade out instead.

        Where all of them are near the loss of a constant output, which tells nothing, they are compared on their way
        there.
        """
        at_once = losses = self._losses(candidates, WAYS[0])
        for share in WAYS[1:]:
            if min(losses.values()) <= self._relaxed + CHANCE * self._gap:
                break
            losses = self._losses(candidates, share)
        best = min(losses, key=losses.__getitem__)
        return best, not at_once[best] <= self._relaxed + DRIFT * self._gap

    @cached_property
    def _relaxed(self) -> float:
        return self.value(self.masks)

    @property
    def _gap(self) -> float:
        return max(self.constant_loss - self._relaxed, 0.0)

    def _losses(self, candidates: Mapping[str, Rounded], share: float) -> dict[str, float]:
        losses = {}
        for name, rounded in candidates.items():
            loss = self.value((1 - share) * self.masks + share * rounded.scale)
            losses[name] = loss if np.isfinite(loss) else np.inf
        logging.info("rounding, %g of the way: %s", share, ", ".join(f"{n} {loss:.4f}" for n, loss in losses.items()))
        return losses
