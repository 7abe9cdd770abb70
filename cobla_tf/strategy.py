"""Setting up a strategy of tf.distribute, and what becomes of a run that loses a worker."""

import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from traceback import clear_frames

import tensorflow as tf
from absl import logging

from cobla_tf.cluster import Task, this_task
from cobla_tf.config import MIRRORED, STRATEGIES
from cobla_tf.devices import ONE_DEVICE, Devices
from cobla_tf.errors import ConfigError, WorkerError, check_among, first_line, without_operation

LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
    tf.errors.InternalError,
    tf.errors.UnknownError,
)
"""What TensorFlow raises in a collective operation when a peer has gone."""
MOST_WAITING, TELL_EVERY = 3600, 60
"""Seconds that a worker waits for the chief, and between two words of it."""


def find_devices(strategy: str) -> Devices:
    """The devices of a strategy; the same object for every call in a process.

    Args:
        strategy: one of config.STRATEGIES. "multi_worker" waits for the other workers, and must come before TensorFlow
            computes anything in this process.

    Raises:
        ConfigError: there is no such strategy, TF_CONFIG is missing or wrong, or TensorFlow is at work already.
        WorkerError: this worker cannot join the others, or there is no chief for an hour.
    """
    check_among("strategy", strategy, STRATEGIES)
    return ONE_DEVICE if strategy == STRATEGIES[0] else _several(strategy)


@cache
def _several(name: str) -> Devices:
    task = this_task(name)
    tf.get_logger().setLevel("WARNING")  # it tells of every collective operation
    if name == MIRRORED:
        found = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        strategy = tf.distribute.MirroredStrategy([device.name for device in found])
    else:
        strategy = _multi_worker(task)
    devices = Devices(strategy, task)
    logging.info("strategy %s: %d workers, %d replicas of the network", name, devices.workers, devices.count)
    if name == MIRRORED and devices.count == 1:
        logging.info("there is one device only, so mirrored is the same as one_device")
    return devices


def _multi_worker(task: Task) -> tf.distribute.Strategy:
    logging.info("worker %d of %d waits for the others", task.index, task.count)
    if not task.is_chief:
        await_chief(task)
    try:
        with _ended_by_signals():
            return tf.distribute.MultiWorkerMirroredStrategy()
    except RuntimeError as error:
        raise ConfigError(
            "strategy multi_worker must be set up before TensorFlow computes anything: call "
            f"cobla_tf.find_devices('multi_worker') at the start of the program ({first_line(error)})."
        ) from error
    except tf.errors.OpError as error:
        raise WorkerError(
            f"worker {task.index} cannot join the others ({without_operation(first_line(error))}); the addresses in "
            "TF_CONFIG must be free and within reach of all workers."
        ) from error


def await_chief(task: Task, most: float = MOST_WAITING) -> None:
    """Wait until the chief's address answers: TensorFlow would do so without a word.

    Raises:
        WorkerError: it has not after `most` seconds.
    """
    host, port = task.chief.rsplit(":", 1)
    began = told = time.monotonic()
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=TELL_EVERY).close()
        except (OSError, UnicodeError) as error:  # UnicodeError: a name that no host can have
            now, why = time.monotonic(), error
        else:
            return
        if now - began >= most:
            raise WorkerError(
                f"worker {task.index} has waited {now - began:.0f} s for the chief at {task.chief} ({why}); start it, "
                "or look at its address in TF_CONFIG."
            ) from why
        if now - told >= TELL_EVERY:
            logging.warning("worker %d still waits for the chief at %s (%s)", task.index, task.chief, why)
            told = now
        time.sleep(min(1, most))


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Inside, SIGINT and SIGTERM end the process: TensorFlow's wait for others comes back to no handler of Python's."""
    if threading.current_thread() is not threading.main_thread():  # where Python lets nobody set a handler
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: handler for number, handler in before.items() if callable(handler)}  # what is ignored stays so
    for number in before:
        signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def watched(devices: Devices) -> Iterator[None]:
    """Inside, what TensorFlow raises when another worker is gone becomes a sentence.

    Raises:
        WorkerError: another worker has stopped or cannot be reached.
    """
    try:
        yield
    except LOST as error:
        if devices.workers == 1:
            raise
        clear_frames(error.__traceback__)  # TensorFlow's threads, which complain if the interpreter ends before them
        raise WorkerError(
            f"another worker has stopped or cannot be reached ({without_operation(first_line(error))}); start all "
            "workers again, in this or another number, and the run goes on where it was."
        ) from error
