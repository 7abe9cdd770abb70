"""Tiny networks that the tests share."""

import keras
import numpy as np

KERNELS = [(1, 1), (3, 3), (5, 5), (7, 1)]
GEOMETRIES = [(1, 1), (2, 1), (1, 2)]  # (stride, dilation); TensorFlow has no layer with both


def one_conv(
    kernel=(3, 3), stride=1, dilation=1, padding="same", bias=True, channels=3, filters=5, dtype="float32", seed=0
):
    """A network whose middle convolution has the given geometry."""
    keras.utils.set_random_seed(seed)
    images = keras.Input((14, 15, 2), dtype=dtype, name="image")
    x = keras.layers.Conv2D(channels, 1, name="first", dtype=dtype)(images)
    x = keras.layers.Conv2D(
        filters,
        kernel,
        strides=stride,
        dilation_rate=dilation,
        padding=padding,
        use_bias=bias,
        activation="relu",
        bias_initializer="normal",
        name="middle",
        dtype=dtype,
    )(x)
    x = keras.layers.GlobalAveragePooling2D(dtype=dtype)(x)
    return keras.Model(images, keras.layers.Dense(4, name="logits", dtype=dtype)(x), name="one_conv")


def small_cnn(seed=0, size=10, classes=3):
    """Three convolutions in a row, with one nested and one shared layer."""
    keras.utils.set_random_seed(seed)
    images = keras.Input((size, size, 2), name="image")
    x = keras.layers.Conv2D(8, 3, padding="same", activation="relu", name="conv1")(images)
    shared = keras.layers.Conv2D(8, 3, padding="same", activation="relu", name="shared")
    x = shared(shared(x))
    block = keras.Sequential(
        [keras.Input((size, size, 8)), keras.layers.Conv2D(12, (5, 1), strides=2, name="conv")], name="block"
    )
    x = keras.layers.GlobalAveragePooling2D()(block(x))
    return keras.Model(images, keras.layers.Dense(classes, name="logits")(x), name="small_cnn")


def images_and_labels(count=40, shape=(10, 10, 2), classes=3, seed=0):
    """Random images whose label is where they are brightest on average, so that there is something to learn."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    images = rng.normal(size=(count, *shape)).astype("float32")
    images[np.arange(count), labels] += 2.0
    return images, labels


def relative_error(got, expected):
    got, expected = np.asarray(got), np.asarray(expected)
    return float(np.abs(got - expected).max() / np.abs(expected).max())
