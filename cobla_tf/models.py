"""The networks that a run can start from: a small zoo by name, or a model file."""

import re
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from zipfile import ZipFile

from absl import logging

from cobla_tf.errors import ModelError, first_line
from cobla_tf.hdf5 import why_unreadable
from cobla_tf.squeezenet import conv, squeezenet

if TYPE_CHECKING:
    import keras

HDF5_SUFFIXES = (".h5", ".hdf5")
MODEL_SUFFIXES = (".keras", *HDF5_SUFFIXES)
CUSTOM = (
    r"(?:Could not locate (?:class|function) '|Unknown layer: '|Cannot deserialize object of type `"
    r"|identifier: \{'module': '[\w.]+', 'class_name': ')([^'`]+)"
)
"""What Keras says of a name that it does not know."""


def digits_cnn() -> "keras.Model":
    """Four convolutions for scikit-learn's digits: images [8, 8, 1] in 0..16, ten logits."""
    from keras import Input, Model, layers

    images = Input((8, 8, 1), name="image")
    x = layers.Rescaling(1 / 16, name="rescaling")(images)
    x = conv("conv1", 32, 3)(x)
    x = conv("conv2", 48, 5)(x)
    x = layers.MaxPooling2D(2, name="pool1")(x)
    x = conv("conv3", 64, 3)(x)
    x = conv("conv4", 64, 3)(x)
    x = layers.GlobalAveragePooling2D(name="pool2")(x)
    return Model(images, layers.Dense(10, name="logits")(x), name="digits_cnn")


def nin_cifar10() -> "keras.Model":
    """Network in Network (paper, section 5.3) for CIFAR-10: RGB images [32, 32, 3] in 0..255, ten logits.

    Contrast normalisation and the whitening convolution are part of the model, that one is frozen, not to decompose.
    """
    from keras import Input, Model, layers

    images = Input((32, 32, 3), name="image")
    x = layers.LayerNormalization(axis=(1, 2, 3), center=False, scale=False, name="contrast")(images)
    x = layers.Conv2D(3, 9, padding="same", use_bias=False, trainable=False, name="whitening")(x)
    for name, filters, kernel in (("conv1", 192, 5), ("cccp1", 160, 1), ("cccp2", 96, 1)):
        x = conv(name, filters, kernel)(x)
    x = layers.MaxPooling2D(3, 2, padding="same", name="pool1")(x)
    x = layers.Dropout(0.5, name="drop1")(x)
    for name, filters, kernel in (("conv2", 192, 5), ("cccp3", 192, 1), ("cccp4", 192, 1)):
        x = conv(name, filters, kernel)(x)
    x = layers.AveragePooling2D(3, 2, padding="same", name="pool2")(x)
    x = layers.Dropout(0.5, name="drop2")(x)
    for name, filters, kernel in (("conv3", 192, 3), ("cccp5", 192, 1), ("cccp6", 10, 1)):
        x = conv(name, filters, kernel)(x)
    return Model(images, layers.GlobalAveragePooling2D(name="pool3")(x), name="nin_cifar10")


def squeezenet_v1_0() -> "keras.Model":
    """SqueezeNet 1.0 (Iandola et al., 2016): BGR images [227, 227, 3] less their mean, 1,000 logits."""
    return squeezenet("v1.0")


def squeezenet_v1_1() -> "keras.Model":
    """SqueezeNet 1.1 (same authors): earlier pooling and a smaller conv1, at less than half the MACs."""
    return squeezenet("v1.1")


def vgg16() -> "keras.Model":
    """VGG-16 (Simonyan and Zisserman, 2015) of Keras: BGR images [224, 224, 3] less their mean, 1,000 logits."""
    from keras.applications import VGG16

    return VGG16(weights=None, classifier_activation=None)


ZOO: dict[str, Callable[[], "keras.Model"]] = {
    "digits_cnn": digits_cnn,
    "nin_cifar10": nin_cifar10,
    "squeezenet_v1.0": squeezenet_v1_0,
    "squeezenet_v1.1": squeezenet_v1_1,
    "vgg16": vgg16,
}
"""Builders by name; built-in Keras layers only, logits out, random weights."""

INPUT_PREPROCESSING: dict[str, str] = {
    "digits_cnn": "none",
    "nin_cifar10": "none",
    "squeezenet_v1.0": "caffe",
    "squeezenet_v1.1": "caffe",
    "vgg16": "caffe",
}
"""What the published weights of each zoo model were trained on, in the names of cobla_tf.preprocessing."""


