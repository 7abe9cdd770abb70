"""Are fewer MACs less time? Networks at a share of their MACs, by POS-CVX, in LiteRT with one thread.

python -m cobla_tf.experiments.benchmarks.latency prints, for each network and scheme, the share of MACs and of measured
time that is kept: with a budget on MACs, and with one on a latency table that is measured first. POS-CVX looks at the
weights alone; those of the networks named here are random, and only a file of your own has others.
"""

import keras
import numpy as np
from absl import app, flags, logging

import cobla_tf
from cobla_tf.config import SCHEMES
from cobla_tf.layer_times import compare_sites, measure_latency, time_models
from cobla_tf.models import ZOO, load_model
from cobla_tf.texts import table
from cobla_tf.timings import Benchmark

_MODELS = flags.DEFINE_list("models", ["squeezenet_v1.1", "resnet50", "vgg16"], "Of the zoo, or files, or resnet50.")
_SCHEMES = flags.DEFINE_list("schemes", list(SCHEMES), "Decomposition schemes.")
_EXCLUDE = flags.DEFINE_list("exclude", [], "Patterns of layer names to leave alone, in every network.")
_BUDGET = flags.DEFINE_float("budget", 0.5, "Share of the MACs, and of the latency, to keep.", 0, 1)
_SECONDS = flags.DEFINE_float("seconds", 10.0, "To measure, for each table and each comparison.", 0)
_LATENCY = flags.DEFINE_bool("latency", True, "Compress to a latency budget as well.")
_SITES = flags.DEFINE_bool("sites", False, "Show every decomposed layer too.")

HEAD = ("network", "scheme", "budget", "MACs kept", "sites' time, table", "original, ms", "compressed, ms", "time kept")


def main(argv: list[str]) -> None:
    """Print one line as soon as it is known, and all as a table at the end."""
    del argv
    rows = []
    for name in _MODELS.value:
        model = _load(name)
        for scheme in _SCHEMES.value:
            for row in _cases(name, model, scheme):
                rows.append(row)
                print(" | ".join(row), flush=True)
    print(f"\n{table(HEAD, rows, 'github', text_columns=3)}")


def _load(name: str) -> keras.Model:
    keras.utils.set_random_seed(0)
    if name == "resnet50":
        return keras.applications.ResNet50(weights=None, classifier_activation=None)
    return load_model(name, will_train=name in ZOO)


def _cases(name: str, model: keras.Model, scheme: str) -> list[tuple[str, ...]]:
    resources = [measure_latency(model, scheme, _EXCLUDE.value, seconds=_SECONDS.value)] if _LATENCY.value else []
    images = np.random.default_rng(0).uniform(size=(4, *model.inputs[0].shape[1:])).astype(np.float32)
    shared = {"scheme": scheme, "exclude": _EXCLUDE.value, "method": "pos_cvx", "resources": resources}
    rows = []
    for resource in ("macs", *(measured.name for measured in resources)):
        budgets = {resource: _BUDGET.value}
        data = images, np.zeros(len(images), np.int64)
        result = cobla_tf.compress(model, data, validation=data, budgets=budgets, **shared)
        before, after = time_models([model, result.model], 1, _SECONDS.value)
        kept = {budget.resource: f"{budget.reached / budget.original:.3f}" for budget in result.report.budgets}
        times = f"{1e3 * before:.2f}", f"{1e3 * after:.2f}", f"{after / before:.3f}"
        rows.append((name, scheme, resource, kept["macs"], kept.get("latency", "-"), *times))
        if _SITES.value:
            sites = compare_sites(model, result.model, images.shape[1:], _SECONDS.value)
            print(Benchmark((), sites, 1), flush=True)
    return rows


if __name__ == "__main__":
    logging.set_verbosity(logging.INFO)
    app.run(main)
