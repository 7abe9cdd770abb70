"""Which loss a network is judged by, recognised from its outputs and labels rather than guessed."""

from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
from absl import logging

from cobla_tf.elements import each, first_outputs, losses_by_output, output_names, parts_of, rows_not_finite
from cobla_tf.errors import CoblaError, ConfigError, DataError, ModelError, did_you_mean, first_line
from cobla_tf.examples import Sample
from cobla_tf.graph import is_graph, of_keras
from cobla_tf.loss import Loss, LossSum, MeanOf, are_shares, check_numbers
from cobla_tf.texts import counted

Array = np.ndarray

BINARY = {
    "binary_crossentropy": keras.losses.BinaryCrossentropy,
    "BinaryCrossentropy": keras.losses.BinaryCrossentropy,
    "binary_focal_crossentropy": keras.losses.BinaryFocalCrossentropy,
    "BinaryFocalCrossentropy": keras.losses.BinaryFocalCrossentropy,
}
"""Losses that take probabilities by their bare name, and logits if told so."""
CATEGORICAL = {
    "categorical_crossentropy": keras.losses.CategoricalCrossentropy,
    "CategoricalCrossentropy": keras.losses.CategoricalCrossentropy,
    "sparse_categorical_crossentropy": keras.losses.SparseCategoricalCrossentropy,
    "SparseCategoricalCrossentropy": keras.losses.SparseCategoricalCrossentropy,
}
"""Likewise, over the classes along the last axis; what is the default."""
FOCAL = {
    "categorical_focal_crossentropy": keras.losses.CategoricalFocalCrossentropy,
    "CategoricalFocalCrossentropy": keras.losses.CategoricalFocalCrossentropy,
}
"""Likewise, and no default."""
OF_PROBABILITIES = {*BINARY.values(), *CATEGORICAL.values(), *FOCAL.values()}
ROUNDED = 2e-2
"""By how much probabilities of half precision, whatever they were cast to since, may be off."""


def resolve_loss(loss: Any, model: keras.Model, probe: Sample) -> Loss | LossSum:
    """Choose the loss, and check labels against the model on a few real examples.

    Args:
        loss: None for (sparse) categorical cross-entropy, or anything that keras.losses.get takes; for several outputs
            also a list or dict of these, see `losses_by_output`.
        model: of any number of inputs and outputs.
        probe: a few examples that check_images let pass.

    Raises:
        ModelError: outputs that the default loss does not fit, or that the model cannot compute.
        ConfigError: Keras knows no such loss.
        DataError: labels outside the outputs, or a loss that is not finite.
    """
    outputs = each(lambda part: np.asarray(part, dtype=np.float64), first_outputs(model, probe.images))
    given, names = losses_by_output(loss, model), output_names(model)
    if len(names) == 1:
        return _resolve(given[0], _Output(model, 0, outputs), probe.labels)
    parts = []
    for (place, one), labels in zip(given.items(), parts_of(probe.labels), strict=True):
        try:
            parts.append(_resolve(one, _Output(model, place, outputs[place]), labels))
        except CoblaError as error:
            raise type(error)(f"output {names[place]!r}: {error}") from error
    return LossSum(tuple(parts))


def check_finite(name: str, loss: Any, model: keras.Model, labels: Any) -> None:
    """Refuse NaN and infinity in labels (NumPy) that are all there; of a loss of the user's own, which may leave them
    out, the log tells.

    Args:
        name: of the data, in errors.
        loss, model: as of `resolve_loss`.
        labels: [N, ...], or a tuple of such for several outputs.

    Raises:
        DataError: some image has such a label.
    """
    for one, part in zip(losses_by_output(loss, model).values(), parts_of(labels), strict=True):
        bad = rows_not_finite(part)
        if not len(bad):
            continue
        found = f"{name}: NaN or infinity in the labels of {counted(len(bad), 'image')}, first at index {bad[0]:,}"
        if one is None or _is_keras(one) or of_keras(type(one)):
            raise DataError(f"{found}; leave these images out.")
        logging.warning("%s; the loss given has to leave them out by itself", found)


