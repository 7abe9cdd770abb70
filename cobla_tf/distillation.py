"""Learning from the original network's outputs, beside labels or in their place.

Cross-entropies, squared error and some others are linear in what is to be learnt, or differ from that by a constant. So
to weigh two losses is to mix their targets, and training needs nothing new.
"""

import dataclasses
from typing import Any

import keras
import numpy as np

from cobla_tf.elements import cast, forward, is_of
from cobla_tf.errors import ConfigError
from cobla_tf.examples import Examples, Sample, Stream
from cobla_tf.graph import of_keras
from cobla_tf.loss import Loss, LossSum, like
from cobla_tf.progress import bar, doing

CROSS_ENTROPY = "categorical_crossentropy"
MOST_FOR_ACCURACY = 0.5
"""Share of the outputs up to which the label's entry of a mixture is the largest."""
HINGES = ("hinge", "squared_hinge", "categorical_hinge")
"""Losses that read labels as signs or classes, which outputs are not."""
LINEAR = (
    "binary_crossentropy", "categorical_crossentropy", "categorical_focal_crossentropy", "kl_divergence",
    "mean_squared_error", "poisson", "sparse_categorical_crossentropy",
)  # fmt: skip
"""Keras' losses of a mixture of targets that are the mixture of the losses, but for a constant."""


def check_distillation(loss: Loss | LossSum, probe: Sample, outputs: tuple[int, ...], share: float) -> None:
    """Refuse losses whose targets cannot be mixed with outputs; one of the user's own is taken to be linear in them.

    Args:
        loss: of the network.
        probe: a few examples.
        outputs: shape of one output of the network, None where it is open.
        share: of the outputs in the mixture, above 0.

    Raises:
        ConfigError: several outputs, a hinge, a loss of logits or of labels of another shape that is no cross-entropy,
            one over classes that does not say whether it takes logits, one that leaves a class out, or labels beside
            outputs for one of Keras' that is not linear in them.
    """
    if isinstance(loss, LossSum):
        raise ConfigError("distillation takes a network with a single output; set distillation to 0.")
    labels = like(probe.labels, np.empty((probe.size, *(size or 1 for size in outputs))))
    plain = is_of(labels.shape[1:], outputs) and not _from_logits(loss) and _name(loss) not in HINGES
    if not plain and not _is_cross_entropy(loss):
        raise ConfigError(
            "distillation takes (sparse) categorical cross-entropy of one class an image or place, or a loss whose "
            f"labels look like the outputs, got {loss.description}; set distillation to 0."
        )
    if share < 1 and loss.computes not in ("", *LINEAR):
        raise ConfigError(
            f"distillation mixes labels with outputs, which {loss.description} does not weigh as it would weigh two "
            "losses; set distillation to 1, for outputs alone, or to 0, or take a loss such as 'mse'."
        )
    if loss.labels in ("one-hot", "binary") and not _told_from_logits(loss):
        raise ConfigError(
            f"distillation cannot tell whether {loss.description} takes logits or probabilities; give a class of "
            "keras.losses as loss, or one that has from_logits in its config, or set distillation to 0."
        )
    if _config(loss).get("ignore_class") is not None:
        raise ConfigError("distillation takes no loss with an ignore_class; set distillation to 0.")


def tells_accuracy(loss: Loss, share: float) -> bool:
    """Whether labels of which outputs are such a share still tell what is right and what is wrong."""
    if not share:
        return loss.told_in_training
    return loss.labels not in ("binary", "other") and share <= MOST_FOR_ACCURACY


def softened(
    teacher: keras.Model, examples: Examples, loss: Loss, share: float, batch_size: int
) -> tuple[Examples, Loss]:
    """Examples whose labels are mixed with a network's outputs, and the loss that goes with them.

    Args:
        teacher: the original network.
        examples: images, and labels of the form that `loss` takes.
        loss: one that `check_distillation` let pass.
        share: of the outputs in the mixture; 1 makes labels meaningless. Beyond a half the largest entry need not be
            the label's, and the loss tells no accuracy.
        batch_size: images a step of the teacher.
    """
    from_logits, classes = _from_logits(loss), _is_cross_entropy(loss)

    def mixed(images: Any, labels: Any) -> Any:
        outputs = keras.ops.cast(forward(teacher, images), "float32")
        if classes and from_logits:
            outputs = keras.ops.softmax(outputs)
        if loss.labels == "sparse":
            labels = keras.ops.one_hot(keras.ops.reshape(labels, keras.ops.shape(outputs)[:-1]), outputs.shape[-1])
        return (1 - share) * keras.ops.cast(like(labels, outputs), "float32") + share * outputs

    chosen = loss
    if not tells_accuracy(loss, share):
        chosen = dataclasses.replace(loss, labels="other")
    elif classes:
        chosen = dataclasses.replace(loss, labels="one-hot")
    if classes:
        sparse = loss.labels == "sparse"
        function = keras.losses.CategoricalCrossentropy(from_logits=from_logits) if sparse else loss.function
        told = f"{loss.description}, {share:.0%} of it on the original's outputs"
        chosen = dataclasses.replace(chosen, function=function, description=told)
    if isinstance(examples, Stream):
        return examples.mapped(lambda images, labels: (images, mixed(images, labels)), batch_size), chosen
    with doing("outputs of the original"):
        batches = bar(examples.batches(batch_size), -(-examples.size // batch_size), "batches")
        targets = [np.asarray(mixed(cast(teacher, images), labels)) for images, labels in batches]
    return Sample(examples.images, np.concatenate(targets)), chosen


def _is_cross_entropy(loss: Loss) -> bool:
    return loss.labels in ("sparse", "one-hot") and _name(loss).removeprefix("sparse_") == CROSS_ENTROPY


def _name(loss: Loss) -> str:
    return loss.function.name or ""


def _config(loss: Loss) -> dict[str, Any]:
    return loss.function.get_config()


def _from_logits(loss: Loss) -> bool:
    """Keras' loss functions, other than its classes, take probabilities."""
    return bool(_config(loss).get("from_logits", False))


def _told_from_logits(loss: Loss) -> bool:
    return "from_logits" in _config(loss) or of_keras(getattr(loss.function, "function", type(loss.function)))
