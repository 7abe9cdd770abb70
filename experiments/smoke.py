"""A tiny network and images for it, made on the spot in seconds, for runs that only show that everything works.

python -m cobla_tf.experiments.smoke runs every table and figure on them, each in a folder of its own.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from absl import flags

from cobla_tf.datasets import Arrays, DataSplits
from cobla_tf.quiet import import_tensorflow
from cobla_tf.terminal import run_with_flags, timed_log

if TYPE_CHECKING:
    import keras

CLASSES, SIDE, CHANNELS = 3, 8, 2
BRIGHTER = 0.4
"""In standard deviations of a pixel; so little that a worse network is a less accurate one."""


def trained_network(train: int = 300, test: int = 100) -> tuple["keras.Model", DataSplits]:
    """Three convolutions that tell where an image is brightest, trained for a few epochs.

    Args:
        train, test: numbers of images.
    """
    import keras

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((SIDE, SIDE, CHANNELS)),
            keras.layers.Conv2D(8, 3, padding="same", activation="relu", name="conv1"),
            keras.layers.Conv2D(12, 3, strides=2, padding="same", activation="relu", name="conv2"),
            keras.layers.Conv2D(12, 3, padding="same", activation="relu", name="conv3"),
            keras.layers.Flatten(),
            keras.layers.Dense(CLASSES, name="logits"),
        ],
        name="smoke_cnn",
    )
    data = DataSplits(_images(train, seed=1), _images(test, seed=2), CLASSES, "images made on the spot")
    model.compile(keras.optimizers.Adam(3e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(*data.train, batch_size=32, epochs=6, verbose=0)
    return model, data


def _images(count: int, seed: int) -> Arrays:
    """Noise, with the rows of one third a little brighter: which one is the label."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    images = rng.normal(size=(count, SIDE, SIDE, CHANNELS)).astype(np.float32)
    rows = np.arange(SIDE) * CLASSES // SIDE
    return images + np.float32(BRIGHTER) * (rows == labels[:, None])[:, :, None, None], labels


def main(argv: list[str]) -> None:
    """One runner after the other, in one process: TensorFlow takes longer to start than most of them run."""
    from cobla_tf.experiments import fig2, fig3, fig5, section52, table2, table3

    del argv
    timed_log()
    import_tensorflow()
    for runner in (fig2, table2, section52, fig3, table3, fig5):
        runner.EXPERIMENT.try_out(Path(flags.FLAGS.output) / runner.EXPERIMENT.name)


if __name__ == "__main__":
    flags.DEFINE_string("output", "smoke_out", "Folder of the results.")
    run_with_flags("smoke", main, sys.argv)