@dataclass(frozen=True)
class _Output:
    """One output of a model, and its values on the probe."""

    model: keras.Model
    place: int
    values: Array

    @property
    def dtype(self) -> str:
        return keras.backend.standardize_dtype(self.model.outputs[self.place].dtype)

    @property
    def precision(self) -> str:
        """Of a loss of it."""
        return "float64" if self.dtype == "float64" else "float32"

    @property
    def activation(self) -> Any:
        """Of the layer that makes it, nested models opened."""
        tensor = self.model.outputs[self.place]
        layer, _, index = tensor._keras_history
        while is_graph(layer):
            layer, _, index = layer.outputs[index]._keras_history
        return getattr(layer, "activation", None)

    @property
    def has_places(self) -> bool:
        """Pixels, steps or the like, each with outputs of its own."""
        return self.values.ndim > 2

    @property
    def places(self) -> int:
        """Their number in an image."""
        return int(np.prod(self.values.shape[1:-1]))

    @property
    def are_probabilities(self) -> bool:
        """Of classes along the last axis."""
        tolerance = 1e-4 if self.dtype in ("float32", "float64") else ROUNDED
        return bool((self.values >= 0).all() and np.allclose(self.values.sum(axis=-1), 1, atol=tolerance))

    @property
    def are_logits(self) -> bool:
        """Of classes along the last axis."""
        return not self.are_probabilities and self.activation is not keras.activations.sigmoid

    def fit(self, loss: keras.losses.Loss) -> bool:
        """Whether a loss that takes probabilities can do with them; some of Keras' scale their rows to a sum of 1."""
        scaled = isinstance(loss, (keras.losses.CategoricalCrossentropy, keras.losses.CategoricalFocalCrossentropy))
        return bool((self.values >= -ROUNDED).all() and (scaled or (self.values <= 1 + ROUNDED).all()))


def _resolve(loss: Any, output: _Output, labels: Array) -> Loss:
    check_numbers(labels)
    kind = _label_kind(labels, output.values)
    classes = kind in ("sparse", "one-hot") and not output.has_places
    by_default = loss is None or (_is_default(loss) and classes)
    chosen = _default(output, labels, kind) if by_default else _given(loss, output, kind)
    chosen = replace(chosen, place=output.place, of_places=output.places > 1 and chosen.labels != "other")
    chosen.check_shapes(labels, output.values)
    chosen.check_labels(labels)
    value = _first_value(chosen, labels, output.values)
    if not np.isfinite(value):
        raise DataError(
            f"the loss of the original network is {value} on the first {len(labels)} images; expected a finite number: "
            "check labels, weights, preprocessing and loss."
        )
    if type(loss) in OF_PROBABILITIES and not loss.get_config()["from_logits"] and not output.fit(loss):
        low, high = output.values.min(), output.values.max()
        raise ConfigError(
            f"loss: {type(loss).__name__} with from_logits=False takes probabilities, and the model's outputs, from "
            f"{low:.3g} to {high:.3g}, are none; give it from_logits=True."
        )
    return chosen


def _is_default(loss: Any) -> bool:
    """A bare name of what is the default: whether it is told logits or probabilities is then left open."""
    return _is_keras(loss) and _bare(loss) in CATEGORICAL


def _is_keras(loss: Any) -> bool:
    """Whether it is a bare name, or a function of Keras' own."""
    return isinstance(loss, str) or (hasattr(loss, "__name__") and of_keras(loss))


def _bare(loss: Any) -> Any:
    return getattr(loss, "__name__", loss)


def _on_logits(loss: Any, output: _Output) -> keras.losses.Loss | None:
    """The loss by a bare name for logits, where the outputs are these and it takes probabilities."""
    if not _is_keras(loss):
        return None
    if _bare(loss) in BINARY and not ((output.values >= 0) & (output.values <= 1)).all():
        return BINARY[_bare(loss)](from_logits=True, dtype=output.precision)
    over_classes = CATEGORICAL | FOCAL
    if _bare(loss) not in over_classes or output.values.shape[-1] < 2 or not output.are_logits:
        return None
    return over_classes[_bare(loss)](from_logits=True, dtype=output.precision)


def _first_value(loss: Loss, labels: Array, outputs: Array) -> float:
    try:
        return float(loss.total(labels, keras.ops.convert_to_tensor(outputs))) / len(labels)
    except Exception as error:  # Keras and TensorFlow raise several kinds for shapes that do not fit
        raise DataError(
            f"{loss.description} does not fit outputs of shape {outputs.shape} with labels of shape "
            f"{labels.shape} and type {labels.dtype}: {first_line(error)}"
        ) from error


