"""A network whose first layers are narrow and see large images: there LiteRT's time does not follow the MACs."""

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

Array = np.ndarray
Data = tuple[Array, Array]

SIZE = 32
STAGES = (((16, 16, 16, 16), 4), ((64, 64), 2))
"""Filters of the convolutions, and by how much their images are pooled afterwards."""
EPOCHS = 8


def narrow(epochs: int = EPOCHS, images: int | None = None) -> tuple[keras.Model, Data, Data]:
    """The network, trained on scikit-learn's digits enlarged to 32 x 32; its training and test images [n, 32, 32, 1].

    Args:
        epochs: of training.
        images: to train on; all 1,297 by default.
    """
    keras.utils.set_random_seed(0)
    train, test = _digits()
    train = train[0][:images], train[1][:images]
    model = _network()
    steps = epochs * -(-len(train[1]) // 64)
    rate = keras.optimizers.schedules.CosineDecay(3e-3, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss)
    model.fit(*train, batch_size=64, epochs=epochs, verbose=0)
    return model, train, test


def _digits() -> tuple[Data, Data]:
    digits = load_digits()
    images = np.kron(digits.images, np.ones((SIZE // 8, SIZE // 8)))[..., None].astype(np.float32) / 16
    options = {"test_size": 500, "stratify": digits.target, "random_state": 0}
    x, x_test, y, y_test = train_test_split(images, digits.target, **options)
    return (x, y), (x_test, y_test)


def _network() -> keras.Model:
    images = x = keras.Input((SIZE, SIZE, 1))
    for stage, (widths, pool) in enumerate(STAGES, 1):
        for place, width in enumerate(widths, 1):
            x = layers.Conv2D(width, 3, padding="same", activation="relu", name=f"conv{stage}_{place}")(x)
        x = layers.MaxPooling2D(pool)(x)
    return keras.Model(images, layers.Dense(10, name="logits")(layers.Flatten()(x)), name="narrow")
