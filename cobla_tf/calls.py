"""Every use of a layer in a Keras model, found by replaying its graph."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from numbers import Integral
from typing import Any

import keras

from cobla_tf.elements import is_of
from cobla_tf.errors import ConfigError
from cobla_tf.graph import copied, functional, inputs_like, is_graph, leaf_layers, symbolic
from cobla_tf.report_parts import MODEL_INPUT

SEVERAL = 1009
"""Images on which a graph is replayed: a prime, so that the axis that the batch went into is known by its size."""


@dataclass(frozen=True)
class Call:
    """One use of a layer in a model.

    Attributes:
        layer: the layer of the given model.
        path: names from the outermost nested model to the layer, joined by "/".
        input_shape, output_shape: of one image, without the first axis.
        shares_with: path of another layer that holds one of its weights by reference; empty where there is none.
        inputs: places in `record_operations` of what its inputs come from; MODEL_INPUT is an input of the model.
        times: size of that first axis, for one image: the frames of a film, where they are folded into the batch or
            come before it.
    """

    layer: keras.layers.Layer
    path: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    shares_with: str = ""
    inputs: tuple[int, ...] = ()
    times: int = 1


def record_calls(model: keras.Model, input_shape: tuple[Any, ...] | None = None) -> list[Call]:
    """The calls of `record_operations` that are of layers."""
    return [call for call in record_operations(model, input_shape) if isinstance(call.layer, keras.layers.Layer)]


def record_operations(model: keras.Model, input_shape: tuple[Any, ...] | None = None) -> list[Call]:
    """All calls of leaf layers and of plain operations on tensors, in the order of computation, nested models opened.

    Args:
        model: a functional or Sequential model; it is not changed.
        input_shape: replaces the model's own where that has open dimensions, without the batch axis; a tuple of shapes
            where it has several inputs.

    Raises:
        ConfigError: `input_shape` is not of an image that the model takes.
    """
    shapes = _shapes(model, input_shape)
    batch = model.inputs[0].shape[0] or SEVERAL
    pairs = zip(shapes, model.inputs, strict=True)
    like = [keras.KerasTensor((batch, *shape), tensor.dtype, sparse=tensor.sparse) for shape, tensor in pairs]
    recorder = _Recorder(shared_by_reference(model), batch)
    recorder.replay(model, like, "")
    return recorder.calls


def _shapes(model: keras.Model, input_shape: Any) -> Sequence[tuple[int | None, ...]]:
    own = [tensor.shape[1:] for tensor in model.inputs]
    if input_shape is None:
        return own
    given = (input_shape,) if len(own) == 1 else input_shape
    if not (isinstance(given, Sequence) and len(given) == len(own) and all(map(_fits, given, own))):
        raise ConfigError(
            "input_shape must be that of one image as the model takes it, without the batch axis, a tuple of them for "
            f"several inputs: expected {own[0] if len(own) == 1 else tuple(own)}, got {input_shape!r}."
        )
    return given


def _fits(shape: Any, own: tuple[int | None, ...]) -> bool:
    sizes = isinstance(shape, tuple | list) and all(s is None or (isinstance(s, Integral) and s > 0) for s in shape)
    return sizes and is_of(shape, own)


def calls_by_layer(calls: list[Call]) -> list[list[Call]]:
    """The calls of each layer, in the order of its first one."""
    groups: dict[int, list[Call]] = {}
    for call in calls:
        groups.setdefault(id(call.layer), []).append(call)
    return list(groups.values())


def shared_by_reference(model: keras.Model) -> dict[int, str]:
    """Layers of a model, by id(), that hold a weight which another layer holds too, and that one's path."""
    holders: dict[int, list[tuple[int, str]]] = {}
    for path, layer in {id(layer): (path, layer) for path, layer in leaf_layers(model)}.values():
        for weight in layer.weights:
            holders.setdefault(id(weight), []).append((id(layer), path))
    shared = (those for those in holders.values() if len(those) > 1)
    return {key: next(path for other, path in those if other != key) for those in shared for key, _ in those}


@dataclass
class _Recorder:
    shared: dict[int, str]
    batch: int
    calls: list[Call] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=count)
    origins: dict[int, tuple[Any, tuple[int, ...]]] = field(default_factory=dict)
    """By id() of a tensor: the tensor, which keeps the id its own, and the calls that it comes from."""

    def replay(self, model: keras.Model, like: list[Any], prefix: str) -> keras.Model:
        """Call copies of a model's layers on inputs of the shapes of `like`; the model that comes of it."""
        view, originals = functional(model), {}

        def clone(layer: Any) -> Any:
            stand_in = layer if is_graph(layer) else copied(layer)
            originals[id(stand_in)] = layer
            return stand_in

        def call(stand_in: Any, *args: Any, **kwargs: Any) -> Any:
            """Call the copy as its original was called, and record it, or what is inside if it is a model."""
            layer, given = originals[id(stand_in)], symbolic(args, kwargs)
            if is_graph(layer):
                images = symbolic(args[0] if args else kwargs["inputs"])  # without a mask
                inner = self.replay(layer, images, f"{prefix}{layer.name}/")
                inner.name = f"{layer.name}->{next(self.numbers)}"  # one for each use, and names must differ
                outputs = inner(*args, **kwargs)
                self._link(symbolic(outputs), [self._origin(tensor) for tensor in inner.outputs])
                return outputs
            outputs = stand_in(*args, **kwargs)
            if given:
                self._record(layer, prefix, given, symbolic(outputs))
            return outputs

        inputs = self._inputs(view, like)
        return keras.models.clone_model(view, input_tensors=inputs, clone_function=clone, call_function=call)

    def _inputs(self, view: keras.Model, like: list[Any]) -> Any:
        """New inputs in the form of the model's own, of the shapes of `like` and linked to what these come from."""
        inputs = inputs_like(view, like)
        self._link(keras.tree.flatten(inputs), [self._origin(tensor) for tensor in like])
        return inputs

    def _record(self, layer: Any, prefix: str, given: list[Any], made: list[Any]) -> None:
        before = dict.fromkeys(place for tensor in given for place in self._origin(tensor))
        (times, *taken), (_, *given_out) = self._of_one(given[0].shape), self._of_one(made[0].shape)
        self._link(made, [(len(self.calls),)] * len(made))
        shared, path = self.shared.get(id(layer), ""), prefix + layer.name
        self.calls.append(Call(layer, path, tuple(taken), tuple(given_out), shared, tuple(before), times or 1))

    def _of_one(self, shape: tuple[int | None, ...]) -> list[int | None]:
        """A shape for one image: the axis that the batch is in, or is folded into, is that much smaller."""
        sizes = list(shape) or [1]
        axis = next((i for i, size in enumerate(sizes) if size and size % self.batch == 0), None)
        if axis is not None:
            sizes[axis] //= self.batch
        return sizes

    def _origin(self, tensor: Any) -> tuple[int, ...]:
        return self.origins.get(id(tensor), (tensor, (MODEL_INPUT,)))[1]

    def _link(self, tensors: list[Any], origins: list[tuple[int, ...]]) -> None:
        self.origins.update((id(t), (t, origin)) for t, origin in zip(tensors, origins, strict=True))
