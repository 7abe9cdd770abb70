"""Everything that cobla_tf raises at its border, each with one sentence that says what to do."""

import re
from collections.abc import Collection, Iterable
from difflib import get_close_matches


class CoblaError(ValueError):
    """Base of all errors that a user can mend; the command line prints its sentence and exits with 2."""


class ConfigError(CoblaError):
    """An option has a value that cannot be used."""


class BudgetError(CoblaError):
    """A budget is malformed, or below the smallest one that can be reached."""


class ModelError(CoblaError):
    """The model cannot be read, or is of a kind that cannot be decomposed."""


class DataError(CoblaError):
    """The data cannot be read, or do not fit the model."""


class SolverError(CoblaError):
    """A quadratic-program solver is missing, has no licence, or gave no usable answer."""


class WorkerError(CoblaError):
    """Another process of the same run is gone, or does not do the same; the command line exits with 3."""


class OutputError(CoblaError):
    """The output folder cannot be written."""


class ExportError(CoblaError):
    """An export needs a package that is missing, could not be written, or does not do what the network does."""


LONGEST = 200
"""Characters of a foreign message: TensorFlow's may list every pixel of a batch."""


def did_you_mean(name: object, names: Iterable[str], most: int = 1, otherwise: str = ".") -> str:
    """The end of a sentence: all names that begin so, or else the `most` nearest ones; where none is, `otherwise`."""
    text, known = str(name).lower(), {one.lower(): one for one in names}
    near = [one for one in known if text and one.startswith(text)] or get_close_matches(text, known, n=most)
    return f"; did you mean {' or '.join(known[one] for one in near)}?" if near else otherwise


def check_among(name: str, got: object, names: Collection[str]) -> None:
    """Raise ConfigError where `got`, the value of the option `name`, is none of `names`."""
    if got not in names:
        raise ConfigError(f"{name} must be one of {', '.join(names)}, got {got!r}{did_you_mean(got, names)}")


def without_operation(text: str) -> str:
    """First line of a message of TensorFlow's, without the operation's name in double braces in front of it; cut."""
    return next(iter(re.sub(r"\{\{.*?\}\} *", "", text).strip().splitlines()), "")[:LONGEST]


def first_line(error: Exception) -> str:
    """Kind and first line of a foreign error, cut, to stand inside one sentence of ours."""
    text = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."


def out_of_memory(error: Exception) -> bool:
    """Whether it says so, in Python or in TensorFlow."""
    return isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError"


def inside(error: Exception) -> str:
    """Kind, place and reason of an error in a layer's call: Keras writes the reason in bold below the layer's class."""
    layer, reason = (re.search(form, str(error)) for form in (r"calling (\w+)\.call", r"\x1b\[1m([^\x1b]+)"))
    text = without_operation(reason[1] if reason else str(error))
    return f"{type(error).__name__}{f' in {layer[1]}' if layer else ''}: {text.strip()}"
