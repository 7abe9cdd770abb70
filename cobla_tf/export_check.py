"""Exported files against the network they were made from: run again in a fresh process, on real images."""

import json
import os
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from absl import logging

from cobla_tf import runtimes
from cobla_tf.export_formats import Source
from cobla_tf.texts import short_text, table

if TYPE_CHECKING:
    import keras

Array = np.ndarray
Job = tuple[str, str, int | None]
"""Form and path of a file, and the batch of a SavedModel's endpoint."""

TOLERANCES = {
    "keras": 1e-4,
    "savedmodel": 1e-4,
    "litert": 1e-4,
    "onnx": 1e-4,
    "litert_float16": 1e-2,
    "litert_int8": 0.25,
}
"""Largest accepted difference by export: of the same float32 arithmetic in another order, of weights rounded to 11
bits, and of weights and activations rounded to 8 bits in every layer."""
BATCHED = "_batch"
"""Behind the name of the SavedModel's export: its second endpoint."""
ROUNDINGS = 20
"""A network that computes in less than float32 may differ by this many of its roundings from itself."""


@dataclass(frozen=True)
class ExportCheck:
    """How near an exported file is to the network.

    Attributes:
        name: of the export, or of an endpoint of it.
        size: of the file or folder, in bytes.
        difference: |outputs of the file - those of the network| / |those of the network|, Euclidean norms over all
            images.
        tolerance: the largest difference that is accepted.
        images: how many were compared.
        agreement: share of the images with the same largest output, in [0, 1]; None where an output is no vector.
    """

    name: str
    size: int
    difference: float
    tolerance: float
    images: int
    agreement: float | None

    @property
    def passed(self) -> bool:
        """Whether the difference is within the tolerance; NaN is not."""
        return self.difference <= self.tolerance

    def sentence(self) -> str:
        """What was expected and what came."""
        return (
            f"{self.name}: its outputs on {self.images} images must differ from the network's by no more than "
            f"{self.tolerance:.1e} of their norm, and differ by {self.difference:.1e}"
        )


def compare(name: str, form: str, size: int, outputs: Array, expected: Array, epsilon: float) -> ExportCheck:
    """Judge the outputs of a file by those of the network, both [N, ...]; `epsilon` is of the network's arithmetic.

    `name`, `size`: of the check; `form`: of the export, for the tolerance.
    """
    outputs, expected = np.asarray(outputs, np.float64), np.asarray(expected, np.float64)
    norm = np.linalg.norm(expected)
    distance = np.linalg.norm(outputs - expected) if outputs.shape == expected.shape else np.inf
    difference = float(distance / norm) if norm else float(np.inf if distance else 0.0)
    agreement = None
    if outputs.shape == expected.shape and expected.ndim == 2 and expected.shape[1] > 1:
        agreement = float(np.mean(outputs.argmax(axis=1) == expected.argmax(axis=1)))
    tolerance = max(TOLERANCES[form], ROUNDINGS * epsilon)
    return ExportCheck(name, size, difference, tolerance, len(expected), agreement)


def checks_table(checks: Sequence[ExportCheck], style: str = "simple") -> str:
    """How near each exported file is to the network."""
    rows = []
    for check in checks:
        agreement = "-" if check.agreement is None else f"{100 * check.agreement:.1f} %"
        errors = f"{check.difference:.1e}", f"{check.tolerance:.1e}"
        rows.append((check.name, f"{short_text(check.size)}B", *errors, agreement, f"{check.images:,}"))
    return table(("export", "size", "differs by", "allowed", "same top class", "images"), rows, style)


def check_files(
    source: Source, images: Array, files: Mapping[str, Path]
) -> tuple[tuple[ExportCheck, ...], dict[str, str]]:
    """Compare files with the model they were made from.

    Args:
        source: what they were made from.
        images: real inputs [N, ...].
        files: what was written, by export.

    Returns:
        the comparisons made, and by export why it cannot be trusted, where it cannot.
    """
    if not files:
        return (), {}
    expected, epsilon = _outputs(source.model, images), _epsilon(source.model)
    checks, failures = [], {}
    for job, outputs in _run_files(source, images, files).items():
        export = job.removesuffix(BATCHED)
        if isinstance(outputs, str):
            failures[export] = f"{job} was written, but could not be run: {outputs}"
            continue
        checks.append(compare(job, export, _size(files[export]), outputs, expected[: len(outputs)], epsilon))
        if not checks[-1].passed:
            failures[export] = checks[-1].sentence()
    return tuple(checks), failures


