"""Pixel scalings by name: what a network was trained on decides which one it needs."""

from typing import Any

from cobla_tf.errors import ConfigError, check_among

IMAGENET_MODES = ("caffe", "tf", "torch")
PREPROCESSINGS = ("none", "scale", *IMAGENET_MODES)
RGB_ONLY = ("caffe", "torch")


def check_preprocessing(name: str, channels: int) -> None:
    """Raise ConfigError where `name` is unknown, or needs RGB images and they have other than 3 channels."""
    check_among("preprocessing", name, PREPROCESSINGS)
    if name in RGB_ONLY and channels != 3:
        raise ConfigError(
            f"preprocessing {name!r} needs 3 channels, the model takes {channels}: use 'none', 'scale' or 'tf'."
        )


def preprocess(images: Any, name: str) -> Any:
    """Scale pixels.

    Args:
        images: array or tensor [n, h, w, c], 0..255 (uint8 or float), RGB where c is 3; never written to.
        name: 'none' gives the images as they are, dtype included; 'scale' x / 255; 'caffe' BGR less the ImageNet mean;
            'tf' x / 127.5 - 1; 'torch' x / 255, less the ImageNet mean, over its deviation.

    Returns:
        Images of the same shape and kind, float32 for every name but 'none'.

    Raises:
        ConfigError: an unknown name, or one that does not suit the number of channels.
    """
    check_preprocessing(name, images.shape[-1])
    if name == "none":
        return images
    floats = _to_float32(images)
    if name == "scale":
        return floats / 255.0
    from keras.applications.imagenet_utils import preprocess_input

    return preprocess_input(floats, data_format="channels_last", mode=name)


def _to_float32(images: Any) -> Any:
    """A float32 copy: Keras writes over the NumPy arrays that it is given."""
    import numpy as np

    if isinstance(images, np.ndarray):
        return images.astype(np.float32)
    import tensorflow as tf

    return tf.cast(images, tf.float32)
