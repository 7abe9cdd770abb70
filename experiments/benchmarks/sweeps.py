"""What a sweep costs and reaches, against a separate solve for each of its budgets.

python -m cobla_tf.main, then python -m cobla_tf.experiments.benchmarks.sweeps compares on the digits network that the
first has trained; --model, --dataset, --data_dir and --exclude take what the command line of the package takes.
"""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

import cobla_tf
from cobla_tf.config import SCHEMES
from cobla_tf.curve import Curve
from cobla_tf.datasets import DataSplits, load_dataset
from cobla_tf.models import load_model
from cobla_tf.terminal import run_with_arguments

BUDGETS = [0.5, 0.4, 0.3, 0.2, 0.1]
MOST = 0.5
"""Images that gradients are taken on in a sweep, over those in separate solves."""
ERRORS = 2
"""Standard errors by which the ratio of two losses must exceed 1 to be more than chance."""


@dataclass(frozen=True)
class Run:
    """One seed: what a way to the same budgets took, and where it ended.

    Attributes:
        way: 'sweep' or 'separate'.
        seed: of all choices by chance.
        images: that gradients were taken on, all budgets together.
        losses, accuracies: on the held-out images, one a budget.
    """

    way: str
    seed: int
    images: int
    losses: list[float]
    accuracies: list[float]


def compare(model: Any, data: DataSplits, budgets: list[float], config: cobla_tf.Config, **options: Any) -> list[Run]:
    """Both ways, on the same images and from the same seed.

    Args:
        model: trained.
        data: what it was trained for.
        budgets: on MACs and params alike, from loose to tight.
        config: of every solve.
        **options: further ones of pareto().
    """
    options |= {"validation": data.test, "config": config}
    sweep = cobla_tf.pareto(model, data.train, macs=budgets, params=budgets, **options)
    alone = [cobla_tf.pareto(model, data.train, macs=[b], params=[b], **options).points[0] for b in budgets]
    return [_run("sweep", config.seed, sweep), _run("separate", config.seed, Curve(tuple(alone)))]


def _run(way: str, seed: int, curve: Curve) -> Run:
    rows = curve.rows()
    losses, accuracies = [row["loss"] for row in rows], [row["accuracy"] for row in rows]
    return Run(way, seed, sum(row["images"] for row in rows), losses, accuracies)


def main() -> int:
    """Run, print, write; 1 where a sweep costs more than is wanted, or a loss is larger by more than chance."""
    given = _arguments()
    budgets = sorted(given.budgets, reverse=True)
    model = load_model(given.model)
    shape = tuple(model.inputs[0].shape[1:])
    data = load_dataset(given.dataset, data_dir=given.data_dir, image_shape=shape, preprocessing="none", seed=0)
    runs = []
    for seed in range(given.seeds):
        config = cobla_tf.Config(seed=seed)
        runs += compare(model, data, budgets, config, scheme=given.scheme, exclude=given.exclude)
    rows = [[run.way, run.seed, run.images, *run.losses] for run in runs]
    print(tabulate(rows, ["way", "seed", "images", *(f"loss at {b:g}" for b in budgets)], floatfmt=".4f"))
    ways = [[run for run in runs if run.way == way] for way in ("sweep", "separate")]
    cost = [sum(run.images for run in own) for own in ways]
    print(f"\nimages, sweep over separate: {cost[0] / cost[1]:.2f} (at most {MOST} wanted)")
    ratios, errors = _ratios(*([run.losses for run in own] for own in ways))
    told = (f"{b:g}: {r:.2f} ± {e:.2f}" for b, r, e in zip(budgets, ratios, errors, strict=True))
    print("loss, sweep over separate:", ", ".join(told))
    if given.output:
        Path(given.output).write_text(json.dumps([asdict(run) for run in runs], indent=1), encoding="utf-8")
    worse = ratios - ERRORS * errors > 1  # of one seed nothing is said
    return int(cost[0] > MOST * cost[1] or worse.any())


def _ratios(sweep: list[list[float]], separate: list[list[float]]) -> tuple[np.ndarray, np.ndarray]:
    """Ratio of the mean losses at each budget, and the standard error of it over the seeds, which are pairs."""
    swept, alone = np.array(sweep), np.array(separate)
    ratios = swept.mean(axis=0) / alone.mean(axis=0)
    spread = (swept - ratios * alone).std(axis=0, ddof=1) if len(swept) > 1 else np.full(swept.shape[1], np.nan)
    return ratios, spread / np.sqrt(len(swept)) / alone.mean(axis=0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cobla_out/pretrained.keras", help="path of a trained network")
    parser.add_argument("--dataset", default="digits", help="as for cobla_tf.main")
    parser.add_argument("--data_dir", help="as for cobla_tf.main")
    parser.add_argument("--exclude", nargs="*", default=[], help="patterns of layers to leave alone")
    parser.add_argument("--scheme", default=SCHEMES[0], choices=SCHEMES, help="as for cobla_tf.main")
    parser.add_argument("--budgets", nargs="+", type=float, default=BUDGETS, help="on MACs and params alike")
    parser.add_argument("--seeds", type=int, default=3, help="runs")
    parser.add_argument("--output", help="JSON file to write")
    return parser.parse_args()


if __name__ == "__main__":
    run_with_arguments("sweeps", main, stopped="nothing is kept")
