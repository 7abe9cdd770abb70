"""Costs of the sites, linear in their ranks, and the budgets on them; NumPy only."""

import math
from dataclasses import dataclass
from numbers import Real

import numpy as np

from cobla_tf.errors import BudgetError

Array = np.ndarray


@dataclass(frozen=True)
class Allocation:
    """What every site is given.

    Attributes:
        ranks: int64 [S]; the full rank where the site is whole.
        whole: bool [S], True where the original layer stays.
    """

    ranks: Array
    whole: Array


@dataclass(frozen=True)
class CostTable:
    """Cost of S sites in R named resources.

    Attributes:
        resources: names, e.g. ("macs", "params").
        original: cost of the original layers, int64 [R, S].
        per_rank: cost of one rank of the two factors, int64 [R, S].
        full_ranks: int64 [S].
    """

    resources: tuple[str, ...]
    original: Array
    per_rank: Array
    full_ranks: Array

    def totals(self) -> Array:
        """Cost of all original sites, int64 [R]."""
        return self.original.sum(axis=1)

    def of_sites(self, allocation: Allocation) -> Array:
        """Cost of each site under an allocation, int64 [R, S]."""
        return np.where(allocation.whole, self.original, self.per_rank * allocation.ranks)

    def used(self, allocation: Allocation) -> Array:
        """Cost of all sites under an allocation, int64 [R]."""
        return self.of_sites(allocation).sum(axis=1)

    def saturation_ranks(self) -> Array:
        """Smallest rank, int64 [S], at which two factors save nothing in any resource."""
        return (-(-self.original // np.maximum(self.per_rank, 1))).max(axis=0)

    def cheapest(self, limits: Array) -> Allocation:
        """The allocation to begin from: rank one, but whole where two factors save nothing.

        A strided site's rank one can be dearer than the layer itself in one resource and cheaper in another; it is
        whole where the dearer one would otherwise break its limit.
        """
        whole = self.saturation_ranks() <= 1
        lean = Allocation(np.where(whole, self.full_ranks, 1), whole)
        short = self.used(lean) > limits
        whole = whole | (self.per_rank > self.original)[short].any(axis=0)
        return Allocation(np.where(whole, self.full_ranks, 1), whole)

    def least(self) -> Array:
        """Lower bound on the use of each resource, int64 [R]: every site in its cheaper form."""
        return np.minimum(self.original, self.per_rank).sum(axis=1)

    def take(self, resources: Array) -> "CostTable":
        """The table of some resources, chosen by a bool [R]."""
        names = tuple(name for name, chosen in zip(self.resources, resources, strict=True) if chosen)
        return CostTable(names, self.original[resources], self.per_rank[resources], self.full_ranks)

    def settle(self, ranks: Array, whole: Array) -> Allocation:
        """Keep saturated sites whole, at their true cost, beside those that are whole already."""
        whole = whole | (ranks >= self.saturation_ranks())
        return Allocation(np.where(whole, self.full_ranks, ranks).astype(np.int64), whole)

    def promote(self, allocation: Allocation, limits: Array, order: Array) -> Allocation:
        """Keep further sites whole, tried in `order` [S], as long as the limits hold with their true cost."""
        for i in order:
            whole = allocation.whole.copy()
            whole[i] = True
            trial = Allocation(np.where(whole, self.full_ranks, allocation.ranks), whole)
            if self.fits(trial, limits):
                allocation = trial
        return allocation

    def fits(self, allocation: Allocation, limits: Array) -> bool:
        """Whether an allocation is within the limits [R]."""
        return bool((self.used(allocation) <= limits).all())


def conv2d_costs(
    kernel_shape: tuple[int, int, int, int], scheme: str, calls: list[tuple[tuple[int, int], tuple[int, int]]]
) -> tuple[Array, Array]:
    """MACs and params of one Conv2D, original and per rank of its two factors; biases are not counted.

    Args:
        kernel_shape: (kh, kw, c, f).
        scheme: "spatial": G carries the vertical stride, so that its output is as high as the layer's and as wide
            as the input; "channel": G carries both strides.
        calls: one ((input height, input width), (output height, output width)) for each use of the layer.

    Returns:
        original and per_rank, int64 [2] each: MACs, params.
    """
    kh, kw, c, f = kernel_shape
    positions = sum(h * w for _, (h, w) in calls)
    if scheme == "spatial":
        first, second = kh * c, kw * f
        first_positions = sum(h * in_w for (_, in_w), (h, _) in calls)
    else:
        first, second = kh * kw * c, f
        first_positions = positions
    weights = kh * kw * c * f
    original = np.array([positions * weights, weights], dtype=np.int64)
    return original, np.array([first_positions * first + positions * second, first + second], dtype=np.int64)


def resolve_limits(costs: CostTable, budgets: dict[str, float | None]) -> Array:
    """Turn what the user asked for into absolute limits.

    Args:
        costs: the sites' costs.
        budgets: per resource a fraction up to 1 of the original sites' cost, an absolute number above 1, or None.

    Returns:
        limits, float64 [R], infinite where there is no budget.

    Raises:
        BudgetError: no budget at all, one that is not a positive number, or one below the smallest reachable.
    """
    limits = np.array([_limit(name, budgets.get(name), costs.totals()[i]) for i, name in enumerate(costs.resources)])
    if np.isinf(limits).all():
        raise BudgetError(f"expected a budget on at least one of {costs.resources}, got none; give e.g. macs=0.5.")
    for name, limit, least, total in zip(costs.resources, limits, costs.least(), costs.totals(), strict=True):
        if limit < least:
            raise BudgetError(
                f"the {name} budget is {limit:,.0f}, but the smallest reachable one is {least:,} "
                f"({math.ceil(least / total * 1e4) / 1e4:.4f} of the sites' {total:,}); raise {name} to that or more."
            )
    reached = costs.used(costs.cheapest(limits))
    if (reached > limits).any():
        needs = ", ".join(f"{name} {use:,}" for name, use in zip(costs.resources, reached, strict=True))
        raise BudgetError(f"the budgets cannot be met together; the cheapest network found needs {needs}.")
    return limits


def _limit(name: str, budget: float | None, total: int) -> float:
    if budget is None:
        return math.inf
    if isinstance(budget, bool) or not isinstance(budget, Real) or not 0 < budget < math.inf:
        raise BudgetError(
            f"the {name} budget must be a fraction in (0, 1] or an absolute number above 1, got {budget!r}."
        )
    return float(math.floor(budget * int(total)) if budget <= 1 else math.floor(budget))
