"""Whether the defaults suit a network several times as small or as large, with nothing tuned in between.

python -m cobla_tf.experiments.benchmarks.sizes trains the digits network at several sizes, compresses each of them
with the defaults, and sets beside it the best that can be known from the weights alone (POS-CVX). Exits with 1 where
COBLA's result is more than MOST_LOST points of accuracy below that, or below its own before rounding.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import keras
import numpy as np
from absl import flags
from cobla_tf.experiments.benchmarks.pretraining import pretrain
from cobla_tf.experiments.subject import Subject
from tabulate import tabulate

from cobla_tf.config import SCHEMES, Config
from cobla_tf.datasets import DataSplits, load_dataset
from cobla_tf.models import load_model
from cobla_tf.reading import as_examples
from cobla_tf.terminal import run_with_flags

MOST_LOST = 1.0
HEADS = ("parameters", "scheme", "budget", "original", "POS-CVX", "relaxed", "compressed", "met")

_FACTORS = flags.DEFINE_list("factors", ["0.1", "0.33", "1", "3"], "Of the network's parameters, about.")
_BUDGETS = flags.DEFINE_list("budgets", ["0.3", "0.2"], "Of MACs and params alike.")
_SCHEMES = flags.DEFINE_list("schemes", list(SCHEMES), "Decomposition schemes.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "Runs of each.", 1)
_EPOCHS = flags.DEFINE_integer("epochs", 15, "Of training.", 1)


@dataclass(frozen=True)
class Row:
    """Accuracies in percent at one size, scheme and budget; those of COBLA are means over the seeds.

    Attributes:
        cells: the first columns of the table: parameters, scheme, budget.
        original, rival, relaxed, compressed: the network's, POS-CVX's, and COBLA's before and after rounding.
    """

    cells: tuple[int, str, float]
    original: float
    rival: float
    relaxed: float
    compressed: float

    @property
    def met(self) -> bool:
        """Whether it is nowhere far below what else was found."""
        return self.compressed >= max(self.rival, self.relaxed) - MOST_LOST


def scaled(model: keras.Model, factor: float) -> keras.Model:
    """The same network, untrained, with about `factor` times the parameters: the filters grow by its root."""

    def resized(layer: keras.Layer) -> keras.Layer:
        config = layer.get_config()
        if isinstance(layer, keras.layers.Conv2D):
            config["filters"] = max(2, round(config["filters"] * factor**0.5))
        return type(layer).from_config(config)

    return keras.models.clone_model(model, clone_function=resized)


def rows(model: keras.Model, data: DataSplits) -> Iterator[Row]:
    """One row for each scheme and budget of a trained network."""
    default = Config()
    subject = Subject(model, data, (), default.solve, default.batch_size)
    for scheme, budget in product(_SCHEMES.value, map(float, _BUDGETS.value)):
        budgets = {"macs": budget, "params": budget}
        rival = subject.compress("pos_cvx", scheme, budgets, None)
        found = [subject.compress("cobla", scheme, budgets, seed) for seed in range(_SEEDS.value)]
        relaxed, compressed = (np.mean([one[name] for one in found]) for name in ("relaxed_accuracy", "accuracy"))
        accuracies = 100 * np.array([rival["original_accuracy"], rival["accuracy"], relaxed, compressed])
        yield Row((model.count_params(), scheme, budget), *accuracies.tolist())


def main(argv: list[str]) -> int:
    """Train, compress, print; 1 where it is not met."""
    del argv
    data = load_dataset("digits", data_dir=None, image_shape=(8, 8, 1), preprocessing="none", seed=0)
    images = as_examples(data.train)
    all_rows = []
    for factor in map(float, _FACTORS.value):
        keras.utils.set_random_seed(0)
        model = scaled(load_model("digits_cnn", will_train=True), factor)
        pretrain(model, images, _EPOCHS.value)
        for row in rows(model, data):
            all_rows.append(row)
            print(*row.cells, f"{row.compressed:.1f} %", flush=True)
    table = [[*r.cells, r.original, r.rival, r.relaxed, r.compressed, "yes" if r.met else "NO"] for r in all_rows]
    print(tabulate(table, HEADS, floatfmt=("d", "", "g", ".1f", ".1f", ".1f", ".1f")))
    return int(not all(row.met for row in all_rows))


if __name__ == "__main__":
    run_with_flags("sizes", main, sys.argv, stopped="nothing is kept")
