"""The loss as the SQP sees it: on a random sub-sample of the training images that is renewed and grows."""

from copy import copy
from dataclasses import dataclass, field

import numpy as np

from cobla_tf.examples import Examples, Part, Sample
from cobla_tf.objective import Objective

Array = np.ndarray

JUDGES = 500
"""Most training images set apart to compare iterates on; the held-out set is never used for that."""
GROUPS = 10
"""Parts of them whose losses tell how uncertain a comparison is."""
CURVATURE_IMAGES = 64
"""Images behind one measurement of the curvature."""
GROWTH = 2
"""Factor from one sample's size to the next, up to the whole one."""
FIRST_SHARE = 1 / 4
"""Of a whole sample, the size of a growing one's first."""
FILLED = 1 / 2
"""Of a whole sample, what a solve from another's solution begins with within the budgets."""
MOST_IMAGES = 4
"""Factor from the largest sample of all terms to that of the kept ones alone."""


@dataclass
class SampledLoss:
    """An sqp.loop.Oracle over the masks.

    A sample stays the same for `renew_every` iterations, or until it is overfitted, so that the two gradients of a BFGS
    pair and all losses of a line search are taken on the same images.

    Attributes:
        objective: E(m) on given images.
        examples: the training images.
        count: images a sample (paper, section 5.3: 5 % of the training set); all of them is the exact gradient.
        renew_every: iterations a sample lasts; 0 keeps the first.
        growing: whether the first samples are smaller, where they are renewed and the gradient is not to be exact.
        rng: the source of chance.
    """

    objective: Objective
    examples: Examples | Part
    count: int
    renew_every: int
    growing: bool
    rng: np.random.Generator
    sample: Sample = field(init=False)
    judges: Sample | None = field(init=False)

    def __post_init__(self) -> None:
        """Set the judges apart and draw the first sample."""
        self.judges = None
        if self.count < self.examples.size:
            judges = min(JUDGES, -(-self.count // 2), -(-self.examples.size // 10))
            judges = max(judges - judges % GROUPS, min(judges, GROUPS))  # groups of one size: all weigh the same
            self.examples, self.judges = self.examples.reserve(judges, self.rng)
            self.count = min(self.count, self.examples.size)
        self.sample = self.examples.draw(self._least if self._grows else self.count, self.rng)

    def fill(self) -> bool:
        """Draw half of a whole sample if the present one has not grown to it yet; True if so."""
        enough = max(1, round(self.count * FILLED))
        if self.sample.size >= enough:
            return False
        self.sample = self.examples.draw(enough, self.rng)
        return True

    def keep(self, kept: Array, whole: Array, share: float) -> "SampledLoss":
        """The same of the kept terms alone, as `Objective.keep`, in samples that grow further where they grow at all.

        Args:
            kept, whole: see there.
            share: of the sites' MACs; a gradient on 1 / `share` times as many images takes no more of them than before.
        """
        alone = copy(self)
        alone.objective = self.objective.keep(kept, whole)
        if not self._grows:
            return alone
        more = round(self.count * min(1 / share, MOST_IMAGES))
        alone.count = max(self.count, min(more, self.examples.most_drawn))
        return alone

    @property
    def _grows(self) -> bool:
        return bool(self.growing and self.renew_every and self.judges is not None)

    @property
    def _least(self) -> int:
        return max(1, round(self.count * FIRST_SHARE))

    def gradient(self, x: Array) -> tuple[float, Array]:
        """E and its gradient."""
        return self.objective.gradient(x, self.sample)

    def value(self, x: Array) -> float:
        """E alone."""
        return self.objective.value(x, self.sample)

    def curvature(self, x: Array) -> Array:
        """Diagonal that stands in for that of the Hessian, float64 [n]."""
        return self.objective.fisher(x, self.sample.draw(CURVATURE_IMAGES, self.rng))

    def judge(self, x: Array) -> Array:
        """Losses by which iterates are compared, on parts of the images set apart; not for an exact gradient."""
        return self.objective.values(x, self.judges, GROUPS)

    def compared(self, x: Array) -> float:
        """The loss by which an iterate is compared with others: on the images set apart, or else on the sample."""
        return self.value(x) if self.judges is None else float(self.judge(x).mean())

    def constant_loss(self, x: Array) -> float:
        """The loss of a network that gives its mean output for every image."""
        return self.objective.constant_loss(x, self.sample)

    def renew(self, iteration: int, overfitted: bool = False) -> bool:
        """Draw another sample every `renew_every` iterations, or where one is overfitted.

        Never where the sample is the whole training set.
        """
        due = self.renew_every and (overfitted or (iteration - 1) % self.renew_every == 0)
        if not due or self.sample.size >= self.examples.size:
            return False
        self.sample = self.examples.draw(min(self.count, self.sample.size * GROWTH), self.rng)
        return True
