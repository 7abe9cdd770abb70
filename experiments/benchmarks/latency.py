"""Are fewer MACs less time? Networks at a share of their MACs, by POS-CVX, in LiteRT with one thread.

python -m cobla_tf.experiments.benchmarks.latency prints, for each network and scheme, the share of MACs and of measured
time that is kept: with a budget on MACs, with the same on a latency table that is measured first, and with as much
latency as the first has by that table. POS-CVX looks at the weights alone; those of the networks named here are random.
Only "narrow" is trained, on digits, and has an accuracy; a file of your own has its own weights.
"""

import argparse
from collections.abc import Iterator, Sequence

import keras
import numpy as np
from cobla_tf.experiments.benchmarks.narrow import narrow

import cobla_tf
from cobla_tf.config import SCHEMES
from cobla_tf.errors import BudgetError
from cobla_tf.layer_times import compare_sites, measure_latency, time_models
from cobla_tf.models import ZOO, load_model
from cobla_tf.terminal import run_with_arguments
from cobla_tf.texts import table
from cobla_tf.timings import Benchmark

MODELS = "squeezenet_v1.1,resnet50,vgg16"
HEAD = (
    "network", "scheme", "budget", "MACs kept", "sites' time, table", "original, ms", "compressed, ms", "time kept",
    "accuracy",
)  # fmt: skip
Data = tuple[np.ndarray, np.ndarray]


def main(argv: Sequence[str] | None = None) -> None:
    """Print one line as soon as it is known, and all as a table at the end."""
    options = _parser().parse_args(argv)
    rows = []
    for name in options.models.split(","):
        model, *data = narrow() if name == "narrow" else _load(name)
        for scheme in options.schemes.split(","):
            for row in _cases(name, model, data, scheme, options):
                rows.append(row)
                print(" | ".join(row), flush=True)
    print(f"\n{table(HEAD, rows, 'github', text_columns=3)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cobla_tf.experiments.benchmarks.latency")
    parser.add_argument("--models", default=MODELS, help="of the zoo, files, resnet50 or narrow, with commas between")
    parser.add_argument("--schemes", default=",".join(SCHEMES), help="decomposition schemes")
    parser.add_argument("--exclude", default="", help="patterns of layer names to leave alone, in every network")
    parser.add_argument("--budget", default=0.5, type=float, help="share of the MACs, and of the latency, to keep")
    parser.add_argument("--seconds", default=10.0, type=float, help="to measure, for each table and each comparison")
    parser.add_argument("--sites", action="store_true", help="show every decomposed layer too")
    return parser


def _load(name: str) -> tuple[keras.Model, Data]:
    """A model, and data that no figure depends on."""
    keras.utils.set_random_seed(0)
    if name == "resnet50":
        model = keras.applications.ResNet50(weights=None, classifier_activation=None)
    else:
        model = load_model(name, will_train=name in ZOO)
    images = np.random.default_rng(0).uniform(size=(4, *model.inputs[0].shape[1:])).astype(np.float32)
    return model, (images, np.zeros(4, np.int64))


def _cases(
    name: str, model: keras.Model, data: Sequence[Data], scheme: str, options: argparse.Namespace
) -> Iterator[tuple[str, ...]]:
    """A row for the budget on MACs, one for the same on a latency table, and one for the first one's latency."""
    exclude = [pattern for pattern in options.exclude.split(",") if pattern]
    latency = measure_latency(model, scheme, exclude, seconds=options.seconds)
    shape = model.inputs[0].shape[1:]
    shared = {"scheme": scheme, "exclude": exclude, "method": "pos_cvx", "resources": [latency], "validation": data[-1]}
    budgets = [("macs", options.budget), (latency.name, options.budget)]
    for resource, budget in budgets:
        try:
            result = cobla_tf.compress(model, data[0], budgets={resource: budget}, **shared)
        except BudgetError as error:  # as much time cannot be saved in these layers
            print(f"{name}, {scheme}: {error}", flush=True)
            continue
        before, after = time_models([model, result.model], 1, options.seconds)
        kept = {each.resource: each.reached / each.original for each in result.report.budgets}
        if resource == "macs":
            budgets.append((latency.name, min(1.0, kept[latency.name])))
        times = f"{1e3 * before:.3g}", f"{1e3 * after:.3g}", f"{after / before:.3f}"
        judged = [result.report.evaluations[stage].accuracy for stage in ("original", "compressed")]
        accuracy = " -> ".join(f"{100 * share:.1f} %" for share in judged) if len(data) > 1 else "-"
        yield name, scheme, resource, f"{kept['macs']:.3f}", f"{kept[latency.name]:.3f}", *times, accuracy
        if options.sites:
            print(Benchmark((), compare_sites(model, result.model, shape, options.seconds), 1), flush=True)


if __name__ == "__main__":
    run_with_arguments("latency", main, stopped="nothing is kept")
