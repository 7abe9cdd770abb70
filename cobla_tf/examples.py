"""Images and labels, as arrays or as a stream too large to hold."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from cobla_tf.digest import digest
from cobla_tf.errors import DataError

Array = np.ndarray
Batch = tuple[Array, Array]

IN_MEMORY_LIMIT = 2**30
"""Bytes of images up to which a tf.data.Dataset is read into memory once, for exact random sampling."""
SAMPLE_LIMIT = 2**33
"""Bytes of images in one sample of a stream: a sample is evaluated many times, and so held."""
SHUFFLE_BUFFER = 4096
PROBE = 64


@dataclass(frozen=True)
class Sample:
    """A fixed set of images and labels.

    Attributes:
        images: [N, ...].
        labels: [N, ...].
    """

    images: Array
    labels: Array

    @property
    def size(self) -> int:
        """N."""
        return len(self.images)

    @cached_property
    def digest(self) -> bytes:
        """What stands for all images and labels; taken once, about a second a GiB."""
        return digest(self.images, self.labels)

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """Consecutive batches, the last one possibly smaller."""
        for start in range(0, self.size, batch_size):
            yield self.images[start : start + batch_size], self.labels[start : start + batch_size]

    def probe(self) -> "Sample":
        """The first few examples, to look at their form."""
        return Sample(self.images[:PROBE], self.labels[:PROBE])

    def draw(self, count: int, rng: np.random.Generator) -> "Sample":
        """`count` examples without repetition, all of them if there are no more."""
        if count >= self.size:
            return self
        return self.take(np.sort(rng.choice(self.size, count, replace=False)))

    def take(self, chosen: Array) -> "Sample":
        """A copy of the examples at some places, int [N]."""
        return Sample(self.images[chosen], self.labels[chosen])

    def split(self, share: float, rng: np.random.Generator) -> tuple["Sample", "Sample"]:
        """(the rest, a random share of at least one example)."""
        order, count = rng.permutation(self.size), max(1, round(share * self.size))
        return self.take(np.sort(order[count:])), self.take(np.sort(order[:count]))

    def reserve(self, count: int, rng: np.random.Generator) -> tuple["Part", "Sample"]:
        """(the rest, not copied; `count` random examples in random order)."""
        order = rng.permutation(self.size)
        return Part(self, np.sort(order[count:])), self.take(order[:count])


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
        images, labels = next(self.batches(PROBE))
        return Sample(images[:PROBE], labels[:PROBE])

    def check_draw(self, count: int) -> None:
        """Refuse samples too large to hold.

        Raises:
            DataError: `count` images take more than SAMPLE_LIMIT bytes.
        """
        each = self.probe().images[0].nbytes
        if each * count > SAMPLE_LIMIT:
            raise DataError(
                f"a sample of {count:,} images takes {each * count / 2**30:.0f} GiB, and at most "
                f"{SAMPLE_LIMIT / 2**30:.0f} are held: set sample_fraction to {SAMPLE_LIMIT / each / self.size:.2g} or "
                "less."
            )

    def draw(self, count: int, rng: np.random.Generator) -> Sample:
        """The next `count` examples of an endless shuffled pass, in memory."""
        if self._endless is None:
            shuffled = self.dataset.unbatch().shuffle(SHUFFLE_BUFFER, seed=int(rng.integers(2**31))).repeat()
            self._endless = shuffled.as_numpy_iterator()
        first_image, first_label = next(self._endless)
        count = min(count, self.size)
        images = np.empty((count, *np.shape(first_image)), first_image.dtype)
        labels = np.empty((count, *np.shape(first_label)), np.asarray(first_label).dtype)
        images[0], labels[0] = first_image, first_label
        for i in range(1, count):
            images[i], labels[i] = next(self._endless)
        return Sample(images, labels)

    def reserve(self, count: int, rng: np.random.Generator) -> tuple["Stream", Sample]:
        """(this stream, its next `count` examples): these come again only after a whole pass."""
        return self, self.draw(count, rng)


Examples = Sample | Stream


def as_examples(dataset: Any, name: str = "dataset") -> Examples:
    """Read what a user hands over.

    Args:
        dataset: a pair of arrays (images [N, ...], labels [N, ...]), or a tf.data.Dataset of (images, labels) batches.
        name: what to call it in errors.

    Raises:
        DataError: neither of the two, empty, images and labels of different number, or images that are not finite.
    """
    if isinstance(dataset, Sample | Stream):
        return dataset
    if hasattr(dataset, "element_spec"):
        return _read(dataset, name)
    if not isinstance(dataset, tuple | list) or len(dataset) != 2:
        raise DataError(
            f"{name} must be a tf.data.Dataset of (images, labels) batches or a pair of arrays, "
            f"got {type(dataset).__name__}."
        )
    try:
        images, labels = (np.asarray(part) for part in dataset)
    except ValueError as error:
        raise DataError(f"{name}: expected rectangular arrays, got lists of unequal lengths ({error}).") from error
    if images.ndim == 0 or labels.ndim == 0 or len(images) != len(labels):
        raise DataError(f"{name}: expected as many labels as images, got shapes {images.shape} and {labels.shape}.")
    return _checked(Sample(images, labels), name)


def _read(dataset: Any, name: str) -> Examples:
    spec = dataset.element_spec
    if not isinstance(spec, tuple) or len(spec) != 2 or not all(hasattr(part, "shape") for part in spec):
        raise DataError(f"{name}: expected batches of (images, labels), got elements of the form {spec}.")
    if int(dataset.cardinality()) == -1:
        raise DataError(f"{name} repeats without end; expected a finite dataset: leave out .repeat().")
    return _keep(dataset, name)


def _keep(dataset: Any, name: str) -> Examples:
    """Read into memory until the limit; count on without keeping beyond it."""
    parts: list[Batch] = []
    held, count = 0, 0
    for images, labels in dataset.as_numpy_iterator():
        if labels.ndim == 0 or len(images) != len(labels):
            raise DataError(
                f"{name}: expected batches, got images {images.shape} with labels {labels.shape}; batch it."
            )
        count += len(images)
        held += images.nbytes
        if held <= IN_MEMORY_LIMIT:
            parts.append((images, labels))
        else:
            parts.clear()
    if held > IN_MEMORY_LIMIT:
        return Stream(dataset, count)
    if not parts:
        raise DataError(f"{name} is empty; expected at least one batch of (images, labels).")
    return _checked(Sample(np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])), name)


def _checked(sample: Sample, name: str) -> Sample:
    if sample.size == 0:
        raise DataError(f"{name} is empty; expected at least one image.")
    if np.issubdtype(sample.images.dtype, np.floating):
        bad = np.flatnonzero(~np.isfinite(sample.images).reshape(sample.size, -1).all(axis=1))
        if len(bad):
            raise DataError(f"{name}: {len(bad):,} images hold NaN or infinity, the first at index {bad[0]:,}.")
    return sample
