"""Training a network on, through model.fit with YellowFin or any Keras optimiser."""

import inspect
import math
from collections.abc import Callable
from contextlib import suppress
from numbers import Number
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from cobla_tf.config import FineTuneConfig
from cobla_tf.devices import ONE_DEVICE, Devices
from cobla_tf.digest import digest
from cobla_tf.elements import joined
from cobla_tf.examples import Examples
from cobla_tf.feeding import training_batches, validation_batches
from cobla_tf.loss import Loss, LossSum
from cobla_tf.optimizers import make_optimizer, scheduled_optimizer, without_decay
from cobla_tf.progress import bar, doing
from cobla_tf.provenance import told_loss, versions
from cobla_tf.replicated import ReplicatedModel, clip_sums
from cobla_tf.training_backup import TrainingBackup, numbers
from cobla_tf.unfinished import Unfinished

CHANGING = frozenset({"name", "seed", "inbound_nodes", "input_layers", "output_layers"})
"""Of a config: names and what holds them, and seeds."""


def train(
    model: keras.Model,
    examples: Examples,
    loss: Loss | LossSum,
    config: FineTuneConfig,
    batch_size: int,
    seed: int = 0,
    backup: TrainingBackup | None = None,
    devices: Devices = ONE_DEVICE,
) -> tuple[dict[str, float], ...]:
    """Train a model in place.

    Args:
        model: should training diverge to NaN or infinity, it has the weights after its best epoch, or those from before
            where none was finished, with a warning that says so.
        examples: training images and labels; a share of them is set apart where `config` says so.
        loss: from losses.resolve_loss.
        config: epochs, optimiser, learning rate, and when to stop. Where images are set apart, the model has the
            weights after the epoch that was best on them, or those from before where none was better.
        batch_size: images a step.
        seed: of the order of the examples in each epoch, which follows from it and the epoch's number alone; a stream
            may have an order of its own.
        backup: where the state after every epoch is kept, and from which training goes on; None keeps none.
        devices: what shares each batch; the model itself is on one, and gets the weights in the end.

    Returns:
        one record an epoch; that of an epoch in which training diverged has a loss that is not finite.
    """
    if config.epochs == 0:
        return ()
    held_out = {}
    if config.validation_share:
        examples, validation = examples.split(config.validation_share, np.random.default_rng(seed))
        held_out = validation_batches(model, validation, batch_size, devices)
    steps = -(-examples.size // batch_size)
    trained = _compiled(model, loss, lambda: scheduled_optimizer(config, steps * config.epochs), devices)
    best, backup = BestWeights(config.patience), backup or TrainingBackup()
    done = backup.restore(trained, best, devices)
    if held_out and not done:
        best.begin(trained, _loss(trained, held_out))
    if not backup.complete:
        trained.fit(
            training_batches(trained, examples, batch_size, seed, done, devices),
            steps_per_epoch=steps,
            **held_out,
            initial_epoch=done,
            epochs=config.epochs,
            verbose=0,
            shuffle=False,  # the data are shuffled already
            callbacks=[keras.callbacks.TerminateOnNaN(), best, *config.callbacks, backup, _Progress()],
        )
    if best.diverged_in is not None:
        logging.warning("%s", best.restore())
    elif config.validation_share:
        trained.set_weights(best.weights)
    if devices.count > 1:
        model.set_weights(trained.get_weights())
    return tuple(backup.history)


def _loss(model: keras.Model, held_out: dict[str, Any]) -> float:
    """On images set apart, given as `fit` takes them."""
    data = held_out["validation_data"]
    asked = {"x": data} if isinstance(data, tf.data.Dataset) else dict(zip("xy", data, strict=True))
    size = held_out.get("validation_batch_size")
    return float(model.evaluate(**asked, batch_size=size, verbose=0, return_dict=True)["loss"])


def _compiled(
    model: keras.Model,
    loss: Loss | LossSum,
    make: Callable[[], keras.optimizers.Optimizer],
    devices: Devices,
) -> keras.Model:
    """What fit is called on: the model, or for several devices a copy.

    Without XLA, which Keras takes by itself on a GPU: there it compiled NIN for 30 s, and its epochs were no shorter.
    """
    if devices.count > 1:
        replicated = ReplicatedModel(devices.copied(model), devices, loss)
        with devices.scope():
            replicated.compile(optimizer=clip_sums(make(), devices.count), jit_compile=False)
        return replicated
    if isinstance(loss, LossSum):  # the outputs that have a loss, in their order: the same weights
        model = keras.Model(model.input, tuple(model.outputs[part.place] for part in loss.parts))
    parts = loss.parts if isinstance(loss, LossSum) else (loss,)
    model.compile(
        optimizer=make(),
        loss=joined([_by_image(part) for part in parts]),
        metrics=joined([_metrics(part) for part in parts]),
        jit_compile=False,
    )
    return model


def _by_image(loss: Loss) -> Any:
    """What Keras minimises: the mean over the images of a batch, as everywhere else, whatever a loss reduces to."""
    if getattr(loss.function, "reduction", "mean") not in (None, "none", "sum"):
        return loss.function

    def mean(labels: Any, outputs: Any) -> Any:
        total = loss.total(labels, outputs)
        return total / keras.ops.cast(keras.ops.shape(outputs)[0], total.dtype)

    return mean


def _metrics(loss: Loss) -> list[Any]:
    if loss.labels == "binary":
        return [keras.metrics.BinaryAccuracy("accuracy", threshold=loss.threshold)]
    return ["accuracy"] if loss.told_in_training else []


def training_backup(
    unfinished: Unfinished,
    kind: str,
    model: keras.Model,
    examples: Examples,
    loss: Loss | LossSum,
    config: FineTuneConfig,
    batch_size: int,
    seed: int,
    precision: str = "float32",
) -> TrainingBackup:
    """A backup for `train` with these arguments, and products in `precision`, among the files of a run.

    `kind` names it.
    """
    optimizer = make_optimizer(config)
    further = {"class": type(optimizer).__name__, "excluded": sorted(without_decay(optimizer).split("|"))}
    settings = _plain(optimizer.get_config()) | further
    schedule = (config.epochs, config.learning_rate, batch_size, seed, config.distillation)
    stop = (config.validation_share, config.patience, [_told(callback) for callback in config.callbacks])
    judged, layers = told_loss(model, loss, examples), [_told_layer(layer) for layer in model._flatten_layers()]
    key = digest(model.get_weights(), examples, judged, layers, settings, schedule, stop, precision, versions())
    return TrainingBackup(unfinished.path(f"{kind}.npz", key), key)


def _plain(settings: Any) -> Any:
    """Settings without what differs from one process to the next: names and seeds, which Keras counts or draws, and
    objects.
    """
    if isinstance(settings, dict):
        return {key: _plain(value) for key, value in settings.items() if key not in CHANGING}
    if isinstance(settings, list | tuple):
        return [_plain(value) for value in settings]
    return settings if isinstance(settings, str | Number | None) else type(settings).__name__


def _told_layer(layer: keras.layers.Layer) -> tuple[str, bool, Any]:
    """What a layer does in training: its class, whether it learns, and its settings as far as it tells them."""
    settings = {}
    with suppress(Exception):  # a layer inside a user's own need not have a config
        settings = _plain(layer.get_config())
    return type(layer).__name__, layer.trainable, settings


def _told(callback: keras.callbacks.Callback) -> tuple[str, ...]:
    """What a callback's effect on training hangs on: what it was made with, as far as it keeps that."""
    names = inspect.signature(type(callback).__init__).parameters
    settings = {name: getattr(callback, name, None) for name in names}
    plain = (f"{name}={value}" for name, value in settings.items() if isinstance(value, str | int | float))
    return type(callback).__name__, *(text.replace("=-", "=") for text in plain)  # Keras turns min_delta in training


class BestWeights(keras.callbacks.Callback):
    """Remembers the weights after the best epoch: of least validation loss, or training loss where there is none.

    Where there is one, the weights from before training are among them.

    Args:
        patience: epochs without a better one after which training stops; 0 never stops it.

    Attributes:
        epoch: the one remembered, counted from 1; 0 is before training.
        diverged_in: the first epoch after which loss or weights were not finite, counted from 1; None is none.
    """

    def __init__(self, patience: int = 0) -> None:
        """Nothing remembered yet."""
        super().__init__()
        self.patience = patience
        self.epoch, self.loss = 0, math.inf
        self.weights: list[np.ndarray] | None = None
        self.diverged_in: int | None = None

    def begin(self, model: keras.Model, loss: float) -> None:
        """Remember the weights from before, and their validation loss if it is one."""
        self.weights = model.get_weights()
        self.loss = loss if math.isfinite(loss) else math.inf

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Remember the weights from before, unless better ones are remembered."""
        self.weights = self.weights or self.model.get_weights()

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Remember these weights if they are the best, or stop if they are of no use."""
        weights, loss = self.model.get_weights(), logs.get("val_loss", logs["loss"])
        if not all(np.isfinite(value).all() for value in (logs["loss"], *weights)):
            logs["loss"] = math.nan
            self.diverged_in, self.model.stop_training = epoch + 1, True
        elif loss < self.loss:
            self.weights, self.loss, self.epoch = weights, loss, epoch + 1
        elif self.patience and epoch + 1 - self.epoch >= self.patience:
            self.model.stop_training = True

    def restore(self) -> str:
        """Give the model the weights remembered, and say which they are."""
        self.model.set_weights(self.weights)
        kept = f"after epoch {self.epoch}, the best (loss {self.loss:.4g})," if self.epoch else "from before it"
        return f"training diverged to NaN or infinity in epoch {self.diverged_in}; the weights {kept} are kept"


class _Progress(keras.callbacks.Callback):
    """A bar for every epoch, and a line with what came of it."""

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Begin the bar."""
        with doing(self._name(epoch)):
            self._bar = bar(None, self.params["steps"], "batches")

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """One batch more."""
        self._bar.update()

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """The line."""
        self._bar.close()
        told = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in numbers(logs).items())
        logging.info("%s: %s", self._name(epoch), told)

    def _name(self, epoch: int) -> str:
        return f"epoch {epoch + 1} of {self.params['epochs']}"
