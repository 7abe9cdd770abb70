"""E(m), the loss over a sample as a function of the masks, and its gradient (Eqs. 6 and 8)."""

import time
from collections.abc import Callable
from functools import wraps
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from cobla_tf.elements import cast, each, forward, joined, parts_of
from cobla_tf.examples import Examples, Sample
from cobla_tf.loss import Loss, LossSum
from cobla_tf.precision import products_in
from cobla_tf.progress import bar
from cobla_tf.report_parts import Evaluation
from cobla_tf.surgery import MaskedModel

Array = np.ndarray


def _computed(evaluate: Callable) -> Callable:
    """Multiply in `self.precision`, and add the time of a method to `self.seconds`."""

    @wraps(evaluate)
    def computed(self: "Objective", *args: Any) -> Any:
        began = time.perf_counter()
        try:
            with products_in(self.precision):
                return evaluate(self, *args)
        finally:
            self.seconds += time.perf_counter() - began

    return computed


class Objective:
    """Loss and mask gradient of a masked model.

    One tf.function a batch; gradients by the watched variables are summed over the batches and projected on the
    masks once an evaluation.

    Args:
        masked: from surgery.mask_model.
        loss: from losses.resolve_loss.
        batch_size: images a step.
        probe: a few examples, for the form of a batch: one trace serves all batch sizes.
        precision: of products, but for evaluate(), from precision.resolve_precision.

    Attributes:
        seen: images that gradients were taken on so far, one count an image and gradient.
        seconds: spent in losses, gradients and curvature so far.
    """

    def __init__(
        self, masked: MaskedModel, loss: Loss | LossSum, batch_size: int, probe: Sample, precision: str = "float32"
    ) -> None:
        """Trace both steps."""
        self.precision = precision
        self._masked = masked
        self._loss = loss
        self._batch_size = batch_size
        self.seen = 0
        self.seconds = 0.0
        self._sums = [tf.Variable(tf.zeros_like(v), trainable=False) for v in masked.variables]
        self._loss_step, self._gradient_step = _steps(masked, loss, self._sums, _signature(masked.model, probe))

    @_computed
    def value(self, masks: Array, sample: Sample) -> float:
        """E(m) on a sample, for masks float64 [n]."""
        self._masked.write(masks)
        return self._mean(self._loss_step, sample)

    @_computed
    def values(self, masks: Array, sample: Sample, groups: int) -> Array:
        """E(m) on up to `groups` equal parts of a sample, the last possibly smaller: its spread; float64 [parts]."""
        self._masked.write(masks)
        size = -(-sample.size // groups)
        parts = (Sample(*part) for part in sample.batches(size))
        return np.array([self._mean(self._loss_step, part) for part in parts])

    @_computed
    def gradient(self, masks: Array, sample: Sample) -> tuple[float, Array]:
        """E(m) and dE/dm, float64 [n], on a sample."""
        self._masked.write(masks)
        return self._gradient(sample)

    @_computed
    def fisher(self, masks: Array, sample: Sample) -> Array:
        """Diagonal of the empirical Fisher matrix, float64 [n]: the mean over images of (dE_i/dm_j)^2.

        It stands in for the diagonal of the Hessian: for cross-entropy it is the Gauss-Newton matrix but for the
        labels, which are those of the data. It costs a batch of one an image.
        """
        self._masked.write(masks)
        squares = np.zeros(len(masks))
        for image in bar(sample.batches(1), sample.size, "images"):
            squares += self._gradient(Sample(*image))[1] ** 2
        return squares / sample.size

    @_computed
    def constant_loss(self, masks: Array, sample: Sample) -> float:
        """Loss of the network's mean output given for every image: what a network that sees nothing can reach."""
        self._masked.write(masks)
        model = self._masked.model
        batches = tensors(model, sample, self._batch_size)
        outputs = zip(*(parts_of(forward(model, images)) for images, _ in batches), strict=True)
        means = [tf.reduce_mean(tf.concat(parts, axis=0), axis=0, keepdims=True) for parts in outputs]
        constant = joined([tf.repeat(mean, sample.size, axis=0) for mean in means])
        return float(self._loss.total(sample.labels, constant)) / sample.size

    def evaluate(self, masks: Array, examples: Examples) -> Evaluation:
        """Loss and accuracy of the masked network over all examples."""
        self._masked.write(masks)
        return evaluate(self._masked.model, examples, self._loss, self._batch_size)

    def _gradient(self, sample: Sample) -> tuple[float, Array]:
        for total in self._sums:
            total.assign(tf.zeros_like(total))
        loss = self._mean(self._gradient_step, sample)
        self.seen += sample.size
        return loss, self._masked.to_masks([total.numpy() / sample.size for total in self._sums])

    def _mean(self, step: Callable[[Any, Any], Any], sample: Sample) -> float:
        total = sum(float(step(*batch)) for batch in tensors(self._masked.model, sample, self._batch_size))
        return total / sample.size


def _signature(model: keras.Model, probe: Sample) -> list[Any]:
    batch = next(tensors(model, probe, 1))
    return [each(lambda part: tf.TensorSpec((None, *part.shape[1:]), part.dtype), one) for one in batch]


def _traced(step: Callable, signature: list[Any]) -> Callable:
    """One graph for batches of any size."""
    return tf.function(step, input_signature=signature).get_concrete_function()


def _steps(
    masked: MaskedModel, loss: Loss | LossSum, sums: list[tf.Variable], signature: list[Any]
) -> tuple[Callable, Callable]:
    def total(images: Any, labels: Any) -> tf.Tensor:
        return loss.total(labels, forward(masked.model, images))

    def gradient_step(images: Any, labels: Any) -> tf.Tensor:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(masked.variables)
            value = total(images, labels)
        gradients = tape.gradient(value, masked.variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        for store, gradient in zip(sums, gradients, strict=True):
            store.assign_add(gradient)
        return value

    return _traced(total, signature), _traced(gradient_step, signature)


def tensors(model: keras.Model, examples: Examples, batch_size: int) -> Any:
    """Batches as tensors, images in the dtype of the model's input."""
    for images, labels in bar(examples.batches(batch_size), -(-examples.size // batch_size), "batches"):
        yield each(tf.convert_to_tensor, cast(model, images)), each(tf.convert_to_tensor, labels)


def evaluate(model: keras.Model, examples: Examples, loss: Loss | LossSum, batch_size: int) -> Evaluation:
    """Mean loss, and accuracy where labels are classes, over all examples."""

    def step(images: Any, labels: Any) -> tuple[tf.Tensor, tf.Tensor]:
        outputs = forward(model, images)
        hits = loss.hits(labels, outputs) if loss.labels != "other" else tf.constant(0)
        return loss.total(labels, outputs), hits

    traced = _traced(step, _signature(model, examples.probe()))
    total, hits, count = 0.0, 0, 0
    for images, labels in tensors(model, examples, batch_size):
        value, correct = traced(images, labels)
        total, hits, count = total + float(value), hits + int(correct), count + len(parts_of(images)[0])
    return Evaluation(total / count, hits / count if loss.labels != "other" else None, count)
