"""With the ranks fixed: the scale of the kept terms and the biases of their sites, at no change in cost."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from absl import logging

from cobla_tf.layout import Layout
from cobla_tf.rounding import LEAST_SCALE, Rounded
from cobla_tf.sampling import SampledLoss
from cobla_tf.sqp.bfgs import CompactBFGS
from cobla_tf.sqp.constraints import Constraints
from cobla_tf.sqp.first_hessian import raised

Array = np.ndarray

LARGEST_SCALE = 10.0
"""Upper bound of a kept term's scale: far above what the loss ever asks for."""


@dataclass(frozen=True)
class Refinement:
    """What an SQP loop needs to know of n masks followed by b biases.

    Attributes:
        rounded: a binary solution.
        oracle: the loss of its terms alone and of its biases, from `SampledLoss.keep`.
        layout: of the masks.
    """

    rounded: Rounded
    oracle: SampledLoss
    layout: Layout

    @property
    def start(self) -> Array:
        """The scale and the biases as they are, float64 [n + b]."""
        return np.concatenate([self.rounded.scale, *self.oracle.objective.biases])

    @property
    def constraints(self) -> Constraints:
        """Bounds alone; what has no curvature stays as it is, as do terms that are dropped or whole."""
        bias = np.arange(len(self.start)) >= self.layout.size
        free = np.append(self._free, np.isfinite(self._bias_curvature))
        lower = np.where(free, np.where(bias, -np.inf, LEAST_SCALE), self.start)
        upper = np.where(free, np.where(bias, np.inf, LARGEST_SCALE), self.start)
        return Constraints(np.zeros((0, len(bias))), np.zeros(0), lower, upper)

    def hessian(self, of_masks: CompactBFGS | None, memory: int) -> CompactBFGS:
        """What is known of the masks, widened by the curvature of the biases.

        Args:
            of_masks: of an earlier loop; None takes the measured curvature.
            memory: of a new one.
        """
        if of_masks is None:
            diagonal = raised(self._measured[: self.layout.size], self._free)
            of_masks = CompactBFGS(np.ones(self.layout.size) if diagonal is None else diagonal, memory)
        return of_masks.widened(np.nan_to_num(self._bias_curvature, nan=1.0))

    def rounded_at(self, x: Array) -> Rounded:
        """The solution at a vector [n + b]."""
        scale, *biases = np.split(x, self._ends)
        return replace(self.rounded, scale=scale, biases=biases)

    @property
    def _free(self) -> Array:
        return self.rounded.kept & ~self.layout.spread(self.rounded.allocation.whole)

    @property
    def _ends(self) -> Array:
        return np.cumsum([self.layout.size, *map(len, self.oracle.objective.biases)])[:-1]

    @cached_property
    def _measured(self) -> Array:
        return self.oracle.curvature(self.start)

    @cached_property
    def _bias_curvature(self) -> Array:
        """Site by site, as each has units of its own; NaN at sites where it tells nothing; float64 [b].

        The biases of a site push the loss together, where masks push each on its own: along a common change of b of
        them the curvature is up to b times what the diagonal says. Its root is between the two ends.
        """
        if not self.oracle.objective.biases:
            return np.zeros(0)
        found = []
        for part in np.split(self._measured, self._ends)[1:]:
            diagonal = raised(part, np.ones(len(part), bool))
            if diagonal is None:
                logging.warning("refining: %d biases stay, their curvature is zero or not finite", len(part))
            found.append(np.full(len(part), np.nan) if diagonal is None else np.sqrt(len(part)) * diagonal)
        return np.concatenate(found)
