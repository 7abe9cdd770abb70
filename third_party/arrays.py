"""Published arrays by name, and their places in a Keras network."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from absl import logging

from cobla_tf.errors import ModelError, first_line
from cobla_tf.hdf5 import why_unreadable

if TYPE_CHECKING:
    import keras

Arrays = Mapping[str, np.ndarray]
Names = Mapping[str, tuple[str, str]]
"""The published names of kernel and bias, by the layer of the zoo's network."""

OUT_IN_H_W = (2, 3, 1, 0)
OUT_H_W_IN = (1, 2, 3, 0)
AS_IN_KERAS = (0, 1, 2, 3)


def read_npy(path: Path) -> np.ndarray:
    """One .npy file of numbers; objects are refused, since reading them would run code.

    Raises:
        ModelError: a file that is missing or holds no plain array, or one of something else than numbers.
    """
    try:
        with path.open("rb") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ModelError(f"{path} must be a .npy file of one plain array: {first_line(error)}") from error
    if array.dtype.kind not in "biuf":
        raise ModelError(f"{path} must hold real numbers, found {array.dtype}: save the array of weights or images.")
    return array


def read_npy_folder(folder: Path) -> dict[str, np.ndarray]:
    """All .npy files below a folder by their path without the ending, slashes replaced by underscores.

    Raises:
        ModelError: a folder that is missing or has no such file, or a file that cannot be read.
    """
    paths = sorted(folder.rglob("*.npy")) if folder.is_dir() else []
    if not paths:
        raise ModelError(f"The source must be a folder with .npy files, got {folder}: check the path.")
    return {"_".join(path.relative_to(folder).with_suffix("").parts): read_npy(path) for path in paths}


def read_hdf5(path: Path) -> dict[str, np.ndarray]:
    """All data sets of an HDF5 file by their path in it.

    Raises:
        ModelError: a file that is missing, not HDF5, or damaged.
    """
    import h5py

    arrays: dict[str, np.ndarray] = {}

    def keep(name: str, item: h5py.HLObject) -> None:
        if isinstance(item, h5py.Dataset):
            arrays[name] = np.asarray(item[()])  # a text or a single number is no array yet

    why = why_unreadable(path) if path.is_file() else "there is no such file"
    if why:
        raise ModelError(f"The source must be an HDF5 file, but {path} cannot be read: {why}")
    try:
        with h5py.File(path, "r") as file:
            file.visititems(keep)
    except OSError as error:
        raise ModelError(f"The source must be an HDF5 file, but {path} cannot be read: {first_line(error)}") from error
    return arrays


def fill(model: "keras.Model", arrays: Arrays, names: Names, axes: tuple[int, ...]) -> None:
    """Give every named layer its kernel and bias; what is not used is named in the log.

    Args:
        model: changed in place, its layers as in `names`.
        arrays: the published arrays.
        names: for every layer with trainable weights.
        axes: where Keras' axes [h, w, in, out] lie in a published kernel; dense kernels are [in, out] in both.

    Raises:
        ModelError: arrays that are missing, or of a shape or kind that does not fit; all are named, and none is set.
    """
    wanted = {name: shape for layer in names for name, shape in _expected(model.get_layer(layer), names[layer], axes)}
    problems = [problem for name, shape in wanted.items() if (problem := _problem(arrays.get(name), name, shape))]
    if problems:
        raise ModelError(f"The arrays do not fit {model.name}, give them as published: {'; '.join(problems)}.")
    for layer, (kernel, bias) in names.items():
        turned = arrays[kernel].transpose(axes) if arrays[kernel].ndim == 4 else arrays[kernel]
        model.get_layer(layer).set_weights([turned, arrays[bias]])
    unused = sorted(set(arrays) - set(wanted))
    if unused:
        logging.warning("%s has no place for %s: left out.", model.name, ", ".join(unused))


def _expected(layer: "keras.Layer", names: tuple[str, str], axes: tuple[int, ...]) -> list[tuple[str, tuple[int, ...]]]:
    kernel = tuple(layer.kernel.shape)
    published = tuple(kernel[axes.index(axis)] for axis in range(4)) if len(kernel) == 4 else kernel
    return [(names[0], published), (names[1], tuple(layer.bias.shape))]


def _problem(array: np.ndarray | None, name: str, shape: tuple[int, ...]) -> str | None:
    expected = f"{name} expected {list(shape)}"
    if array is None:
        return f"{expected}, is missing"
    if array.shape != shape:
        return f"{expected}, found {list(array.shape)}"
    if not np.issubdtype(array.dtype, np.floating):
        return f"{expected} of floats, found {array.dtype}"
    return None if np.isfinite(array).all() else f"{expected}, found some values that are not finite"
