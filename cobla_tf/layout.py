"""Where each site's masks lie in the one vector that the optimiser sees."""

from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Layout:
    """Concatenation of the masks of S sites to one vector of n = sum of full ranks.

    Attributes:
        full_ranks: int64 [S].
    """

    full_ranks: Array

    @property
    def size(self) -> int:
        """n, the length of the whole vector."""
        return int(self.full_ranks.sum())

    @property
    def _starts(self) -> Array:
        return np.concatenate([[0], np.cumsum(self.full_ranks)[:-1]]).astype(np.int64)

    def split(self, vector: Array) -> list[Array]:
        """The S parts of a vector [n], as views."""
        return np.split(vector, self._starts[1:])

    def sums(self, vector: Array) -> Array:
        """Sum over each site's part, [S]."""
        return np.add.reduceat(vector, self._starts)

    def spread(self, values: Array) -> Array:
        """Repeat one value a site [..., S] over that site's masks, [..., n]."""
        return np.repeat(values, self.full_ranks, axis=-1)

    def leading(self, ranks: Array) -> Array:
        """Masks [n] that keep each site's ranks[i] largest singular values, float64 of 0 and 1."""
        place = np.arange(self.size) - self.spread(self._starts)
        return (place < self.spread(ranks)).astype(np.float64)
