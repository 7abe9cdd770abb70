"""An objective whose answers are kept in a journal."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np

from cobla_tf.config import Config
from cobla_tf.devices import ONE_DEVICE, Devices
from cobla_tf.digest import digest
from cobla_tf.examples import Examples, Sample, Stream
from cobla_tf.journal import Journal
from cobla_tf.loss import Loss, LossSum
from cobla_tf.objective import Objective, evaluate
from cobla_tf.plan import Plan
from cobla_tf.progress import doing
from cobla_tf.report_parts import Evaluation
from cobla_tf.shared_journal import SharedJournal
from cobla_tf.strategy import find_devices
from cobla_tf.surgery import mask_model
from cobla_tf.tally import Tally

Array = np.ndarray


@dataclass
class RecordedObjective:
    """An Objective, asked through a journal; methods and attributes are those of `Objective`.

    Attributes:
        objective: computes what the journal does not hold.
        journal: of this solve.
        tally: counts, answers of an earlier attempt included.
        kept: digest of the terms that it knows of; empty for all.
    """

    objective: Objective
    journal: Journal | SharedJournal
    tally: Tally = field(default_factory=Tally)
    kept: bytes = b""

    @property
    def biases(self) -> Sequence[Array]:
        """Of `MaskedModel`."""
        return self.objective.biases

    def keep(self, kept: Array, whole: Array) -> "RecordedObjective":
        """The same of the kept terms alone, and of the biases."""
        return replace(self, objective=self.objective.keep(kept, whole), kept=digest(kept, whole))

    def value(self, masks: Array, sample: Sample) -> float:
        """E(m) on a sample."""
        return float(self._ask("value", masks, sample)[0])

    def values(self, masks: Array, sample: Sample, groups: int) -> Array:
        """E(m) on parts of a sample."""
        return self._ask("values", masks, sample, groups)

    def gradient(self, masks: Array, sample: Sample) -> tuple[float, Array]:
        """E(m) and dE/dm on a sample."""
        self.tally.images += sample.size
        answer = self._ask("gradient", masks, sample)
        return float(answer[0]), answer[1:]

    def fisher(self, masks: Array, sample: Sample) -> Array:
        """Diagonal of the empirical Fisher matrix."""
        self.tally.images += sample.size
        return self._ask("fisher", masks, sample)

    def constant_loss(self, masks: Array, sample: Sample) -> float:
        """Loss of the network's mean output."""
        return float(self._ask("constant_loss", masks, sample)[0])

    def evaluate(self, masks: Array, examples: Examples) -> Evaluation:
        """Loss and accuracy over all examples."""
        shared = self.journal, (masks,), examples, self.objective.loss
        return _evaluation(*shared, lambda: self.objective.evaluate(masks, examples))

    def _ask(self, kind: str, masks: Array, sample: Sample, *more: Any) -> Array:
        began = self.journal.clock()
        try:
            with doing(f"{self.tally.stage}: {kind.replace('_', ' ')}"):
                return self.journal.answer(
                    (kind, self.kept, masks, sample, *more),
                    lambda: _flat(getattr(self.objective, kind)(masks, sample, *more)),
                )
        finally:
            self.tally.seconds += self.journal.clock() - began


def recorded_objective(
    model: keras.Model, plan: Plan, config: Config, journal: Journal | SharedJournal, precision: str
) -> RecordedObjective:
    """The loss of a model as a function of its masks, asked through a journal.

    Args:
        model: the original; it is not changed.
        plan: its sites, data and loss.
        config: batch size, way of the gradient and strategy.
        journal: answers of an earlier attempt; takes those of this one.
        precision: of products, resolved.
    """
    devices = find_devices(config.strategy)
    with devices.scope():
        masked = mask_model(model, plan.sites, config.solve.gradient)
    probe = plan.train_set.probe()
    return RecordedObjective(Objective(masked, plan.loss, config.batch_size, probe, precision, devices), journal)


def _flat(answer: float | Array | tuple[float, Array]) -> Array:
    return np.concatenate([np.ravel(part) for part in answer]) if isinstance(answer, tuple) else np.ravel(answer)


def evaluate_recorded(
    journal: Journal | SharedJournal,
    model: keras.Model,
    examples: Examples,
    loss: Loss | LossSum,
    batch_size: int,
    devices: Devices = ONE_DEVICE,
) -> Evaluation:
    """As `objective.evaluate`, through a journal, of a model on one device."""
    copy = devices.copied(model)  # also where nothing is computed: it draws seeds
    return _evaluation(
        journal,
        (model.get_weights(),),
        examples,
        loss,
        lambda: evaluate(copy, examples, loss, batch_size, devices),
    )


def _evaluation(
    journal: Journal | SharedJournal,
    question: tuple[Any, ...],
    examples: Examples,
    loss: Loss | LossSum,
    compute: Callable[[], Evaluation],
) -> Evaluation:
    """An evaluation as float64 [3] and back; an accuracy that does not exist is NaN in between."""
    computed = False

    def numbers() -> Array:
        nonlocal computed
        computed, result = True, compute()
        return np.array([result.loss, np.nan if result.accuracy is None else result.accuracy, result.examples])

    mean, accuracy, count = journal.answer(("evaluation", *question, examples), numbers).tolist()
    if not computed and isinstance(examples, Stream):
        examples.leave_out_a_pass()
    return Evaluation(mean, None if np.isnan(accuracy) else accuracy, int(count), loss.judged.of_places)
