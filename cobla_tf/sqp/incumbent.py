"""The best iterate so far, and how long none was better beyond doubt."""

from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass
class Incumbent:
    """Compares iterates by their losses on the same groups of images.

    Attributes:
        x: the iterate of lowest mean loss.
        losses: its losses, float64 [groups]; one number where the loss is exact.
        gradient: dE/dx there, float64 [n], on the sample of its time.
        stale: iterations since the mean loss last fell by more than its standard error, which is that of the
            differences between groups: they share their images, so what all iterates find hard cancels out.
        improved: whether the last iterate offered is the best, or none was offered on the present sample.
    """

    x: Array
    losses: Array
    gradient: Array
    stale: int = 0
    improved: bool = True

    def __post_init__(self) -> None:
        """The first iterate is what progress is measured from."""
        self._mark = self.losses

    @property
    def loss(self) -> float:
        """Mean loss of x."""
        return float(self.losses.mean())

    def offer(self, x: Array, losses: Array, gradient: Array) -> None:
        """Take in an iterate; losses that are not finite lose, those of the first one as well."""
        self.improved = False
        if not np.isfinite(losses).all():
            self.stale += 1
            return
        if not np.isfinite(self.losses).all():
            self.x, self.losses, self.gradient, self.improved = x, losses, gradient, True
            self._mark, self.stale = losses, 0
            return
        if losses.mean() <= self.loss:
            self.x, self.losses, self.gradient, self.improved = x, losses, gradient, True
        change = losses - self._mark
        doubt = np.std(change, ddof=1) / np.sqrt(len(change)) if len(change) > 1 else 0.0
        if change.mean() < -doubt:
            self._mark, self.stale = losses, 0
        else:
            self.stale += 1
