"""Runs a network from a file: Keras, SavedModel, LiteRT and ONNX; imports nothing else of cobla_tf.

`python -P runtimes.py FOLDER` is therefore a process that knows only what the files hold. It runs every file that
FOLDER/job.json names ({name: [form, path, batch]}) on FOLDER/images.npy and leaves FOLDER/NAME.npy, or FOLDER/NAME.txt
where that failed.
"""

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray
Run = Callable[[Array], Array]
"""Images [N, ...] to outputs [N, ...]."""


def endpoint(batch: int | None) -> str:
    """The SavedModel's endpoint for batches of one size, or for any (None)."""
    return "serve" if batch is None else f"serve_batch_{batch}"


def load(form: str, path: str | Path, *, threads: int | None = None, batch: int | None = None) -> Run:
    """Read a file.

    Args:
        form: what the file is: keras, savedmodel, litert or onnx.
        path: where it lies.
        threads: of LiteRT and ONNX, None leaves it to them; TensorFlow's and Keras' are the whole process's.
        batch: of the SavedModel's endpoint.
    """
    if form == "keras":
        return _keras(str(path))
    if form == "savedmodel":
        return _saved_model(str(path), endpoint(batch))
    return {"litert": _litert, "onnx": _onnx}[form](str(path), threads)


def _keras(path: str) -> Run:
    import keras

    return keras.models.load_model(path, compile=False).predict_on_batch


def _saved_model(path: str, name: str) -> Run:
    import tensorflow as tf

    loaded = tf.saved_model.load(path)

    def run(images: Array) -> Array:
        return getattr(loaded, name)(tf.constant(images)).numpy()  # holds `loaded`, whose variables it reads

    return run


def interpreter(threads: int | None, **model: Any) -> Any:
    """LiteRT's interpreter of `model_path=` or `model_content=`."""
    from tensorflow import lite

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # TensorFlow tells that it will move to a package of its own
        return lite.Interpreter(num_threads=threads, **model)


def _litert(path: str, threads: int | None) -> Run:
    lite = interpreter(threads, model_path=path)
    (entry,), (exit_,) = lite.get_input_details(), lite.get_output_details()
    shape: tuple[int, ...] = ()

    def run(images: Array) -> Array:
        nonlocal shape
        if images.shape != shape:
            lite.resize_tensor_input(entry["index"], images.shape)
            lite.allocate_tensors()
            shape = images.shape
        lite.set_tensor(entry["index"], images)
        lite.invoke()
        return lite.get_tensor(exit_["index"])

    return run


def _onnx(path: str, threads: int | None) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    return lambda images: session.run(None, {entry.name: images})[0]


def main(folder: Path) -> None:
    """Run all files of a job; one that fails stops no other."""
    images = np.load(folder / "images.npy")
    for name, (form, path, batch) in json.loads((folder / "job.json").read_text(encoding="utf-8")).items():
        given = np.resize(images, (batch or len(images), *images.shape[1:]))  # repeats them where a batch holds more
        try:
            outputs = load(form, path, batch=batch)(given)[: len(images)]
            np.save(folder / f"{name}.npy", np.asarray(outputs, dtype=np.float64))
        except Exception as error:  # a runtime may raise nearly anything
            (folder / f"{name}.txt").write_text(f"{type(error).__name__}: {error}", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
