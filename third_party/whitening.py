"""The whitening convolution in front of the zoo's NIN: taken from another network, or measured on images.

NIN was trained on images after global contrast normalisation and ZCA whitening, as of Goodfellow et al., *Maxout
Networks*, 2013. ZCA multiplies a flattened image by (C + bias I)^(-1/2), C the covariance of the training images. Far
from the borders each pixel's row of that matrix is the same up to a shift, so that a convolution does the work.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from absl import logging
from cobla_tf.third_party.arrays import read_npy

from cobla_tf.errors import ModelError
from cobla_tf.models import load_model

if TYPE_CHECKING:
    import keras

LAYER = "whitening"
SIZE = 9
ZCA_BIAS = 0.1
"""Added to every eigenvalue; the value of the library that made NIN's training images."""


def give_whitening(model: "keras.Model", source: str | None) -> None:
    """Set the kernel of the layer `whitening`, which no snapshot of Caffe holds.

    Args:
        model: a network with that layer, [9, 9, 3, 3]; changed in place.
        source: a model file that has the layer, or a .npy of CIFAR-10's training images [n, 32, 32, 3], RGB in 0..255.

    Raises:
        ModelError: no source, one that cannot be read, or of another shape; fewer images than an image has values.
    """
    layer = model.get_layer(LAYER)
    if source is None:
        raise ModelError(
            "The snapshot holds no whitening: give --whitening, a .keras file of a NIN that has it or a .npy file of "
            "training images [n, 32, 32, 3] to measure it on."
        )
    layer.set_weights([_measured(model, source) if source.endswith(".npy") else _taken(source, layer.kernel.shape)])


def whitening_kernel(images: np.ndarray, size: int = SIZE, bias: float = ZCA_BIAS) -> np.ndarray:
    """The rows of the images' ZCA matrix averaged over all positions that the kernel does not leave the image at.

    Args:
        images: [n, h, w, c], real, on any scale; each is brought to mean 0 and deviation 1 first.
        size: odd side of the kernel, at most h and w.
        bias: added to the eigenvalues of the covariance.

    Returns:
        float32 [size, size, c, c], for a convolution of contrast-normalised images.
    """
    count, height, width, channels = images.shape
    flat = images.reshape(count, -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    flat /= np.sqrt(flat.var(axis=1, keepdims=True) + 1e-3)  # as keras.layers.LayerNormalization
    flat -= flat.mean(axis=0)
    values, vectors = np.linalg.eigh(flat.T @ flat / count)
    zca = (vectors / np.sqrt(np.maximum(values, 0) + bias)) @ vectors.T
    zca = zca.reshape(height, width, channels, height, width, channels)
    half = size // 2
    places = [(i, j) for i in range(half, height - half) for j in range(half, width - half)]
    near = (zca[i - half : i + half + 1, j - half : j + half + 1, :, i, j, :] for i, j in places)
    return (sum(near) / len(places)).astype(np.float32)


def _taken(source: str, shape: tuple[int, ...]) -> np.ndarray:
    if not Path(source).is_file():
        raise ModelError(f"whitening {source} does not exist; expected a .keras file or a .npy file.")
    network = load_model(source)
    weights = [layer.get_weights() for layer in network.layers if layer.name == LAYER]
    found = [list(array.shape) for array in weights[0]] if weights else None
    if found != [list(shape)]:
        raise ModelError(f"{source} must have a layer {LAYER} with one kernel {list(shape)}, found {found}.")
    return weights[0][0]


def _measured(model: "keras.Model", source: str) -> np.ndarray:
    images, wanted = read_npy(Path(source)), tuple(model.inputs[0].shape[1:])
    if images.shape[1:] != wanted or len(images) < np.prod(wanted):
        raise ModelError(
            f"{source} must hold at least {np.prod(wanted):,} images {list(wanted)}, got {list(images.shape)}."
        )
    logging.info("measuring the whitening on %d images: some minutes", len(images))
    return whitening_kernel(images)
