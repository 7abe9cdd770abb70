"""Whether a convolution's gradients come faster in another form than TensorFlow's own on processors.

python -m cobla_tf.experiments.benchmarks.convolutions times, for layers of the networks that we compress, the output
and both gradients of one layer: as it is, as products of matrices, in another layout or precision, compiled by XLA; in
batches of several sizes; and all of it anew in processes with one thread, and without oneDNN.
"""

import json
import multiprocessing
import os
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import tensorflow as tf
from absl import flags
from tabulate import tabulate

from cobla_tf.errors import first_line
from cobla_tf.stopwatch import interleave
from cobla_tf.terminal import run_with_flags

SHAPES = {
    "NIN 5x5": (32, 3, 5, 192),
    "NIN 1x1": (32, 192, 1, 160),
    "NIN 3x3": (8, 192, 3, 192),
    "SqueezeNet 1x1": (56, 128, 1, 16),
    "VGG-16 3x3": (28, 256, 3, 512),
    "ResNet-50 1x1": (14, 1024, 1, 256),
}
"""Side of the image, channels in, side of the kernel, channels out; stride 1, padding 'same'."""
SETTINGS: dict[str, Mapping[str, str]] = {
    "all threads": {},
    "one thread": {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"},
    "without oneDNN": {"TF_ENABLE_ONEDNN_OPTS": "0"},
}
"""Variables of the environment that TensorFlow reads at its start."""
AS_IS = "as it is"

_BATCHES = flags.DEFINE_multi_integer("batch", [8, 64], "Images a batch; may be given several times.", 1)
_SHAPES = flags.DEFINE_multi_enum("shape", list(SHAPES), list(SHAPES), "Which layer; likewise.")
_SETTINGS = flags.DEFINE_multi_enum("setting", list(SETTINGS), list(SETTINGS), "Which process; likewise.")
_SECONDS = flags.DEFINE_float("seconds", 2.0, "A layer and batch, for all forms in turn; five rounds at least.", 0.0)
_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write; none by default.")
_SMOKE = flags.DEFINE_bool("smoke", False, "One small batch of one layer.")

Layer = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


@dataclass(frozen=True)
class Cost:
    """Milliseconds an image (median) of a layer's output and both gradients, or why there are none.

    Attributes:
        setting, shape: names in SETTINGS and SHAPES.
        batch: images.
        form: of the computation.
        milliseconds: None where it failed.
        failure: in one line, else "".
    """

    setting: str
    shape: str
    batch: int
    form: str
    milliseconds: float | None
    failure: str = ""


def conv2d(images: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """TensorFlow's own, channels last."""
    return tf.nn.conv2d(images, kernel, 1, "SAME")


def channels_first(images: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """The same on [n, channels, height, width], both ways of the transposition counted."""
    return tf.transpose(
        tf.nn.conv2d(tf.transpose(images, (0, 3, 1, 2)), kernel, 1, "SAME", data_format="NCHW"), (0, 2, 3, 1)
    )


def matrices(images: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """A product of two matrices, of patches where the kernel is larger than 1x1."""
    side, _, channels, outputs = kernel.shape
    patches = images if side == 1 else tf.image.extract_patches(images, (1, side, side, 1), 4 * [1], 4 * [1], "SAME")
    product = tf.reshape(patches, (-1, side * side * channels)) @ tf.reshape(kernel, (-1, outputs))
    return tf.reshape(product, (*images.shape[:3], outputs))


def halved(images: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Products in bfloat16, sums in float32, both casts counted."""
    return tf.cast(conv2d(tf.cast(images, tf.bfloat16), tf.cast(kernel, tf.bfloat16)), tf.float32)


FORMS: dict[str, tuple[Layer, bool]] = {
    AS_IS: (conv2d, False),
    "matrices": (matrices, False),
    "channels first": (channels_first, False),
    "bfloat16": (halved, False),
    "XLA": (conv2d, True),
}
"""By name: the layer, and whether XLA compiles it."""


def step(layer: Layer, compiled: bool, images: tf.Tensor, kernel: tf.Tensor) -> Callable[[], list[np.ndarray]]:
    """A run of a layer and of both gradients, from a weight for every output."""

    @tf.function(jit_compile=compiled)
    def both(images: tf.Tensor, kernel: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch((images, kernel))
            outputs = layer(images, kernel)
            value = tf.reduce_sum(outputs * outputs)
        return tape.gradient(value, (images, kernel))

    return lambda: [gradient.numpy() for gradient in both(images, kernel)]


def measure(setting: str, shape: str, batch: int, seconds: float) -> list[Cost]:
    """All forms of one layer in turn; in a process whose environment is that of the setting."""
    side, channels, kernel_side, outputs = SHAPES[shape]
    rng = np.random.default_rng(0)
    images = tf.constant(rng.normal(size=(batch, side, side, channels)), tf.float32)
    kernel = tf.constant(rng.normal(size=(kernel_side, kernel_side, channels, outputs)), tf.float32)
    runs, failures = {}, {}
    for name, form in FORMS.items():
        run = step(*form, images, kernel)
        try:
            run()
        except tf.errors.OpError as error:  # what a processor cannot do is a result
            failures[name] = first_line(error)
        else:
            runs[name] = run
    times = 1000 * np.median(interleave(list(runs.values()), seconds), axis=0) / batch
    done = [Cost(setting, shape, batch, name, float(time)) for name, time in zip(runs, times, strict=True)]
    return done + [Cost(setting, shape, batch, name, None, why) for name, why in failures.items()]


def in_setting(setting: str, shapes: list[str], batches: list[int], seconds: float) -> Iterator[list[Cost]]:
    """Every layer and batch, in one process that is started for it."""
    before = dict(os.environ)
    os.environ.update(SETTINGS[setting])
    try:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as alone:
            for shape in shapes:
                yield from alone.map(partial(measure, setting, shape, seconds=seconds), batches)
    finally:
        os.environ.clear()
        os.environ.update(before)


def table(costs: list[Cost]) -> str:
    """A line for a setting, layer and batch: milliseconds of the layer as it is, and the others' in times of that."""
    rows = []
    cells = {(cost.setting, cost.shape, cost.batch): {} for cost in costs}
    for cost in costs:
        cells[cost.setting, cost.shape, cost.batch][cost.form] = cost
    for key, forms in cells.items():
        own, *others = (forms[name].milliseconds for name in FORMS)
        rows.append([*key, f"{own:.2f}", *("-" if other is None else f"{other / own:.2f}" for other in others)])
    head = ["process", "layer", "batch", "ms / image", *(f"{name}, times" for name in FORMS if name != AS_IS)]
    return tabulate(rows, head, disable_numparse=True)


def main(argv: list[str]) -> None:
    """Measure, print, write."""
    del argv
    shapes, batches, settings = _SHAPES.value, _BATCHES.value, _SETTINGS.value
    if _SMOKE.value:
        shapes, batches, settings = ["NIN 3x3"], [2], ["all threads"]
    costs: list[Cost] = []
    for setting in settings:
        for found in in_setting(setting, shapes, batches, 0.0 if _SMOKE.value else _SECONDS.value):
            costs += found
    print(table(costs))
    best = [_gain(costs, name) for name in FORMS if name != AS_IS]
    print(f"\nmedian over all lines of the layer as it is: {', '.join(best)}")
    for why in sorted({f"{cost.form}: {cost.failure}" for cost in costs if cost.failure}):
        print(why)
    if _OUTPUT.value:
        Path(_OUTPUT.value).write_text(json.dumps([asdict(cost) for cost in costs], indent=1), encoding="utf-8")


def _gain(costs: list[Cost], form: str) -> str:
    own = {(c.setting, c.shape, c.batch): c.milliseconds for c in costs if c.form == AS_IS}
    times = [c.milliseconds / own[c.setting, c.shape, c.batch] for c in costs if c.form == form and not c.failure]
    return f"{form} {statistics.median(times):.2f} times" if times else f"{form} nowhere"


if __name__ == "__main__":
    run_with_flags("convolutions", main, sys.argv, stopped="nothing is kept")
