"""What each choice of the optimiser is worth: variants of one setting, over seeds, on one network.

python -m cobla_tf.experiments.benchmarks.variants --vary=sampling trains the digits network and compares on it;
--model, --dataset and --data_dir take what the command line of the package takes. The curves show the lowest loss so
far on training images that no gradient sees against the images that gradients were taken on, of the relaxation; the
table's images are those of the whole run, and it ends with accuracies and the compressed network's loss on the data's
test images, which no step and no choice between iterates sees. A second table has means over the seeds and their
standard deviations.
"""

import csv
import itertools
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from tabulate import tabulate

from cobla_tf.terminal import run_with_flags

VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "sampling": {
        "fixed": {"growing": False, "renew_every": 0},
        "renewed": {"growing": False},
        "growing": {},
        "new every iteration": {"growing": False, "renew_every": 1},
    },
    "curvature": {"measured": {}, "identity": {"curvature": "identity"}},
    "band": {"all masks": {}, "band": {"band": True}},
    "continuation": {"continuation": {}, "heuristic's start": {"continuation": False}},
    "stop": {"at the original's loss": {}, "at convergence": {"stop_at_original": False}},
    "rounding": {
        "model and draws": {},
        "draws": {"rounding": "random"},
        "one draw": {"rounding": "random", "draws": 1},
    },
}
POINTS = 200
"""Along the curves."""
COLUMNS = ("variant", "seed", "images", "judged", "relaxed", "compressed", "loss", "seconds")

