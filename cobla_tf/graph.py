"""The graph of a Keras model: what can be read, its layers, copies of these; knows nothing about low rank."""

import re
from collections.abc import Iterator
from contextlib import suppress
from os import PathLike
from typing import Any

import keras

from cobla_tf.errors import ModelError, first_line

SCOPE = re.compile(r"[A-Za-z0-9_.\\/>-]+")
"""What TensorFlow takes for the name of a part of a graph; it cannot run a model with other names in one."""


def check_model(model: Any) -> None:
    """Refuse what cannot be rewritten, or run in a graph of TensorFlow's.

    Raises:
        ModelError: not a Keras model, subclassed, unbuilt, or holding a Lambda layer or one of a class that is not
            registered, so that no file with it could be read; a name that TensorFlow refuses; or an input of strings.
    """
    if not isinstance(model, keras.Model):
        is_path = isinstance(model, str | PathLike)
        got = f"the path {str(model)!r}; load it with keras.models.load_model" if is_path else type(model).__name__
        raise ModelError(f"expected a keras.Model, got {got}.")
    if isinstance(model, keras.Sequential) and not model.built:
        raise ModelError(
            f"Sequential model {model.name!r} is not built yet: start it with keras.Input(shape) or call "
            "model.build(input_shape), and load its weights, first."
        )
    _check_graph(model, model.name)
    if not SCOPE.fullmatch(model.name) or model.name[0] in "_\\/>-":
        raise ModelError(
            f"model {model.name!r} has a name that TensorFlow refuses: make it anew, keras.Model(model.input, "
            "model.output, name=...), with a name that begins with a letter or digit and has no blanks or accents."
        )
    for tensor in model.inputs:
        if tensor.dtype == "string":
            raise ModelError(
                f"input {tensor.name!r} of model {model.name!r} takes strings: turn them into numbers in front of it."
            )
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
    for operation in functional(model).operations:
        for node in operation._inbound_nodes:
            operands = keras.tree.flatten((node.arguments.args, node.arguments.kwargs))
            weight = next((operand for operand in operands if isinstance(operand, keras.Variable)), None)
            if weight is not None:
                raise ModelError(
                    f"{operation.name!r} in model {path!r} takes the weight {weight.path!r} itself, which its copy "
                    "would share with the original: use it inside of a registered layer class of your own."
                )


def _check_layer(path: str, layer: keras.layers.Layer) -> None:
    if not SCOPE.fullmatch(path) and not isinstance(layer, keras.layers.InputLayer):
        raise ModelError(
            f"layer {path!r} has a name that TensorFlow refuses: build the model with names of letters A to Z, digits, "
            "'.', '_' and '-' alone."
        )
    if isinstance(layer, keras.layers.Lambda):
        raise ModelError(
            f"layer {path!r} is a Lambda layer, which cannot be copied safely: replace it by a built-in layer or "
            "by a registered layer class of your own."
        )
    kind = type(layer)
    known = keras.saving.get_registered_object(keras.saving.get_registered_name(kind))
    if not of_keras(kind) and known is not kind:
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


def is_graph(layer: Any) -> bool:
    """Whether a layer is a model whose layers and connections can be read, and say all of what it does."""
    if isinstance(layer, keras.Sequential):
        return layer.built and type(layer).call is keras.Sequential.call
    if not isinstance(layer, keras.Model) or not hasattr(layer, "operations"):
        return False
    inherited = (kind.call for kind in type(layer).__mro__ if of_keras(kind))
    return type(layer).call is next(inherited)


def of_keras(what: Any) -> bool:
    """Whether a class or function is of Keras itself."""
    return what.__module__.partition(".")[0] == "keras"


def functional(model: keras.Model) -> keras.Model:
    """A functional, uncompiled view of a model on the same layers: Keras rewrites only functional models, and would
    take a compile state along that it may not be able to rebuild.
    """
    if isinstance(model, keras.Sequential):
        return keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    return keras.Model(model.input, model.output, name=model.name)


def copied(layer: Any) -> Any:
    """A layer or operation of the same class and settings, not built yet.

    Raises:
        ModelError: it cannot be made from its own config.
    """
    try:
        copy = layer.__class__.from_config(layer.get_config())
    except Exception as error:  # a custom layer's own code may raise anything
        kind = f"layer {layer.name!r} ({type(layer).__name__})"
        raise ModelError(f"{kind} cannot be copied from its config: {_remedy(layer, error)}.") from error
    copy.name = layer.name  # not in the config that Keras gives a class without one of its own
    return copy


def _remedy(layer: Any, error: Exception) -> str:
    with suppress(Exception):  # as above
        for argument, name in _unregistered(layer.get_config()):
            return (
                f"its {argument}, {name}, is not registered: put @keras.saving.register_keras_serializable() above its "
                "def or class, or give one of Keras' own by its name, such as activation='silu'"
            )
    return f"give the class a get_config that from_config understands, or use a built-in layer ({first_line(error)})"


def _unregistered(config: Any, argument: str = "") -> Iterator[tuple[str, str]]:
    """Arguments in a config that are functions, or of classes, that Keras does not know, with the names of these."""
    if isinstance(config, list | tuple):
        for part in config:
            yield from _unregistered(part, argument)
    if not isinstance(config, dict):
        return
    name = config.get("config") if config.get("class_name") == "function" else config.get("registered_name")
    if argument and set(config) == {"value"}:
        yield argument, "a lambda"
    elif isinstance(name, str) and keras.saving.get_registered_object(name) is None:
        yield argument, name
    for key, part in config.items():
        yield from _unregistered(part, argument if key == "config" else key)


def inputs_like(view: keras.Model, like: list[Any]) -> Any:
    """New inputs in the form of a model's own, of the shapes and types of the tensors `like`."""
    inputs = [
        keras.Input(
            batch_shape=new.shape,
            dtype=new.dtype,
            sparse=new.sparse,
            name=old.name,  # keys, where the model takes a dict
            optional=getattr(old._keras_history.operation, "optional", False),
        )
        for new, old in zip(like, view.inputs, strict=True)
    ]
    return keras.tree.pack_sequence_as(view.input, inputs)


def symbolic(*structure: Any) -> list[Any]:
    """The symbolic tensors in nested structures, in order."""
    return [leaf for leaf in keras.tree.flatten(structure) if isinstance(leaf, keras.KerasTensor)]
