"""Fine-tuning with YellowFin, untuned, against plain SGD over a grid of learning rates and momenta.

python -m cobla_tf.main, then python -m cobla_tf.experiments.benchmarks.optimizers trains the network as the first has
rebuilt it; --model, --dataset and --data_dir take others. The grid is compared on the test images, in SGD's favour.
The seeds are of the order of the training images.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import keras
import numpy as np
from tabulate import tabulate

from cobla_tf.config import FineTuneConfig
from cobla_tf.datasets import load_dataset
from cobla_tf.examples import Sample
from cobla_tf.finetune import train
from cobla_tf.losses import resolve_loss
from cobla_tf.models import load_model
from cobla_tf.objective import evaluate
from cobla_tf.precision import products_in, resolve_precision
from cobla_tf.reading import as_examples
from cobla_tf.terminal import run_with_arguments
from cobla_tf.yellowfin import YellowFin

RATES = [0.001, 0.003, 0.01, 0.03, 0.1]
MOMENTA = [0.0, 0.9]
OURS = "yellowfin"
WITHIN = 1.0
"""Points below the best setting of SGD that YellowFin may be."""


@dataclass(frozen=True)
class Trained:
    """Where one optimiser ended.

    Attributes:
        optimizer: with its settings.
        seed: of the order of the images.
        losses: on the training images, one an epoch.
        loss, accuracy: on the test images.
    """

    optimizer: str
    seed: int
    losses: list[float]
    loss: float
    accuracy: float


def optimizers(
    rates: Sequence[float], momenta: Sequence[float], no_decay: bool = False
) -> dict[str, tuple[Any, float | None]]:
    """Optimiser and learning rate by name: YellowFin, and the grid of SGD.

    All rates fall to zero as fine-tuning has it: along a cosine, YellowFin's in the second half of the steps. With
    `no_decay` YellowFin has a run without that, too.
    """
    grid = {
        f"sgd {rate:g}, momentum {m:g}": (keras.optimizers.SGD(momentum=m), rate) for m in momenta for rate in rates
    }
    constant = keras.optimizers.schedules.CosineDecay(1.0, decay_steps=1, alpha=1.0)
    further = {"yellowfin, no decay": (YellowFin(constant), None)} if no_decay else {}
    return {OURS: (YellowFin(), None), **further, **grid}


def compare(
    model: keras.Model,
    data: tuple[Sample, Sample],
    chosen: dict[str, tuple[Any, float | None]],
    epochs: int,
    batch_size: int = 128,
    seed: int = 0,
) -> list[Trained]:
    """Train from the same weights with each optimiser, on the same images in the same order.

    Args:
        model: comes back with its own weights.
        data: training and test images.
        chosen: from optimizers().
        epochs: of each.
        batch_size: images a step.
        seed: of the order.
    """
    examples, test = data
    loss, weights, runs = resolve_loss(None, model, examples.probe()), model.get_weights(), []
    for name, (optimizer, rate) in chosen.items():
        config = FineTuneConfig(epochs=epochs, optimizer=optimizer, learning_rate=rate)
        with products_in(resolve_precision("bfloat16")):
            history = train(model, examples, loss, config, batch_size, seed)
        judged = evaluate(model, test, loss, batch_size)
        runs.append(Trained(name, seed, [epoch["loss"] for epoch in history], judged.loss, judged.accuracy))
        print(f"{name}, seed {seed}: {100 * judged.accuracy:.2f} %", flush=True)
        model.set_weights(weights)
    return runs


def main() -> int:
    """Run, print, write; 1 where YellowFin ends too far below the best SGD."""
    given = _arguments()
    model = load_model(given.model)
    shape = tuple(model.inputs[0].shape[1:])
    splits = load_dataset(given.dataset, data_dir=given.data_dir, image_shape=shape, preprocessing="none", seed=0)
    examples, test = as_examples(splits.train), as_examples(splits.test)
    if given.images:
        examples = examples.draw(given.images, np.random.default_rng(0))
    runs = []
    for seed in range(given.seeds):
        runs += compare(
            model, (examples, test), optimizers(given.rates, given.momenta, given.no_decay), given.epochs, seed=seed
        )
    print(f"\n{table(runs)}")
    ahead = {name: points for name, points in _ahead(runs).items() if name.startswith("sgd")}
    best = max(ahead, key=lambda name: ahead[name][0])
    points, error = ahead[best]
    spread = "" if error is None else f" ± {error:.2f}"
    print(f"\nbest SGD ({best}) over YellowFin: {points:+.2f}{spread} points (at most {WITHIN:g} wanted)")
    if given.output:
        Path(given.output).write_text(json.dumps([asdict(run) for run in runs], indent=1), encoding="utf-8")
    return int(points > WITHIN)


def table(runs: Sequence[Trained]) -> str:
    """Means over the seeds, one line an optimiser, and what its accuracy is ahead of YellowFin's."""
    ahead, rows = _ahead(runs), []
    for name, own in _by_optimizer(runs).items():
        means = (mean(run.losses[-1] for run in own), mean(run.loss for run in own), _accuracy(own).mean())
        rows.append([name, *means, *ahead.get(name, (None, None))])
    head = ["optimiser", "last training loss", "test loss", "accuracy, %", "ahead, points", "standard error"]
    return tabulate(rows, head, floatfmt=("", ".4f", ".4f", ".2f", "+.2f", ".2f"), missingval="-")


def _ahead(runs: Sequence[Trained]) -> dict[str, tuple[float, float | None]]:
    """Points that each optimiser is ahead of YellowFin, and their standard error, None of a single seed."""
    found, others = {}, _by_optimizer(runs)
    ours = _accuracy(others.pop(OURS))
    for name, own in others.items():
        points = _accuracy(own) - ours
        error = float(points.std(ddof=1) / np.sqrt(len(points))) if len(points) > 1 else None
        found[name] = float(points.mean()), error
    return found


def _by_optimizer(runs: Sequence[Trained]) -> dict[str, list[Trained]]:
    return {name: [run for run in runs if run.optimizer == name] for name in dict.fromkeys(r.optimizer for r in runs)}


def _accuracy(runs: Sequence[Trained]) -> np.ndarray:
    return np.array([100 * run.accuracy for run in runs])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cobla_out/before_fine_tuning.keras", help="path of a network to train on")
    parser.add_argument("--dataset", default="digits", help="as for cobla_tf.main")
    parser.add_argument("--data_dir", help="as for cobla_tf.main")
    parser.add_argument("--images", type=int, help="training images, drawn at random; all if unset")
    parser.add_argument("--epochs", type=int, default=5, help="of each optimiser")
    parser.add_argument("--rates", nargs="+", type=float, default=RATES, help="learning rates of SGD")
    parser.add_argument("--momenta", nargs="+", type=float, default=MOMENTA, help="momenta of SGD")
    parser.add_argument("--no_decay", action="store_true", help="YellowFin without the cosine as well")
    parser.add_argument("--seeds", type=int, default=1, choices=range(1, 100), metavar="N", help="runs of each")
    parser.add_argument("--output", help="JSON file to write")
    return parser.parse_args()


if __name__ == "__main__":
    run_with_arguments("optimizers", main, stopped="nothing is kept")
