"""Data sets that tensorflow-datasets has prepared on this machine; nothing is ever fetched."""

import difflib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from absl import logging

from cobla_tf.errors import DataError
from cobla_tf.image_source import EncodedSplit, ImageSource, listing, near_folders, pick_test

if TYPE_CHECKING:
    import tensorflow as tf

SHUFFLE_BUFFER = 4096
"""Encoded images among which the next one is drawn, after the shuffling of whole files."""


@contextmanager
def _warnings_only() -> Iterator[None]:
    """tensorflow-datasets tells every step of reading through the logger of this package."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(min(verbosity, logging.WARNING))
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


@_warnings_only()
def tfds_source(name: str, data_dir: str | None, channels: int) -> ImageSource:
    """The prepared data set of that name; looks at the disk only and reads one image a split.

    Args:
        name: of tensorflow-datasets, with configuration and version where wanted.
        data_dir: where tensorflow-datasets keeps its data; None is its own default.
        channels: that the images will be decoded to.

    Raises:
        DataError: an unknown name, data that are not prepared or are not images with one label each, no test split.
    """
    builder = _prepared_builder(name, data_dir)
    image, label = _image_and_label(name, builder.info)
    shape = builder.info.features[image].shape
    if shape[-1] != channels:
        logging.warning("%s has images of %s channels, the model takes %d: converted.", name, shape[-1], channels)

    def split(part: str) -> EncodedSplit:
        count = builder.info.splits[part].num_examples
        return EncodedSplit(lambda order: _records(builder, part, image, label, order), count)

    labelled = [part for part in builder.info.splits if _is_labelled(name, split(part))]
    test = pick_test(labelled, f"{name} of tensorflow-datasets", "labelled splits")
    return ImageSource(
        train=split("train"),
        test=split(test),
        classes=builder.info.features[label].num_classes,
        size=None if None in shape else tuple(shape[:2]),
        origin=f"{name} of tensorflow-datasets {builder.info.version}",
    )


def tfds_names() -> list[str]:
    """All names that tensorflow-datasets knows."""
    import tensorflow_datasets as tfds

    return tfds.list_builders(with_community_datasets=False)


def _prepared_builder(name: str, data_dir: str | None) -> Any:
    import tensorflow_datasets as tfds

    try:
        if tfds.core.naming.parse_builder_name_kwargs(name)[0].namespace:
            builder = None
        else:
            builder = tfds.builder(name, data_dir=data_dir)
    except (ValueError, TypeError, AssertionError, ImportError) as error:
        raise DataError(_why_unknown(name, error)) from error
    if builder is None:
        raise DataError(f"Dataset {name!r} is a community data set, which needs a network: give an image folder.")
    if not builder.is_prepared():
        raise DataError(_how_to_prepare(name, data_dir, builder))
    return builder


def _why_unknown(name: str, error: Exception) -> str:
    known = tfds_names()
    if re.split("[/:]", name)[0] in known:
        return f"Dataset {name!r} cannot be read by tensorflow-datasets: {str(error).splitlines()[0]}"
    nearest = [f"the folder {folder}" for folder in near_folders(name)]
    nearest += difflib.get_close_matches(name.lower(), [*known, "digits"], n=3, cutoff=0.5)
    hint = f"the nearest names are {', '.join(nearest)}" if nearest else "no name is near"
    return f"Dataset {name!r} is neither 'digits', nor a folder, nor known to tensorflow-datasets; {hint}."


def _how_to_prepare(name: str, data_dir: str | None, builder: Any) -> str:
    where = data_dir or "the default folder of tensorflow-datasets"
    command = f"tfds build {name}" + (f" --data_dir={data_dir}" if data_dir else "")
    by_hand = " after fetching its archives by hand" if builder.MANUAL_DOWNLOAD_INSTRUCTIONS else ""
    return f"Dataset {name!r} is not prepared in {where}: run `{command}` once, with a network{by_hand}."


def _image_and_label(name: str, info: Any) -> tuple[str, str]:
    """Names of the two features that make a classification example."""
    import numpy as np
    import tensorflow_datasets as tfds

    image, label = info.supervised_keys if len(info.supervised_keys or ()) == 2 else ("image", "label")
    image_kind, label_kind = map(dict(info.features.items()).get, (image, label))
    if not isinstance(image_kind, tfds.features.Image) or not isinstance(label_kind, tfds.features.ClassLabel):
        raise DataError(
            f"Dataset {name!r} must hold images with one class label each, it has {listing(info.features)}."
        )
    if image_kind.np_dtype != np.uint8:
        raise DataError(f"Dataset {name!r} must hold uint8 images, they are {image_kind.np_dtype}.")
    return image, label


@_warnings_only()
def _records(builder: Any, split: str, image: str, label: str, order: "tf.Tensor | None") -> "tf.data.Dataset":
    import tensorflow as tf
    import tensorflow_datasets as tfds

    seed = None
    if order is not None:
        seed = tf.random.stateless_uniform([], order, None, None, tf.int64)
        if not tf.executing_eagerly():
            tf.random.set_seed(1)  # of this graph only: tf.data takes no tensor for a seed beside a global seed of 0
    reading = tfds.ReadConfig(shuffle_seed=seed, shuffle_reshuffle_each_iteration=False, try_autocache=False)
    decoders = {image: tfds.decode.SkipDecoding()}
    examples = builder.as_dataset(split=split, shuffle_files=seed is not None, decoders=decoders, read_config=reading)
    files = examples.map(lambda example: (example[image], tf.cast(example[label], tf.int64)))
    return files if seed is None else files.shuffle(SHUFFLE_BUFFER, seed=seed, reshuffle_each_iteration=False)


def _is_labelled(name: str, split: EncodedSplit) -> bool:
    """Some data sets, such as imagenet2012, ship a test split whose labels are all -1."""
    import tensorflow as tf

    try:
        return any(label >= 0 for _, label in split.files(None).take(1).as_numpy_iterator())
    except tf.errors.OpError as error:
        raise DataError(f"Dataset {name!r} has unreadable records, prepare it anew: {error.message[:200]}") from error
