"""A network that all replicas train on together, by Keras' own fit."""

from typing import Any

import keras
import tensorflow as tf

from cobla_tf.config import FineTuneConfig
from cobla_tf.devices import Devices
from cobla_tf.elements import joined
from cobla_tf.errors import ConfigError
from cobla_tf.loss import Loss, LossSum
from cobla_tf.optimizers import clip_limits, inner, make_optimizer

WRITERS = frozenset({"ModelCheckpoint", "BackupAndRestore", "OrbaxCheckpoint"})
"""Callbacks of Keras that write the network that they see."""


class ReplicatedModel(keras.Model):
    """Trains as on one device: every image weighs the same, however a batch is divided.

    Keras 3.15's fit fails under MultiWorkerMirroredStrategy (keras#20585), and elsewhere under tf.distribute it weighs
    the parts of a batch alike, be they equal or not. So fit is told of no strategy: what it calls is one step of all
    replicas. Statistics of BatchNorm are those of a replica's part, and averaged.

    Args:
        copy: from `Devices.copied`, whose weights this model shares.
        devices: of the run.
        loss: from losses.resolve_loss; what is added to it by regularisers is as on one device.

    Its batches are (images, labels, 1.0 or 0.0), as `Devices.lent` gives them.
    """

    def __init__(self, copy: keras.Model, devices: Devices, loss: Loss | LossSum) -> None:
        """Take over the graph of a model."""
        super().__init__(copy.input, copy.output, name=copy.name)
        self._devices, self._judge = devices, loss
        self._means = [keras.metrics.Mean(name="loss")]
        if loss.judged.told_in_training:
            self._means.append(keras.metrics.Mean(name="accuracy"))

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """A step of the optimiser, called by fit."""
        return self._told(self._devices.strategy.run(self._train, args=data))

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Loss and hits of a batch, called by fit for the images set apart."""
        return self._told(self._devices.strategy.run(self._test, args=data))

    def _train(self, images: Any, labels: Any, owned: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss, *hits, count = self._sums(images, labels, owned, training=True)
            everywhere = _all(count)
            added = sum(self.losses) / self._devices.count if self.losses else 0.0
            scaled = self.optimizer.scale_loss(loss / everywhere + added)
        pairs = zip(tape.gradient(scaled, self.trainable_variables), self.trainable_variables, strict=True)
        gradients, variables = zip(*(pair for pair in pairs if pair[0] is not None), strict=True)
        if clip_limits(inner(self.optimizer)):
            gradients = [gradient / self._devices.count for gradient in _all(list(gradients))]
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return _all(tf.stack([loss + added * everywhere, *hits, count]))

    def _test(self, images: Any, labels: Any, owned: tf.Tensor) -> tf.Tensor:
        return _all(tf.stack(self._sums(images, labels, owned, training=False)))

    def _sums(self, images: Any, labels: Any, owned: tf.Tensor, training: bool) -> list[tf.Tensor]:
        """Loss, hits, guesses and number of images, of this replica's part of its worker's part of a batch."""

        def sums(images: Any, labels: Any) -> list[tf.Tensor]:
            outputs = joined(keras.tree.flatten(self(images, training=training)))
            count = tf.shape(tf.nest.flatten(images)[0])[0]
            values = self._judge.total(labels, outputs), *self._judge.hits(labels, outputs), count
            return [tf.cast(value, tf.float32) for value in values]

        return [owned * value for value in self._devices.of_own_part(sums)(images, labels)]

    def _told(self, sums: Any) -> dict[str, tf.Tensor]:
        loss, hits, guesses, count = tf.unstack(self._devices.parts(sums)[0])
        for mean, total, weight in zip(self._means, (loss, hits), (count, guesses), strict=False):
            mean.update_state(tf.math.divide_no_nan(total, weight), sample_weight=weight)
        return {mean.name: mean.result() for mean in self._means}


def check_replicated(config: FineTuneConfig) -> None:
    """Refuse what training on several devices cannot do.

    Raises:
        ConfigError: gradients are to be accumulated over steps, or a callback of Keras' writes the network.
    """
    if not config.epochs:
        return
    if getattr(inner(make_optimizer(config)), "gradient_accumulation_steps", None):
        raise ConfigError("gradient_accumulation_steps is for one device; leave it out, and set a larger batch_size.")
    for callback in config.callbacks:
        writer = WRITERS & {kind.__name__ for kind in type(callback).__mro__}
        if writer:
            raise ConfigError(
                f"{type(callback).__name__} writes the network as it lies on one device; leave it out with several: "
                "with an output folder training goes on where it was stopped, and validation_share keeps the best "
                "epoch."
            )


def clip_sums(optimizer: keras.optimizers.Optimizer, replicas: int) -> keras.optimizers.Optimizer:
    """Make an optimiser clip as on one device.

    Keras clips each replica's gradients, and then adds them up. So replicas whose gradients are to be clipped all give
    it their mean, and the limits are those of a mean.
    """
    own = inner(optimizer)
    for name, limit in clip_limits(own).items():
        setattr(own, name, limit / replicas)
    return optimizer


def _all(value: Any) -> Any:
    """Sum over all replicas of all workers."""
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, value)
