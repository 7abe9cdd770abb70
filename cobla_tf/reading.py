"""From what a user hands over to examples: arrays or a tf.data.Dataset, checked."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from textwrap import shorten
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from cobla_tf.elements import Form, each, is_of, joined, parts_of, rows_not_finite
from cobla_tf.errors import DataError
from cobla_tf.examples import Batch, Examples, Sample, Stream
from cobla_tf.progress import bar
from cobla_tf.texts import counted

IN_MEMORY_LIMIT = 2**30
"""Bytes of images up to which a tf.data.Dataset is read into memory once, for exact random sampling."""

EXPECTED = (
    "a pair of arrays (images, labels) or a tf.data.Dataset of such batches, with a tuple or dict of arrays for "
    "images or labels where the model has several inputs or outputs"
)

UNREADABLE = (
    tf.errors.InvalidArgumentError, tf.errors.NotFoundError, tf.errors.DataLossError, tf.errors.UnknownError,
    tf.errors.FailedPreconditionError, tf.errors.PermissionDeniedError,
)  # fmt: skip
"""What TensorFlow raises for files, images and labels that are not as they should be."""


def as_examples(dataset: Any, name: str = "dataset", form: Form | None = None) -> Examples:
    """Read what a user hands over.

    Args:
        dataset: a pair (images [N, ...], labels [N, ...]), or a tf.data.Dataset of (images, labels) batches; for
            several inputs or outputs with a tuple, list or dict of arrays in place of one, as Keras' fit takes them.
        name: what to call it in errors.
        form: the model's inputs and outputs; one of each by default.

    Raises:
        DataError: neither of the two, empty, images and labels of different number, or images that are not finite.
    """
    form = form or Form()
    if isinstance(dataset, Sample | Stream):
        return dataset
    try:
        with batches_of(name):
            return _read(dataset, name, form) if isinstance(dataset, tf.data.Dataset) else _arrays(dataset, name, form)
    except DataError as error:
        raise DataError(str(error) if str(error).startswith(name) else f"{name}: {error}") from error


@contextmanager
def batches_of(name: str) -> Iterator[None]:
    """For work on batches that come from a user's pipeline, of which TensorFlow knows neither names nor places.

    Raises:
        DataError: a batch cannot be made or used; its cause is TensorFlow's error.
    """
    try:
        yield
    except UNREADABLE as error:
        raise DataError(
            f"{name}: its batches cannot be read ({_reason(error)}); look for a broken file, for images of several "
            "sizes in one batch, or for labels outside the model's classes."
        ) from error


def _reason(error: tf.errors.OpError) -> str:
    """The line that tells what is wrong: the last one before TensorFlow names its nodes."""
    lines = [line.strip() for line in str(error.message).partition("[[{{node")[0].splitlines() if line.strip()]
    return shorten(lines[-1].removesuffix("."), 160, placeholder=" ...") if lines else type(error).__name__


def _arrays(dataset: Any, name: str, form: Form) -> Sample:
    if not isinstance(dataset, tuple | list) or len(dataset) != 2:
        got = f"{len(dataset)} of them" if isinstance(dataset, tuple | list) else type(dataset).__name__
        raise DataError(f"expected {EXPECTED}; got {got}.")
    images, labels = form.arrange(*dataset)
    try:
        sample = Sample(each(np.asarray, images), each(np.asarray, labels))
    except ValueError as error:
        raise DataError(f"expected rectangular arrays, got lists of unequal lengths ({error}).") from error
    if not _match(sample.images, sample.labels):
        raise DataError(f"expected as many labels as images, got shapes {_shapes(sample)}.")
    return _checked(sample, name)


def _match(images: Any, labels: Any) -> bool:
    """Whether all arrays have a batch axis, of one length."""
    arrays = (*parts_of(images), *parts_of(labels))
    return all(part.ndim for part in arrays) and len({len(part) for part in arrays}) == 1


def _shapes(sample: Sample) -> str:
    return " and ".join(str(each(lambda part: part.shape, one)) for one in (sample.images, sample.labels))


def _read(dataset: Any, name: str, form: Form) -> Examples:
    spec = dataset.element_spec
    if not isinstance(spec, tuple) or len(spec) != 2:
        given = f"{len(spec)} parts (weights of examples are not used)" if isinstance(spec, tuple) else str(spec)
        raise DataError(f"expected batches of (images, labels), got elements of {given}.")
    arranged = joined(form.arrange(*spec))
    if not all(hasattr(part, "shape") for one in arranged for part in parts_of(one)):
        raise DataError(f"expected batches of (images, labels), got elements of the form {spec}.")
    specs = parts_of(arranged[0])
    if form.shapes and all(_is_one(part.shape, own) for part, own in zip(specs, form.shapes, strict=True)):
        raise DataError(f"expected batches, got single images of shape {specs[0].shape}; batch it, dataset.batch(32).")
    if int(dataset.cardinality()) == -1:
        raise DataError(f"{name} repeats without end; expected a finite dataset: leave out .repeat().")
    arranged = dataset if arranged == spec else dataset.map(form.arrange)
    size = _known_size(arranged)
    if size is not None and size * _known_bytes(arranged) > IN_MEMORY_LIMIT:
        return Stream(arranged, size)
    return _keep(arranged, name)


def _is_one(shape: tf.TensorShape, own: Sequence[int | None]) -> bool:
    """Whether a shape is that of one image, without a batch axis."""
    return shape.rank is not None and is_of(shape.as_list(), own)


def _known_size(dataset: Any) -> int | None:
    """Number of examples where it is known without a pass, which is where all batches are of one known length."""
    batches = int(dataset.cardinality())
    lengths = {part.shape[0] if part.shape.rank else None for one in dataset.element_spec for part in parts_of(one)}
    if batches < 0 or len(lengths) != 1 or None in lengths:
        return None
    return batches * lengths.pop()


def _known_bytes(dataset: Any) -> int:
    """Bytes of one example's images; 0 where they are of no known shape."""
    parts = parts_of(dataset.element_spec[0])
    return sum((part.shape[1:].num_elements() or 0) * part.dtype.size for part in parts)


