"""How the benchmarks train a network of random weights before they compress it."""

import keras

from cobla_tf.config import FineTuneConfig
from cobla_tf.examples import Examples
from cobla_tf.finetune import train
from cobla_tf.loss import Loss, LossSum
from cobla_tf.losses import resolve_loss

LEARNING_RATE = 3e-3


def pretrain(model: keras.Model, examples: Examples, epochs: int, batch_size: int = 64) -> Loss | LossSum:
    """Train in place by Adam; 0 epochs leave the model as it is.

    Returns:
        the loss that fits the model and its labels.
    """
    loss = resolve_loss(None, model, examples.probe())
    train(model, examples, loss, FineTuneConfig(epochs, "adam", LEARNING_RATE), batch_size)
    return loss
