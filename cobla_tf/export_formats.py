"""The formats that a model is exported in: one writer each."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cobla_tf.runtimes import endpoint

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
        model: uncompiled, with one input and one output.
        calibration: real inputs [N, ...] that 8-bit ranges are taken from.
        batch: size that the SavedModel has an endpoint for, beside that for any size; None for none.
    """

    model: "keras.Model"
    calibration: Array | None = None
    batch: int | None = None


def plain(model: "keras.Model") -> "keras.Model":
    """A copy that was never compiled: optimiser slots and a loss of the user's own are no part of the network."""
    from cobla_tf.rewrite import transform

    return transform(model, lambda layer: None)[0] if model.compiled else model


def _write_keras(source: Source, path: Path) -> None:
    source.model.save(path)


def _write_saved_model(source: Source, path: Path) -> None:
    import keras

    archive = keras.export.ExportArchive()
    entry = source.model.inputs[0]
    for batch in dict.fromkeys((None, source.batch)):  # the first endpoint is the default signature
        spec = keras.InputSpec(shape=(batch, *entry.shape[1:]), dtype=entry.dtype)
        archive.track_and_add_endpoint(endpoint(batch), source.model, [spec])
    archive.write_out(str(path), verbose=False)


def _write_litert(source: Source, path: Path, **options: Any) -> None:
    source.model.export(str(path), format="litert", verbose=False, **options)


def _write_litert_float16(source: Source, path: Path) -> None:
    from tensorflow import float16, lite

    options = {"optimizations": [lite.Optimize.DEFAULT], "target_spec": {"supported_types": [float16]}}
    _write_litert(source, path, **options)


def _write_litert_int8(source: Source, path: Path) -> None:
    from tensorflow import lite

    def representative() -> Iterator[list[Array]]:
        yield from ([image[None]] for image in source.calibration)

    options = {"optimizations": [lite.Optimize.DEFAULT], "representative_dataset": representative}
    _write_litert(source, path, target_spec={"supported_ops": [lite.OpsSet.TFLITE_BUILTINS_INT8]}, **options)


def _write_onnx(source: Source, path: Path) -> None:
    source.model.export(str(path), format="onnx", verbose=False)


WRITERS: dict[str, Callable[[Source, Path], None]] = {
    "keras": _write_keras,
    "savedmodel": _write_saved_model,
    "litert": _write_litert,
    "litert_float16": _write_litert_float16,
    "litert_int8": _write_litert_int8,
    "onnx": _write_onnx,
}
