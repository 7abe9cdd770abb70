"""Replaying and rewriting the graph of a Keras model; knows nothing about low rank."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

from cobla_tf.errors import ModelError, first_line

Layers = Sequence[keras.layers.Layer]


@dataclass(frozen=True)
class Call:
    """One use of a layer in a model.

    Attributes:
        layer: the layer of the given model.
        path: names from the outermost nested model to the layer, joined by "/".
        input_shape, output_shape: without the batch axis.
        inputs: places in `record_operations` of what its inputs come from; the model's own inputs have none.
    """

    layer: keras.layers.Layer
    path: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    inputs: tuple[int, ...] = ()


def check_model(model: Any) -> None:
    """Refuse what cannot be rewritten.

    Raises:
        ModelError: not a Keras model, subclassed, unbuilt, without weights, or holding a Lambda layer.
    """
    if not isinstance(model, keras.Model):
        raise ModelError(f"expected a keras.Model, got {type(model).__name__}.")
    if isinstance(model, keras.Sequential) and not model.built:
        raise ModelError(
            f"Sequential model {model.name!r} is not built yet: start it with keras.Input(shape) or call "
            "model.build(input_shape), and load its weights, first."
        )
    if not _is_graph(model):
        raise ModelError(
            f"model {model.name!r} is a subclassed {type(model).__name__}, whose graph cannot be read: rebuild it with "
            "the functional API, keras.Model(inputs, outputs)."
        )
    for path, layer in leaf_layers(model):
        if isinstance(layer, keras.layers.Lambda):
            raise ModelError(
                f"layer {path!r} is a Lambda layer, which cannot be copied safely: replace it by a built-in layer or "
                "by a registered layer class of your own."
            )


def leaf_layers(model: keras.Model, prefix: str = "") -> Iterator[tuple[str, keras.layers.Layer]]:
    """Every layer with its path, nested functional and Sequential models opened."""
    for layer in model.layers:
        if _is_graph(layer):
            yield from leaf_layers(layer, f"{prefix}{layer.name}/")
        else:
            yield prefix + layer.name, layer


def record_calls(model: keras.Model, input_shape: tuple[int, ...] | None = None) -> list[Call]:
    """All calls of leaf layers: `record_operations` without the operations that are no layers."""
    return [call for call in record_operations(model, input_shape) if isinstance(call.layer, keras.layers.Layer)]


def record_operations(model: keras.Model, input_shape: tuple[int, ...] | None = None) -> list[Call]:
    """All calls of leaf layers and of plain operations on tensors, in the order of computation, nested models opened.

    Args:
        model: a functional or Sequential model; it is not changed.
        input_shape: replaces the model's own where that has open dimensions, without the batch axis.
    """
    recorder = _Recorder()
    like = None
    if input_shape is not None and len(model.inputs) == 1:
        like = [keras.KerasTensor((None, *input_shape), model.inputs[0].dtype)]
    recorder.replay(model, like, "")
    return recorder.calls


def transform(
    model: keras.Model, replace: Callable[[keras.layers.Layer], Layers | None]
) -> tuple[keras.Model, dict[int, keras.layers.Layer]]:
    """A copy of a model in which some layers are replaced by chains of layers.

    Args:
        model: a functional or Sequential model; it is not changed and shares no weights with the copy.
        replace: for a leaf layer of `model`, the layers that stand in its place (called one after the other, built
            on the way), or None to copy it with its weights. Called once a layer, shared layers included.

    Returns:
        the new functional model, and the copied layers by id() of their originals.
    """
    rewriter = _Rewriter(replace)
    copy = rewriter.rewrite(model)
    rewriter.copy_weights()
    return copy, {key: stand_in for key, (_, stand_in) in rewriter.copies.items()}


def _is_graph(layer: Any) -> bool:
    if isinstance(layer, keras.Sequential):
        return layer.built
    return isinstance(layer, keras.Model) and hasattr(layer, "operations")


def _functional(model: keras.Model) -> keras.Model:
    """A functional, uncompiled view of a model on the same layers: Keras rewrites only functional models, and would
    take a compile state along that it may not be able to rebuild.
    """
    if isinstance(model, keras.Sequential):
        return keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    return keras.Model(model.input, model.output, name=model.name)


def _copy(layer: Any) -> Any:
    try:
        return layer.__class__.from_config(layer.get_config())
    except Exception as error:  # a custom layer's own code may raise anything
        raise ModelError(
            f"layer {layer.name!r} ({type(layer).__name__}) cannot be copied from its config: give the class a "
            f"get_config that from_config understands, or use a built-in layer ({first_line(error)})."
        ) from error


def _tensors(*structure: Any) -> list[Any]:
    return [leaf for leaf in keras.tree.flatten(structure) if isinstance(leaf, keras.KerasTensor)]


@dataclass
class _Recorder:
    calls: list[Call] = field(default_factory=list)
    origins: dict[int, tuple[Any, tuple[int, ...]]] = field(default_factory=dict)
    """By id() of a tensor: the tensor, which keeps the id its own, and the calls that it comes from."""

    def replay(self, model: keras.Model, like: list[Any] | None, prefix: str) -> list[Any]:
        """Call copies of a model's layers on inputs of the shapes of `like`, its own ones by default; the outputs."""
        view, originals = _functional(model), {}

        def clone(layer: Any) -> Any:
            stand_in = _Rewriter(lambda _: None).rewrite(layer) if _is_graph(layer) else _copy(layer)
            originals[id(stand_in)] = layer
            return stand_in

        def call(stand_in: Any, *args: Any, **kwargs: Any) -> Any:
            layer, given = originals[id(stand_in)], _tensors(args, kwargs)
            if _is_graph(layer):
                inner = self.replay(layer, given, f"{prefix}{layer.name}/")
                outputs = stand_in(*args, **kwargs)
                self._link(_tensors(outputs), [self._origin(tensor) for tensor in inner])
                return outputs
            outputs = stand_in(*args, **kwargs)
            if given:
                made, before = _tensors(outputs), dict.fromkeys(i for tensor in given for i in self._origin(tensor))
                shapes = tuple(given[0].shape[1:]), tuple(made[0].shape[1:])
                self._link(made, [(len(self.calls),)] * len(made))
                self.calls.append(Call(layer, prefix + layer.name, *shapes, tuple(before)))
            return outputs

        inputs = None
        if like is not None:
            fresh = [keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype) for tensor in like]
            self._link(fresh, [self._origin(tensor) for tensor in like])
            inputs = keras.tree.pack_sequence_as(view.input, fresh)
        return keras.models.clone_model(view, input_tensors=inputs, clone_function=clone, call_function=call).outputs

    def _origin(self, tensor: Any) -> tuple[int, ...]:
        return self.origins.get(id(tensor), (tensor, ()))[1]

    def _link(self, tensors: list[Any], origins: list[tuple[int, ...]]) -> None:
        self.origins.update((id(t), (t, origin)) for t, origin in zip(tensors, origins, strict=True))


