"""One solve at the size of VGG-16: 11,145 masks, random weights, 64 images made on the spot, 3 iterations.

python -m cobla_tf.experiments.vgg16_full_size prints where the time went, and the peak memory beside that of
training the network in batches of the same size, which a process of its own does for two steps before.
"""

import sys

import numpy as np
from absl import flags, logging
from cobla_tf.experiments.memory import alone, peak_bytes, training_bytes

import cobla_tf
from cobla_tf.models import load_model
from cobla_tf.terminal import run_with_flags

IMAGES = 64

_SCHEME = flags.DEFINE_enum("scheme", "spatial", ("spatial", "channel"), "Decomposition scheme.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Images a step.", 1)


def make_data(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Images that are noise, float32, and labels that are chance, int64."""
    rng = np.random.default_rng(0)
    return rng.normal(scale=50.0, size=(size, 224, 224, 3)).astype(np.float32), rng.integers(0, 1000, size)


def trained(batch_size: int) -> int:
    """Bytes that two steps of training take."""
    return training_bytes(load_model("vgg16", will_train=True), *make_data(2 * batch_size), batch_size)


def main(argv: list[str]) -> None:
    """Compress, and print what it took; the accuracies of random weights mean nothing."""
    del argv
    training = alone(trained, _BATCH_SIZE.value)
    images, labels = make_data(IMAGES)
    solve = cobla_tf.SolveConfig(sample_fraction=1.0, iterations=3, draws=2, refine_iterations=1)
    config = cobla_tf.Config(solve=solve, batch_size=_BATCH_SIZE.value)
    model = load_model("vgg16", will_train=True)
    result = cobla_tf.compress(
        model, (images, labels), macs=0.29, params=0.32, scheme=_SCHEME.value, validation=(images[:4], labels[:4]),
        config=config,
    )  # fmt: skip
    print(result.report)
    for stage, seconds in result.report.seconds.items():
        print(f"{stage:15s} {seconds:8.1f} s")
    for record in result.report.iterations:
        print(f"{record.phase} {record.iteration}: {record.seconds:.1f} s, KKT residual {record.qp_residual:.0e}")
    peak = peak_bytes()
    print(
        f"peak memory {peak / 2**30:.2f} GiB, {peak / training:.2f} times that of training ({training / 2**30:.2f} GiB)"
    )


if __name__ == "__main__":
    logging.set_verbosity(logging.INFO)
    run_with_flags("vgg16_full_size", main, sys.argv, stopped="nothing is kept")
