"""A latency table on the command line: python -m cobla_tf.latency --model=my_cnn.keras --output=costs.csv.

Times every layer that can be decomposed, whole and as two factors of several ranks, in LiteRT on this machine, and
writes microseconds for --resources of cobla_tf.main.
"""

import sys
from pathlib import Path

from absl import flags, logging

from cobla_tf.config import LAYERS, SCHEMES
from cobla_tf.errors import ConfigError, OutputError
from cobla_tf.quiet import import_tensorflow
from cobla_tf.resources import write_resources
from cobla_tf.terminal import run_with_flags, timed_log


def define_flags() -> None:
    """Not at import, for tests share a process with other programs' flags."""
    flags.DEFINE_string("model", None, "As for cobla_tf.main.")
    flags.DEFINE_string("weights", None, "As for cobla_tf.main.")
    flags.DEFINE_enum("scheme", SCHEMES[0], SCHEMES, "As for cobla_tf.main.")
    flags.DEFINE_list("layers", list(LAYERS[:1]), "As for cobla_tf.main.")
    flags.DEFINE_list("exclude", [], "As for cobla_tf.main.")
    flags.DEFINE_integer("threads", 1, "Of LiteRT.", 1)
    flags.DEFINE_float("seconds", 20.0, "To measure, when all is converted.", 0)
    flags.DEFINE_string("output", "costs.csv", "The CSV file.")


def main(argv: list[str]) -> None:
    """Measure, write, and say how to use it."""
    del argv
    chosen = flags.FLAGS
    if chosen.model is None:
        raise ConfigError("expected --model, a .keras or .h5 file or a name that cobla_tf.main knows.")
    output = Path(chosen.output)
    if output.is_dir():
        raise OutputError(f"--output must be the path of a CSV file, and {output} is a folder; name a file in it.")
    logging.set_verbosity(logging.INFO)
    timed_log()
    import_tensorflow()
    _measure(chosen, output)
    print(f"\n{output}: use it with --resources={output} --budgets=latency=0.6")


def _measure(chosen: flags.FlagValues, output: Path) -> None:
    from cobla_tf.files import check_writable, replace_with
    from cobla_tf.layer_times import measure_latency
    from cobla_tf.models import load_model

    check_writable(output.parent)
    model = load_model(chosen.model, chosen.weights, will_train=True)
    options = {"layers": chosen.layers, "threads": chosen.threads, "seconds": chosen.seconds}
    table = measure_latency(model, chosen.scheme, chosen.exclude, **options)
    replace_with(output, lambda path: write_resources([table], path))


if __name__ == "__main__":
    define_flags()
    run_with_flags("latency", main, sys.argv, stopped="nothing was written")
