"""What a loss and a mask gradient cost, against the original network's own loss and kernel gradients.

python -m cobla_tf.experiments.benchmarks.gradients times, for every network and scheme, five things in turn on the
same images, in the same batches and fed the same way: forward pass and training step of the original, loss and gradient
by the masks of ours, and the feeding alone, which is what a gradient can wait for its images at the most.
The kernels' way from masks and back is gone once an evaluation: the more batches in one, the less it weighs.
The most memory that a gradient takes is compared with that of a training step, in processes of their own; and the time
to `--help` is told.
"""

import json
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from absl import flags
from cobla_tf.experiments.memory import alone, peak_bytes, training_bytes
from tabulate import tabulate

from cobla_tf.config import SCHEMES
from cobla_tf.errors import ConfigError
from cobla_tf.examples import Sample
from cobla_tf.loss import Loss
from cobla_tf.losses import resolve_loss
from cobla_tf.models import load_model
from cobla_tf.objective import Objective, one_behind, tensors
from cobla_tf.precision import products_in, resolve_precision
from cobla_tf.sites import find_sites
from cobla_tf.surgery import mask_model
from cobla_tf.terminal import run_with_flags

MOST = 1.05
"""Ours over the original's, both for the loss and for the gradient."""
NETWORKS = {"nin_cifar10": 128, "squeezenet_v1.1": 64, "vgg16": 16, "resnet50": 32, "digits_cnn": 64}
"""Images a batch."""
BATCHES = 2
"""Of the training and the gradient whose memory is told."""

_NETWORKS = flags.DEFINE_list("networks", ["nin_cifar10", "squeezenet_v1.1", "vgg16", "resnet50"], "Which of them.")
_BATCHES = flags.DEFINE_integer("batches", 16, "An evaluation; of few, what is done once weighs more.", 1)
_REPETITIONS = flags.DEFINE_integer("repetitions", 5, "Of all five, in turn.", 1)
_PRECISIONS = flags.DEFINE_list("precisions", ["float32", "bfloat16"], "Of our products; the original's are float32.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write; none by default.")
_MEMORY = flags.DEFINE_bool("memory", True, "Tell the memory, too.")
_SMOKE = flags.DEFINE_bool("smoke", False, "The network for the digits, twice.")


@dataclass(frozen=True)
class Cost:
    """Seconds of one evaluation over all images, one entry a repetition.

    Attributes:
        network, scheme, precision: what was timed.
        images: an evaluation.
        bytes: that processes of their own took, by 'training' and 'gradient'; none where they were not asked for.
        seconds: by 'forward', 'training' (the original's), 'loss', 'gradient' (ours) and 'feeding'.
    """

    network: str
    scheme: str
    precision: str
    images: int
    bytes: dict[str, int]
    seconds: dict[str, list[float]]

    def ratios(self, ours: str, original: str) -> list[float]:
        """Ours over the original's of the same repetition."""
        return [a / b for a, b in zip(self.seconds[ours], self.seconds[original], strict=True)]


def measure(network: str, scheme: str, precision: str, batches: int, repetitions: int, memory: bool) -> Cost:
    """Measure one network; every evaluation runs once before it is timed, to be traced."""
    took = {}
    if memory:
        took = {"training": alone(_training_bytes, network), "gradient": alone(_bytes, network, scheme, precision)}
    runs, images = _evaluations(network, scheme, precision, batches)
    for run in runs.values():
        run()
    seconds = {name: [] for name in runs}
    for _ in range(repetitions):
        for name, run in runs.items():
            seconds[name].append(_timed(run))
    return Cost(network, scheme, precision, images, took, seconds)


def _training_bytes(network: str) -> int:
    model = _load(network)
    sample = _sample(model, BATCHES * NETWORKS[network])
    return training_bytes(model, sample.images, sample.labels, NETWORKS[network])


def _bytes(network: str, scheme: str, precision: str) -> int:
    _evaluations(network, scheme, precision, BATCHES)[0]["gradient"]()
    return peak_bytes()


def _load(network: str) -> keras.Model:
    """One of the package's, or ResNet-50 of Keras with random weights, 224 x 224, logits out."""
    if network == "resnet50":
        return keras.applications.ResNet50(weights=None, classifier_activation=None)
    return load_model(network, will_train=True)


def _sample(model: keras.Model, images: int) -> Sample:
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(images, *model.input_shape[1:])).astype(np.float32)
    return Sample(pixels, rng.integers(0, model.output_shape[-1], images))


