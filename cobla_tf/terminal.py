"""How the commands of this package behave on a terminal: one sentence on bad input, exit codes, a log with times."""

import logging as python_logging
import os
import re
import select
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from absl import app, flags, logging

from cobla_tf.errors import CoblaError, ConfigError, OutputError, WorkerError, first_line, out_of_memory
from cobla_tf.files import at_home
from cobla_tf.flagfiles import resolve_flagfiles

HELP = frozenset({"help", "helpfull", "helpshort", "helpxml", "h", "?"})
BAD_INPUT, WORKER_GONE = 2, 3
UNREAD = 141
"""As of a command that SIGPIPE ends."""


def run_with_flags(
    name: str,
    main: Callable[[list[str]], int | None],
    argv: list[str],
    stopped: str = "the same command goes on where it was",
) -> NoReturn:
    """Parse flags, flagfiles included, call `main`, and end the process with what it returns.

    It ends with 2 and one sentence on bad input, with 3 where another worker is gone, and with 128 and the signal's
    number on SIGINT and SIGTERM.

    Args:
        name: of the command, in front of its sentences.
        main: as for absl.app.run.
        argv: the command line, the program's own name first.
        stopped: what became of the work, said on SIGINT and SIGTERM.
    """
    argv = ["--help" if argument in ("-h", "--h") else argument for argument in argv]

    def call() -> NoReturn:
        try:
            app.run(main, argv=resolve_flagfiles(argv), flags_parser=_parse)
        except SystemExit:
            if HELP & given(argv):  # absl takes a wish for help for a failure
                sys.exit(0)
            raise

    _run(name, call, stopped)


def run_with_arguments(name: str, main: Callable[[], int | None], stopped: str) -> NoReturn:
    """The same for a `main` that reads the command line itself."""
    _run(name, lambda: sys.exit(main()), stopped)


def _run(name: str, call: Callable[[], NoReturn], stopped: str) -> NoReturn:
    if sys.stderr is None:  # closed by who started the program
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
        os.dup2(sys.stderr.fileno(), 2)
    _on_stop(_stop)
    try:
        call()
    except SystemExit:
        _unread()
        raise
    except (CoblaError, OSError) as error:
        if isinstance(error, BrokenPipeError) and _unread():
            sys.exit(UNREAD)
        sys.exit(bad_input(name, error))
    except Exception as error:
        if not out_of_memory(error):
            raise
        sys.exit(bad_input(name, ConfigError("it takes more memory than there is: lower --batch_size, or the sample.")))
    except KeyboardInterrupt as stop:
        _on_stop(signal.SIG_DFL)  # who cannot wait for what is still at work ends it, without a word more
        print(f"{name}: stopped; {stopped}", file=sys.stderr)
        sys.exit(128 + (stop.args or (signal.SIGINT,))[0])


def _unread() -> bool:
    """Whether what reads the output has ended before, as `head` does; the rest of the output goes nowhere then."""
    try:
        place, watch = sys.stdout.fileno(), select.poll()
    except (AttributeError, OSError):  # no output, none of the system's, or a system without poll
        return False
    watch.register(place, 0)
    if not watch.poll(0):  # which tells errors alone
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), place)
    return True


def bad_input(name: str, error: CoblaError | OSError) -> int:
    """Print what is wrong; the exit code."""
    if isinstance(error, OSError):  # of a path that no check of ours had foreseen
        error = OutputError(f"the system refuses {error.filename or 'a file'}: {error.strerror or error}.")
    print(f"{name}: error: {error}", file=sys.stderr)
    return WORKER_GONE if isinstance(error, WorkerError) else BAD_INPUT


def given(argv: Sequence[str]) -> set[str]:
    """Names of the flags on a command line."""
    return {argument.split("=")[0].lstrip("-") for argument in argv[1:] if argument.startswith("-")}


def timed_log() -> None:
    """A line with the time for each step; TensorFlow's own lines only where something is wrong."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.get_absl_handler().setFormatter(python_logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))


def _parse(argv: list[str]) -> list[str]:
    try:
        rest = flags.FLAGS(argv)
    except flags.Error as error:
        raise ConfigError(f"{_clause(str(error))} --help lists all flags.") from error
    except UnicodeError as error:
        raise ConfigError(f"a flagfile must be a text in UTF-8, and one is not ({error}).") from error
    except ValueError as error:  # of absl's own flags
        raise ConfigError(f"{_clause(first_line(error))} --help lists all flags.") from error
    for text in (*argv, *map(str, flags.FLAGS.flag_values_dict().values())):
        _check_text(text)
    _at_home()
    if rest[1:]:
        raise ConfigError(f"expected flags only, got {rest[1:]}; --help lists them.")
    return rest


def _at_home() -> None:
    """Shells leave the ~ of --output_dir=~/out as it is."""
    for name, value in flags.FLAGS.flag_values_dict().items():
        if isinstance(value, str):
            flags.FLAGS[name].value = at_home(value)


def _clause(message: str) -> str:
    """absl's message, of which some end with a question, so that a sentence can go on behind it."""
    message = re.sub(r"\('Non-boolean argument to boolean flag', (.*)\)", r"expected true or false, got \1", message)
    text = message.replace(" ?", "?").rstrip(". ")
    return text if text.endswith("?") else f"{text};"


def _check_text(text: str) -> None:
    """Refuse what no file name and no report can hold, before any work."""
    try:
        text.encode()
    except UnicodeError as error:
        raise ConfigError(f"flags must be text in UTF-8, got {text!r}.") from error
    if "\0" in text:
        raise ConfigError(f"flags must be text without null characters, got {text!r}.")


def _on_stop(handler: Any) -> None:
    """What SIGINT and SIGTERM do, unless they are ignored, as for a command that a script puts in the background."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def _stop(number: int, frame: Any) -> None:
    """Python comes to this between two batches: what it waits for in TensorFlow is finished first."""
    raise KeyboardInterrupt(number)
