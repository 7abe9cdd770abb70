"""The formats that a model is exported in: one writer each."""

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cobla_tf.errors import ExportError
from cobla_tf.runtimes import Arrays, Names, endpoint, identifiers

if TYPE_CHECKING:
    import keras

Array = np.ndarray

FILE_NAMES = {
    "keras": "compressed.keras",
    "savedmodel": "saved_model",
    "litert": "compressed.tflite",
    "litert_float16": "compressed_float16.tflite",
    "litert_int8": "compressed_int8.tflite",
    "onnx": "compressed.onnx",
}


@dataclass(frozen=True)
class Source:
    """What is exported.

    Attributes:
        model: uncompiled.
        calibration: real inputs [N, ...] that 8-bit ranges are taken from; a tuple where there are several inputs.
        batch: size that the SavedModel has an endpoint for, beside that for any size; None for none.
    """

    model: "keras.Model"
    calibration: Arrays | None = None
    batch: int | None = None


def plain(model: "keras.Model") -> "keras.Model":
    """A copy that was never compiled: optimiser slots and a loss of the user's own are no part of the network."""
    from cobla_tf.rewrite import transform

    return transform(model, lambda layer: None)[0] if model.compiled else model


def signature_names(model: "keras.Model") -> Names:
    """How inputs and outputs are called in the signatures of files, in the network's order."""
    from cobla_tf.elements import output_names

    inputs = identifiers([tensor.name for tensor in model.inputs])
    if _is_flat(model) and isinstance(_structures(model)[1], dict):
        return inputs, list(output_names(model))
    return inputs, [f"output_{place}" for place in range(len(model.outputs))]


def _structures(model: "keras.Model") -> tuple[Any, Any]:
    """Inputs and outputs, as lists or dicts where the model was made so."""
    import keras

    sequential = isinstance(model, keras.Sequential)
    return (model.inputs[0], model.outputs[0]) if sequential else (model.input, model.output)


def _is_flat(model: "keras.Model") -> bool:
    """Whether a signature can name the outputs: one, or a list or dict of them and nothing deeper."""
    import keras

    _, output = _structures(model)
    parts = output.values() if isinstance(output, dict) else output if isinstance(output, list | tuple) else [output]
    return all(isinstance(part, keras.KerasTensor) for part in parts)


def _flat(model: "keras.Model") -> "keras.Model":
    """The model, with a list of its outputs in place of a structure that a signature cannot name."""
    import keras

    return model if _is_flat(model) else keras.Model(model.input, model.outputs, name=model.name)


def _signature(model: "keras.Model", batch: int | None = None) -> list[Any]:
    """What TensorFlow is told of the inputs; a name that is no identifier would be refused."""
    import keras

    pairs = zip(model.inputs, signature_names(model)[0], strict=True)
    specs = [keras.InputSpec(shape=(batch, *t.shape[1:]), dtype=t.dtype, name=name) for t, name in pairs]
    return [keras.tree.pack_sequence_as(_structures(model)[0], specs)]


def _write_keras(source: Source, path: Path) -> None:
    source.model.save(path)


def _write_saved_model(source: Source, path: Path) -> None:
    import keras

    archive, model = keras.export.ExportArchive(), _flat(source.model)
    archive.track(model)
    answer = functools.partial(model.__call__, training=False)  # else augmentation would go on
    for batch in dict.fromkeys((None, source.batch)):  # the first endpoint is the default signature
        archive.add_endpoint(endpoint(batch), answer, _signature(model, batch))
    archive.write_out(str(path), verbose=False)


def _write_litert(source: Source, path: Path, **options: Any) -> str | None:
    """For a batch of any size; where that does not convert, for one image, with a sentence that says so."""
    from tensorflow import lite

    spec = {"supported_ops": [lite.OpsSet.TFLITE_BUILTINS]} | options.pop("target_spec", {})
    try:
        _convert(source, path, None, target_spec=spec, **options)
    except Exception:  # converters raise nearly anything
        _convert(source, path, 1, target_spec=spec, **options)
        return "made for one image at a time: for a batch of any size it does not convert, as with recurrent layers"
    return None


def _convert(source: Source, path: Path, batch: int | None, **options: Any) -> None:
    """To LiteRT.

    Raises:
        ExportError: some operations are not LiteRT's own.
    """
    from cobla_tf.rewrite import in_single_precision

    model = _flat(in_single_precision(source.model))
    try:
        model.export(str(path), format="litert", verbose=False, input_signature=_signature(model, batch), **options)
    except Exception as error:  # the converter names operations among many lines
        lacking = sorted(set(re.findall(r"'tf\.(\w+)'", str(error))))
        if not lacking:
            raise
        raise ExportError(f"LiteRT cannot do {', '.join(lacking)} of this network: leave this export out") from error


def _write_litert_float16(source: Source, path: Path) -> str | None:
    from tensorflow import float16, lite

    options = {"optimizations": [lite.Optimize.DEFAULT], "target_spec": {"supported_types": [float16]}}
    return _write_litert(source, path, **options)


def _write_litert_int8(source: Source, path: Path) -> None:
    """For a batch of any size alone: the converter crashes on the loop of a recurrent layer for one image."""
    from tensorflow import lite

    from cobla_tf.elements import parts_of

    names, _ = signature_names(source.model)

    def representative() -> Iterator[dict[str, Array]]:
        for parts in zip(*parts_of(source.calibration), strict=True):
            yield {name: part[None] for name, part in zip(names, parts, strict=True)}

    options = {"optimizations": [lite.Optimize.DEFAULT], "representative_dataset": representative}
    _convert(source, path, None, target_spec={"supported_ops": [lite.OpsSet.TFLITE_BUILTINS_INT8]}, **options)


def _write_onnx(source: Source, path: Path) -> None:
    import tf2onnx

    from cobla_tf.rewrite import in_single_precision

    inputs, outputs = signature_names(source.model)
    frozen = _frozen(in_single_precision(source.model), inputs)
    entries, exits = ([tensor.name for tensor in end] for end in (frozen.inputs, frozen.outputs))
    names = dict(zip(entries + exits, inputs + outputs, strict=True))
    graph = frozen.graph.as_graph_def(add_shapes=True)
    tf2onnx.convert.from_graph_def(
        graph, source.model.name, entries, exits, tensors_to_rename=names, output_path=str(path)
    )


def _frozen(model: "keras.Model", names: Sequence[str]) -> Any:
    """The model as a graph of constants and inputs alone: tf2onnx takes the constants that a function captures for
    inputs.
    """
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    from cobla_tf.elements import forward, joined, parts_of

    pairs = zip(model.inputs, names, strict=True)
    specs = [tf.TensorSpec((None, *tensor.shape[1:]), tensor.dtype, name) for tensor, name in pairs]
    function = tf.function(lambda *parts: parts_of(forward(model, joined(parts))), specs, autograph=False)
    concrete = function.get_concrete_function()
    return convert_variables_to_constants_v2(concrete, lower_control_flow=False, aggressive_inlining=True)


WRITERS: dict[str, Callable[[Source, Path], str | None]] = {
    "keras": _write_keras,
    "savedmodel": _write_saved_model,
    "litert": _write_litert,
    "litert_float16": _write_litert_float16,
    "litert_int8": _write_litert_int8,
    "onnx": _write_onnx,
}
