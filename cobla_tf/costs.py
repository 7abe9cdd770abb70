"""Costs of the sites, linear in their ranks; NumPy only."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from cobla_tf.kernels import KernelForm
from cobla_tf.reach import balanced, least_use

Array = np.ndarray

COUNTED = ("macs", "params")
"""The resources that are counted in the network itself."""


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
    """Cost of S sites in R named resources, whole numbers of each resource's unit.

    Attributes:
        resources: names, e.g. ("macs", "params").
        original: cost of the original layers, int64 [R, S].
        per_rank: cost of one rank of the two factors, int64 [R, S].
        full_ranks: int64 [S].
        base: what two factors cost beside their ranks, int64 [R, S], or a number for all.
        decimals: int64 [R], or a number for all: a unit is 10^-decimals of what the user counts in.
        multiple: every rank is one of this; a site without such a rank stays whole.
    """

    resources: tuple[str, ...]
    original: Array
    per_rank: Array
    full_ranks: Array
    base: Array | int = 0
    decimals: Array | int = 0
    multiple: int = 1

    def __post_init__(self) -> None:
        """Give `base` and `decimals` their shapes."""
        object.__setattr__(self, "base", np.broadcast_to(self.base, self.original.shape))
        object.__setattr__(self, "decimals", np.broadcast_to(self.decimals, len(self.resources)))

    def totals(self) -> Array:
        """Cost of all original sites, int64 [R]."""
        return self.original.sum(axis=1)

    def of_sites(self, allocation: Allocation) -> Array:
        """Cost of each site under an allocation, int64 [R, S]; float64 where its ranks are sums of relaxed masks."""
        return np.where(allocation.whole, self.original, self.base + self.per_rank * allocation.ranks)

    def used(self, allocation: Allocation) -> Array:
        """Cost of all sites under an allocation, int64 [R]."""
        return self.of_sites(allocation).sum(axis=1)

    def admissible(self, ranks: Array) -> Array:
        """The multiples next below ranks [..., S], but at least the first one."""
        steps = np.clip(ranks // self.multiple, 1, np.maximum(self.full_ranks // self.multiple, 1))
        return (steps * self.multiple).astype(np.int64)

    def saturation_ranks(self) -> Array:
        """Smallest rank, int64 [S], at which two factors save nothing in any resource; above the full one if none."""
        gap = self.original - self.base
        ranks = -(-gap // np.maximum(self.per_rank, 1))
        never = (self.per_rank == 0) & (gap > 0)
        return np.where(never, self.full_ranks + 1, ranks).max(axis=0)

    def cheapest(self, limits: Array) -> Allocation:
        """The allocation to begin from: the least rank, but whole where two factors save nothing.

        That rank can be dearer than the layer itself in one resource (a stride, a fixed cost of two layers) and cheaper
        in another. Where it breaks a limit if all sites have it, such sites are whole or not so as to leave the most
        room under every limit. It fits wherever any allocation does; otherwise it is the nearest one.
        """
        lean = self._lean()
        if self.fits(lean, limits):
            return lean
        open_sites = self._contested(lean)
        nearest = self._with_whole(lean, open_sites, balanced(*self._choice(lean, open_sites), limits))
        if self.fits(nearest, limits):
            return nearest
        # a limit that can be met only to the last unit lies within the tolerance of the search for the most room
        least = (self.least_given(row, limits) for row in range(len(limits)))
        return next((found for found in least if found is not None and self.fits(found, limits)), nearest)

    def least_given(self, row: int, limits: Array) -> Allocation | None:
        """The allocation of least use of one resource within the limits on the others; None where these allow none."""
        lean = self._lean()
        open_sites = self._contested(lean)
        chosen = least_use(row, *self._choice(lean, open_sites), limits)
        if chosen is None:
            return None
        found = self._with_whole(lean, open_sites, chosen)
        return found if np.delete(self.used(found) <= limits, row).all() else None

    @property
    def least_costs(self) -> Array:
        """Of two factors at the least rank, int64 [R, S]; of the layer where it has no such rank."""
        return np.where(self.full_ranks < self.multiple, self.original, self.base + self.per_rank * self.multiple)

    def _lean(self) -> Allocation:
        return self.settle(np.ones_like(self.full_ranks), np.zeros(len(self.full_ranks), dtype=bool))

    def _contested(self, lean: Allocation) -> Array:
        """Sites, as indices, whose least rank is dearer than the layer in one resource and cheaper in another."""
        return np.flatnonzero(~lean.whole & (self.least_costs > self.original).any(axis=0))

    def _choice(self, lean: Allocation, sites: Array) -> tuple[Array, Array]:
        """Use [R] with all `sites` at the least rank, and what each of them adds when it is whole, [R, sites]."""
        return self.used(lean), (self.original - self.least_costs)[:, sites]

    def _with_whole(self, lean: Allocation, sites: Array, chosen: Array) -> Allocation:
        whole = lean.whole.copy()
        whole[sites[chosen]] = True
        return Allocation(np.where(whole, self.full_ranks, lean.ranks), whole)

    def least(self) -> Array:
        """Lower bound on the use of each resource, int64 [R]: every site in its cheaper form."""
        return np.minimum(self.original, self.least_costs).sum(axis=1)

    def take(self, resources: Array) -> "CostTable":
        """The table of some resources, chosen by a bool [R]."""
        names = tuple(name for name, chosen in zip(self.resources, resources, strict=True) if chosen)
        rows = ("original", "per_rank", "base", "decimals")
        return replace(self, resources=names, **{row: getattr(self, row)[resources] for row in rows})

    def own_units(self, amounts: Array) -> list[int | float]:
        """Amounts [R] as the user counts them: whole numbers for what is counted in the network; infinity stays."""
        return [_own_unit(amount, int(places)) for amount, places in zip(amounts, self.decimals, strict=True)]

    def settle(self, ranks: Array, whole: Array) -> Allocation:
        """Multiples below ranks [..., S]; saturated sites and those without one are whole, at their true cost."""
        multiples = self.admissible(ranks)
        saturated = np.maximum(ranks, multiples) >= self.saturation_ranks()
        whole = whole | saturated | (self.full_ranks < self.multiple)
        return Allocation(np.where(whole, self.full_ranks, multiples), whole)

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


def _own_unit(amount: float, places: int) -> int | float:
    if np.isinf(amount):
        return float(amount)
    return float(Fraction(int(amount)) / Fraction(10) ** places) if places else int(amount)


def kernel_costs(form: KernelForm, uses: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> tuple[Array, Array]:
    """MACs and params of one layer's kernel, original and per rank of its two factors; biases are not counted.

    Args:
        form: of the kernel.
        uses: one (sizes of the input, sizes of the output), without channels, for each use of the layer.

    Returns:
        original and per_rank in the order of COUNTED, int64 [2] each.
    """
    weights = np.array(form.weights, dtype=np.int64)
    macs = weights * np.sum([form.positions(*sizes) for sizes in uses], axis=0)
    costs = np.stack([macs, weights])  # [2, kernel | G | H]
    return costs[:, 0], costs[:, 1:].sum(axis=1)
