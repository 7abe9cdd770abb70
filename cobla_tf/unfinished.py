"""An output folder while a run is at work in it: held by that run alone, with the files from which it can go on."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

from absl import logging
from filelock import FileLock, Timeout

from cobla_tf.errors import OutputError
from cobla_tf.files import STAGE, check_writable

FOLDER = "unfinished"
LOCK = ".lock"
PREVIOUS = ".previous"
"""Ending of a file's older version."""
SET_ASIDE = ".set_aside"
"""Behind the name of a file that could not be used."""

_waiting: ContextVar[list[tuple["Unfinished", bool]] | None] = ContextVar("waiting", default=None)


def aside(path: Path) -> Path:
    """Where a file goes that cannot be used."""
    return path.with_name(f"{path.name}{SET_ASIDE}")


@contextmanager
def held(output_dir: Path | None) -> Iterator[None]:
    """Hold an output folder, made if need be; what an earlier run was writing when it was killed is removed.

    A thread may hold a folder several times over. The lock ends with its process, however that ends.

    Raises:
        OutputError: the folder cannot be written, or another run holds it.
    """
    if output_dir is None:
        yield
        return
    check_writable(output_dir)
    lock = FileLock(output_dir / LOCK, timeout=0, is_singleton=True)
    try:
        hold = lock.acquire()
    except Timeout as error:
        raise OutputError(
            f"another run is at work in {output_dir}; wait until it ends, or name another output folder."
        ) from error
    except OSError as error:
        raise OutputError(
            f"{output_dir / LOCK} cannot be locked ({error.strerror}); remove it, or name another output folder."
        ) from error
    with hold:
        if lock.lock_counter == 1:
            for stage in (*output_dir.glob(f"{STAGE}*"), *(output_dir / FOLDER).glob(f"{STAGE}*")):
                shutil.rmtree(stage, ignore_errors=True)
        yield


@contextmanager
def removed_together() -> Iterator[None]:
    """Several runs that are one for the user: the files of each stay until all are complete, and if one is not."""
    token = _waiting.set([])
    try:
        yield
        ended = _waiting.get()
    finally:
        _waiting.reset(token)
    complete = all(one for _, one in ended)
    for run, _ in ended:
        run.end(complete)


@dataclass
class Unfinished:
    """The files in OUTPUT/unfinished that belong to one run; they go when it is complete.

    A file's name holds a digest of all that the run depends on, so that runs of other settings, data or versions are
    neither read nor overwritten.

    Attributes:
        output_dir: None keeps nothing.
    """

    output_dir: Path | None
    _used: list[Path] = field(default_factory=list)

    def path(self, kind: str, key: bytes) -> Path | None:
        """Where the file of some kind is, or will be, for a run with this key.

        Raises:
            OutputError: the folder cannot be written.
        """
        if self.output_dir is None:
            return None
        folder = self.output_dir / FOLDER
        check_writable(folder)
        name, _, suffix = kind.partition(".")
        path = folder / f"{name}-{key.hex()[:8]}.{suffix}"
        others = [other.name for other in folder.glob(f"{name}-*.{suffix}") if other != path]
        if others and not path.exists():
            logging.warning(
                "%s holds %s, unfinished, of other settings, data or versions; this run begins anew (a data set "
                "that is shuffled without a seed is another one every time)", folder, ", ".join(sorted(others)),
            )  # fmt: skip
        self._used.append(path)
        return path

    def end(self, complete: bool) -> None:
        """The run has ended: if it is complete, remove its files, and the folder if nothing else is in it."""
        if (waiting := _waiting.get()) is not None:
            waiting.append((self, complete))
            return
        if not complete:
            return
        for path in self._used:
            for file in (path, path.with_suffix(PREVIOUS)):
                file.unlink(missing_ok=True)
                aside(file).unlink(missing_ok=True)
        for folder in {path.parent for path in self._used}:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
