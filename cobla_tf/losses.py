"""Which loss a network is judged by, recognised from its outputs and labels rather than guessed."""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from cobla_tf.errors import ConfigError, DataError, ModelError, first_line
from cobla_tf.examples import Sample
from cobla_tf.graph import leaf_layers

Array = np.ndarray


@dataclass(frozen=True)
class Loss:
    """A loss and what may be said beside it.

    Attributes:
        function: a keras.losses.Loss, or a function of (labels, outputs).
        labels: "sparse" (class numbers), "one-hot", or "other", where accuracy has no meaning.
        description: one sentence for the report.
    """

    function: Any
    labels: str
    description: str

    def total(self, labels: Any, outputs: Any) -> Any:
        """Sum of the loss over a batch, as a scalar tensor."""
        value = self.function(labels, outputs)
        if getattr(self.function, "reduction", None) == "sum":
            return value
        return keras.ops.mean(value) * keras.ops.cast(keras.ops.shape(outputs)[0], value.dtype)

    def hits(self, labels: Any, outputs: Any) -> Any:
        """Number of correct first guesses in a batch, as a scalar tensor."""
        if self.labels == "one-hot":
            labels = keras.ops.argmax(labels, axis=-1)
        guesses = keras.ops.argmax(outputs, axis=-1)
        same = keras.ops.equal(guesses, keras.ops.cast(keras.ops.reshape(labels, (-1,)), guesses.dtype))
        return keras.ops.sum(keras.ops.cast(same, "int32"))


def resolve_loss(loss: Any, model: keras.Model, probe: Sample) -> Loss:
    """Choose the loss, and check labels against the model on a few real examples.

    Args:
        loss: None for (sparse) categorical cross-entropy, or anything that keras.losses.get takes.
        model: one input, one output.
        probe: a few examples that check_images let pass.

    Raises:
        ModelError: outputs that the default loss does not fit.
        ConfigError: Keras knows no such loss.
        DataError: labels outside the outputs, or a loss that is not finite.
    """
    if not np.issubdtype(probe.labels.dtype, np.number) and probe.labels.dtype != bool:
        raise DataError(f"expected labels that are numbers, got {probe.labels.dtype}; map class names to 0..n-1 first.")
    outputs = np.asarray(model(probe.images.astype(model.inputs[0].dtype), training=False), dtype=np.float64)
    kind = _label_kind(probe.labels, outputs)
    chosen = _default(model, outputs, probe.labels, kind) if _is_default(loss) else _given(loss, kind)
    if chosen.labels == "sparse":
        check_labels(probe.labels, outputs.shape[-1])
    value = _first_value(chosen, probe, outputs)
    if not np.isfinite(value):
        raise DataError(
            f"the loss of the original network is {value} on the first {probe.size} images; expected a finite number: "
            "check weights, preprocessing and loss."
        )
    return chosen


def _is_default(loss: Any) -> bool:
    """Nothing, or a bare name of what is the default: whether it is told logits or probabilities is then left open."""
    name = getattr(loss, "__name__", loss)
    known = ("categorical_crossentropy", "CategoricalCrossentropy")
    return loss is None or (isinstance(name, str) and name.removeprefix("sparse_").removeprefix("Sparse") in known)


def _first_value(loss: Loss, probe: Sample, outputs: Array) -> float:
    try:
        return float(loss.total(probe.labels, keras.ops.convert_to_tensor(outputs))) / probe.size
    except Exception as error:  # Keras and TensorFlow raise several kinds for shapes that do not fit
        raise DataError(
            f"{loss.description} does not fit outputs of shape {outputs.shape} with labels of shape "
            f"{probe.labels.shape} and type {probe.labels.dtype}: {first_line(error)}"
        ) from error


def check_images(model: keras.Model, probe: Sample) -> None:
    """Refuse models of several inputs or outputs, and images that do not fit the input."""
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ModelError(
            f"expected a model with one input and one output, got {len(model.inputs)} and {len(model.outputs)}."
        )
    if not isinstance(model, keras.Sequential) and not isinstance(model.output, keras.KerasTensor):
        raise ModelError(f"expected a model whose output is a tensor, got a {type(model.output).__name__} of one.")
    expected, got = tuple(model.inputs[0].shape[1:]), probe.images.shape[1:]
    if len(expected) != len(got) or any(e not in (None, g) for e, g in zip(expected, got, strict=True)):
        raise DataError(f"expected images of shape {expected}, as the model's input, got {got}.")
    dtype = np.dtype(model.inputs[0].dtype) if model.inputs[0].dtype != "bfloat16" else np.dtype("float32")
    if np.issubdtype(dtype, np.integer) and not np.array_equal(probe.images.astype(dtype), probe.images):
        raise DataError(f"expected images that are whole numbers, as the model's input is {dtype}, got fractions.")


def check_labels(labels: Array, classes: int) -> None:
    """Refuse class numbers outside [0, classes)."""
    if labels.size and not (labels.min() >= 0 and labels.max() < classes):
        raise DataError(
            f"expected labels in 0..{classes - 1}, one for each of the model's {classes} outputs, "
            f"got {labels.min()}..{labels.max()}."
        )


def _label_kind(labels: Array, outputs: Array) -> str:
    if outputs.ndim != 2 or outputs.shape[1] < 2:
        return "other"
    if labels.shape == outputs.shape:
        return "one-hot" if np.allclose(labels.sum(axis=1), 1) and (labels >= 0).all() else "other"
    integral = np.issubdtype(labels.dtype, np.integer) or bool((labels == np.round(labels)).all())
    return "sparse" if integral and labels.size == len(outputs) else "other"


def _given(loss: Any, kind: str) -> Loss:
    try:
        function = keras.losses.get(loss)
    except ValueError as error:
        raise ConfigError(
            f"loss {loss!r} is none of Keras'; expected a name such as 'mse' or a keras.losses.Loss."
        ) from error
    name = getattr(function, "name", None) or getattr(function, "__name__", type(function).__name__)
    comparable = kind if kind == "one-hot" or "sparse" in name else "other"
    return Loss(function, comparable, f"{name}, as given")


def _default(model: keras.Model, outputs: Array, labels: Array, kind: str) -> Loss:
    if kind == "other":
        raise ModelError(
            f"the default loss is cross-entropy over classes, which does not fit outputs {outputs.shape} with labels "
            f"{labels.shape}; pass loss=, e.g. loss='binary_crossentropy'."
        )
    outputs_dtype = keras.backend.standardize_dtype(model.outputs[0].dtype)
    from_logits = not _are_probabilities(outputs, outputs_dtype)
    if from_logits and _ends_in_sigmoid(model):
        raise ModelError(
            "the model ends in a sigmoid, neither logits nor probabilities; pass loss= to say how to judge it."
        )
    maker = keras.losses.SparseCategoricalCrossentropy if kind == "sparse" else keras.losses.CategoricalCrossentropy
    said = "logits" if from_logits else "probabilities (non-negative and of sum 1 on every image tried)"
    precision = "float64" if outputs_dtype == "float64" else "float32"
    return Loss(maker(from_logits=from_logits, dtype=precision), kind, f"{maker.__name__} on {said}")


def _are_probabilities(outputs: Array, dtype: str) -> bool:
    tolerance = 1e-4 if dtype in ("float32", "float64") else 2e-2
    return bool((outputs >= 0).all() and np.allclose(outputs.sum(axis=1), 1, atol=tolerance))


def _ends_in_sigmoid(model: keras.Model) -> bool:
    *_, (_, last) = leaf_layers(model)
    return getattr(last, "activation", None) is keras.activations.sigmoid