def _keep(dataset: Any, name: str) -> Examples:
    """Read into memory until the limit; beyond it count on without keeping."""
    parts: list[Batch] = []
    held, count = 0, 0
    batches = int(dataset.cardinality())
    for images, labels in bar(dataset.as_numpy_iterator(), batches if batches > 0 else None, f"batches of {name}"):
        if not _match(images, labels):
            raise DataError(
                f"expected batches, got images and labels of shapes {_shapes(Sample(images, labels))}; batch it."
            )
        count += Sample(images, labels).size
        before, held = held, held + sum(part.nbytes for part in parts_of(images))
        if held <= IN_MEMORY_LIMIT:
            parts.append((images, labels))
        elif before <= IN_MEMORY_LIMIT:
            parts.clear()
            logging.warning(
                "%s has more than fits into memory and does not know its length: its examples are counted; one that "
                "repeats without end has to be cut by .take(batches)", name,
            )  # fmt: skip
    if held > IN_MEMORY_LIMIT:
        return Stream(dataset, count)
    if not parts:
        raise DataError(f"{name} is empty; expected at least one batch of (images, labels).")
    images, labels = ([part[i] for part in parts] for i in range(2))
    return _checked(Sample(_concatenated(images), _concatenated(labels)), name)


def _concatenated(batches: list[Any]) -> Any:
    columns = list(zip(*(parts_of(batch) for batch in batches), strict=True))
    for column in columns:
        shapes = {part.shape[1:] for part in column}
        if len(shapes) > 1:
            raise DataError(f"expected examples of one shape in all batches, got {' and '.join(map(str, shapes))}.")
    return joined([np.concatenate(column) for column in columns])


def _checked(sample: Sample, name: str) -> Sample:
    if sample.size == 0:
        raise DataError(f"{name} is empty; expected at least one image.")
    for images in parts_of(sample.images):
        bad = rows_not_finite(images)
        if len(bad):
            raise DataError(f"{name}: NaN or infinity in {counted(len(bad), 'image')}, first at index {bad[0]:,}.")
    return sample