@dataclass
class _Rewriter:
    replace: Callable[[keras.layers.Layer], Layers | None]
    chains: dict[int, Layers] = field(default_factory=dict)
    copies: dict[int, tuple[Any, Any]] = field(default_factory=dict)

    def rewrite(self, model: keras.Model) -> keras.Model:
        return keras.models.clone_model(_functional(model), clone_function=self._clone, call_function=self._call)

    def copy_weights(self) -> None:
        for layer, copy in self.copies.values():
            if not _is_graph(layer) and getattr(layer, "weights", None):
                copy.set_weights(layer.get_weights())
                if hasattr(copy, "finalize_state"):  # Normalization computes with constants made from its weights
                    copy.finalize_state()

    def _clone(self, layer: Any) -> Any:
        if id(layer) in self.chains:
            return layer
        if id(layer) not in self.copies:
            chain = None if _is_graph(layer) or not isinstance(layer, keras.layers.Layer) else self.replace(layer)
            if chain is not None:
                self.chains[id(layer)] = chain
                return layer
            self.copies[id(layer)] = (layer, self.rewrite(layer) if _is_graph(layer) else _copy(layer))
        return self.copies[id(layer)][1]

    def _call(self, layer: Any, *args: Any, **kwargs: Any) -> Any:
        chain = self.chains.get(id(layer))
        if chain is None:
            return layer(*args, **kwargs)
        (outputs,) = _tensors(args, kwargs)
        for step in chain:
            outputs = step(outputs)
        return outputs
