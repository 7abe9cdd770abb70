"""Image files of a data set on this machine, and the one that lies as a folder root/split/class/*."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from absl import logging

from cobla_tf.errors import DataError
from cobla_tf.texts import counted

if TYPE_CHECKING:
    import tensorflow as tf

TEST_SPLITS = ("test", "validation", "val")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class EncodedSplit:
    """Image files of one split, not decoded yet.

    Attributes:
        files: makes a tf.data.Dataset of (bytes of a jpg or png, int64 label), in an order that follows from an int64
            tensor [2] alone, in that of the files at None.
        count: number of images.
        paths: of the image files, in order; empty where they lie in records.
    """

    files: Callable[["tf.Tensor | None"], "tf.data.Dataset"]
    count: int
    paths: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImageSource:
    """One data set on this machine.

    Attributes:
        train, test: its files.
        classes: number of classes.
        size: (height, width) where all images share it, else None.
        origin: its name for people.
    """

    train: EncodedSplit
    test: EncodedSplit
    classes: int
    size: tuple[int, int] | None
    origin: str


def folder_source(root: Path) -> ImageSource:
    """The data set of an image folder, classes in the order of their names; no image is read.

    Raises:
        DataError: the folder, a split or a class is missing or empty, or the splits' classes differ.
    """
    if not root.is_dir():
        near = near_folders(str(root))
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
        raise DataError(f"Image folder {str(root)!r} does not exist: expected root/split/class/*.jpg or png{hint}")
    splits = [folder.name for folder in _subfolders(root)]
    test = pick_test(splits, f"Image folder {str(root)!r}", "subfolders")
    classes = [folder.name for folder in _subfolders(root / "train")]
    other = [folder.name for folder in _subfolders(root / test)]
    if not classes or classes != other:
        raise DataError(
            f"Image folder {str(root)!r} needs the same class folders in train and {test}; "
            f"they have {len(classes)} and {len(other)}, in only one of them {listing(set(classes) ^ set(other))}."
        )
    return ImageSource(
        train=_folder_split(root / "train", classes),
        test=_folder_split(root / test, classes),
        classes=len(classes),
        size=None,
        origin=f"image folder {root.name}",
    )


def _folder_split(split: Path, classes: list[str]) -> EncodedSplit:
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        images, other = _files_in(split / name)
        if other:
            passed = counted(len(other), "file that is no jpg or png is", "files that are no jpg or png are")
            logging.warning("%s passed over: %s", passed, listing(map(shown, other)))
        if not images:
            raise DataError(f"Class folder {str(split / name)!r} holds no jpg or png image: add some or remove it.")
        paths += images
        labels += [label] * len(images)
    return EncodedSplit(_Listing(paths, labels).files, len(paths), tuple(paths))


def _files_in(folder: Path) -> tuple[list[str], list[str]]:
    """Paths of the images in a folder, in order, and of other files; hidden ones are passed over."""
    images, other = [], []
    with os.scandir(folder) as entries:  # it knows what is a folder without a look at each
        for entry in entries:
            if entry.is_dir() or entry.name.startswith("."):
                continue
            if Path(entry.name).suffix.lower() in IMAGE_SUFFIXES:
                images.append(entry.path)
            else:
                other.append(entry.path)
    return sorted(images), other


@dataclass
class _Listing:
    """Image files and their classes."""

    paths: list[str]
    labels: list[int]

    @cached_property
    def tensors(self) -> "tuple[tf.Tensor, tf.Tensor]":
        """Held once, however many orders there are."""
        import tensorflow as tf

        with tf.init_scope():
            return tf.constant([os.fsencode(path) for path in self.paths]), tf.constant(self.labels, tf.int64)

    def files(self, order: "tf.Tensor | None") -> "tf.data.Dataset":
        """As `EncodedSplit.files`."""
        import tensorflow as tf

        places, (paths, labels) = tf.range(len(self.paths)), self.tensors
        if order is not None:
            places = tf.random.experimental.stateless_shuffle(places, order)

        def read(place: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return tf.io.read_file(paths[place]), labels[place]

        return tf.data.Dataset.from_tensor_slices(places).map(read, tf.data.AUTOTUNE, deterministic=True)


def near_folders(name: str) -> list[str]:
    """Paths of up to three folders that lie where one of that path would, and are called nearly so."""
    path = Path(name)
    try:
        beside = [folder.name for folder in _subfolders(path.parent)]
    except OSError:
        return []
    return [str(path.parent / near) for near in get_close_matches(path.name, beside)]


def _subfolders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def pick_test(splits: Iterable[str], owner: str, what: str) -> str:
    """The split that is held out; raises DataError where there is none or no 'train'."""
    found = [name for name in TEST_SPLITS if name in splits]
    if "train" not in splits or not found:
        raise DataError(f"{owner} needs 'train' and one of {TEST_SPLITS} among its {what}, it has {listing(splits)}.")
    return found[0]


def shown(path: str) -> str:
    """A path for a message: its name may be of bytes that are no text."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def listing(names: Iterable[str]) -> str:
    """The first five of some names, for an error's sentence."""
    names = sorted(names)
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") if names else "none"
