"""Re-estimating the statistics of BatchNorm after compression, which changes what reaches these layers."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import keras
import numpy as np

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
        wrapped: those inside a wrapper, which calls them once a frame or step, and from which no average over all of
            these can be had; they keep theirs as well.
    """

    open: tuple[Norm, ...]
    frozen: tuple[Norm, ...]
    wrapped: tuple[Norm, ...]


def batch_norms(model: keras.Model) -> BatchNorms:
    """All BatchNorm layers of a functional or Sequential model, also in nested models, wrappers and blocks."""
    found: dict[int, tuple[Norm, bool]] = {}
    for _, layer in leaf_layers(model):
        inside = isinstance(layer, keras.layers.Wrapper | keras.layers.RNN)
        found |= {id(part): (part, inside) for part in layer._flatten_layers() if isinstance(part, Norm)}
    loose, wrapped = ([norm for norm, inside in found.values() if inside is kind] for kind in (False, True))
    return BatchNorms(
        open=tuple(norm for norm in loose if norm.trainable),
        frozen=tuple(norm for norm in loose if not norm.trainable),
        wrapped=tuple(wrapped),
    )


def reestimate(model: keras.Model, sample: Sample, batch_size: int) -> None:
    """Give the BatchNorm layers of a model, in place, the statistics that the images have in it.

    One forward pass in training mode. The moving mean becomes the average over all batches, each weighted by its size,
    and the moving variance that of the batches and, beside it, the variance of their means; what they were before is
    forgotten. A layer that is used several times weighs its later uses more. All else that a training pass changes
    (seeds, statistics of other layers, a kernel that is normalised) is put back.

    Args:
        model: functional or Sequential; other layers, as Dropout, do what they do in training.
        sample: images, and labels that are not used.
        batch_size: images a batch.
    """
    norms = batch_norms(model).open
    moved = {id(weight) for norm in norms for weight in (norm.moving_mean, norm.moving_variance)}
    others = [weight for weight in model.variables if id(weight) not in moved]
    before = [weight.numpy() for weight in others]
    with _own_momentum(norms):
        seen, means, between = 0, _means(norms), [0.0] * len(norms)
        for images, _ in tensors(model, sample, batch_size):
            count = len(parts_of(images)[0])
            share = count / (seen + count)
            for norm in norms:
                norm.momentum = 1 - share
            forward(model, images, training=True)
            moved_to = _means(norms)
            if seen:  # the mean of a batch is (new - old) / share + old
                steps = [(new - old) ** 2 / share for old, new in zip(means, moved_to, strict=True)]
                between = [(1 - share) * (b + step) for b, step in zip(between, steps, strict=True)]
            seen, means = seen + count, moved_to
    for norm, variance in zip(norms, between, strict=True):
        norm.moving_variance.assign_add(keras.ops.cast(variance, norm.moving_variance.dtype))
    for weight, value in zip(others, before, strict=True):
        weight.assign(value)


def _means(norms: tuple[Norm, ...]) -> list[np.ndarray]:
    return [np.asarray(keras.ops.cast(norm.moving_mean, "float64")) for norm in norms]


@contextmanager
def _own_momentum(norms: tuple[Norm, ...]) -> Iterator[None]:
    """Put back the layers' own momentum at the end."""
    momenta = [norm.momentum for norm in norms]
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
