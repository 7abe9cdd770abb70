"""Command line: python -m cobla_tf.third_party.convert_weights turns published weights into a network of the zoo.

The file that it writes is a whole model: give it to cobla_tf.main as --model, with the --preprocessing that it prints.
"""

import logging as python_logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags, logging

from cobla_tf.errors import ConfigError
from cobla_tf.quiet import import_tensorflow
from cobla_tf.terminal import run_with_flags

if TYPE_CHECKING:
    import keras
    from cobla_tf.third_party.check import Check

NETWORKS = ("nin_cifar10", "squeezenet_v1.0", "squeezenet_v1.1", "vgg16")

_NETWORK = flags.DEFINE_enum("network", None, NETWORKS, "Which network of the zoo the weights are for.")
_SOURCE = flags.DEFINE_string(
    "source", None, "nin_cifar10: Caffe's HDF5 snapshot; squeezenet_*: a folder of .npy files; vgg16: Keras' .h5 file."
)
_TARGET = flags.DEFINE_string("target", None, "The .keras file to write.")
_WHITENING = flags.DEFINE_string(
    "whitening", None, "nin_cifar10 only: a .keras file of a NIN with the layer whitening, or a .npy file of the "
    "training images [n, 32, 32, 3], RGB in 0..255, to measure it on.",
)  # fmt: skip
_CHECK_INPUT = flags.DEFINE_string(
    "check_input", None, "A .npy file of images [n, h, w, 3] or [n, 3, h, w] as the original took them."
)
_CHECK_OUTPUT = flags.DEFINE_string("check_output", None, "A .npy file of its outputs, logits or probabilities.")
_TOLERANCE = flags.DEFINE_float(
    "tolerance", 1e-3, "Largest difference from the given outputs, as a share of their spread.", 0
)


def run() -> None:
    """Entry point; exits with 0, 2 and one sentence on bad input, or 130 or 143 (stopped)."""
    run_with_flags("convert_weights", main, sys.argv, stopped="nothing was written")


def main(argv: list[str]) -> None:
    """Convert what the flags say."""
    del argv
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.set_verbosity(logging.INFO)
    logging.get_absl_handler().setFormatter(python_logging.Formatter("%(message)s"))
    missing = [flag.name for flag in (_NETWORK, _SOURCE, _TARGET) if flag.value is None]
    if missing:
        raise ConfigError(f"expected --{', --'.join(missing)}; --help tells their forms.")
    import_tensorflow()
    target = Path(_TARGET.value)
    _, preprocessing = convert(_NETWORK.value, Path(_SOURCE.value), target, _WHITENING.value, _check())
    print(f"{target} is written; use it with --model={target} --preprocessing={preprocessing}")


def convert(
    network: str, source: Path, target: Path, whitening: str | None = None, check: "Check | None" = None
) -> tuple["keras.Model", str]:
    """Convert, check, and write the target; nothing is written unless all is well.

    Returns:
        The network, and the name of the preprocessing (cobla_tf.preprocessing) that its images need.

    Raises:
        ConfigError: a target that is no .keras file, or a whitening for a network that has none.
        ModelError: see the converters of the networks.
        OutputError: the target's folder cannot be written.
    """
    from cobla_tf.files import check_writable, replace_with

    if target.suffix != ".keras":
        raise ConfigError(f"target must be a file that ends in .keras, got {target}.")
    if whitening is not None and network != "nin_cifar10":
        raise ConfigError(f"whitening is for nin_cifar10 only, {network} has no such layer: leave it out.")
    check_writable(target.parent)
    model, preprocessing = _converted(network, source, whitening, check)
    replace_with(target, model.save)
    return model, preprocessing


def _converted(network: str, source: Path, whitening: str | None, check: "Check | None") -> tuple["keras.Model", str]:
    from cobla_tf.third_party.nin import convert_nin
    from cobla_tf.third_party.squeezenet import convert_squeezenet
    from cobla_tf.third_party.vgg16 import convert_vgg16

    if network == "nin_cifar10":
        return convert_nin(source, whitening, check)
    if network == "vgg16":
        return convert_vgg16(source, check)
    return convert_squeezenet(network.removeprefix("squeezenet_"), source, check)


def _check() -> "Check | None":
    from cobla_tf.third_party.check import read_check

    if (_CHECK_INPUT.value is None) != (_CHECK_OUTPUT.value is None):
        raise ConfigError("expected both --check_input and --check_output, or neither, got one.")
    if _CHECK_INPUT.value is None:
        return None
    return read_check(_CHECK_INPUT.value, _CHECK_OUTPUT.value, _TOLERANCE.value)


if __name__ == "__main__":
    run()
