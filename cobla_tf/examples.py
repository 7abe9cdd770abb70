"""Images and labels, as arrays or as a stream too large to hold."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cobla_tf.errors import DataError

Array = np.ndarray
Batch = tuple[Array, Array]

IN_MEMORY_LIMIT = 2**30
"""Bytes of images up to which a tf.data.Dataset is read into memory once, for exact random sampling."""
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
        chosen = np.sort(rng.choice(self.size, count, replace=False))
        return Sample(self.images[chosen], self.labels[chosen])

    def split(self, share: float, rng: np.random.Generator) -> tuple["Sample", "Sample"]:
        """(the rest, a random share of at least one example)."""
        order = rng.permutation(self.size)
        count = max(1, round(share * self.size))
        held, rest = np.sort(order[:count]), np.sort(order[count:])
        return Sample(self.images[rest], self.labels[rest]), Sample(self.images[held], self.labels[held])


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

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """One pass in the dataset's own batches."""
        del batch_size
        return iter(self.dataset.as_numpy_iterator())

    def probe(self) -> Sample:
        """The first few examples, to look at their form."""
        images, labels = next(self.batches(PROBE))
        return Sample(images[:PROBE], labels[:PROBE])

    def draw(self, count: int, rng: np.random.Generator) -> Sample:
        """The next `count` examples of an endless shuffled pass."""
        if self._endless is None:
            shuffled = self.dataset.unbatch().shuffle(SHUFFLE_BUFFER, seed=int(rng.integers(2**31))).repeat()
            self._endless = shuffled.as_numpy_iterator()
        pairs = [next(self._endless) for _ in range(min(count, self.size))]
        return Sample(np.stack([x for x, _ in pairs]), np.stack([y for _, y in pairs]))


Examples = Sample | Stream


def as_examples(dataset: Any, name: str = "dataset") -> Examples:
    """Read what a user hands over.

    Args:
        dataset: a pair of arrays (images [N, ...], labels [N, ...]), or a tf.data.Dataset of (images, labels) batches.
        name: what to call it in errors.

    Raises:
        DataError: neither of the two, empty, or images and labels of different number.
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
    images, labels = (np.asarray(part) for part in dataset)
    if labels.ndim == 0 or len(images) != len(labels):
        raise DataError(f"{name}: expected as many labels as images, got shapes {images.shape} and {labels.shape}.")
    return _non_empty(Sample(images, labels), name)


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
    return _non_empty(Sample(np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])), name)


def _non_empty(sample: Sample, name: str) -> Sample:
    if sample.size == 0:
        raise DataError(f"{name} is empty; expected at least one image.")
    return sample
