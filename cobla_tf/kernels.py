"""How a kernel is read as matrices, and how their factors become the kernels of two layers in a row."""

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from cobla_tf.config import SCHEMES
from cobla_tf.errors import check_among

Array = np.ndarray


@dataclass(frozen=True)
class KernelForm:
    """A kernel [*sizes, c, f] that falls apart into G [*first, c, r] and H [*second, r, f]: each has some of the sizes.

    A layer in groups is one such kernel a group, all of the same rank.

    Attributes:
        scheme: "spatial" (paper, Eq. 3) gives the first size to G and the others to H; "channel" (Eq. 4) all to G.
        shape: of the kernel as the layer has it: (*sizes, c, groups * f), or (*sizes, f, c) where transposed.
        groups: of channels that do not mix.
        transposed: whether each place of the input, rather than of the output, meets the whole kernel.

    Raises:
        ConfigError: the scheme is unknown.
    """

    scheme: str
    shape: tuple[int, ...]
    groups: int = 1
    transposed: bool = False

    def __post_init__(self) -> None:
        """Check the scheme."""
        check_among("scheme", self.scheme, SCHEMES)

    @property
    def split(self) -> int:
        """How many of the sizes G takes."""
        return 1 if self.scheme == "spatial" else len(self._sizes)

    @property
    def weights(self) -> tuple[int, int, int]:
        """Of the kernel, and for each rank of G and of H."""
        rows, columns = self.matrix_shape
        return prod(self.shape), self.groups * columns, self.groups * rows

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """Rows and columns of a group's matrix."""
        c, f = self._channels
        return prod(self._second) * f, prod(self._first) * c

    def positions(self, inner: tuple[int, ...], outer: tuple[int, ...]) -> tuple[int, int, int]:
        """At how many places the kernel, G and H are applied, from the sizes of the input and of the output.

        G makes its own sizes those of the output, strides included, and leaves the others to H.
        """
        middle = (*outer[: self.split], *inner[self.split :])
        if self.transposed:
            return prod(inner), prod(inner), prod(middle)
        return prod(outer), prod(middle), prod(outer)

    def matrices(self, kernel: Any, xp: Any = np) -> Any:
        """A kernel as matrices [groups, rows, columns]: (second, f) in the rows, (first, c) in the columns.

        Args:
            kernel: an array.
            xp: whose: NumPy, or a namespace that has its functions.
        """
        c, f = self._channels
        kernel = xp.swapaxes(kernel, -1, -2) if self.transposed else kernel
        grouped = xp.transpose(xp.reshape(kernel, (*self._sizes, c, self.groups, f)), self._order)
        return xp.reshape(grouped, (self.groups, *self.matrix_shape))

    def kernel(self, matrices: Any, xp: Any = np) -> Any:
        """Undo `matrices`."""
        c, f = self._channels
        grouped = xp.reshape(matrices, (self.groups, *self._second, f, *self._first, c))
        back = tuple(np.argsort(self._order).tolist())
        kernel = xp.reshape(xp.transpose(grouped, back), (*self._sizes, c, self.groups * f))
        return xp.swapaxes(kernel, -1, -2) if self.transposed else kernel

    def factors(self, right: Array, left: Array) -> tuple[Array, Array]:
        """G and H as two layers have them.

        Args:
            right: the input side, [groups, columns, r].
            left: the output side, [groups, rows, r].

        Returns:
            [*first, ones, c, groups * r] and [ones, *second, r, groups * f], the last two axes exchanged in G where the
            layer is transposed, and in H where that is a transposed layer, too, and no pointwise one.
        """
        c, f = self._channels
        first, second, rank = self._first, self._second, right.shape[-1]
        G = np.moveaxis(right.reshape(self.groups, *first, c, rank), 0, -2)
        G = G.reshape(*first, *(1 for _ in second), c, self.groups * rank)
        H = np.moveaxis(left.reshape(self.groups, *second, f, rank), (-1, 0), (-3, -2))
        H = H.reshape(*(1 for _ in first), *second, rank, self.groups * f)
        return (
            G.swapaxes(-1, -2) if self.transposed else G,
            H.swapaxes(-1, -2) if self.transposed and second else H,
        )

    @property
    def _sizes(self) -> tuple[int, ...]:
        return self.shape[:-2]

    @property
    def _first(self) -> tuple[int, ...]:
        return self._sizes[: self.split]

    @property
    def _second(self) -> tuple[int, ...]:
        return self._sizes[self.split :]

    @property
    def _channels(self) -> tuple[int, int]:
        """Input and output channels of one group."""
        c, f = reversed(self.shape[-2:]) if self.transposed else self.shape[-2:]
        return c, f // self.groups

    @property
    def _order(self) -> tuple[int, ...]:
        """From the axes (*sizes, c, groups, f) to (groups, *second, f, *first, c)."""
        count = len(self._sizes)
        return (count + 1, *range(self.split, count), count + 2, *range(self.split), count)