def load_model(model: str, weights: str | None = None, *, will_train: bool = False) -> "keras.Model":
    """The model of a zoo name or of a file.

    Args:
        model: a name in ZOO, or the path of a .keras, .h5 or .hdf5 file with a whole model.
        weights: a .weights.h5, .h5 or .keras file to load into it; None leaves it as it is, a zoo model then has random
            weights and a warning says so.
        will_train: random weights are what is wanted; no warning.

    Raises:
        ModelError: an unknown name, a file that is missing or not a model, custom objects, weights that do not fit.
    """
    loaded = ZOO[model]() if model in ZOO else _read_model(model)
    if weights is not None:
        _read_weights(loaded, model, weights)
    elif model in ZOO and not will_train:
        logging.warning("%s has random weights: train it, or give a file of trained ones with --weights.", model)
    return loaded


def _read_model(path: str) -> "keras.Model":
    _check_model_path(path)
    _check_hdf5("Model file", path)
    try:
        return _deserialise(path)
    except Exception as error:  # Keras raises at least six kinds here, by file format and by what is wrong
        raise ModelError(_reading_failure(path, error)) from error


def _deserialise(path: str) -> "keras.Model":
    import keras

    try:
        return keras.saving.load_model(path)
    except Exception as error:
        model = keras.saving.load_model(path, compile=False)
        logging.warning("%s was compiled with what is unknown here, its loss is not used: %s", path, first_line(error))
        return model


def _check_model_path(path: str) -> None:
    if Path(path).is_dir():
        raise ModelError(f"Model {path!r} is a folder, expected a file that Keras can read: save it as .keras first.")
    is_named_as_file = path.endswith(MODEL_SUFFIXES)
    if not Path(path).is_file():
        if is_named_as_file or Path(path).name != path:
            raise ModelError(f"Model file {path!r} does not exist: check the path.")
        raise ModelError(
            f"Model {path!r} is neither a file nor one of {', '.join(ZOO)}; give one of these, or the path of any "
            "network saved as a .keras file."
        )
    if not is_named_as_file:
        raise ModelError(f"Model file {path!r} must end in one of {', '.join(MODEL_SUFFIXES)}: save it as .keras.")


def _check_hdf5(what: str, path: str) -> None:
    if path.endswith(HDF5_SUFFIXES) and (why := why_unreadable(path)):
        raise ModelError(f"{what} {path!r} cannot be read, fetch or save it again: {why}")


def _reading_failure(path: str, error: Exception) -> str:
    custom = re.search(CUSTOM, str(error))
    if custom:
        return (
            f"Model file {path!r} holds the custom object {custom[1]}, which is not known here: register it with "
            "@keras.saving.register_keras_serializable(), load the model in Python and call cobla_tf.compress there."
        )
    if "function identifier: {'value'" in str(error):
        return f"Model file {path!r} holds a lambda, whose code cannot be read: give the layer one of Keras' functions."
    if "Lambda" in str(error):
        return f"Model file {path!r} holds a Lambda layer, whose code cannot be read: replace it by built-in layers."
    return f"Model file {path!r} is not a whole Keras model, save it with model.save('x.keras'): {first_line(error)}"


def _read_weights(model: "keras.Model", name: str, path: str) -> None:
    if not Path(path).is_file():
        raise ModelError(f"Weights file {path!r} does not exist: check the path.")
    if not path.endswith(MODEL_SUFFIXES):
        raise ModelError(f"Weights file {path!r} must end in .weights.h5, .h5 or .keras.")
    _check_hdf5("Weights file", path)
    try:
        model.load_weights(path)
    except Exception as error:  # by file format ValueError, OSError, KeyError, BadZipFile
        raise ModelError(f"Weights {path!r} do not fit {name}, give that model's: {first_line(error)}") from error
    if more := _left_over(model, path):
        raise ModelError(
            f"Weights {path!r} do not fit {name}, give that model's: the file has more than the model takes, "
            f"{', '.join(more[:3])}{' and others' if len(more) > 3 else ''}."
        )


def _left_over(model: "keras.Model", path: str) -> list[str]:
    """Which weights Keras left in the file without a word: those of layers that the model does not have."""
    names = _names_of_weights(path)
    if not names:
        return []
    with TemporaryDirectory() as folder:
        own = str(Path(folder) / "own.weights.h5")
        model.save_weights(own)
        return sorted(names - _names_of_weights(own))


def _names_of_weights(path: str) -> set[str]:
    """Of Keras 3's formats; none of the older one, where Keras itself counts the layers."""
    import h5py

    names: set[str] = set()
    with ExitStack() as stack:
        if path.endswith(".keras"):
            path = stack.enter_context(stack.enter_context(ZipFile(path)).open("model.weights.h5"))
        file = stack.enter_context(h5py.File(path))
        if "layers" in file:
            file["layers"].visititems(lambda name, item: names.add(name) if isinstance(item, h5py.Dataset) else None)
    return names