def _label_kind(labels: Array, outputs: Array) -> str:
    if outputs.ndim > 1 and outputs.shape[-1] == 1 and labels.size == outputs.size and np.isin(labels, (0, 1)).all():
        return "binary"
    if outputs.ndim < 2 or outputs.shape[-1] < 2:
        return "other"
    if labels.shape == outputs.shape:
        return "one-hot" if labels.any() and are_shares(labels).all() else "other"
    places = outputs.shape[:-1]
    fit = labels.shape in (places, (*places, 1)) or (outputs.ndim == 2 and labels.size == len(outputs))
    return "sparse" if fit and _are_whole(labels) else "other"


def _are_whole(labels: Array) -> bool:
    return np.issubdtype(labels.dtype, np.integer) or bool((labels == np.round(labels)).all())


def _given(loss: Any, output: _Output, kind: str) -> Loss:
    told = _on_logits(loss, output)
    try:
        function = told or keras.losses.get(loss)
    except (TypeError, ValueError) as error:  # TypeError: a class that needs arguments, as LossFunctionWrapper
        hint = did_you_mean(loss, filter(str.islower, dir(keras.losses)), most=2)
        raise ConfigError(
            f"loss {loss!r} is none of Keras'; expected a name such as 'mse' or a keras.losses.Loss{hint}"
        ) from error
    if not isinstance(function, keras.losses.Loss):
        function = MeanOf(function, output.precision)
    name = function.name or type(function).__name__
    said = f"{name}{' on logits' if told else ''}, as given"
    chosen = Loss(function, kind, said, output.values.shape[-1])
    # of places a loss of the user's own may leave out some, by labels that the outputs do not have
    called = chosen.computes if output.has_places else name.lower()
    fits = {"one-hot": True, "binary": "binary" in called, "sparse": "sparse" in called}
    return chosen if fits.get(kind) else replace(chosen, labels="other")


def _default(output: _Output, labels: Array, kind: str) -> Loss:
    if kind in ("binary", "other"):
        _check_sizes(labels.shape, output.values.shape)
        raise ModelError(
            f"the default loss is cross-entropy over classes, which does not fit outputs {output.values.shape} with "
            f"labels {labels.shape}; pass loss=, e.g. loss={_example(labels)}, or the one it was compiled with."
        )
    from_logits = not output.are_probabilities
    if from_logits and output.activation is keras.activations.sigmoid:
        raise ModelError(
            "the model ends in a sigmoid, neither logits nor probabilities; pass loss= to say how to judge it."
        )
    maker = keras.losses.SparseCategoricalCrossentropy if kind == "sparse" else keras.losses.CategoricalCrossentropy
    said = "logits" if from_logits else "probabilities (non-negative and of sum 1 on every image tried)"
    function = maker(from_logits=from_logits, dtype=output.precision)
    return Loss(function, kind, f"{maker.__name__} on {said}", output.values.shape[-1])


def _check_sizes(labels: tuple[int, ...], outputs: tuple[int, ...]) -> None:
    """Refuse what look like labels of classes, but of other places or other classes than the outputs."""
    if len(labels) == len(outputs) and labels[:-1] == outputs[:-1] and outputs[-1] != labels[-1] > 1:
        raise DataError(
            f"expected class numbers or rows of {outputs[-1]}, as the model has outputs, got rows of {labels[-1]}; for "
            "labels of another meaning pass loss=."
        )
    places, own = outputs[1:-1], labels[1 : len(outputs) - 1]
    if places and len(labels) in (len(outputs), len(outputs) - 1) and own != places:
        wanted, got = ("x".join(map(str, sizes)) for sizes in (places, own))
        raise DataError(
            f"expected labels of {wanted}, as the model's outputs {outputs}, got {got}; bring them to one size, or for "
            "labels of another meaning pass loss=."
        )


def _example(labels: Array) -> str:
    """A loss that may be meant: of several classes at once, or of numbers."""
    return "'binary_crossentropy'" if ((labels >= 0) & (labels <= 1)).all() else "'mse'"
