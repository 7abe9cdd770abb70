"""Re-estimating the statistics of BatchNorm after compression, which changes what reaches these layers."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import keras

from cobla_tf.elements import forward, parts_of
from cobla_tf.examples import Sample
from cobla_tf.graph import leaf_layers
from cobla_tf.objective import tensors

Norm = keras.layers.BatchNormalization


@dataclass(frozen=True)
class BatchNorms:
    """The BatchNorm layers of a model, each once.

    Attributes:
        open: those whose statistics follow the data in training.
        frozen: those that are not trainable, which in Keras keep their statistics even in training, and so here: who
            freezes a layer wants it as it is.
    """

    open: tuple[Norm, ...]
    frozen: tuple[Norm, ...]


def batch_norms(model: keras.Model) -> BatchNorms:
    """All BatchNorm layers of a functional or Sequential model, nested models included."""
    found = {id(layer): layer for _, layer in leaf_layers(model) if isinstance(layer, Norm)}.values()
    return BatchNorms(*(tuple(norm for norm in found if norm.trainable is kept) for kept in (True, False)))


def reestimate(model: keras.Model, sample: Sample, batch_size: int) -> None:
    """Give the BatchNorm layers of a model, in place, the statistics that the images have in it.

    One forward pass in training mode. The moving mean and variance become the averages over all batches, each weighted
    by its size; what they were before is forgotten. A layer that is used several times weighs its later uses more.
    All else that a training pass changes (seeds, statistics of other layers, a kernel that is normalised) is put back.

    Args:
        model: functional or Sequential; other layers, as Dropout, do what they do in training.
        sample: images, and labels that are not used.
        batch_size: images a batch; with one image a batch, convolutional layers still average over its positions.
    """
    norms = batch_norms(model).open
    moved = {id(weight) for norm in norms for weight in (norm.moving_mean, norm.moving_variance)}
    others = [weight for weight in model.variables if id(weight) not in moved]
    before = [weight.numpy() for weight in others]
    with _own_momentum(norms):
        seen = 0
        for images, _ in tensors(model, sample, batch_size):
            count = len(parts_of(images)[0])
            for norm in norms:
                norm.momentum = seen / (seen + count)
            forward(model, images, training=True)
            seen += count
    for weight, value in zip(others, before, strict=True):
        weight.assign(value)


@contextmanager
def _own_momentum(norms: tuple[Norm, ...]) -> Iterator[None]:
    """Put back the layers' own momentum at the end."""
    momenta = [norm.momentum for norm in norms]
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
