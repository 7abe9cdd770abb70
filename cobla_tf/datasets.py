"""Training and test images: scikit-learn's digits, tensorflow-datasets or an image folder; never from the network."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from absl import logging

from cobla_tf.errors import DataError, without_operation
from cobla_tf.examples import Stream
from cobla_tf.image_source import EncodedSplit, ImageSource, folder_source, shown
from cobla_tf.preprocessing import check_preprocessing, preprocess
from cobla_tf.progress import bar, doing
from cobla_tf.reading import IN_MEMORY_LIMIT, UNREADABLE
from cobla_tf.tfds_source import tfds_names, tfds_source

if TYPE_CHECKING:
    import tensorflow as tf

Arrays = tuple[np.ndarray, np.ndarray]
Images = Arrays | Stream

MEMORY_LIMIT = IN_MEMORY_LIMIT
"""Bytes of decoded images up to which a data set is held as arrays."""
BATCH = 128
CROP = 256 / 224
"""Shorter side over side of the centre crop: the usual evaluation of ImageNet networks."""
DIGITS_TEST = 500


@dataclass(frozen=True)
class DataSplits:
    """A data set as a run takes it.

    Attributes:
        train, test: both (images [n, h, w, c], labels int64 [n]) arrays in a fixed order, or both a stream of such
            batches, in which train has an order for each epoch. Images are float32, or uint8 where 'none' leaves them
            so.
        classes: number of classes.
        description: one line: name, origin and sizes.
        look_through: of streams: reads all images, and raises a DataError that names the first that cannot be read.
    """

    train: Images
    test: Images
    classes: int
    description: str
    look_through: Callable[[], None] | None = None

    @contextmanager
    def named(self) -> Iterator[None]:
        """For work on a stream, in which an unreadable image stops TensorFlow, which does not know its name.

        Raises:
            DataError: it names the image.
        """
        try:
            yield
        except (*UNREADABLE, DataError) as error:
            if isinstance(error, DataError) and not isinstance(error.__cause__, UNREADABLE):
                raise
            if self.look_through is not None:
                logging.warning("TensorFlow has stopped; looking whether all images can be read")
                self.look_through()
            raise


@dataclass(frozen=True)
class Decoding:
    """From an image file to what the network takes.

    Attributes:
        size: (height, width) of all images, None where it differs among them.
        shape: [h, w, c] that the network takes.
        preprocessing: a name in cobla_tf.preprocessing.
    """

    size: tuple[int, int] | None
    shape: tuple[int, int, int]
    preprocessing: str

    def images(self, files: "tf.data.Dataset") -> "tf.data.Dataset":
        """(bytes, label) -> batches of (uint8 images [n, h, w, c], labels [n]), in the same order."""
        import tensorflow as tf

        fit = _fit_of(self.size, self.shape[:2])

        def decode(encoded: "tf.Tensor", label: "tf.Tensor") -> tuple["tf.Tensor", "tf.Tensor"]:
            image = fit(tf.io.decode_image(encoded, channels=self.shape[-1], expand_animations=False))
            return tf.ensure_shape(image, self.shape), label

        return files.map(decode, tf.data.AUTOTUNE, deterministic=True).batch(BATCH)

    @property
    def dtype(self) -> type:
        """Of preprocessed images."""
        return np.uint8 if self.preprocessing == "none" else np.float32


def load_dataset(
    name: str, *, data_dir: str | None, image_shape: tuple[int, int, int], preprocessing: str, seed: int
) -> DataSplits:
    """Read a data set that lies on this machine.

    Images of another size than `image_shape` are resized (bilinear): plainly where the set is known to be of one size,
    as tensorflow-datasets tells of its own; else, as in an image folder, each to 256/224 of the network's shorter side,
    and then the centre is cropped.

    Args:
        name: 'digits', the path of an image folder root/split/class/*, or a tensorflow-datasets name such as 'cifar10';
            such a name is never taken for a folder of the current one, unless written ./cifar10.
        data_dir: where tensorflow-datasets keeps its data; None is its own default.
        image_shape: (height, width, channels) that the model takes.
        preprocessing: a name in cobla_tf.preprocessing.
        seed: of the digits' split and of the order of training batches.

    Raises:
        ConfigError: the preprocessing is unknown or does not suit the channels.
        DataError: an unknown name, data that are not prepared, splits or classes that are missing, unreadable images,
            images that do not fit the model.
    """
    if len(image_shape) != 3 or None in image_shape:
        raise DataError(f"The model must take images of one fixed size [h, w, c], it takes {list(image_shape)}.")
    check_preprocessing(preprocessing, image_shape[-1])
    if name == "digits":
        return _digits(image_shape, preprocessing, seed)
    source = _source(name, data_dir, image_shape[-1])
    decoding = Decoding(source.size, tuple(image_shape), preprocessing)
    pixels = (source.train.count + source.test.count) * int(np.prod(image_shape))
    if pixels * np.dtype(decoding.dtype).itemsize <= MEMORY_LIMIT:
        train, test = (_arrays(split, decoding, source.origin) for split in (source.train, source.test))
        look_through = None
    else:
        train, test = _stream(source.train, decoding, seed), _stream(source.test, decoding, None)
        look_through = partial(_look_through, source, decoding)
    described = _describe(source.origin, source.train.count, source.test.count)
    return DataSplits(train, test, source.classes, described, look_through)


def _source(name: str, data_dir: str | None, channels: int) -> ImageSource:
    if channels not in (1, 3):
        raise DataError(f"Images can be read with 1 or 3 channels, the model takes {channels}.")
    try:
        path = Path(name).expanduser()
    except RuntimeError as error:
        raise DataError(f"Image folder {name!r} is in the home of a user that is not known here.") from error
    if name.startswith((".", "/", "~")) or (name and path.is_dir() and name not in tfds_names()):
        return folder_source(path)
    return tfds_source(name, data_dir, channels)


def _describe(origin: str, train: int, test: int) -> str:
    return f"{origin}: {train:,} training and {test:,} test images"


def _digits(image_shape: tuple[int, int, int], preprocessing: str, seed: int) -> DataSplits:
    if tuple(image_shape) != (8, 8, 1):
        raise DataError(f"The digits are images of [8, 8, 1], the model takes {list(image_shape)}: use digits_cnn.")
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = preprocess(digits.images[..., np.newaxis].astype(np.float32), preprocessing)
    labels = digits.target.astype(np.int64)
    x, x_test, y, y_test = train_test_split(images, labels, test_size=DIGITS_TEST, stratify=labels, random_state=seed)
    return DataSplits((x, y), (x_test, y_test), 10, _describe("digits of scikit-learn", len(y), len(y_test)))


def _arrays(split: EncodedSplit, decoding: Decoding, origin: str) -> Arrays:
    """The whole split, in the order of its files."""
    images = np.empty((split.count, *decoding.shape), decoding.dtype)
    labels = np.empty(split.count, np.int64)
    filled = 0
    with doing("reading"), bar(None, split.count, "images") as read:
        for pixels, classes in _readable(split, decoding, origin):
            rows = slice(filled, filled + len(classes))
            images[rows], labels[rows] = preprocess(pixels, decoding.preprocessing), classes
            filled = rows.stop
            read.update(len(classes))
    return images, labels


def _stream(split: EncodedSplit, decoding: Decoding, seed: int | None) -> Stream:
    """The split, decoded anew in every pass; without a seed always in the order of its files."""
    import tensorflow as tf

    def batches(order: tf.Tensor | None) -> tf.data.Dataset:
        scaled = decoding.images(split.files(order)).map(
            lambda pixels, labels: (preprocess(pixels, decoding.preprocessing), labels), tf.data.AUTOTUNE
        )
        whole = scaled.apply(tf.data.experimental.assert_cardinality(-(-split.count // BATCH)))
        return whole.prefetch(tf.data.AUTOTUNE)

    if seed is None:
        return Stream(batches(None), split.count)
    return Stream(batches(tf.constant([seed, 0], tf.int64)), split.count, batches)


def _readable(split: EncodedSplit, decoding: Decoding, origin: str) -> Iterator[Arrays]:
    """Batches of uint8 images; an unreadable file is found and named."""
    import tensorflow as tf

    read = 0
    try:
        for batch in decoding.images(split.files(None)).prefetch(2).as_numpy_iterator():
            yield batch
            read += len(batch[1])
    except tf.errors.OpError as error:
        channels = decoding.shape[-1]
        suspects = [path for path in split.paths[read : read + BATCH] if not _is_image(path, channels)]
        where = shown(suspects[0]) if suspects else f"one of the images {read + 1} to {read + BATCH}"
        reason = without_operation(error.message).rstrip(".")
        raise DataError(f"{origin} cannot be read at {where}, replace or remove it: {reason}.") from error
    if read != split.count:
        raise DataError(f"{origin} should have {split.count} images in a split but has {read}: prepare it anew.")


def _look_through(source: ImageSource, decoding: Decoding) -> None:
    for split in (source.train, source.test):
        for _ in _readable(split, decoding, source.origin):
            pass


def _is_image(path: str, channels: int) -> bool:
    import tensorflow as tf

    try:
        encoded = tf.io.read_file(os.fsencode(path))
        return tf.io.decode_image(encoded, channels=channels, expand_animations=False) is not None
    except tf.errors.OpError:
        return False


def _fit_of(size: tuple[int, int] | None, target: tuple[int, int]) -> Callable[["tf.Tensor"], "tf.Tensor"]:
    """What brings one uint8 image [h, w, c] to the target height and width."""
    import tensorflow as tf

    if size == target:
        return lambda image: image
    if size is not None:
        return lambda image: _resize(image, target)
    return lambda image: tf.cond(
        tf.reduce_all(tf.shape(image)[:2] == target), lambda: image, lambda: _resize_and_crop(image, target)
    )


def _resize_and_crop(image: "tf.Tensor", target: tuple[int, int]) -> "tf.Tensor":
    """The centre of the image scaled, in its proportions, until it covers CROP times the target."""
    import tensorflow as tf

    sides = tf.cast(tf.shape(image)[:2], tf.float32)
    scale = CROP * tf.reduce_max(np.asarray(target, np.float32) / sides)
    resized = _resize(image, tf.cast(tf.round(scale * sides), tf.int32))
    top, left = tf.unstack((tf.shape(resized)[:2] - target) // 2)
    return resized[top : top + target[0], left : left + target[1]]


def _resize(image: "tf.Tensor", size: "tf.Tensor | tuple[int, int]") -> "tf.Tensor":
    import tensorflow as tf

    return tf.cast(tf.round(tf.image.resize(image, size, antialias=True)), tf.uint8)
