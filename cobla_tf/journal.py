"""A journal of the answers that a long computation got, from which it goes on after it was stopped.

A solve is a short deterministic program that asks long questions: losses, gradients, evaluations. So no state of it is
saved. Every answer is appended to a file, and a run that begins again from its seed is given these answers, as long as
it asks the same questions, before it computes on. It then ends as it would have ended without the interruption.

The file is a row of records, each framed by its length and the digest of its content: the first holds the header as
JSON, any other the digest of a question, the seconds that the answer took, and the answer as float64.
"""

import json
import os
import shutil
import struct
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from absl import logging

from cobla_tf.digest import SIZE, digest
from cobla_tf.files import guarded
from cobla_tf.unfinished import aside

Array = np.ndarray

FRAME = struct.Struct(f"<Q{SIZE}s")
ANSWER = struct.Struct(f"<{SIZE}sd")


class Journal:
    """Answers kept in a file, given back in the order in which they were asked for.

    A record that is damaged, or cut off by a kill or a full disk, is dropped with all that follows, and so is an answer
    to another question than is asked (as on a processor that rounds otherwise); the log says so. A copy of the file as
    it was is set aside in the latter case. A header is this one as long as its content or its digest is: damage to the
    rest of its record costs no answer.

    Args:
        path: of the file; None keeps nothing.
        header: what the answers depend on beside the questions, as JSON. A file with another one is set aside.

    Attributes:
        replayed: number of answers that came from the file.
        seconds: that these had taken.

    Raises:
        OutputError: the file cannot be read or written.
    """

    def __init__(self, path: Path | None, header: Mapping[str, Any]) -> None:
        """Open the file, or begin one."""
        self.replayed, self.seconds = 0, 0.0
        self._path, self._file, self._next = path, None, None
        if path is not None:
            self._guarded(lambda: self._open(path, json.dumps(header, sort_keys=True).encode()))

    def answer(self, question: tuple[Any, ...], compute: Callable[[], Array]) -> Array:
        """The answer, float64 [k]: from the file if this question comes next there, else computed and appended.

        Args:
            question: parts that `digest` takes; with the header, all that the answer depends on.
            compute: gives the answer.

        Raises:
            OutputError: the file cannot be read or written.
        """
        if self._file is None:
            return compute()
        key = digest(*question)
        known = self.known(key)
        return self.kept(key, compute) if known is None else known

    def known(self, key: bytes) -> Array | None:
        """The answer to the question of this digest, if it comes next in the file."""
        if self._next is not None and self._next.startswith(key):
            return self._guarded(self._replay)
        if self._next is not None:
            self._guarded(self._leave)
        return None

    def kept(self, key: bytes, compute: Callable[[], Array]) -> Array:
        """An answer that is not known, computed, and appended if there is a file."""
        if self._file is None:
            return np.asarray(compute(), np.float64)
        began = time.perf_counter()
        answer = np.asarray(compute(), np.float64)
        content = ANSWER.pack(key, time.perf_counter() - began) + answer.tobytes()
        self._guarded(lambda: _append(self._file, content))
        return answer

    def clock(self) -> float:
        """Seconds of a clock that has also counted what the answers from the file had taken."""
        return time.perf_counter() + self.seconds

    def close(self) -> None:
        """Keep the file, but write no more."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self, path: Path, head: bytes) -> None:
        path.parent.mkdir(exist_ok=True)
        if path.exists() and path.stat().st_size:
            self._file = path.open("r+b", buffering=0)
            if self._begins_with(head):
                self._next = self._read()
                return
            self._file.close()
            now = path.replace(aside(path)).name
            logging.warning("%s is damaged, or of another run: it is now %s, and a new one begins", path, now)
        self._file = path.open("w+b", buffering=0)
        _append(self._file, head)

    def _begins_with(self, head: bytes) -> bool:
        """Whether the header is this one, whole or damaged; what is damaged is mended."""
        start = self._file.read(FRAME.size + len(head))
        if start == _framed(head):
            return True
        check, content = start[FRAME.size - SIZE : FRAME.size], start[FRAME.size :]
        if check != digest(head) and content != head:
            return False
        logging.warning("%s: its header is damaged, and is written anew", self._path)
        self._file.seek(0)
        _append(self._file, head)
        return True

    def _replay(self) -> Array:
        _, seconds = ANSWER.unpack_from(self._next)
        answer = np.frombuffer(self._next, np.float64, offset=ANSWER.size).copy()
        self.replayed, self.seconds = self.replayed + 1, self.seconds + seconds
        self._next = self._read()
        if self._next is None:
            logging.info(
                "resumed: %d losses, gradients and evaluations that took %.0f s are from an earlier attempt",
                self.replayed, self.seconds,
            )  # fmt: skip
        return answer

    def _read(self) -> bytes | None:
        """The next record; None after the last one, and a damaged one counts as none."""
        self._used = self._file.tell()
        content = _record(self._file)
        if content is None and self._used < os.fstat(self._file.fileno()).st_size:
            self._drop("is damaged or cut off")
        return content

    def _leave(self) -> None:
        copy = shutil.copyfile(self._path, aside(self._path))
        self._drop(f"answers another question than is asked now (the file as it was is {copy.name})")

    def _drop(self, reason: str) -> None:
        logging.warning(
            "%s: its record %d %s; it and all that follows are dropped and computed anew",
            self._path, self.replayed + 1, reason,
        )  # fmt: skip
        self._file.truncate(self._used)
        self._file.seek(self._used)
        self._next = None

    def _guarded(self, work: Callable[[], Any]) -> Any:
        with guarded(self._path, "read or written", ", and the same command goes on where it was"):
            return work()


def _record(file: BinaryIO) -> bytes | None:
    """The content of the record that begins here; None where there is no whole one."""
    frame = file.read(FRAME.size)
    if len(frame) < FRAME.size:
        return None
    length, check = FRAME.unpack(frame)
    if length > os.fstat(file.fileno()).st_size:
        return None
    content = file.read(length)
    return content if digest(content) == check else None


def _framed(content: bytes) -> bytes:
    return FRAME.pack(len(content), digest(content)) + content


def _append(file: BinaryIO, content: bytes) -> None:
    """Write a record, and wait until it is on the disk."""
    left = memoryview(_framed(content))
    while left:
        left = left[file.write(left) :]
    os.fsync(file.fileno())