_VARY = flags.DEFINE_enum("vary", "sampling", list(VARIANTS), "Which setting.")
_MODEL = flags.DEFINE_string("model", "digits_cnn", "As in cobla_tf.main.")
_DATASET = flags.DEFINE_string("dataset", "digits", "As in cobla_tf.main.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "As in cobla_tf.main.")
_EXCLUDE = flags.DEFINE_list("exclude", [], "As in cobla_tf.main.")
_SCHEME = flags.DEFINE_enum("scheme", "spatial", ("spatial", "channel"), "As in cobla_tf.main.")
_BUDGET = flags.DEFINE_float("budget", 0.3, "Of MACs and params alike.", 0, 1)
_SAMPLE = flags.DEFINE_float("sample_fraction", 0.2, "Share of the training images behind a gradient.", 0, 1)
_ITERATIONS = flags.DEFINE_integer("iterations", 20, "Most iterations in a phase.", 1)
_REFINE = flags.DEFINE_integer("refine_iterations", 20, "Iterations that refine the rounded network.", 0)
_SEEDS = flags.DEFINE_integer("seeds", 3, "Runs of each variant.", 1)
_PRETRAIN = flags.DEFINE_integer("pretrain_epochs", 10, "Epochs of training before; 0 takes the model as it is.", 0)
_OUTPUT = flags.DEFINE_string("output", "variants", "Where the CSV files and the plot go, without ending.")


@dataclass(frozen=True)
class Curve:
    """One run: COLUMNS of its table row, and (images, judged loss) after every iteration of the relaxation."""

    row: tuple[Any, ...]
    points: list[tuple[int, float]]


def main(_: list[str]) -> None:
    """Run all variants, print the table, write the curves."""
    import keras
    from cobla_tf.experiments.benchmarks.pretraining import pretrain

    from cobla_tf.datasets import load_dataset
    from cobla_tf.models import load_model
    from cobla_tf.reading import as_examples

    keras.utils.set_random_seed(0)
    model = load_model(_MODEL.value, None, will_train=_PRETRAIN.value > 0)
    shape = tuple(model.inputs[0].shape[1:])
    splits = load_dataset(_DATASET.value, data_dir=_DATA_DIR.value, image_shape=shape, preprocessing="none", seed=0)
    data, held_out = as_examples(splits.train), splits.test
    pretrain(model, data, _PRETRAIN.value)
    runs = itertools.product(VARIANTS[_VARY.value].items(), range(_SEEDS.value))
    curves = [_run(model, data, held_out, name, settings, seed) for (name, settings), seed in runs]
    print(tabulate([curve.row for curve in curves], COLUMNS, floatfmt=".4f"))
    print("", tabulate(_means(curves), ("variant", *COLUMNS[2:]), disable_numparse=True), sep="\n")
    _write(curves)


def _run(model: Any, data: Any, held_out: Any, name: str, settings: dict[str, Any], seed: int) -> Curve:
    from cobla_tf.config import Config, SolveConfig
    from cobla_tf.pipeline import compress

    solve = SolveConfig(
        sample_fraction=_SAMPLE.value,
        iterations=_ITERATIONS.value,
        refine_iterations=_REFINE.value,
        **settings,
    )
    report = compress(
        model,
        data,
        macs=_BUDGET.value,
        params=_BUDGET.value,
        scheme=_SCHEME.value,
        exclude=_EXCLUDE.value,
        validation=held_out,
        config=Config(solve=solve, seed=seed),
    ).report
    records = [record for record in report.iterations if record.phase.startswith("solve")]
    images = max((record.images for record in report.iterations), default=0)
    relaxed, compressed = (report.evaluations[stage] for stage in ("relaxed", "compressed"))
    judged = min((record.judged for record in records), default=np.nan)
    seconds = round(sum(spent for stage, spent in report.seconds.items() if stage.startswith("solve")))
    row = (name, seed, images, judged, relaxed.accuracy, compressed.accuracy, compressed.loss, seconds)
    print(*row, flush=True)
    return Curve(row, [(record.images, record.judged) for record in records])


def _means(curves: list[Curve]) -> list[list[str]]:
    """Mean and, of several seeds, standard deviation of each column, by variant."""
    rows = []
    for name in VARIANTS[_VARY.value]:
        numbers = np.array([curve.row[2:] for curve in curves if curve.row[0] == name], dtype=float)
        spreads = numbers.std(axis=0, ddof=1) if len(numbers) > 1 else np.full(numbers.shape[1], np.nan)
        rows.append([name, *map(_with_spread, COLUMNS[2:], numbers.mean(axis=0), spreads)])
    return rows


def _with_spread(column: str, mean: float, spread: float) -> str:
    if column in ("images", "seconds"):
        return f"{mean:,.0f}"
    return f"{mean:.4f} ± {spread:.4f}" if np.isfinite(spread) else f"{mean:.4f}"


def _write(curves: list[Curve]) -> None:
    output = Path(_OUTPUT.value)
    with output.with_suffix(".csv").open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *(curve.row for curve in curves)])
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    grid, means = _mean_curves(curves)
    for name, mean in means.items():
        axes.plot(grid, mean, label=name)
    axes.set_xlabel("images that gradients were taken on")
    axes.set_ylabel("lowest loss so far, over the best of the seed")
    axes.set_title(f"{_MODEL.value.rsplit('/')[-1]}, {_SCHEME.value}, {_BUDGET.value:g}; {_SEEDS.value} seeds")
    axes.legend()
    figure.savefig(output.with_suffix(".png"), dpi=120)


def _mean_curves(curves: list[Curve]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Images [G], and for each variant the mean [G] over the seeds of the lowest judged loss by then.

    Seeds have other judges, so each is measured by its best loss of all variants; a run that has ended keeps its last,
    and one that took no step has none.
    """
    curves = [curve for curve in curves if curve.points]
    best = {
        seed: min(loss for curve in curves if curve.row[1] == seed for _, loss in curve.points)
        for seed in {curve.row[1] for curve in curves}
    }
    first, last = (max((curve.points[end][0] for curve in curves), default=0) for end in (0, -1))
    grid = np.linspace(first, last, POINTS)

    def lowest(curve: Curve) -> np.ndarray:
        images, losses = np.transpose(curve.points)
        places = np.searchsorted(images, grid, side="right") - 1
        return np.minimum.accumulate(losses)[places] / best[curve.row[1]]

    names = dict.fromkeys(curve.row[0] for curve in curves)
    return grid, {n: np.mean([lowest(curve) for curve in curves if curve.row[0] == n], axis=0) for n in names}


if __name__ == "__main__":
    run_with_flags("variants", main, sys.argv, stopped="nothing is kept")
