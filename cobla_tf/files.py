"""Files and folders that are written whole or not at all, and whether a folder can be written."""

import errno
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cobla_tf.errors import OutputError, first_line

STAGE = ".writing-"
"""How the names of folders begin in which files are made before they take their place."""

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def at_home(path: str) -> str:
    """The path with a leading ~/ as the folder that it stands for."""
    return str(Path.home() / path[2:]) if path.startswith("~/") else path


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
        why = "is a file" if folder.is_file() else f"is refused ({error.strerror})"
        raise OutputError(
            f"The output folder must be a folder that can be written, but {folder} {why}; name another one."
        ) from error


@contextmanager
def guarded(path: Path, work: str = "written", then: str = " and try again") -> Iterator[None]:
    """What the system refuses inside becomes a sentence about the path: it cannot be `work`, and what to do `then`.

    Raises:
        OutputError: instead of an OSError.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or first_line(error)
        remedy = "make room for it" if error.errno in NO_ROOM else "mend that"
        raise OutputError(f"{path} cannot be {work} ({reason}); {remedy}{then}.") from error


def replace_with(target: Path, write: Callable[[Path], None]) -> Path:
    """Let `write` make a file or folder beside the target, and put it there once it is complete.

    Whatever `write` raises passes through, and the target then stays as it was.

    Raises:
        OutputError: the disk is full, or the folder cannot be written any more.
    """
    with guarded(target):
        return _replace_with(target, write)


def _replace_with(target: Path, write: Callable[[Path], None]) -> Path:
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f"{STAGE}{target.name}-") as stage:
        new, old = Path(stage, "new", target.name), Path(stage, "old")
        new.parent.mkdir()
        write(new)
        try:
            if target.is_dir():  # a folder cannot be replaced in one step
                target.replace(old)
            new.replace(target)
        except BaseException:  # Ctrl-C between the two as well
            if old.exists() and not target.exists():
                old.replace(target)
            raise
    return target
