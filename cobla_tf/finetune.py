"""Training a network on, through model.fit with any Keras optimiser."""

import keras
import numpy as np
from absl import logging

from cobla_tf.config import FineTuneConfig
from cobla_tf.errors import ConfigError
from cobla_tf.examples import Examples, Sample
from cobla_tf.losses import Loss

CLIP_NORM = 1.0
"""Global gradient norm: the first steps after a coarse approximation are otherwise the largest of all."""


def make_optimizer(config: FineTuneConfig) -> keras.optimizers.Optimizer:
    """A fresh optimiser, by its Keras name or like the one given, with gradients clipped to CLIP_NORM in all.

    Raises:
        ConfigError: Keras knows no such optimiser.
    """
    given = config.optimizer
    if isinstance(given, keras.optimizers.Optimizer):
        optimizer = type(given).from_config(given.get_config())
    else:
        try:
            optimizer = keras.optimizers.get({"class_name": given, "config": {}})
        except (ValueError, TypeError) as error:
            raise ConfigError(
                f"optimizer {given!r} is none of Keras'; expected a name such as 'adam', 'sgd' or 'adamw'."
            ) from error
    optimizer.global_clipnorm = CLIP_NORM
    return optimizer


def train(
    model: keras.Model, examples: Examples, loss: Loss, config: FineTuneConfig, batch_size: int, progress: bool
) -> tuple[dict[str, float], ...]:
    """Train a model in place, its learning rate falling to zero along a half cosine.

    Args:
        model: has the weights from before it again, with a warning, should training diverge to NaN.
        examples: training images and labels.
        loss: from losses.resolve_loss.
        config: epochs, optimiser and learning rate.
        batch_size: images a step.
        progress: whether to show Keras' progress bar.

    Returns:
        one record an epoch.
    """
    if config.epochs == 0:
        return ()
    optimizer = make_optimizer(config)
    steps = -(-examples.size // batch_size) * config.epochs
    optimizer.learning_rate = keras.optimizers.schedules.CosineDecay(config.learning_rate, steps)
    model.compile(optimizer=optimizer, loss=loss.function, metrics=["accuracy"] if loss.labels != "other" else [])
    before = model.get_weights()
    history = model.fit(
        **_inputs(model, examples, batch_size),
        epochs=config.epochs,
        verbose="auto" if progress else 0,
        callbacks=[keras.callbacks.TerminateOnNaN()],
    )
    records = [dict(zip(history.history, row, strict=True)) for row in zip(*history.history.values(), strict=True)]
    if not all(np.isfinite(weight).all() for weight in model.get_weights()):
        logging.warning("fine-tuning diverged to NaN; the weights from before it are kept")
        model.set_weights(before)
    return tuple({name: float(value) for name, value in record.items()} for record in records)


def _inputs(model: keras.Model, examples: Examples, batch_size: int) -> dict:
    if isinstance(examples, Sample):
        images = examples.images.astype(model.inputs[0].dtype, copy=False)
        return {"x": images, "y": examples.labels, "batch_size": batch_size}
    return {"x": examples.rebatched(batch_size)}
