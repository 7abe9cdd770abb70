"""Images and labels, as arrays or as a stream too large to hold."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from cobla_tf.digest import digest
from cobla_tf.elements import each, parts_of
from cobla_tf.errors import DataError
from cobla_tf.progress import bar

Array = np.ndarray
Arrays = Array | tuple[Array, ...]
"""One array, or one for each of several inputs or outputs."""
Batch = tuple[Arrays, Arrays]

SAMPLE_LIMIT = 2**33
"""Bytes of images in one sample of a stream: a sample is evaluated many times, and so held."""
SHUFFLE_BUFFER = 4096
PROBE = 64
DRAWN = 64
"""Images in a batch from which samples of a stream are put together."""


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
        """(the rest, a random share), of at least one example each where there are two."""
        order, count = rng.permutation(self.size), min(max(1, round(share * self.size)), self.size - 1)
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

    @property
    def most_drawn(self) -> int:
        """The largest sample that there is."""
        return self.size

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
        ordered: makes it anew, all examples in an order that follows from the argument alone, an int64 tensor [2];
            None where the data set has an order of its own, pass for pass.
    """

    dataset: Any
    size: int
    ordered: Callable[[Any], Any] | None = None
    _endless: Iterator[Batch] | None = field(default=None, init=False, repr=False)

    @cached_property
    def digest(self) -> bytes:
        """What stands for the data set as far as is known without a pass: its size and its first few examples."""
        return digest(self.size, self.probe())

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """One pass."""
        return iter(_rebatched(self.dataset, batch_size).as_numpy_iterator())

    def leave_out_a_pass(self) -> None:
        """As if one had been made: an order of its own follows from how often it, or what it shares, was begun."""
        if self.ordered is None:
            iter(self.dataset)

    def epochs(self, batch_size: int, seed: int, first: int = 0) -> Any:
        """A tf.data.Dataset of batches without end: passes from number `first` on, none of their batches of two.

        The order in a pass follows from the seed and its number alone. That of a data set with an order of its own
        follows from how often it was begun: it is begun `first` times more, which reads nothing.
        """
        import tensorflow as tf

        if self.ordered is None:
            for _ in range(first):
                self.leave_out_a_pass()
            return _rebatched(self.dataset, batch_size).repeat()

        @tf.autograph.experimental.do_not_convert
        def one(number: tf.Tensor) -> tf.data.Dataset:
            return _rebatched(self.ordered(tf.stack([tf.constant(seed, tf.int64), number])), batch_size)

        return tf.data.Dataset.range(first, tf.int64.max).flat_map(one).prefetch(tf.data.AUTOTUNE)

    def mapped(self, function: Callable[[Any, Any], Any], batch_size: int) -> "Stream":
        """The stream with each batch (images, labels) of this size put through a function."""

        def mapped(dataset: Any) -> Any:
            return _rebatched(dataset, batch_size).map(function)

        ordered = None if self.ordered is None else lambda order: mapped(self.ordered(order))
        return Stream(mapped(self.dataset), self.size, ordered)

    def afresh(self) -> "Stream":
        """The stream before anything was drawn from it."""
        return Stream(self.dataset, self.size, self.ordered)

    def probe(self) -> Sample:
        """The first few examples, to look at their form; the same ones whenever asked."""
        return self._first

    @property
    def most_drawn(self) -> int:
        """The largest sample that there is, and that SAMPLE_LIMIT bytes hold."""
        return min(self.size, SAMPLE_LIMIT // self._bytes)

    @cached_property
    def _first(self) -> Sample:
        return Sample(*next(self.batches(PROBE)))

    @cached_property
    def _bytes(self) -> int:
        return sum(part[0].nbytes for part in parts_of(self.probe().images))

    def check_draw(self, count: int) -> None:
        """Refuse samples too large to hold.

        Raises:
            DataError: `count` images take more than SAMPLE_LIMIT bytes.
        """
        one = self._bytes
        if one * count > SAMPLE_LIMIT:
            raise DataError(
                f"a sample of {count:,} images takes {one * count / 2**30:.0f} GiB, and at most "
                f"{SAMPLE_LIMIT / 2**30:.0f} are held: set sample_fraction to {SAMPLE_LIMIT / one / self.size:.2g} or "
                "less."
            )

    def draw(self, count: int, rng: np.random.Generator) -> Sample:
        """The next `count` examples of an endless shuffled pass, in memory."""
        if self._endless is None:
            self._endless = self._shuffled(int(rng.integers(2**31))).as_numpy_iterator()
        first, count = next(self._endless), min(count, self.size)
        held = Sample(*(each(lambda part: np.empty((count, *np.shape(part)), part.dtype), one) for one in first))
        _place(held, 0, first)
        for i in bar(range(1, count), count - 1, "images drawn"):
            _place(held, i, next(self._endless))
        return held

    def _shuffled(self, seed: int) -> Any:
        """Single examples, pass after pass."""
        if self.ordered is None:
            return self.dataset.unbatch().shuffle(SHUFFLE_BUFFER, seed=seed).repeat()
        return self.epochs(DRAWN, seed).unbatch()

    def reserve(self, count: int, rng: np.random.Generator) -> tuple["Stream", Sample]:
        """(this stream, its next `count` examples): these come again only after a whole pass."""
        return self, self.draw(count, rng)


Examples = Sample | Stream


def _rebatched(dataset: Any, batch_size: int) -> Any:
    return dataset.unbatch().batch(batch_size)


def _place(held: Sample, i: int, element: Batch) -> None:
    for arrays, one in zip((held.images, held.labels), element, strict=True):
        for array, part in zip(parts_of(arrays), parts_of(one), strict=True):
            array[i] = part
