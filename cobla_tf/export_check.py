"""Exported files against the network they were made from: run again in a fresh process, on real images."""

import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from absl import logging

from cobla_tf import runtimes
from cobla_tf.export_comparison import ExportCheck, compare
from cobla_tf.export_formats import Source, signature_names
from cobla_tf.fresh_process import last_words, one_line, run_python
from cobla_tf.runtimes import Arrays, Names

if TYPE_CHECKING:
    import keras

Array = np.ndarray
Job = tuple[str, str, int | None, Names]
"""Form and path of a file, the batch of a SavedModel's endpoint, and the names in its signature."""

BATCHED = "_batch"
"""Behind the name of the SavedModel's export: its second endpoint."""


def check_files(
    source: Source, images: Arrays, files: Mapping[str, Path]
) -> tuple[tuple[ExportCheck, ...], dict[str, str]]:
    """Compare files with the model they were made from.

    Args:
        source: what they were made from.
        images: real inputs [N, ...], a tuple where there are several.
        files: what was written, by export.

    Returns:
        the comparisons made, and by export why it cannot be trusted, where it cannot.
    """
    from cobla_tf.elements import parts_of

    if not files:
        return (), {}
    expected, epsilon = _outputs(source.model, images), _epsilon(source.model)
    checks, failures = [], {}
    for job, outputs in _run_files(source, images, files).items():
        export = job.removesuffix(BATCHED)
        if isinstance(outputs, str):
            failures[export] = f"{job} was written, but could not be run: {outputs}"
            continue
        count = len(parts_of(images)[0])
        rows = min(source.batch, count) if job.endswith(BATCHED) else count  # a batch may hold fewer images
        shorter = runtimes.repeated(expected, rows)
        checks.append(compare(job, export, _size(files[export]), outputs, shorter, epsilon))
        if not checks[-1].passed:
            failures[export] = checks[-1].sentence()
    return tuple(checks), failures


def _run_files(source: Source, images: Arrays, files: Mapping[str, Path]) -> dict[str, Arrays | str]:
    """Outputs, or why there are none, by export; the SavedModel's second endpoint is one more."""
    names = signature_names(source.model)
    jobs: dict[str, Job] = {name: (name.split("_")[0], str(path), None, names) for name, path in files.items()}
    if source.batch is not None and "savedmodel" in files:
        jobs["savedmodel" + BATCHED] = ("savedmodel", str(files["savedmodel"]), source.batch, names)
    own = own_classes(source.model) if "keras" in jobs else []
    here = _run_here(jobs.pop("keras"), images, own) if own else {}
    return here | (run_elsewhere(jobs, images) if jobs else {})


def _run_here(job: Job, images: Arrays, own: Sequence[str]) -> dict[str, Arrays | str]:
    """The .keras file in this process, which knows the classes that it needs."""
    logging.warning("the .keras file needs %s to be read, and is checked in this process", ", ".join(own))
    try:
        return {"keras": runtimes.load(*job[:2])(images)}
    except Exception as error:  # the classes are the user's own, and so may be what they raise
        return {"keras": one_line(f"{type(error).__name__}: {error}")}


def run_elsewhere(jobs: Mapping[str, Job], images: Arrays) -> dict[str, Arrays | str]:
    """Outputs of files on images [N, ...] in one fresh process that does not know this package.

    Returns:
        by the name of a job its outputs, float64 [N, ...] or a tuple of such, or a sentence where it failed.
    """
    with tempfile.TemporaryDirectory(prefix="cobla-") as name:
        folder = Path(name)
        runtimes.write_arrays(folder / "images.npz", images)
        (folder / "job.json").write_text(json.dumps(jobs), encoding="utf-8")
        done = run_python("-P", runtimes.__file__, name)
        return {job: _outcome(folder / job, done) for job in jobs}


def _outcome(path: Path, done: subprocess.CompletedProcess) -> Arrays | str:
    if path.with_suffix(".npz").exists():
        return runtimes.read_arrays(path.with_suffix(".npz"))
    if path.with_suffix(".txt").exists():
        return one_line(path.with_suffix(".txt").read_text(encoding="utf-8"))
    return f"the process that loaded it {last_words(done)}"


def own_classes(model: "keras.Model") -> list[str]:
    """Names of layers, functions and the like in a model that Keras does not bring itself."""
    import keras

    found: set[str] = set()

    def walk(config: object) -> None:
        if isinstance(config, dict):
            if config.get("registered_name") and str(config.get("module")).partition(".")[0] != "keras":
                found.add(config["registered_name"])
            config = list(config.values())
        if isinstance(config, (list, tuple)):
            for part in config:
                walk(part)

    walk(keras.saving.serialize_keras_object(model))
    return sorted(found)


def _outputs(model: "keras.Model", images: Arrays) -> Arrays:
    """Of the model itself, float64 [N, ...], on the CPU, where the files are run as well."""
    import keras

    from cobla_tf.elements import each, forward

    with keras.device("cpu"):
        return each(lambda part: np.asarray(keras.ops.convert_to_numpy(part), np.float64), forward(model, images))


def _epsilon(model: "keras.Model") -> float:
    """Of the coarsest arithmetic below float32 among the layers; 0 where there is none."""
    import ml_dtypes

    from cobla_tf.graph import leaf_layers

    kinds = {layer.compute_dtype for _, layer in leaf_layers(model)} & {"float16", "bfloat16"}
    return max((float(ml_dtypes.finfo(kind).eps) for kind in kinds), default=0.0)


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
