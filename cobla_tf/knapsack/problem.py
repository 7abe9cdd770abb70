"""One choice for every site, of most value within the limits: the problem and its solution."""

from dataclasses import dataclass

import numpy as np

Array = np.ndarray

TOLERANCE = 1e-12
"""Values closer than this are equal: the rounding of float64 sums of logarithms."""
LARGEST = 2.0**62
"""A limit above this is none: int64 holds no more, and no cost comes near."""


@dataclass(frozen=True)
class Choices:
    """The choices of S sites, those of one site side by side.

    Attributes:
        values: float64 [n].
        costs: int64 [R, n].
        sites: the site of each choice, ascending from 0 without a gap, int64 [n].
        kinds: int64 [n], ascending within a site; the choices of one kind follow a concave curve: the bound is tight
            once a site has one kind.
        twins: int64 [S]; sites of one number have like costs, so that many of their combinations cost the same.
        limits: int64 [R].
    """

    values: Array
    costs: Array
    sites: Array
    kinds: Array
    twins: Array
    limits: Array

    @classmethod
    def of(
        cls, values: list[Array], costs: list[Array], kinds: list[Array], keys: list[bytes], limits: Array
    ) -> "Choices":
        """From parts, one a site.

        Args:
            values, costs, kinds: of the site's own choices, [n], [R, n] and [n].
            keys: equal for twins.
            limits: rounded down, float64 [R].
        """
        numbers: dict[bytes, int] = {}
        return cls(
            values=np.concatenate(values),
            costs=np.concatenate(costs, axis=1).astype(np.int64),
            sites=np.repeat(np.arange(len(values)), [len(own) for own in values]),
            kinds=np.concatenate(kinds).astype(np.int64),
            twins=np.array([numbers.setdefault(key, len(numbers)) for key in keys]),
            limits=np.floor(np.minimum(limits, LARGEST)).astype(np.int64),
        )

    @property
    def starts(self) -> Array:
        """Place of each site's first choice, int64 [S]."""
        return np.flatnonzero(np.diff(self.sites, prepend=-1))

    @property
    def shares(self) -> Array:
        """Costs as shares of the limits, float64 [R, n]."""
        return self.costs / np.maximum(self.limits, 1)[:, None]

    def take(self, places: Array) -> "Choices":
        """Some of the choices, at least one of every site."""
        return Choices(
            self.values[places],
            self.costs[:, places],
            self.sites[places],
            self.kinds[places],
            self.twins,
            self.limits,
        )

    def fits(self, picks: Array) -> bool:
        """Whether one pick a site, places [S], is within the limits, in integers."""
        return bool((self.costs[:, picks].sum(axis=1) <= self.limits).all())

    def losses(self, prices: Array) -> Array:
        """How far each choice is from its site's best one at prices [R] for a whole limit each, float64 [n]."""
        reduced = self.values - prices @ self.shares
        starts = self.starts
        best = np.maximum.reduceat(reduced, starts)
        return np.repeat(best, np.diff(starts, append=len(reduced))) - reduced


@dataclass(frozen=True)
class Proved:
    """How good an answer is, and how good one can be.

    Attributes:
        value: of the answer.
        bound: no answer within the limits has a larger value.
    """

    value: float
    bound: float

    @property
    def gap(self) -> float:
        """What is left to prove; 0 where the answer is proved optimal, up to TOLERANCE."""
        return max(self.bound - self.value, 0.0)


@dataclass(frozen=True)
class Solution(Proved):
    """What was found.

    Attributes:
        picks: the place of each site's choice, int64 [S].
    """

    picks: Array
