"""What a network is judged by: a loss of one output, or the sum over several."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from cobla_tf.elements import parts_of
from cobla_tf.errors import DataError
from cobla_tf.graph import of_keras

Array = np.ndarray

ROW_TOLERANCE = 1e-3
"""Of the sum of a row of shares, which may be rounded."""
HALF_PRECISION = ("float16", "bfloat16")
MEANS = ("sum_over_batch_size", "mean", "mean_with_sample_weight")
"""Reductions that Keras divides by the number of replicas."""
CLASS_NUMBERS = "sparse_categorical_crossentropy"
OTHER_SHAPES = ("categorical_generalized_cross_entropy", "circle", "ctc")
"""Keras' losses of labels of yet another shape; all but these and CLASS_NUMBERS compare element with element."""


class MeanOf(keras.losses.Loss):
    """A function of labels and outputs as Keras' own classes are, by which padding does not count."""

    def __init__(self, function: Callable[[Any, Any], Any], dtype: str) -> None:
        """Keep it under its own name, but for what TensorFlow takes in none: a lambda is called '<lambda>'."""
        name = getattr(function, "__name__", type(function).__name__)
        super().__init__(re.sub(r"^_+|\W", "", name, flags=re.ASCII) or "loss", dtype=dtype)
        self.function = function

    def call(self, labels: Any, outputs: Any) -> Any:
        """Of every element."""
        return self.function(like(labels, outputs), outputs)


@dataclass(frozen=True)
class Loss:
    """A loss and what may be said beside it.

    Attributes:
        function: reduces what it computes, and minds masks of padding.
        labels: "sparse" (class numbers), "one-hot", "binary" (0 or 1 for one output), each of an image or of several
            places of the output, such as pixels, or "other", where accuracy has no meaning.
        description: what it is, in errors.
        classes: size of the output's last axis.
        place: of its output among all of the network's.
        of_places: whether the labels are of several places of an image.
    """

    function: keras.losses.Loss
    labels: str
    description: str
    classes: int
    place: int = 0
    of_places: bool = False

    def total(self, labels: Any, outputs: Any) -> Any:
        """Sum of the loss over a batch, as a scalar tensor, of at least single precision."""
        if keras.backend.standardize_dtype(outputs.dtype) in HALF_PRECISION:
            mask = getattr(outputs, "_keras_mask", None)  # of padding; a cast would lose it
            outputs = keras.ops.cast(outputs, "float32")
            outputs._keras_mask = mask
        value, reduction = self.function(like(labels, outputs), outputs), self.function.reduction
        if reduction == "sum":
            return value
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        if reduction in MEANS and replicas > 1:
            value = value * replicas
        return keras.ops.mean(value) * keras.ops.cast(keras.ops.shape(outputs)[0], value.dtype)

    @property
    def judged(self) -> "Loss":
        """The one whose output has its accuracy told."""
        return self

    @property
    def threshold(self) -> float:
        """Above it the one output of a binary classifier says 1: half a probability, or its logit."""
        return 0.0 if getattr(self.function, "from_logits", False) else 0.5

    @property
    def left_out(self) -> int | None:
        """The class number whose images or places do not count."""
        return getattr(self.function, "ignore_class", None)

    @property
    def told_in_training(self) -> bool:
        """Whether training tells an accuracy: Keras counts every image and place."""
        return self.labels != "other" and self.left_out is None

    def hits(self, labels: Any, outputs: Any) -> tuple[Any, Any]:
        """Correct first guesses in a batch, and all that count, as scalar tensors: one an image, or one a place.

        Padding does not count, nor the class that the loss leaves out, nor a place whose row of shares is all zeros.
        """
        if self.labels == "other":
            return keras.ops.zeros((), "int32"), keras.ops.zeros((), "int32")
        guesses = self._guesses(outputs)
        if self.labels == "one-hot":
            counts = keras.ops.any(keras.ops.not_equal(labels, 0), axis=-1)
            labels = keras.ops.cast(keras.ops.argmax(labels, axis=-1), "int32")
        else:
            numbers = labels > 0.5 if self.labels == "binary" else labels  # half: of a mask with a soft edge
            labels = keras.ops.reshape(keras.ops.cast(numbers, "int32"), keras.ops.shape(guesses))
            counts = keras.ops.ones_like(guesses, dtype="bool")
            if self.left_out is not None:
                counts = keras.ops.not_equal(labels, self.left_out)
        mask = getattr(outputs, "_keras_mask", None)
        if mask is not None and len(mask.shape) == len(guesses.shape):
            counts = keras.ops.logical_and(counts, mask)
        right = keras.ops.logical_and(counts, keras.ops.equal(guesses, labels))
        return tuple(keras.ops.sum(keras.ops.cast(each, "int32")) for each in (right, counts))

    def _guesses(self, outputs: Any) -> Any:
        """Class numbers, int32, of the outputs' shape without the last axis."""
        if self.labels == "binary":
            return keras.ops.cast(outputs[..., 0] > self.threshold, "int32")
        return keras.ops.cast(keras.ops.argmax(outputs, axis=-1), "int32")

    @property
    def computes(self) -> str:
        """The function of Keras' own that it is, by its name; "" for code of the user's own."""
        wrapped = getattr(self.function, "fn", None) if of_keras(type(self.function)) else None
        inner = self.function.function if isinstance(self.function, MeanOf) else wrapped
        return inner.__name__ if hasattr(inner, "__name__") and of_keras(inner) else ""

    def check_shapes(self, labels: Array, outputs: Array) -> None:
        """Refuse labels that a loss of Keras' would stretch to the outputs' shape, or cannot compare with them."""
        got, sizes = labels.shape[1:], outputs.shape[1:]
        numbers = tuple(like(labels, outputs).shape[1:])
        if self.computes == CLASS_NUMBERS and numbers not in (sizes[:-1], (*sizes[:-1], 1)):
            remedy = (
                "take the place of the 1 in each row, labels.argmax(-1)" if got == sizes else "bring them to one size"
            )
            raise DataError(
                f"{self.function.name} takes one class number for all outputs along the last axis: expected labels of "
                f"shape {sizes[:-1]} an image for outputs of {sizes}, got {got}; {remedy}."
            )
        if self.computes in ("", CLASS_NUMBERS, *OTHER_SHAPES) or numbers == sizes:
            return
        are_classes = got in (sizes[:-1], (*sizes[:-1], 1)) and np.array_equal(labels, np.round(labels))
        remedy = "one-hot the class numbers" if are_classes else "bring them to one shape"
        raise DataError(
            f"{self.function.name} compares each label with an output of its own: expected labels of shape {sizes} an "
            f"image, as the outputs, got {got}; {remedy}."
        )

    def check_labels(self, labels: Array) -> None:
        """Refuse labels that are not of this kind, or class numbers that the output does not have."""
        check_numbers(labels)
        if self.labels == "sparse":
            _check_labels(labels if self.left_out is None else labels[labels != self.left_out], self.classes)
        elif self.labels == "binary":
            _check_binary(labels, shares=self.of_places)
        elif self.labels == "one-hot" and "categorical" in (
            self.computes if self.of_places else self.description.lower()
        ):
            _check_rows(labels)


