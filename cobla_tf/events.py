"""Scalars of a solve in TensorBoard's file format; TensorFlow's own writer of scalars needs TensorBoard installed."""

import errno
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import tensorflow as tf

from cobla_tf.files import check_writable, guarded
from cobla_tf.report_parts import IterationRecord

FILE = Path("tensorboard", "events.out.tfevents.solve")
VERSION = "brain.Event:2"


class EventFile:
    """A file that `tensorboard --logdir` shows while it grows; one from before is replaced.

    A resumed run writes its iterations from the first on, so the file never holds one twice.

    Args:
        folder: the output folder.

    Raises:
        OutputError: the file cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        """Begin the file."""
        self._path, self._step = folder / FILE, 0
        check_writable(self._path.parent)
        with _guarded(self._path):
            self._path.unlink(missing_ok=True)
            self._writer = tf.io.TFRecordWriter(str(self._path))
        self._write(file_version=VERSION)

    def add(self, scalars: Mapping[str, float]) -> None:
        """One more step."""
        self._step += 1
        values = [tf.compat.v1.Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        self._write(step=self._step, summary=tf.compat.v1.Summary(value=values))

    def _write(self, **content: object) -> None:
        with _guarded(self._path):
            self._writer.write(tf.compat.v1.Event(wall_time=time.time(), **content).SerializeToString())
            self._writer.flush()


@contextmanager
def _guarded(path: Path) -> Iterator[None]:
    """As `files.guarded`, for what TensorFlow's own way to a file is refused as well."""
    with guarded(path, then=", and the same command goes on where it was"):
        try:
            yield
        except tf.errors.OpError as error:  # its message is the path and the system's own
            full = isinstance(error, tf.errors.ResourceExhaustedError)
            raise OSError(errno.ENOSPC if full else errno.EIO, error.message.rpartition("; ")[2]) from error


def scalars(record: IterationRecord, sites: list[str]) -> dict[str, float]:
    """What an iteration has to show, by tag; the ranks are the sums of a site's masks."""
    shown = {
        "loss/on the sample": record.loss,
        "loss/on images that no gradient sees": record.judged,
        "solver/step": record.step,
        "solver/predicted decrease": record.predicted_decrease,
        **{f"budget used/{name}": share for name, share in record.budget_use.items()},
        **{f"price/{name}": price for name, price in record.prices.items()},
        **{f"rank/{name}": rank for name, rank in zip(sites, record.ranks, strict=False)},
    }
    return {tag: value for tag, value in shown.items() if not math.isnan(value)}
