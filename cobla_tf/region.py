"""Which masks the budgets allow, as rows and bounds of the optimiser's problem (Eq. 8)."""

from dataclasses import dataclass

import numpy as np

from cobla_tf.band import Band
from cobla_tf.costs import Allocation, CostTable
from cobla_tf.layout import Layout
from cobla_tf.sqp.constraints import Constraints

Array = np.ndarray

_SUM_ERROR = 1e-6
"""A sum of masks this far below a whole number is that number: masks are only as exact as the quadratic programs."""


@dataclass(frozen=True)
class Region:
    """Masks of sites, some of which are whole.

    Attributes:
        costs: of the sites, in the resources that have budgets.
        layout: of the masks.
        band: bounds on them.
    """

    costs: CostTable
    layout: Layout
    band: Band

    def constraints(self, limits: Array, whole: Array) -> Constraints:
        """Rows as shares of the original cost, less what does not depend on masks.

        That is what whole sites [S] take, whose masks are fixed at one, and the base cost of the others.
        """
        scale = self.costs.totals()
        fixed = self.layout.spread(whole)
        rows = np.where(fixed, 0, self.layout.spread(self.costs.per_rank)) / scale[:, None]
        taken = np.where(whole, self.costs.original, self.costs.base).sum(axis=1)
        lower, upper = np.where(fixed, 1.0, self.band.lower), np.where(fixed, 1.0, self.band.upper)
        return Constraints(rows, (limits - taken) / scale, lower, upper)

    def used(self, masks: Array, whole: Array) -> Array:
        """Cost of relaxed masks [n], float64 [R]."""
        return self.costs.of_sites(Allocation(self.layout.sums(masks), whole)).sum(axis=1)

    def leave_room(self, whole: Array, limits: Array) -> bool:
        """Whether the sites that are not whole can have their least ranks beside whole ones at their true cost."""
        return self.costs.fits(self.costs.settle(np.ones_like(self.costs.full_ranks), whole), limits)

    def saturated(self, masks: Array, whole: Array) -> Array:
        """Sites that are whole, or whose masks [n] add up to a rank at which two factors save nothing, bool [S]."""
        ranks = np.floor(self.layout.sums(masks) + _SUM_ERROR).astype(np.int64)
        return self.costs.settle(ranks, whole).whole
