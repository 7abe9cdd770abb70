"""Runs a network from a file: Keras, SavedModel, LiteRT and ONNX; imports nothing else of cobla_tf.

`python -P runtimes.py FOLDER` is therefore a process that knows only what the files hold. It runs every file that
FOLDER/job.json names ({name: [form, path, batch, names]}) on FOLDER/images.npz and leaves FOLDER/NAME.npz, or
FOLDER/NAME.txt where that failed. Several inputs or outputs are tuples in the network's order.
"""

import json
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from keyword import iskeyword
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray
Arrays = Array | tuple[Array, ...]
"""Of one input or output, or of several."""
Run = Callable[[Arrays], Arrays]
"""Images [N, ...] to outputs [N, ...]."""
Names = tuple[Sequence[str], Sequence[str]]
"""Of the inputs and the outputs in a file's signature, in the network's order."""


def endpoint(batch: int | None) -> str:
    """The SavedModel's endpoint for batches of one size, or for any (None)."""
    return "serve" if batch is None else f"serve_batch_{batch}"


def parts_of(arrays: Arrays) -> tuple[Array, ...]:
    """The arrays, one or several."""
    return arrays if isinstance(arrays, tuple) else (arrays,)


def write_arrays(path: Path, arrays: Arrays) -> None:
    """Write one array or several, in order."""
    np.savez(path, *parts_of(arrays))


def read_arrays(path: Path) -> Arrays:
    """Read what `write_arrays` wrote."""
    with np.load(path) as file:
        return _joined([file[name] for name in file.files])


def repeated(arrays: Arrays, size: int) -> Arrays:
    """A batch of a size: the first of each array, from the beginning again where it holds fewer."""
    if isinstance(arrays, tuple):
        return tuple(repeated(array, size) for array in arrays)
    return np.resize(arrays, (size, *arrays.shape[1:]))


def identifiers(names: Sequence[str]) -> list[str]:
    """Names of inputs as a signature can hold them, all different."""
    plain = [re.sub(r"\W", "_", name, flags=re.ASCII).lstrip("_") for name in names]
    usable = "" not in plain and len(set(plain)) == len(plain) and not any(map(iskeyword, plain))
    return plain if usable else [f"input_{place}" for place in range(len(names))]


def load(
    form: str,
    path: str | Path,
    *,
    threads: int | None = None,
    batch: int | None = None,
    names: Names = ((), ()),
) -> Run:
    """Read a file, to be run on the inputs in the network's order.

    Args:
        form: what the file is: keras, savedmodel, litert or onnx.
        path: where it lies.
        threads: of LiteRT and ONNX, None leaves it to them; TensorFlow's and Keras' are the whole process's.
        batch: of the SavedModel's endpoint.
        names: needed where there are several inputs or outputs, since most formats have an order of their own.
    """
    if form == "keras":
        return _keras(str(path))
    if form == "savedmodel":
        return _saved_model(str(path), endpoint(batch), names)
    return {"litert": _litert, "onnx": _onnx}[form](str(path), threads, names)


def _keras(path: str) -> Run:
    import keras

    model = keras.models.load_model(path, compile=False)

    def run(images: Arrays) -> Arrays:
        sequential = isinstance(model, keras.Sequential)
        given = images if sequential else keras.tree.pack_sequence_as(model.input, parts_of(images))
        return _joined(keras.tree.flatten(model.predict_on_batch(given)))

    return run


def _saved_model(path: str, name: str, names: Names) -> Run:
    import tensorflow as tf

    loaded = tf.saved_model.load(path)
    signature = getattr(loaded, name).input_signature
    specs = tf.nest.flatten(signature)  # in another order than the network's if they are in an OrderedDict
    places = [names[0].index(spec.name) for spec in specs] if len(specs) > 1 else [0]

    def run(images: Arrays) -> Arrays:
        parts = [tf.constant(parts_of(images)[place]) for place in places]
        given = tf.nest.pack_sequence_as(signature, parts)
        outputs = getattr(loaded, name)(*given)  # holds `loaded`, whose variables it reads
        if isinstance(outputs, dict):
            outputs = [outputs[key] for key in names[1]]
        return _joined([output.numpy() for output in tf.nest.flatten(outputs)])

    return run


def interpreter(threads: int | None, **model: Any) -> Any:
    """LiteRT's interpreter of `model_path=` or `model_content=`."""
    from tensorflow import lite

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # TensorFlow tells that it will move to a package of its own
        return lite.Interpreter(num_threads=threads, **model)


def _litert(path: str, threads: int | None, names: Names) -> Run:
    lite = interpreter(threads, model_path=path)
    entries, exits = lite.get_input_details(), lite.get_output_details()
    if len(entries) + len(exits) > 2:
        signature = lite.get_signature_runner()
        entries = [signature.get_input_details()[name] for name in names[0]]
        exits = [signature.get_output_details()[name] for name in names[1]]
    single = all(entry["shape_signature"][0] == 1 for entry in lite.get_input_details())
    shapes: list[tuple[int, ...]] = []

    def run(images: Arrays) -> Arrays:
        """Resize the file's inputs, which takes time, only where the images have another shape than the last ones."""
        nonlocal shapes
        parts = parts_of(images)
        if [part.shape for part in parts] != shapes:
            shapes = [part.shape for part in parts]
            for entry, shape in zip(entries, shapes, strict=True):
                lite.resize_tensor_input(entry["index"], shape)
            lite.allocate_tensors()
        for entry, part in zip(entries, parts, strict=True):
            lite.set_tensor(entry["index"], part)
        lite.invoke()
        return _joined([lite.get_tensor(exit_["index"]) for exit_ in exits])

    def run_each(images: Arrays) -> Arrays:
        """One image at a time: the file was made for a batch of 1 alone."""
        parts = parts_of(images)
        outputs = [parts_of(run(_joined([part[i : i + 1] for part in parts]))) for i in range(len(parts[0]))]
        return _joined([np.concatenate(column) for column in zip(*outputs, strict=True)])

    return run_each if single else run


def _onnx(path: str, threads: int | None, names: Names) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    entries, exits = ([tensor.name for tensor in end] for end in (session.get_inputs(), session.get_outputs()))
    entries = names[0] if len(entries) > 1 else entries
    exits = names[1] if len(exits) > 1 else exits
    return lambda images: _joined(session.run(list(exits), dict(zip(entries, parts_of(images), strict=True))))


def _joined(parts: Sequence[Array]) -> Arrays:
    return tuple(parts) if len(parts) > 1 else parts[0]


def main(folder: Path) -> None:
    """Run all files of a job; one that fails stops no other."""
    images = read_arrays(folder / "images.npz")
    size = len(parts_of(images)[0])
    for name, (form, path, batch, names) in json.loads((folder / "job.json").read_text(encoding="utf-8")).items():
        try:
            outputs = parts_of(load(form, path, batch=batch, names=names)(repeated(images, batch or size)))
            write_arrays(folder / f"{name}.npz", tuple(part[:size].astype(np.float64) for part in outputs))
        except Exception as error:  # a runtime may raise nearly anything
            (folder / f"{name}.txt").write_text(f"{type(error).__name__}: {error}", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