def _evaluations(
    network: str, scheme: str, precision: str, batches: int
) -> tuple[dict[str, Callable[[], object]], int]:
    """All that is timed, by name, and the number of images."""
    model, batch_size = _load(network), NETWORKS[network]
    sample = _sample(model, batches * batch_size)
    sites = find_sites(model, scheme, ("whitening",) if network == "nin_cifar10" else ())
    loss = resolve_loss(None, model, sample.probe())
    forward, training = _original_steps(model, [site.layer.kernel.value for site in sites.found], loss)
    objective = Objective(mask_model(model, sites), loss, batch_size, sample.probe(), precision)
    masks = np.full(sites.layout.size, 0.9)

    def original(step: Callable) -> float:
        with products_in("float32"):
            losses = (step(*batch)[0] for batch in tensors(model, sample, batch_size))
            return sum(map(float, one_behind(losses)))

    runs = {
        "forward": lambda: original(forward),
        "loss": lambda: objective.value(masks, sample),
        "training": lambda: original(training),
        "gradient": lambda: objective.gradient(masks, sample),
        "feeding": lambda: deque(tensors(model, sample, batch_size), maxlen=0),
    }
    return runs, sample.size


def _original_steps(model: keras.Model, kernels: list[tf.Variable], loss: Loss) -> tuple[Callable, Callable]:
    @tf.function(reduce_retracing=True)
    def forward(images: tf.Tensor, labels: tf.Tensor) -> list[tf.Tensor]:
        return [loss.total(labels, model(images, training=False))]

    @tf.function(reduce_retracing=True)
    def training(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(kernels)
            value = loss.total(labels, model(images, training=False))
        return value, tape.gradient(value, kernels)

    return forward, training


def _timed(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    tf.test.experimental.sync_devices()  # a GPU has the loss before the gradients
    return time.perf_counter() - began


def _help() -> None:
    subprocess.run([sys.executable, "-m", "cobla_tf.main", "--help"], capture_output=True, check=False)


def table(costs: list[Cost]) -> str:
    """Medians, and least to largest ratio, one line a network, scheme and precision."""
    rows = []
    for cost in costs:
        milliseconds = 1000 * statistics.median(cost.seconds["gradient"]) / cost.images
        pairs = [cost.ratios("loss", "forward"), cost.ratios("gradient", "training")]
        spread = [f"{statistics.median(r):.2f} ({min(r):.2f} to {max(r):.2f})" for r in pairs]
        took = f"{cost.bytes['gradient'] / cost.bytes['training']:.2f}" if cost.bytes else "-"
        fed = f"{100 * statistics.median(cost.ratios('feeding', 'gradient')):.1f} %"
        rows.append([cost.network, cost.scheme, cost.precision, cost.images, f"{milliseconds:.1f}", *spread, fed, took])
    head = ["network", "scheme", "precision", "images", "ms / image", "loss / forward", "gradient / training step"]
    head += ["feeding / gradient", "memory / training's"]
    return tabulate(rows, head, disable_numparse=True)


def main(argv: list[str]) -> int:
    """Measure, print, write; 1 where a median is above the limit (a smoke run is too small to tell)."""
    del argv
    networks, repetitions = (["digits_cnn"], 2) if _SMOKE.value else (_NETWORKS.value, _REPETITIONS.value)
    batches = 2 if _SMOKE.value else _BATCHES.value
    if unknown := set(networks) - set(NETWORKS):
        raise ConfigError(f"--networks must be among {', '.join(NETWORKS)}, got {', '.join(sorted(unknown))}.")
    precisions = list(dict.fromkeys(resolve_precision(name) for name in _PRECISIONS.value))
    costs = []
    for network in networks:
        for scheme in SCHEMES:
            for precision in precisions:
                costs.append(measure(network, scheme, precision, batches, repetitions, _MEMORY.value))
            keras.backend.clear_session()
    print(table(costs))
    medians = [statistics.median(c.ratios(*p)) for c in costs for p in (("loss", "forward"), ("gradient", "training"))]
    print(f"\nlargest median ratio: {max(medians):.2f} (at most {MOST} wanted)")
    started = [_timed(_help) for _ in range(repetitions)]
    print(f"`--help` takes {statistics.median(started):.2f} s ({min(started):.2f} to {max(started):.2f})")
    if _OUTPUT.value:
        record = {"costs": [asdict(cost) for cost in costs], "help_seconds": started}
        Path(_OUTPUT.value).write_text(json.dumps(record, indent=1), encoding="utf-8")
    return int(max(medians) > MOST and not _SMOKE.value)


if __name__ == "__main__":
    run_with_flags("gradients", main, sys.argv, stopped="nothing is kept")
