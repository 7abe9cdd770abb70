"""The loss as the SQP sees it: on a random sub-sample of the training images that is renewed now and then."""

from dataclasses import dataclass, field

import numpy as np

from cobla_tf.examples import Examples, Sample
from cobla_tf.objective import Objective

Array = np.ndarray


@dataclass
class SampledLoss:
    """An sqp.loop.Oracle over a part of the masks.

    A sample stays the same for `renew_every` iterations, so that the two gradients of a BFGS pair and all losses of a
    line search are taken on the same images.

    Attributes:
        objective: E(m) on given images.
        examples: the training images.
        count: images a sample (paper, section 5.3: 5 % of the training set); all of them is the exact gradient.
        renew_every: iterations a sample lasts; 0 keeps the first.
        rng: the source of chance.
        base: the whole mask vector, float64 [n]; fixed masks keep their value here.
        free: indices of the masks that are optimised.
    """

    objective: Objective
    examples: Examples
    count: int
    renew_every: int
    rng: np.random.Generator
    base: Array
    free: Array
    sample: Sample = field(init=False)

    def __post_init__(self) -> None:
        """Draw the first sample."""
        self.sample = self.examples.draw(self.count, self.rng)

    def expand(self, x: Array) -> Array:
        """The whole mask vector [n] for free masks x."""
        masks = self.base.copy()
        masks[self.free] = x
        return masks

    def gradient(self, x: Array) -> tuple[float, Array]:
        """E and its gradient by the free masks."""
        loss, gradient = self.objective.gradient(self.expand(x), self.sample)
        return loss, gradient[self.free]

    def value(self, x: Array) -> float:
        """E alone."""
        return self.objective.value(self.expand(x), self.sample)

    def renew(self, iteration: int) -> bool:
        """Draw another sample every `renew_every` iterations, unless a sample is the whole set."""
        due = self.renew_every > 0 and (iteration - 1) % self.renew_every == 0 and self.count < self.examples.size
        if due:
            self.sample = self.examples.draw(self.count, self.rng)
        return due
