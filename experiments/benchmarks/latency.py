"""Are fewer MACs less time? Networks at a share of their MACs, by POS-CVX, in LiteRT with one thread.

python -m cobla_tf.experiments.benchmarks.latency prints, for each network and scheme, the share of MACs and of measured
time that is kept: with a budget on MACs, and with one on a latency table that is measured first. POS-CVX looks at the
weights alone; those of the networks named here are random, and only a file of your own has others.
"""

import argparse
from collections.abc import Iterator, Sequence

import keras
import numpy as np

import cobla_tf
from cobla_tf.config import SCHEMES
from cobla_tf.layer_times import compare_sites, measure_latency, time_models
from cobla_tf.models import ZOO, load_model
from cobla_tf.texts import table
from cobla_tf.timings import Benchmark

MODELS = "squeezenet_v1.1,resnet50,vgg16"
HEAD = ("network", "scheme", "budget", "MACs kept", "sites' time, table", "original, ms", "compressed, ms", "time kept")


def main(argv: Sequence[str] | None = None) -> None:
    """Print one line as soon as it is known, and all as a table at the end."""
    options = _parser().parse_args(argv)
    rows = []
    for name in options.models.split(","):
        model = _load(name)
        for scheme in options.schemes.split(","):
            for row in _cases(name, model, scheme, options):
                rows.append(row)
                print(" | ".join(row), flush=True)
    print(f"\n{table(HEAD, rows, 'github', text_columns=3)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cobla_tf.experiments.benchmarks.latency")
    parser.add_argument("--models", default=MODELS, help="of the zoo, files, or resnet50, with commas between them")
    parser.add_argument("--schemes", default=",".join(SCHEMES), help="decomposition schemes")
    parser.add_argument("--exclude", default="", help="patterns of layer names to leave alone, in every network")
    parser.add_argument("--budget", default=0.5, type=float, help="share of the MACs, and of the latency, to keep")
    parser.add_argument("--seconds", default=10.0, type=float, help="to measure, for each table and each comparison")
    parser.add_argument("--sites", action="store_true", help="show every decomposed layer too")
    return parser


def _load(name: str) -> keras.Model:
    keras.utils.set_random_seed(0)
    if name == "resnet50":
        return keras.applications.ResNet50(weights=None, classifier_activation=None)
    return load_model(name, will_train=name in ZOO)


def _cases(name: str, model: keras.Model, scheme: str, options: argparse.Namespace) -> Iterator[tuple[str, ...]]:
    """A row for the budget on MACs, and one for that on a latency table."""
    exclude = [pattern for pattern in options.exclude.split(",") if pattern]
    latency = measure_latency(model, scheme, exclude, seconds=options.seconds)
    shape = model.inputs[0].shape[1:]
    data = np.random.default_rng(0).uniform(size=(4, *shape)).astype(np.float32), np.zeros(4, np.int64)
    shared = {"scheme": scheme, "exclude": exclude, "method": "pos_cvx", "resources": [latency], "validation": data}
    for resource in ("macs", latency.name):
        result = cobla_tf.compress(model, data, budgets={resource: options.budget}, **shared)
        before, after = time_models([model, result.model], 1, options.seconds)
        kept = {budget.resource: f"{budget.reached / budget.original:.3f}" for budget in result.report.budgets}
        times = f"{1e3 * before:.2f}", f"{1e3 * after:.2f}", f"{after / before:.3f}"
        yield name, scheme, resource, kept["macs"], kept[latency.name], *times
        if options.sites:
            print(Benchmark((), compare_sites(model, result.model, shape, options.seconds), 1), flush=True)


if __name__ == "__main__":
    main()
