"""Images and labels, as arrays or as a stream too large to hold."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from cobla_tf.digest import digest
from cobla_tf.elements import each, parts_of
from cobla_tf.errors import DataError

Array = np.ndarray
Arrays = Array | tuple[Array, ...]
"""One array, or one for each of several inputs or outputs."""
Batch = tuple[Arrays, Arrays]

SAMPLE_LIMIT = 2**33
"""Bytes of images in one sample of a stream: a sample is evaluated many times, and so held."""
SHUFFLE_BUFFER = 4096
PROBE = 64


@dataclass(frozen=True)
class Sample:
    """A fixed set of images and labels.

    Attributes:
        images: [N, ...], or a tuple of such for a network of several inputs.
        labels: [N, ...], likewise for several outputs.
    """

    images: Arrays
    labels: Arrays

    @property
    def size(self) -> int:
        """N."""
        return len(parts_of(self.images)[0])

    @cached_property
    def digest(self) -> bytes:
        """What stands for all images and labels; taken once, about a second a GiB."""
        return digest(self.images, self.labels)

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """Consecutive batches, the last one possibly smaller."""
        for start in range(0, self.size, batch_size):
            part = self._at(slice(start, start + batch_size))
            yield part.images, part.labels

    def probe(self) -> "Sample":
        """The first few examples, to look at their form."""
        return self._at(slice(PROBE))

    def draw(self, count: int, rng: np.random.Generator) -> "Sample":
        """`count` examples without repetition, all of them if there are no more."""
        if count >= self.size:
            return self
        return self.take(np.sort(rng.choice(self.size, count, replace=False)))

    def take(self, chosen: Array) -> "Sample":
        """A copy of the examples at some places, int [N]."""
        return self._at(chosen)

    def split(self, share: float, rng: np.random.Generator) -> tuple["Sample", "Sample"]:
        """(the rest, a random share of at least one example)."""
        order, count = rng.permutation(self.size), max(1, round(share * self.size))
        return self.take(np.sort(order[count:])), self.take(np.sort(order[:count]))

    def reserve(self, count: int, rng: np.random.Generator) -> tuple["Part", "Sample"]:
        """(the rest, not copied; `count` random examples in random order)."""
        order = rng.permutation(self.size)
        return Part(self, np.sort(order[count:])), self.take(order[:count])

    def _at(self, chosen: Array | slice) -> "Sample":
        return Sample(each(lambda part: part[chosen], self.images), each(lambda part: part[chosen], self.labels))


@dataclass(frozen=True)
class Part:
    """Some examples of a sample, copied only when they are drawn.

    Attributes:
        sample: what they are of.
        places: int64 [N].
    """

    sample: Sample
    places: Array

    @property
    def size(self) -> int:
        """N."""
        return len(self.places)

    def draw(self, count: int, rng: np.random.Generator) -> Sample:
        """`count` examples without repetition, all of them if there are no more."""
        drawn = self.places if count >= self.size else np.sort(rng.choice(self.places, count, replace=False))
        return self.sample.take(drawn)


@dataclass
class Stream:
    """Batches from a tf.data.Dataset that is too large for memory.

    Attributes:
        dataset: of (images, labels) batches.
        size: number of examples.
    """

    dataset: Any
    size: int
    _endless: Iterator[Batch] | None = field(default=None, repr=False)

    @cached_property
    def digest(self) -> bytes:
        """What stands for the data set as far as is known without a pass: its size and its first few examples."""
        return digest(self.size, self.probe())

    def rebatched(self, batch_size: int) -> Any:
        """The dataset in batches of another size."""
        return self.dataset.unbatch().batch(batch_size)

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """One pass."""
        return iter(self.rebatched(batch_size).as_numpy_iterator())

    def probe(self) -> Sample:
        """The first few examples, to look at their form."""
        return Sample(*next(self.batches(PROBE)))

    def check_draw(self, count: int) -> None:
        """Refuse samples too large to hold.

        Raises:
            DataError: `count` images take more than SAMPLE_LIMIT bytes.
        """
        one = sum(part[0].nbytes for part in parts_of(self.probe().images))
        if one * count > SAMPLE_LIMIT:
            raise DataError(
                f"a sample of {count:,} images takes {one * count / 2**30:.0f} GiB, and at most "
                f"{SAMPLE_LIMIT / 2**30:.0f} are held: set sample_fraction to {SAMPLE_LIMIT / one / self.size:.2g} or "
                "less."
            )

    def draw(self, count: int, rng: np.random.Generator) -> Sample:
        """The next `count` examples of an endless shuffled pass, in memory."""
        if self._endless is None:
            shuffled = self.dataset.unbatch().shuffle(SHUFFLE_BUFFER, seed=int(rng.integers(2**31))).repeat()
            self._endless = shuffled.as_numpy_iterator()
        first, count = next(self._endless), min(count, self.size)
        held = Sample(*(each(lambda part: np.empty((count, *np.shape(part)), part.dtype), one) for one in first))
        _place(held, 0, first)
        for i in range(1, count):
            _place(held, i, next(self._endless))
        return held

    def reserve(self, count: int, rng: np.random.Generator) -> tuple["Stream", Sample]:
        """(this stream, its next `count` examples): these come again only after a whole pass."""
        return self, self.draw(count, rng)


Examples = Sample | Stream


def _place(held: Sample, i: int, element: Batch) -> None:
    for arrays, one in zip((held.images, held.labels), element, strict=True):
        for array, part in zip(parts_of(arrays), parts_of(one), strict=True):
            array[i] = part