@dataclass(frozen=True)
class LossSum:
    """The sum of the losses of several outputs, with what a Loss says and does as a whole; the rest is in `judged`.

    Attributes:
        parts: one for each output that has a loss.
    """

    parts: tuple[Loss, ...]

    @property
    def judged(self) -> Loss:
        """Of the first output whose labels are classes, whose accuracy is told; of the first where there is none."""
        return next((part for part in self.parts if part.labels != "other"), self.parts[0])

    @property
    def description(self) -> str:
        """What it is, in errors."""
        return " + ".join(part.description for part in self.parts)

    def total(self, labels: Any, outputs: Any) -> Any:
        """Sum over a batch and over the outputs."""
        return sum(part.total(own, outputs[part.place]) for part, own in self._pairs(labels))

    def hits(self, labels: Any, outputs: Any) -> tuple[Any, Any]:
        """Of the output that is judged, as in `Loss`."""
        return next(part.hits(own, outputs[part.place]) for part, own in self._pairs(labels) if part is self.judged)

    def check_labels(self, labels: Any) -> None:
        """Refuse class numbers that an output does not have."""
        for part, own in self._pairs(labels):
            part.check_labels(own)

    def _pairs(self, labels: Any) -> list[tuple[Loss, Any]]:
        return list(zip(self.parts, parts_of(labels), strict=True))


def like(labels: Any, outputs: Any) -> Any:
    """Labels [n] for outputs [n, 1] and the like, given the axis that Keras' compile gives them: without it a plain
    function of both compares every label with every output."""
    if len(labels.shape) + 1 == len(outputs.shape) and outputs.shape[-1] == 1:
        return keras.ops.expand_dims(labels, -1)
    if len(labels.shape) == len(outputs.shape) + 1 and labels.shape[-1] == 1:
        return keras.ops.squeeze(labels, -1)
    return labels


def check_numbers(labels: Array) -> None:
    """Refuse labels that are names, objects or the like."""
    if not np.issubdtype(labels.dtype, np.number) and labels.dtype != bool:
        raise DataError(f"expected labels that are numbers, got {labels.dtype}; map class names to 0..n-1 first.")


def _check_binary(labels: Array, shares: bool) -> None:
    """Refuse labels that are not 0 or 1; `shares` takes what lies between, as at the edge of a mask."""
    fit = labels.min() >= 0 and labels.max() <= 1 if shares else np.isin(labels, (0, 1)).all()
    if not fit:
        raise DataError(
            f"expected labels {'from 0 to 1' if shares else '0 or 1'} for the model's one output, got "
            f"{labels.min()}..{labels.max()}."
        )


def are_shares(labels: Array) -> Array:
    """Which rows [n, ..., classes] are shares of classes, bool [n, ...]; of places some may be left out, by zeros
    alone."""
    fit = (labels >= 0).all(axis=-1) & (np.abs(labels.sum(axis=-1, dtype=np.float64) - 1) <= ROW_TOLERANCE)
    return fit | (labels == 0).all(axis=-1) if labels.ndim > 2 else fit


def _check_rows(labels: Array) -> None:
    fit = are_shares(labels)
    if not fit.all():
        first = np.unravel_index(np.argmin(fit), fit.shape)
        row = ", ".join(f"{place:,}" for place in first)
        raise DataError(
            f"expected labels that are shares of the classes, each row with a sum of 1; row {row} has "
            f"{labels[first].sum()}. Give a loss for several classes at once, such as 'binary_crossentropy', by loss=."
        )


def _check_labels(labels: Array, classes: int) -> None:
    """Refuse class numbers that are not whole, or outside [0, classes)."""
    if not np.array_equal(labels, np.round(labels)):
        raise DataError("expected class numbers, as the first labels are, got fractions or NaN among the rest.")
    if labels.size and not (labels.min() >= 0 and labels.max() < classes):
        raise DataError(
            f"expected labels in 0..{classes - 1}, one for each of the model's {classes} outputs, "
            f"got {labels.min()}..{labels.max()}."
        )
