"""The command line that all runners of the paper's tables and figures share."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

from absl import flags
from cobla_tf.experiments.experiment import Experiment, Settings, load

from cobla_tf.errors import ConfigError
from cobla_tf.quiet import import_tensorflow
from cobla_tf.terminal import run_with_flags, timed_log

SUBJECT = ("model", "weights", "dataset", "data_dir", "preprocessing")
"""Flags that a smoke run has no use for."""
COMMON = (*SUBJECT, "exclude", "schemes", "seeds", "sample_fraction", "iterations", "batch_size")
"""Flags of every runner."""
DEFINE = {str: flags.DEFINE_string, int: flags.DEFINE_integer, float: flags.DEFINE_float}

flags.disclaim_key_flags()  # --help lists a runner's flags under the runner


def main(experiment: Experiment) -> None:
    """Entry point of a runner; exits with 0, 2 (bad input), 130 or 143 (stopped)."""
    _define(experiment)
    run_with_flags(experiment.name, lambda _: run(experiment), sys.argv)


def run(experiment: Experiment) -> None:
    """Run an experiment as the parsed flags say."""
    timed_log()
    chosen = {name: _value(name) for name in (*COMMON, *experiment.flags) if flags.FLAGS[name].present}
    folder = Path(flags.FLAGS.output)
    if not flags.FLAGS.smoke:
        settings = dataclasses.replace(experiment.settings, **chosen)
        import_tensorflow()
        subject = load(settings)
        with subject.data.named():
            experiment.run(subject, settings, folder)
        return
    useless = [f"--{name}" for name in SUBJECT if name in chosen]
    if useless:
        raise ConfigError(f"--smoke brings a network and data of its own; leave out {', '.join(useless)}.")
    import_tensorflow()
    experiment.try_out(folder, chosen)


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
