"""The compressed model as files that load without cobla_tf."""

import tempfile
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from absl import logging

from cobla_tf.config import EXPORTS
from cobla_tf.errors import ConfigError, OutputError, first_line
from cobla_tf.quiet import quiet

if TYPE_CHECKING:
    import keras

STAGE = ".writing-"
"""How the names of folders begin in which files are made before they take their place."""
FILE_NAMES = {"keras": "compressed.keras", "savedmodel": "saved_model", "litert": "compressed.tflite"}


@dataclass(frozen=True)
class Exports:
    """The formats that were written, with their paths, and those that failed, each with a sentence."""

    files: dict[str, Path]
    failures: dict[str, str]


def check_writable(folder: Path) -> None:
    """Create the folder and a file in it, so that a long run does not end without its results.

    Raises:
        OutputError: if either is refused.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".writable-"):
            pass
    except OSError as error:
        raise OutputError(
            f"The output folder must be a folder that can be written, but {folder} is refused "
            f"({error.strerror}); name another one."
        ) from error


def export_model(model: "keras.Model", folder: Path, formats: Sequence[str] = EXPORTS) -> Exports:
    """Write the model in each format; one that fails is logged and stops no other.

    The .keras file comes first, whatever the order of `formats`, and holds neither loss nor optimiser: these may be
    classes that only this program knows, and the slots of an optimiser would outweigh what compression saved.
    The SavedModel and the LiteRT file take a batch of any size. `model` is left as it was.

    Raises:
        ConfigError: for a name that is not in `cobla_tf.config.EXPORTS`.
        OutputError: if the folder cannot be written.
    """
    unknown = sorted(set(formats) - set(EXPORTS))
    if unknown:
        raise ConfigError(f"exports must be among {EXPORTS}, got {unknown}.")
    check_writable(folder)
    plain = _without_training_state(model)
    files: dict[str, Path] = {}
    failures: dict[str, str] = {}
    for name in (name for name in EXPORTS if name in formats):
        try:
            files[name] = replace_with(folder / FILE_NAMES[name], lambda path, write=_WRITERS[name]: write(plain, path))
        except Exception as error:  # converters raise nearly anything, and no format may cost the others
            failures[name] = _one_line(error)
            logging.error("export %s failed: %s", name, failures[name])
    return Exports(files, failures)


def replace_with(target: Path, write: Callable[[Path], None]) -> Path:
    """Let `write` make a file or folder beside the target, and put it there once it is complete.

    Whatever `write` raises passes through, and the target then stays as it was.

    Raises:
        OutputError: the disk is full, or the folder cannot be written any more.
    """
    try:
        return _replace_with(target, write)
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise OutputError(f"{target} cannot be written ({reason}); make room for it and try again.") from error


def _replace_with(target: Path, write: Callable[[Path], None]) -> Path:
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f"{STAGE}{target.name}-") as stage:
        new, old = Path(stage, "new", target.name), Path(stage, "old")
        new.parent.mkdir()
        write(new)
        if target.is_dir():  # a folder cannot be replaced in one step
            target.replace(old)
        try:
            new.replace(target)
        except OSError:
            if old.exists():
                old.replace(target)
            raise
    return target


def _write_keras(model: "keras.Model", path: Path) -> None:
    model.save(path)


def _write_saved_model(model: "keras.Model", path: Path) -> None:
    with quiet():
        model.export(str(path), format="tf_saved_model", verbose=False)


def _write_litert(model: "keras.Model", path: Path) -> None:
    with quiet():
        model.export(str(path), format="litert", verbose=False)


_WRITERS = {"keras": _write_keras, "savedmodel": _write_saved_model, "litert": _write_litert}


def _without_training_state(model: "keras.Model") -> "keras.Model":
    """A copy that was never compiled: optimiser slots and a loss of the user's own are no part of the network."""
    from cobla_tf.graph import transform

    return transform(model, lambda layer: None)[0] if model.compiled else model


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {textwrap.shorten(str(error), 300, placeholder=' ...')}"
