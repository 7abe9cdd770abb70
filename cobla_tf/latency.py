"""A latency table on the command line: python -m cobla_tf.latency --model=my_cnn.keras --output=costs.csv."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import logging

from cobla_tf.config import SCHEMES
from cobla_tf.errors import CoblaError, OutputError
from cobla_tf.quiet import import_tensorflow
from cobla_tf.resources import write_resources
from cobla_tf.terminal import bad_input, timed_log


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write, and say how to use it; 0, or 2 on bad input."""
    arguments = _parser().parse_args(argv)
    logging.set_verbosity(logging.INFO)
    timed_log()
    import_tensorflow()
    try:
        _measure(arguments)
    except (CoblaError, OSError) as error:
        return bad_input("cobla_tf", error)
    print(f"\n{arguments.output}: use it with --resources={arguments.output} --budgets=latency=0.6")
    return 0


def _measure(arguments: argparse.Namespace) -> None:
    from cobla_tf.files import check_writable
    from cobla_tf.layer_times import measure_latency
    from cobla_tf.models import load_model

    output = Path(arguments.output)
    if output.is_dir():
        raise OutputError(f"--output must be the path of a CSV file, and {output} is a folder; name a file in it.")
    check_writable(output.parent)
    model = load_model(arguments.model, arguments.weights, will_train=True)
    options = {"threads": arguments.threads, "seconds": arguments.seconds}
    write_resources([measure_latency(model, arguments.scheme, arguments.exclude, **options)], output)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cobla_tf.latency",
        description="Times every layer that can be decomposed, whole and as two factors of several ranks, in LiteRT on "
        "this machine, and writes microseconds for --resources of cobla_tf.main.",
    )
    parser.add_argument("--model", required=True, help="as for cobla_tf.main")
    parser.add_argument("--weights", help="as for cobla_tf.main")
    parser.add_argument("--scheme", default=SCHEMES[0], choices=SCHEMES, help="as for cobla_tf.main")
    parser.add_argument("--exclude", default=[], type=lambda text: text.split(","), help="as for cobla_tf.main")
    parser.add_argument("--threads", default=1, type=int, help="of LiteRT; default 1")
    parser.add_argument("--seconds", default=20.0, type=float, help="to measure, when all is converted; default 20")
    parser.add_argument("--output", default="costs.csv", help="the CSV file; default costs.csv")
    return parser


if __name__ == "__main__":
    sys.exit(main())
