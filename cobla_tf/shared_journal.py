"""A journal that all workers of a run go on from, and that proves that they do the same."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cobla_tf.devices import Devices
from cobla_tf.digest import SIZE, digest
from cobla_tf.errors import WorkerError
from cobla_tf.journal import Journal

Array = np.ndarray


@dataclass
class SharedJournal:
    """The chief's journal, whose answers go to all workers; the interface is that of Journal.

    Workers are in lockstep as long as they ask the same questions. So every question is compared with the chief's
    before any time is spent on it.

    Attributes:
        journal: with a file on the chief, without one elsewhere.
        devices: of the run.
    """

    journal: Journal
    devices: Devices

    @property
    def replayed(self) -> int:
        """Number of answers that came from the file."""
        return self.journal.replayed

    @property
    def seconds(self) -> float:
        """That these had taken."""
        return self.journal.seconds

    def answer(self, question: tuple[Any, ...], compute: Callable[[], Array]) -> Array:
        """The answer, float64 [k], the same on all workers: as `Journal.answer`.

        Raises:
            WorkerError: the chief asks another question.
        """
        key = digest(*question)
        known = self.journal.known(key)
        size = -1 if known is None else len(known)
        size, *asked = self.devices.agreed(np.array([size, *key], np.float64)).astype(int).tolist()
        if bytes(asked[:SIZE]) != key:
            raise WorkerError(
                f"worker {self.devices.index} has come to another {question[0]} than the chief; all workers need the "
                "same command, data, packages, solver licence and kind of processor."
            )
        if size < 0:
            return self.journal.kept(key, compute)
        return self.devices.agreed(np.zeros(size) if known is None else known)

    def clock(self) -> float:
        """As `Journal.clock`."""
        return self.journal.clock()

    def close(self) -> None:
        """Keep the file, but write no more."""
        self.journal.close()
