"""Copies of Keras models in which some layers are replaced by others."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from cobla_tf.elements import cast, each, first_outputs, forward, parts_of
from cobla_tf.errors import ModelError, first_line
from cobla_tf.graph import copied, functional, inputs_like, is_graph, symbolic
from cobla_tf.loss import HALF_PRECISION

Layers = Sequence[keras.layers.Layer]

TRIED = 2
"""Images on which a copy is compared."""
EXACT, HALF = 1e-5, 1e-2
"""Differences, relative to the largest output, that are rounding."""


def transform(
    model: keras.Model,
    replace: Callable[[keras.layers.Layer], Layers | None],
    make: Callable[[Any], Any] = copied,
) -> tuple[keras.Model, dict[int, keras.layers.Layer]]:
    """A copy of a model in which some layers are replaced by chains of layers.

    Args:
        model: a functional or Sequential model; it is not changed and shares no weights with the copy.
        replace: for a leaf layer of `model`, the layers that stand in its place (called one after the other, built
            on the way), or None to copy it with its weights. Called once a layer, shared layers included.
        make: a copy of a layer or operation, not built yet.

    Returns:
        the new functional model, and the copied layers by id() of their originals.
    """
    rewriter = _Rewriter(replace, make)
    copy = rewriter.rewrite(model)
    rewriter.copy_weights()
    return copy, {key: stand_in for key, (_, stand_in) in rewriter.copies.items()}


def in_single_precision(model: keras.Model) -> keras.Model:
    """A copy of a model whose layers compute in float32 where they did in less; the model itself where none did."""
    if not any(layer.compute_dtype in HALF_PRECISION for layer in model._flatten_layers(include_self=False)):
        return model
    return transform(model, lambda layer: None, _single)[0]


def _single(layer: Any) -> Any:
    copy = copied(layer)
    for part in copy._flatten_layers() if isinstance(copy, keras.layers.Layer) else ():
        if part.compute_dtype in HALF_PRECISION:
            part.dtype_policy = "float32"
    return copy


def check_copy(model: keras.Model, images: Any) -> None:
    """Refuse a model whose copy computes something else: what a layer does may not all be in its config.

    Args:
        model: a functional or Sequential model; nothing is compared where it gives two answers to one question itself.
        images: NumPy [N, ...], or a tuple of such; the first ones are tried.

    Raises:
        ModelError: outputs differ by more than rounding, it names the first layer whose own do; or there are none.
    """
    few = cast(model, each(lambda part: part[:TRIED], images))
    first_outputs(model, few)
    copy, _ = transform(model, lambda layer: None)
    if _alike(model, copy, few) or not _alike(model, model, few):
        return
    where = _first_other(model, copy, few)
    raise ModelError(
        f"a copy of model {model.name!r}, with all its weights, computes something else{where}: what a layer is made "
        "from must be in its config, and an activation of your own must not have the name of one of Keras'."
    )


def _alike(one: keras.Model, other: keras.Model, images: Any) -> bool:
    for pair in zip(*(parts_of(forward(model, images)) for model in (one, other)), strict=True):
        exact = keras.backend.standardize_dtype(pair[0].dtype) in ("float32", "float64")
        first, second = (np.asarray(keras.ops.cast(part, "float64")) for part in pair)
        size = np.max(np.abs(first[np.isfinite(first)]), initial=0)
        if not np.allclose(first, second, rtol=0, atol=(EXACT if exact else HALF) * size, equal_nan=True):
            return False
    return True


def _first_other(model: keras.Model, copy: keras.Model, images: Any) -> str:
    """Of the layers that are used once, in the order of the model."""
    for layer in functional(model).layers:
        if isinstance(layer, keras.layers.InputLayer) or len(layer._inbound_nodes) != 1:
            continue
        inner = [keras.Model(of.input, of.get_layer(layer.name).output) for of in (functional(model), copy)]
        if not _alike(*inner, images):
            return f", first in layer {layer.name!r} ({type(layer).__name__})"
    return ""


def alone(layers: Layers, input_shape: tuple[int, ...]) -> keras.Model:
    """A model of copies of some layers, one after the other.

    Args:
        layers: each with one input and one output; they are not changed.
        input_shape: of the first, without the batch axis.
    """
    images = outputs = keras.Input(input_shape)
    for layer in layers:
        copy = copied(layer)
        outputs = copy(outputs)
        _give_state(layer, copy)
    return keras.Model(images, outputs)


def _freeze(model: keras.Model) -> None:
    """Freeze a model, which in Keras freezes all layers inside, but let those train that did."""
    flags = [(layer, layer.trainable) for layer in _inside(model)]
    model.trainable = False
    for layer, flag in flags:
        layer.trainable = flag


def _inside(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """All layers, nested models before what they hold."""
    for layer in model.layers:
        yield layer
        if is_graph(layer):
            yield from _inside(layer)


def _copy_vocabulary(layer: Any, copy: Any) -> None:
    """Of a lookup layer; one given to its constructor has come with the config.

    Raises:
        ModelError: it has weights beside it that Keras does not give out.
    """
    words = layer.get_vocabulary(include_special_tokens=False)
    if words == copy.get_vocabulary(include_special_tokens=False):
        return
    if layer.get_config().get("output_mode") == "tf_idf":
        raise ModelError(
            f"layer {layer.name!r} learnt its vocabulary by adapt() in the mode tf_idf, and Keras cannot copy that: "
            "give it vocabulary= and idf_weights= when it is made, or use it outside of the model."
        )
    copy.set_vocabulary(words)


def _give_state(layer: Any, copy: Any) -> None:
    """Give a built copy the weights of its original, and what they and its config do not hold.

    Raises:
        ModelError: the copy has other weights.
    """
    pairs = list(zip(layer._flatten_layers(), copy._flatten_layers(), strict=False))
    for part, new in pairs:  # a layer comes before those inside it, to which it hands its flag down
        new.trainable = part.trainable
        if hasattr(part, "get_vocabulary"):  # learnt by adapt()
            _copy_vocabulary(part, new)
        _change_kernel(part, new)
    try:
        copy.set_weights(layer.get_weights())
        for weight, new in zip(layer.weights, copy.weights, strict=True):
            new.trainable = weight.trainable
    except ValueError as error:
        raise ModelError(
            f"layer {layer.name!r} ({type(layer).__name__}) has other weights than one made anew from its config: it "
            "was changed after it was made, or its class needs a get_config with all that its weights hang on "
            f"({first_line(error)})."
        ) from error
    for _, new in pairs:
        if isinstance(new, keras.layers.Normalization):  # computes with constants made from its weights
            new.finalize_state()


def _change_kernel(layer: Any, copy: Any) -> None:
    """Quantise a copy, and give it LoRA, where this was done to the original after it was made."""
    mode = getattr(layer, "quantization_mode", None)
    if mode and not getattr(copy, "quantization_mode", None):
        copy.quantize(mode)
    if getattr(layer, "lora_enabled", False):
        if not copy.lora_enabled:
            copy.enable_lora(layer.lora_rank)
        copy.lora_alpha = layer.lora_alpha


@dataclass
class _Rewriter:
    replace: Callable[[keras.layers.Layer], Layers | None]
    make: Callable[[Any], Any]
    chains: dict[int, Layers] = field(default_factory=dict)
    copies: dict[int, tuple[Any, Any]] = field(default_factory=dict)

    def rewrite(self, model: keras.Model) -> keras.Model:
        view = functional(model)
        functions = {"clone_function": self._clone, "call_function": self._call}
        inputs = inputs_like(view, view.inputs)  # Keras' own would be neither sparse nor optional
        copy = keras.models.clone_model(view, input_tensors=inputs, **functions)
        if not model.trainable:
            _freeze(copy)
        return copy

    def copy_weights(self) -> None:
        for layer, copy in self.copies.values():
            if isinstance(layer, keras.layers.Layer) and not is_graph(layer):
                _give_state(layer, copy)

    def _clone(self, layer: Any) -> Any:
        if id(layer) in self.chains:
            return layer
        if id(layer) not in self.copies:
            chain = None if is_graph(layer) or not isinstance(layer, keras.layers.Layer) else self.replace(layer)
            if chain is not None:
                self.chains[id(layer)] = chain
                return layer
            self.copies[id(layer)] = (layer, self.rewrite(layer) if is_graph(layer) else self.make(layer))
        return self.copies[id(layer)][1]

    def _call(self, layer: Any, *args: Any, **kwargs: Any) -> Any:
        chain = self.chains.get(id(layer))
        if chain is None:
            return layer(*args, **kwargs)
        (outputs,) = symbolic(args, kwargs)
        for step in chain:
            outputs = step(outputs)
        return outputs
