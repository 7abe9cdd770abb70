"""Training a network on, through model.fit with YellowFin or any Keras optimiser."""

import inspect
import math
from difflib import get_close_matches

import keras
import numpy as np
from absl import logging

from cobla_tf.config import FineTuneConfig
from cobla_tf.elements import cast, joined, packed
from cobla_tf.errors import ConfigError
from cobla_tf.examples import Examples, Sample
from cobla_tf.loss import Loss, LossSum
from cobla_tf.yellowfin import YellowFin

CLIP_NORM = 1.0
"""Global gradient norm: the first steps after a coarse approximation are otherwise the largest of all."""
LEARNING_RATE = 1e-3
"""Of the first step, where nothing else is said and the optimiser does not tune itself."""


def make_optimizer(config: FineTuneConfig) -> keras.optimizers.Optimizer:
    """A fresh optimiser, by its name in any case or like the one given.

    Gradients are clipped to CLIP_NORM in all, save for YellowFin, which clips by what it measures.

    Raises:
        ConfigError: no optimiser has such a name.
    """
    given = config.optimizer
    if isinstance(given, keras.optimizers.Optimizer):
        optimizer = type(given).from_config(given.get_config())
    else:
        optimizer = _optimizer_class(given)()
    if not _tunes_itself(optimizer):
        optimizer.global_clipnorm = CLIP_NORM
    return optimizer


def train(
    model: keras.Model,
    examples: Examples,
    loss: Loss | LossSum,
    config: FineTuneConfig,
    batch_size: int,
    progress: bool,
) -> tuple[dict[str, float], ...]:
    """Train a model in place.

    Args:
        model: should training diverge to NaN or infinity, it has the weights after its best epoch, or those from before
            where none was finished, with a warning that says so.
        examples: training images and labels.
        loss: from losses.resolve_loss.
        config: epochs, optimiser and learning rate.
        batch_size: images a step.
        progress: whether to show Keras' progress bar.

    Returns:
        one record an epoch; that of an epoch in which training diverged has a loss that is not finite.
    """
    if config.epochs == 0:
        return ()
    steps = -(-examples.size // batch_size) * config.epochs
    optimizer = _scheduled(config, steps)
    if isinstance(loss, LossSum):  # the outputs that have a loss, in their order: the same weights
        model = keras.Model(model.input, tuple(model.outputs[place] for place in loss.places))
    parts = loss.parts if isinstance(loss, LossSum) else (loss,)
    model.compile(
        optimizer=optimizer,
        loss=joined([part.function for part in parts]),
        metrics=joined([["accuracy"] if part.labels != "other" else [] for part in parts]),
    )
    best = BestWeights()
    history = model.fit(
        **_inputs(model, examples, batch_size),
        epochs=config.epochs,
        verbose="auto" if progress else 0,
        callbacks=[keras.callbacks.TerminateOnNaN(), best],
    )
    if best.diverged_in is not None:
        logging.warning("%s", best.restore())
    records = [dict(zip(history.history, row, strict=True)) for row in zip(*history.history.values(), strict=True)]
    return tuple({name: float(value) for name, value in record.items()} for record in records)


class BestWeights(keras.callbacks.Callback):
    """Remembers the weights after the epoch of least training loss, for the case that a later one diverges.

    Attributes:
        epoch: the one remembered, counted from 1; 0 is before training.
        diverged_in: the first epoch after which loss or weights were not finite, counted from 1; None is none.
    """

    def __init__(self) -> None:
        """Nothing remembered yet."""
        super().__init__()
        self.epoch = 0
        self.diverged_in: int | None = None

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Remember the weights from before."""
        self.weights, self.loss = self.model.get_weights(), math.inf

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Remember these weights if they are the best, or stop if they are of no use."""
        weights = self.model.get_weights()
        if not all(np.isfinite(value).all() for value in (logs["loss"], *weights)):
            logs["loss"] = math.nan
            self.diverged_in, self.model.stop_training = epoch + 1, True
        elif logs["loss"] < self.loss:
            self.weights, self.loss, self.epoch = weights, logs["loss"], epoch + 1

    def restore(self) -> str:
        """Give the model the weights remembered, and say which they are."""
        self.model.set_weights(self.weights)
        kept = f"after epoch {self.epoch}, the best (loss {self.loss:.4g})," if self.epoch else "from before it"
        return f"fine-tuning diverged to NaN in epoch {self.diverged_in}; the weights {kept} are kept"


def _optimizer_class(name: object) -> type[keras.optimizers.Optimizer]:
    """The class of that name; only those that have a learning rate can be made from a name alone."""
    known = {"yellowfin": YellowFin}
    for key, value in vars(keras.optimizers).items():
        if inspect.isclass(value) and "learning_rate" in inspect.signature(value).parameters:
            known[key.lower()] = value
    wanted = str(name).lower()
    if wanted not in known:
        nearest = ", ".join(map(repr, get_close_matches(wanted, known, n=3, cutoff=0)))
        raise ConfigError(
            f"optimizer must be 'yellowfin', a Keras optimiser or its name, got {name!r}; the nearest are {nearest}."
        )
    return known[wanted]


def _tunes_itself(optimizer: keras.optimizers.Optimizer) -> bool:
    return isinstance(getattr(optimizer, "inner_optimizer", optimizer), YellowFin)


def _scheduled(config: FineTuneConfig, steps: int) -> keras.optimizers.Optimizer:
    """The optimiser with its learning rate falling to zero along a half cosine, unless YellowFin is left to its own."""
    optimizer = make_optimizer(config)
    rate = config.learning_rate
    if rate is None and not _tunes_itself(optimizer):
        rate = LEARNING_RATE
    if rate is not None:
        optimizer.learning_rate = keras.optimizers.schedules.CosineDecay(rate, steps)
    return optimizer


def _inputs(model: keras.Model, examples: Examples, batch_size: int) -> dict:
    if isinstance(examples, Sample):
        images = packed(model, cast(model, examples.images))
        return {"x": images, "y": examples.labels, "batch_size": batch_size}
    batches = examples.rebatched(batch_size)
    if isinstance(model.input, dict):  # a tuple is as good as a list, which tf.data does not know
        batches = batches.map(lambda images, labels: (packed(model, images), labels))
    return {"x": batches}
