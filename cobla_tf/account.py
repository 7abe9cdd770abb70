"""What a run keeps account of while it goes: where the time went, what was measured, what a reader should know."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from absl import logging

from cobla_tf.journal import Journal
from cobla_tf.progress import doing
from cobla_tf.report_parts import Evaluation
from cobla_tf.shared_journal import SharedJournal
from cobla_tf.texts import counted


@dataclass
class Account:
    """Parts of a report, as they come.

    Attributes:
        journal: answers of an earlier attempt, whose seconds count as if they had passed now.
        seconds: by stage.
        notes: sentences.
        evaluations: by stage, in the order in which they were made.
        files: what each file is, to its path.
    """

    journal: Journal | SharedJournal = field(default_factory=lambda: Journal(None, {}))
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    evaluations: dict[str, Evaluation] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def clock(self, stage: str) -> Iterator[None]:
        """Add the time spent inside to a stage's seconds."""
        began = self.journal.clock()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + self.journal.clock() - began

    def evaluate(self, stage: str, run: Callable[[], Evaluation]) -> Evaluation:
        """Measure a network, and keep and log the result."""
        with self.clock("evaluation"), doing(f"evaluation: {stage}"):
            result = self.evaluations[stage] = run()
        accuracy = "" if result.accuracy is None else f", accuracy {100 * result.accuracy:.2f} %"
        logging.info("%s: loss %.4f%s on %s", stage, result.loss, accuracy, counted(result.examples, "held-out image"))
        return result

    def warn(self, note: str) -> None:
        """Note what a user should know at once."""
        logging.warning("%s", note)
        self.notes.append(note)

    def add_files(self, paths: dict[str, Path]) -> None:
        """Files by what they are."""
        self.files |= {what: str(path) for what, path in paths.items()}
