"""How fast compressed networks are, beside the original, on this machine's processor."""

import json
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from absl import logging

from cobla_tf.elements import arrange_images, cast, joined, shape_of
from cobla_tf.errors import CoblaError, ConfigError
from cobla_tf.export_check import own_classes
from cobla_tf.export_formats import FILE_NAMES, WRITERS, Source, plain, signature_names
from cobla_tf.fresh_process import last_words, one_line, run_python
from cobla_tf.graph import check_model
from cobla_tf.layer_times import compare_sites
from cobla_tf.quiet import quiet
from cobla_tf.runtimes import Arrays, write_arrays
from cobla_tf.timings import Benchmark, SiteTiming, Timing, check_amounts, cores

RUNTIMES = ("keras", "savedmodel", "litert")
Files = list[tuple[str, ...]]
"""A runtime, and a file of every network, the original's first."""


def benchmark(
    original: keras.Model,
    compressed: keras.Model,
    *,
    images: Any = None,
    batch: int = 8,
    seconds: float = 10.0,
    runtimes: Sequence[str] = RUNTIMES,
) -> Benchmark:
    """Time both networks in Keras (predict_on_batch), as a SavedModel and in LiteRT, on the processor.

    One image and a batch, with one thread and with all cores; for each number of threads a process of its own runs
    all of them in turn, so that what else the machine does falls on all alike. Then each decomposed layer is run alone
    in LiteRT against the two that replace it.

    Args:
        original, compressed: neither is changed.
        images: real inputs [N, ...]; for several inputs a tuple or list in the order of model.inputs, or a dict by
            their names; random ones where they are left out.
        batch: images of the larger batch.
        seconds: to measure for each number of threads, and again for the layers; five rounds at the least.
        runtimes: some of "keras", "savedmodel", "litert".

    Raises:
        ModelError: a model cannot be read.
        ConfigError: a runtime, a batch or a time that cannot be used, or models of open image size without `images`.
        DataError: images that are not one array for each input, or do not fit it.
    """
    for model in (original, compressed):
        check_model(model)
    _check(runtimes, batch, seconds)
    images = _images(original, images)
    notes: list[str] = []
    timings: list[Timing] = []
    with tempfile.TemporaryDirectory(prefix="cobla-") as name:
        files = _files((plain(original), plain(compressed)), runtimes, Path(name), notes)
        write_arrays(Path(name, "images.npz"), images)
        for threads in sorted({1, cores()}):
            job = {"threads": threads, "seconds": seconds, "batches": sorted({1, batch}), "files": files}
            rows = _measure(Path(name), job | {"names": signature_names(original)}, notes)
            timings += [Timing.of(runtime, threads, size, *times) for runtime, size, *times in rows]
    sites = _alone((original, compressed), shape_of(images), seconds, notes)
    for note in notes:
        logging.warning("benchmark: %s", note)
    return Benchmark(tuple(timings), sites, cores(), tuple(dict.fromkeys(notes)))


def time_together(
    original: keras.Model, compressed: Sequence[keras.Model], *, images: Any = None, seconds: float = 10.0
) -> tuple[tuple[Timing, ...], tuple[str, ...]]:
    """Time one image through several compressed networks and the original, all in turn, in LiteRT with one thread.

    Args:
        original, compressed: none is changed.
        images, seconds: as for `benchmark`.

    Returns:
        a timing for each compressed network, against the same runs of the original; none where LiteRT takes not all of
        them, and then a sentence that says why.

    Raises:
        ModelError, ConfigError, DataError: as `benchmark`.
    """
    models, notes = (original, *compressed), []
    for model in models:
        check_model(model)
    images = _images(original, images)
    with tempfile.TemporaryDirectory(prefix="cobla-") as name:
        files = _files([plain(model) for model in models], ("litert",), Path(name), notes)
        write_arrays(Path(name, "images.npz"), images)
        job = {"threads": 1, "seconds": seconds, "batches": [1], "files": files, "names": signature_names(original)}
        rows = _measure(Path(name), job, notes) if files else []
    return tuple(Timing.of("litert", 1, 1, first, own) for _, _, first, *others in rows for own in others), tuple(notes)


def _alone(
    models: tuple[keras.Model, keras.Model], input_shape: Any, seconds: float, notes: list[str]
) -> tuple[SiteTiming, ...]:
    """Each decomposed layer alone; none, with a note, where LiteRT does not take one of them."""
    try:
        return compare_sites(*models, input_shape, seconds)
    except CoblaError as error:
        notes.append(f"layers alone: {error}")
        return ()


def _check(runtimes: Sequence[str], batch: int, seconds: float) -> None:
    if isinstance(runtimes, str) or not isinstance(runtimes, Collection) or set(runtimes) - set(RUNTIMES):
        raise ConfigError(f"runtimes must be some of {', '.join(RUNTIMES)}, got {runtimes!r}.")
    check_amounts("a batch", batch, seconds)


def _images(model: keras.Model, images: Any) -> Arrays:
    if images is not None:
        return arrange_images(model, images)
    if any(None in entry.shape[1:] for entry in model.inputs):
        raise ConfigError(f"model {model.name!r} leaves its image size open: pass images= of the size to measure.")
    rng = np.random.default_rng(0)
    return cast(model, joined([rng.uniform(size=(1, *entry.shape[1:])) for entry in model.inputs]))


def _files(models: Sequence[keras.Model], runtimes: Sequence[str], folder: Path, notes: list[str]) -> Files:
    """All networks in every form; a form that cannot be had is left out, with a note."""
    files = []
    own = sorted({name for model in models for name in own_classes(model)})
    for runtime in runtimes:
        if runtime == "keras" and own:
            notes.append(f"keras: left out, another process cannot load {', '.join(own)}")
            continue
        paths = [folder / str(place) / FILE_NAMES[runtime] for place in range(len(models))]
        try:
            for model, path in zip(models, paths, strict=True):
                path.parent.mkdir(exist_ok=True)
                with quiet():
                    WRITERS[runtime](Source(model), path)
            files.append((runtime, *map(str, paths)))
        except Exception as error:  # converters raise nearly anything
            notes.append(one_line(f"{runtime}: {type(error).__name__}: {error}"))
    return files


def _measure(folder: Path, job: dict, notes: list[str]) -> list[tuple[Any, ...]]:
    """In a process of its own: runtime, batch, and the seconds of every network in all rounds."""
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    (folder / "times.json").unlink(missing_ok=True)
    done = run_python("-m", "cobla_tf.stopwatch", str(folder))
    if done.returncode:
        notes.append(f"{job['threads']} threads: the process {last_words(done)}")
        return []
    result = json.loads((folder / "times.json").read_text(encoding="utf-8"))
    notes += [one_line(f"{runtime}: {why}") for runtime, why in result["failures"].items()]
    return result["times"]