def _run_files(source: Source, images: Array, files: Mapping[str, Path]) -> dict[str, Array | str]:
    """Outputs, or why there are none, by export; the SavedModel's second endpoint is one more."""
    jobs: dict[str, Job] = {name: (name.split("_")[0], str(path), None) for name, path in files.items()}
    if source.batch is not None and "savedmodel" in files:
        jobs["savedmodel" + BATCHED] = ("savedmodel", str(files["savedmodel"]), source.batch)
    own = own_classes(source.model) if "keras" in jobs else []
    here = _run_here(jobs.pop("keras"), images, own) if own else {}
    return here | (run_elsewhere(jobs, images) if jobs else {})


def _run_here(job: Job, images: Array, own: Sequence[str]) -> dict[str, Array | str]:
    """The .keras file in this process, which knows the classes that it needs."""
    logging.warning("the .keras file needs %s to be read, and is checked in this process", ", ".join(own))
    try:
        return {"keras": runtimes.load(*job[:2])(images)}
    except Exception as error:  # the classes are the user's own, and so may be what they raise
        return {"keras": one_line(f"{type(error).__name__}: {error}")}


def run_elsewhere(jobs: Mapping[str, Job], images: Array) -> dict[str, Array | str]:
    """Outputs of files on images [N, ...] in one fresh process that does not know this package.

    Returns:
        by the name of a job its outputs, float64 [N, ...], or a sentence where it failed.
    """
    with tempfile.TemporaryDirectory(prefix="cobla-") as name:
        folder = Path(name)
        np.save(folder / "images.npy", images)
        (folder / "job.json").write_text(json.dumps(jobs), encoding="utf-8")
        quiet = os.environ | {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [sys.executable, "-P", runtimes.__file__, name]
        done = subprocess.run(command, env=quiet, capture_output=True, text=True, errors="replace", check=False)
        return {job: _outcome(folder / job, done) for job in jobs}


def _outcome(path: Path, done: subprocess.CompletedProcess) -> Array | str:
    if path.with_suffix(".npy").exists():
        return np.load(path.with_suffix(".npy"))
    if path.with_suffix(".txt").exists():
        return one_line(path.with_suffix(".txt").read_text(encoding="utf-8"))
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return one_line(f"the process that loaded it ended with {done.returncode}: {last}")


def one_line(text: str) -> str:
    """A foreign message, to stand inside one sentence of ours."""
    return textwrap.shorten(text, 300, placeholder=" ...")


def own_classes(model: "keras.Model") -> list[str]:
    """Names of layers, functions and the like in a model that Keras does not bring itself."""
    import keras

    found: set[str] = set()

    def walk(config: object) -> None:
        if isinstance(config, dict):
            if config.get("registered_name") and not str(config.get("module")).startswith("keras"):
                found.add(config["registered_name"])
            config = list(config.values())
        if isinstance(config, (list, tuple)):
            for part in config:
                walk(part)

    walk(keras.saving.serialize_keras_object(model))
    return sorted(found)


def _outputs(model: "keras.Model", images: Array) -> Array:
    """Of the model itself, float64 [N, ...], on the CPU, where the files are run as well."""
    import keras

    with keras.device("cpu"):
        return np.asarray(keras.ops.convert_to_numpy(model(images, training=False)), np.float64)


def _epsilon(model: "keras.Model") -> float:
    """Of the coarsest arithmetic below float32 among the layers; 0 where there is none."""
    import ml_dtypes

    from cobla_tf.graph import leaf_layers

    kinds = {layer.compute_dtype for _, layer in leaf_layers(model)} & {"float16", "bfloat16"}
    return max((float(ml_dtypes.finfo(kind).eps) for kind in kinds), default=0.0)


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
