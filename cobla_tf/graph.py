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
        shares_with: path of another layer that holds one of its weights by reference; empty where there is none.
        inputs: places in `record_operations` of what its inputs come from; the model's own inputs have none.
    """

    layer: keras.layers.Layer
    path: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    shares_with: str = ""
    inputs: tuple[int, ...] = ()


def check_model(model: Any) -> None:
    """Refuse what cannot be rewritten.

    Raises:
        ModelError: not a Keras model, subclassed, unbuilt, or holding a Lambda layer or one of a class that is not
            registered, so that no file with it could be read.
    """
    if not isinstance(model, keras.Model):
        raise ModelError(f"expected a keras.Model, got {type(model).__name__}.")
    if isinstance(model, keras.Sequential) and not model.built:
        raise ModelError(
            f"Sequential model {model.name!r} is not built yet: start it with keras.Input(shape) or call "
            "model.build(input_shape), and load its weights, first."
        )
    _check_graph(model, model.name)
    for path, layer in leaf_layers(model):
        _check_layer(path, layer)


def _check_graph(model: Any, path: str) -> None:
    if not is_graph(model):
        raise ModelError(
            f"model {path!r} is a subclassed {type(model).__name__}, whose graph cannot be read: rebuild it with "
            "the functional API, keras.Model(inputs, outputs)."
        )
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            _check_graph(layer, f"{path}/{layer.name}")


def _check_layer(path: str, layer: keras.layers.Layer) -> None:
    if isinstance(layer, keras.layers.Lambda):
        raise ModelError(
            f"layer {path!r} is a Lambda layer, which cannot be copied safely: replace it by a built-in layer or "
            "by a registered layer class of your own."
        )
    kind = type(layer)
    known = keras.saving.get_registered_object(keras.saving.get_registered_name(kind))
    if kind.__module__.partition(".")[0] != "keras" and known is not kind:
        raise ModelError(
            f"layer {path!r} is of the class {kind.__name__}, which is not registered, so that no saved model with it "
            "could be read: put @keras.saving.register_keras_serializable() above the class."
        )


def leaf_layers(model: keras.Model, prefix: str = "") -> Iterator[tuple[str, keras.layers.Layer]]:
    """Every layer with its path, nested functional and Sequential models opened."""
    for layer in model.layers:
        if is_graph(layer):
            yield from leaf_layers(layer, f"{prefix}{layer.name}/")
        else:
            yield prefix + layer.name, layer


def record_calls(model: keras.Model, input_shape: tuple[Any, ...] | None = None) -> list[Call]:
    """All calls of leaf layers: `record_operations` without the operations that are no layers."""
    return [call for call in record_operations(model, input_shape) if isinstance(call.layer, keras.layers.Layer)]


def record_operations(model: keras.Model, input_shape: tuple[Any, ...] | None = None) -> list[Call]:
    """All calls of leaf layers and of plain operations on tensors, in the order of computation, nested models opened.

    Args:
        model: a functional or Sequential model; it is not changed.
        input_shape: replaces the model's own where that has open dimensions, without the batch axis; a tuple of shapes
            where it has several inputs.
    """
    recorder = _Recorder(_shared_by_reference(model))
    like = None
    if input_shape is not None:
        shapes = input_shape if len(model.inputs) > 1 else (input_shape,)
        pairs = zip(shapes, model.inputs, strict=True)
        like = [keras.KerasTensor((None, *shape), tensor.dtype) for shape, tensor in pairs]
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


def alone(layers: Layers, input_shape: tuple[int, ...]) -> keras.Model:
    """A model of copies of some layers, one after the other.

    Args:
        layers: each with one input and one output; they are not changed.
        input_shape: of the first, without the batch axis.
    """
    images = outputs = keras.Input(input_shape)
    for layer in layers:
        copy = _copy(layer)
        outputs = copy(outputs)
        copy.set_weights(layer.get_weights())
    return keras.Model(images, outputs)


def is_graph(layer: Any) -> bool:
    """Whether a layer is a model whose layers and connections can be read, and say all of what it does."""
    if isinstance(layer, keras.Sequential):
        return layer.built and type(layer).call is keras.Sequential.call
    if not isinstance(layer, keras.Model) or not hasattr(layer, "operations"):
        return False
    inherited = (kind.call for kind in type(layer).__mro__ if kind.__module__.partition(".")[0] == "keras")
    return type(layer).call is next(inherited)


def _shared_by_reference(model: keras.Model) -> dict[int, str]:
    """Layers, by id(), that hold a weight which another layer holds too, and that one's path."""
    holders: dict[int, list[tuple[int, str]]] = {}
    for path, layer in {id(layer): (path, layer) for path, layer in leaf_layers(model)}.values():
        for weight in layer.weights:
            holders.setdefault(id(weight), []).append((id(layer), path))
    shared = (those for those in holders.values() if len(those) > 1)
    return {key: next(path for other, path in those if other != key) for those in shared for key, _ in those}


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
    shared: dict[int, str]
    calls: list[Call] = field(default_factory=list)
    origins: dict[int, tuple[Any, tuple[int, ...]]] = field(default_factory=dict)
    """By id() of a tensor: the tensor, which keeps the id its own, and the calls that it comes from."""

    def replay(self, model: keras.Model, like: list[Any] | None, prefix: str) -> list[Any]:
        """Call copies of a model's layers on inputs of the shapes of `like`, its own ones by default; the outputs."""
        view, originals = _functional(model), {}

        def clone(layer: Any) -> Any:
            stand_in = _Rewriter(lambda _: None).rewrite(layer) if is_graph(layer) else _copy(layer)
            originals[id(stand_in)] = layer
            return stand_in

        def call(stand_in: Any, *args: Any, **kwargs: Any) -> Any:
            layer, given = originals[id(stand_in)], _tensors(args, kwargs)
            if is_graph(layer):
                inner = self.replay(layer, given, f"{prefix}{layer.name}/")
                outputs = stand_in(*args, **kwargs)
                self._link(_tensors(outputs), [self._origin(tensor) for tensor in inner])
                return outputs
            outputs = stand_in(*args, **kwargs)
            if given:
                made, before = _tensors(outputs), dict.fromkeys(i for tensor in given for i in self._origin(tensor))
                shapes = tuple(given[0].shape[1:]), tuple(made[0].shape[1:])
                self._link(made, [(len(self.calls),)] * len(made))
                shared = self.shared.get(id(layer), "")
                self.calls.append(Call(layer, prefix + layer.name, *shapes, shared, tuple(before)))
            return outputs

        inputs = None
        if like is not None:
            pairs = zip(like, view.inputs, strict=True)  # names, since a dict of inputs must have them as keys
            fresh = [keras.Input(batch_shape=new.shape, dtype=new.dtype, name=old.name) for new, old in pairs]
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
        copy = keras.models.clone_model(_functional(model), clone_function=self._clone, call_function=self._call)
        if not model.trainable:
            copy.trainable = False
        return copy

    def copy_weights(self) -> None:
        for layer, copy in self.copies.values():
            if not is_graph(layer) and getattr(layer, "weights", None):
                copy.set_weights(layer.get_weights())
                if hasattr(copy, "finalize_state"):  # Normalization computes with constants made from its weights
                    copy.finalize_state()

    def _clone(self, layer: Any) -> Any:
        if id(layer) in self.chains:
            return layer
        if id(layer) not in self.copies:
            chain = None if is_graph(layer) or not isinstance(layer, keras.layers.Layer) else self.replace(layer)
            if chain is not None:
                self.chains[id(layer)] = chain
                return layer
            self.copies[id(layer)] = (layer, self.rewrite(layer) if is_graph(layer) else _copy(layer))
        return self.copies[id(layer)][1]

    def _call(self, layer: Any, *args: Any, **kwargs: Any) -> Any:
        chain = self.chains.get(id(layer))
        if chain is None:
            return layer(*args, **kwargs)
        (outputs,) = _tensors(args, kwargs)
        for step in chain:
            outputs = step(outputs)
        return outputs
