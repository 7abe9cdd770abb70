"""The command line that all runners of the paper's tables and figures share."""

import dataclasses
import logging as python_logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import app, flags, logging
from cobla_tf.experiments.experiment import Experiment, Settings, load

from cobla_tf.errors import CoblaError, ConfigError
from cobla_tf.flagfiles import resolve_flagfiles

SUBJECT = ("model", "weights", "dataset", "data_dir", "preprocessing")
"""Flags that a smoke run has no use for."""
COMMON = (*SUBJECT, "exclude", "schemes", "seeds", "sample_fraction", "iterations", "batch_size")
"""Flags of every runner."""
HELP = {"help", "helpfull", "helpshort", "helpxml", "h", "?"}
DEFINE = {str: flags.DEFINE_string, int: flags.DEFINE_integer, float: flags.DEFINE_float}

flags.disclaim_key_flags()  # --help lists a runner's flags under the runner


def main(experiment: Experiment) -> None:
    """Entry point of a runner; exits with 0, 2 (bad input) or 130 (Ctrl-C)."""
    _define(experiment)
    try:
        app.run(lambda argv: run(experiment, argv), argv=resolve_flagfiles(sys.argv), flags_parser=_parse)
    except CoblaError as error:
        print(f"{experiment.name}: error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"{experiment.name}: interrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    except SystemExit:
        if HELP & {argument.lstrip("-") for argument in sys.argv[1:]}:  # absl takes a wish for help for a failure
            sys.exit(0)
        raise


def run(experiment: Experiment, argv: Sequence[str]) -> None:
    """Run an experiment as the parsed flags say."""
    quiet_but_for_progress()
    if argv[1:]:
        raise ConfigError(f"expected flags only, got {argv[1:]}; --help lists them.")
    chosen = {name: _value(name) for name in (*COMMON, *experiment.flags) if flags.FLAGS[name].present}
    folder = Path(flags.FLAGS.output)
    if not flags.FLAGS.smoke:
        settings = dataclasses.replace(experiment.settings, **chosen)
        experiment.run(load(settings), settings, folder)
        return
    useless = [f"--{name}" for name in SUBJECT if name in chosen]
    if useless:
        raise ConfigError(f"--smoke brings a network and data of its own; leave out {', '.join(useless)}.")
    experiment.try_out(folder, chosen)


def quiet_but_for_progress() -> None:
    """One line with the time for each step; TensorFlow's own lines only where something is wrong."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.set_verbosity(logging.INFO)
    logging.get_absl_handler().setFormatter(python_logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))


def _define(experiment: Experiment) -> None:
    for entry in dataclasses.fields(Settings):
        if entry.name in (*COMMON, *experiment.flags):
            default, text = getattr(experiment.settings, entry.name), entry.metadata["help"]
            if isinstance(default, tuple):
                flags.DEFINE_list(entry.name, [str(value) for value in default], text)
            else:
                DEFINE[entry.metadata["kind"]](entry.name, default, text)
    flags.DEFINE_string("output", f"{experiment.name}_out", "Folder of the results.")
    flags.DEFINE_bool("smoke", False, "A tiny network and data made on the spot, and little of everything.")


def _parse(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        raise ConfigError(f"{error}; --help lists all flags.") from error


def _value(name: str) -> Any:
    """A flag's value as Settings has it."""
    value = flags.FLAGS[name].value
    if not isinstance(value, list):
        return value
    kind = Settings.__dataclass_fields__[name].metadata["kind"]
    try:
        return tuple(kind(text) for text in value)
    except ValueError:
        raise ConfigError(f"--{name} must be numbers with commas between them, got {','.join(value)!r}.") from None
