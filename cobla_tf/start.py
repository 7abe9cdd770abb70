"""Where the optimiser begins: a heuristic's masks, at looser budgets where these leave the network near chance."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from absl import logging

from cobla_tf.baselines import RIVALS
from cobla_tf.continuation import budget_between
from cobla_tf.costs import Allocation, CostTable
from cobla_tf.layout import Layout
from cobla_tf.sampling import SampledLoss

Array = np.ndarray

ONES = "ones"
"""The start that is no heuristic: every mask is one."""
CHANCE = 0.5
"""A start has lost its way if it is further than this from the original's loss to that of a constant output."""
LOOSER = (0.75, 0.5, 0.25)
"""Where to look for a better start: budgets as these powers of the target's share."""


@dataclass
class Start:
    """A heuristic's solutions, and what they are worth.

    Attributes:
        method: "pos_cvx" or "cptv" of `baselines.RIVALS`, or ONES.
        oracle: the loss.
        sigmas, costs, limits: the sites, their costs, and the limits on these, float64 [R].
        values: losses evaluated so far.
    """

    method: str
    oracle: SampledLoss
    sigmas: list[Array]
    costs: CostTable
    limits: Array
    values: int = 0

    def __post_init__(self) -> None:
        """The masks are laid out site by site."""
        self.layout = Layout(self.costs.full_ranks)

    @cached_property
    def allocation(self) -> Allocation:
        """The heuristic's choice within the limits."""
        return self._within(self.limits)

    @cached_property
    def masks(self) -> Array:
        """The same as masks in {0, 1}, float64 [n]."""
        return self.layout.leading(self.allocation.ranks)

    @cached_property
    def constant_loss(self) -> float:
        """Loss of the original's mean output for every image: that of a network that sees nothing."""
        self.values += 1
        return self.oracle.constant_loss(np.ones(self.layout.size))

    def above_chance(self) -> Array:
        """Masks at the tightest budgets, from the limits up, at which the heuristic's network is not near chance.

        They are those of the loosest budgets tried where all networks are.
        """
        masks = self.masks
        self.values += 2
        original, loss = self.oracle.value(np.ones(self.layout.size)), self.oracle.value(masks)
        chance = original + CHANCE * (self.constant_loss - original)
        for power in LOOSER:
            if loss <= chance:
                break
            masks = self._looser(power)
            self.values += 1
            loss = self.oracle.value(masks)
            logging.info("start at the budgets to the power %.2f: loss %.3f, chance is above %.3f", power, loss, chance)
        return masks

    def _within(self, limits: Array) -> Allocation:
        if self.method == ONES:
            return Allocation(self.costs.full_ranks, self.costs.cheapest(limits).whole)
        return RIVALS[self.method].select(self.sigmas, self.costs, limits)

    def _looser(self, power: float) -> Array:
        """The heuristic's masks at looser budgets, with no site whole that is not whole at the target."""
        target = self.allocation
        loose = self._within(budget_between(self.costs.totals().astype(float), self.limits, power))
        below = np.maximum(self.costs.saturation_ranks() - 1, 1)
        ranks = np.where(loose.whole & ~target.whole, below, loose.ranks)
        return self.layout.leading(np.where(target.whole, self.costs.full_ranks, ranks))
