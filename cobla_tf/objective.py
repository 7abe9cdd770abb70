"""E(m), the loss over a sample as a function of the masks, and its gradient (Eqs. 6 and 8)."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import reduce, wraps
from operator import add
from typing import Any, TypeVar

import keras
import numpy as np
import tensorflow as tf

from cobla_tf.devices import ONE_DEVICE, Devices
from cobla_tf.elements import cast, each, forward, joined, parts_of
from cobla_tf.examples import Examples, Sample
from cobla_tf.loss import Loss, LossSum
from cobla_tf.precision import products_in
from cobla_tf.progress import bar
from cobla_tf.report_parts import Evaluation
from cobla_tf.surgery import MaskedModel
from cobla_tf.tally import Tally

Array = np.ndarray
T = TypeVar("T")


def _computed(evaluate: Callable) -> Callable:
    """Multiply in `self.precision`."""

    @wraps(evaluate)
    def computed(self: "Objective", *args: Any) -> Any:
        with products_in(self.precision):
            return evaluate(self, *args)

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
        devices: what shares each batch; `masked` must have been made in their scope.
        tally: counts; a new one by default.

    Attributes:
        loss, precision, tally: as given.
    """

    def __init__(
        self,
        masked: MaskedModel,
        loss: Loss | LossSum,
        batch_size: int,
        probe: Sample,
        precision: str = "float32",
        devices: Devices = ONE_DEVICE,
        tally: Tally | None = None,
    ) -> None:
        """Trace both steps."""
        self.precision = precision
        self._masked = masked
        self.loss = loss
        self._batch_size = batch_size
        self._probe = probe
        self._devices = devices
        self.tally = tally or Tally()
        self._sums = devices.sums(masked.variables)
        signature = _signature(masked.model, probe)
        self._loss_step, self._gradient_step = _steps(masked, loss, self._sums, signature, devices)
        self._judge = _Judge(masked.model, loss, batch_size, devices)

    def keep(self, kept: Array, whole: Array) -> "Objective":
        """The same of the kept terms alone, and of the biases, as `surgery.mask_kept` has it; it counts on.

        Args:
            kept, whole: bool [n] and [S], see there.

        Returns:
            one whose masks are followed by `biases` in a vector float64 [n + b].
        """
        with self._devices.scope():
            masked = self._masked.keep(kept, whole)
        shared = self.loss, self._batch_size, self._probe, self.precision, self._devices, self.tally
        return Objective(masked, *shared)

    @property
    def biases(self) -> Sequence[Array]:
        """Of `MaskedModel`."""
        return self._masked.biases

    @_computed
    def value(self, masks: Array, sample: Sample) -> float:
        """E(m) on a sample, for masks float64 [n], here and below followed by `biases` after `keep`."""
        self._masked.write(masks)
        return float(self._devices.total(self._mean(self._loss_step, sample)))

    @_computed
    def values(self, masks: Array, sample: Sample, groups: int) -> Array:
        """E(m) on up to `groups` equal parts of a sample, the last possibly smaller: its spread; float64 [parts]."""
        self._masked.write(masks)
        size = -(-sample.size // groups)
        parts = (Sample(*part) for part in sample.batches(size))
        return self._devices.total(np.array([self._mean(self._loss_step, part) for part in parts]))

    @_computed
    def gradient(self, masks: Array, sample: Sample) -> tuple[float, Array]:
        """E(m) and dE/dm, float64 [n], on a sample."""
        self._masked.write(masks)
        loss, replicas = self._gradients(sample)
        sums = [reduce(add, parts) for parts in zip(*replicas, strict=True)]
        gradient = self._masked.to_vector([total / sample.size for total in sums])
        answer = self._devices.total(np.append(loss, gradient))
        return float(answer[0]), answer[1:]

    @_computed
    def fisher(self, masks: Array, sample: Sample) -> Array:
        """Diagonal of the empirical Fisher matrix, float64 [n]: the mean over images of (dE_i/dm_j)^2.

        It stands in for the diagonal of the Hessian: for cross-entropy it is the Gauss-Newton matrix but for the
        labels, which are those of the data. It costs a batch of one an image, and a replica takes one at a time.
        """
        self._masked.write(masks)
        squares = np.zeros(len(masks))
        count = self._devices.count
        for images in bar(sample.batches(count), -(-sample.size // count), "images"):
            for gradients in self._gradients(Sample(*images))[1]:
                squares += self._masked.to_vector(gradients) ** 2
        return self._devices.total(squares) / sample.size

    @_computed
    def constant_loss(self, masks: Array, sample: Sample) -> float:
        """Loss of the network's mean output given for every image: what a network that sees nothing can reach."""
        self._masked.write(masks)
        model, size = self._masked.model, self._batch_size
        outputs = (parts_of(forward(model, images)) for images, _ in tensors(model, sample, size))
        sums = reduce(lambda one, other: [a + b for a, b in zip(one, other, strict=True)], map(_summed, outputs))
        means = [total / sample.size for total in sums]
        batches = (
            (joined([tf.repeat(mean, _size(images), axis=0) for mean in means]), labels)
            for images, labels in sample.batches(size)
        )
        total = sum(float(self.loss.total(labels, constant)) for constant, labels in batches)
        return float(self._devices.agreed(total)) / sample.size

    def evaluate(self, masks: Array, examples: Examples) -> Evaluation:
        """Loss and accuracy of the masked network over all examples."""
        self._masked.write(masks)
        return self._judge.evaluation(examples)

    def _gradients(self, sample: Sample) -> tuple[float, list[tuple[tf.Tensor, ...]]]:
        """This worker's part of the mean loss, and the sum of the gradients of each of its replicas."""
        stores = [self._devices.parts(total) for total in self._sums]
        for store in (store for replicas in stores for store in replicas):
            store.assign(tf.zeros_like(store))
        loss = self._mean(self._gradient_step, sample)
        self.tally.images += sample.size
        return loss, list(zip(*([store.read_value() for store in replicas] for replicas in stores), strict=True))

    def _mean(self, step: Callable[[Any, Any], Any], sample: Sample) -> float:
        """This worker's part of the mean loss."""
        batches = tensors(self._masked.model, sample, self._batch_size, self._devices)
        steps = one_behind(self._devices.parts(step(*batch)) for batch in batches)
        return sum(float(part) for parts in steps for part in parts) / sample.size


def _signature(model: keras.Model, probe: Sample) -> list[Any]:
    batch = next(tensors(model, probe, 1))
    return [each(lambda part: tf.TensorSpec((None, *part.shape[1:]), part.dtype), one) for one in batch]


def _steps(
    masked: MaskedModel, loss: Loss | LossSum, sums: list[tf.Variable], signature: list[Any], devices: Devices
) -> tuple[Callable, Callable]:
    def total_loss(images: Any, labels: Any) -> tf.Tensor:
        return loss.total(labels, forward(masked.model, images))

    total = devices.of_own_part(total_loss)

    def gradient_step(images: Any, labels: Any) -> tf.Tensor:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(masked.variables)
            value = total(images, labels)
        gradients = tape.gradient(value, masked.variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        for store, gradient in zip(sums, gradients, strict=True):
            store.assign_add(gradient)
        return value

    return devices.traced(total, signature), devices.traced(gradient_step, signature)


def tensors(model: keras.Model, examples: Examples, batch_size: int, devices: Devices = ONE_DEVICE) -> Any:
    """What of each batch falls to this worker, as tensors, images in the dtype of the model's input."""
    batches = bar(examples.batches(batch_size), -(-examples.size // batch_size), "batches")
    for images, labels in filter(None, map(devices.own, batches)):
        yield each(tf.convert_to_tensor, cast(model, images)), each(tf.convert_to_tensor, labels)


def one_behind(items: Iterable[T]) -> Iterator[T]:
    """Each item once the next is there: an accelerator gets its next batch before it is asked about the last one."""
    waiting = []
    for item in items:
        yield from waiting
        waiting = [item]
    yield from waiting


def evaluate(
    model: keras.Model, examples: Examples, loss: Loss | LossSum, batch_size: int, devices: Devices = ONE_DEVICE
) -> Evaluation:
    """Mean loss, and accuracy where labels are classes, over all examples.

    Args:
        model: made in the scope of `devices`.
        examples, loss, batch_size: of what, by what, and in how large steps it is judged.
        devices: what shares each batch.
    """
    return _Judge(model, loss, batch_size, devices).evaluation(examples)


class _Judge:
    """Loss and accuracy of a model, with one trace for each form of a batch."""

    def __init__(self, model: keras.Model, loss: Loss | LossSum, batch_size: int, devices: Devices) -> None:
        self._model, self._loss, self._batch_size, self._devices = model, loss, batch_size, devices
        self._steps: dict[tuple, Callable] = {}

    def evaluation(self, examples: Examples) -> Evaluation:
        """Means over all examples."""
        step, sums, count = self._step(examples.probe()), np.zeros(3), 0
        batches = tensors(self._model, examples, self._batch_size, self._devices)
        for size, values in one_behind((_size(batch[0]), step(*batch)) for batch in batches):
            sums += [sum(map(float, self._devices.parts(value))) for value in values]
            count += size
        total, hits, guesses, count = self._devices.total(np.append(sums, count)).tolist()
        accuracy = hits / guesses if guesses else None
        return Evaluation(total / count, accuracy, int(count), self._loss.judged.of_places)

    def _step(self, probe: Sample) -> Callable[[Any, Any], Any]:
        signature = _signature(self._model, probe)
        if (key := tuple(tf.nest.flatten(signature))) not in self._steps:
            self._steps[key] = self._devices.traced(self._devices.of_own_part(self._sums), signature)
        return self._steps[key]

    def _sums(self, images: Any, labels: Any) -> tuple[tf.Tensor, ...]:
        """Of losses, hits and guesses over a batch."""
        outputs = forward(self._model, images)
        return self._loss.total(labels, outputs), *self._loss.hits(labels, outputs)


def _summed(outputs: list[Any]) -> list[Any]:
    return [tf.reduce_sum(output, axis=0, keepdims=True) for output in outputs]


def _size(images: Any) -> int:
    return len(parts_of(images)[0])
