"""Every architecture of keras.applications, random weights: equal at full rank, and compressed to half without data.

python -m cobla_tf.experiments.applications --output=DIR, then the same with --exported

The second writes each, halved likewise, as SavedModel and for LiteRT, and runs these in a fresh process. Each is
measured in a process of its own, so that one too large for the machine costs no other. DIR/applications.jsonl and
DIR/exports.jsonl have one line each, to which a stopped run adds, and DIR/applications.md is the table of all lines.
"""

import inspect
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags, logging
from cobla_tf.experiments.applications_table import markdown
from cobla_tf.experiments.memory import peak_bytes
from cobla_tf.experiments.result_file import Record, ResultFile

from cobla_tf.errors import CoblaError, ConfigError, ModelError, first_line
from cobla_tf.files import replace_with
from cobla_tf.terminal import run_with_flags

if TYPE_CHECKING:
    import keras

    from cobla_tf.sites import Sites

Array = np.ndarray

SIZE = 96
"""Height and width of the images: some of the architectures take no less than 75."""
SMALL_SIZE, OF_SMALL_IMAGES = 32, "ConvNeXt"
"""Those of its family: in double precision TensorFlow computes grouped convolutions by a slow way."""
HALF = {"macs": 0.5, "params": 0.5}
NORMALISED = 16
"""Random images that give the BatchNorm layers their statistics, as training does. With the mean 0 and variance 1 that
they are made with, values grow from layer to layer in a deep network, and rounding errors with them."""
COMPARED = 2
"""Of these images, those on which outputs are compared."""
FORMATS = ("savedmodel", "litert")
ALLOWED = 1e-10
"""Largest difference at full rank, over the largest output. Networks are built in double precision: the rounding errors
of single precision grow in untrained networks to what a small mistake would be."""

_OUTPUT = flags.DEFINE_string("output", "applications_out", "Folder of the results.")
_NAMES = flags.DEFINE_list("names", [], "Architectures to measure; all if empty.")
_EXPORTS = flags.DEFINE_bool("exported", False, "Measure what the exports of each do, instead of all else.")


def builders() -> dict[str, Callable[..., "keras.Model"]]:
    """All architectures of the installed Keras by name."""
    import keras

    return {name: make for name, make in vars(keras.applications).items() if inspect.isfunction(make)}


def measure(name: str, size: int | None = None, **options: Any) -> Record:
    """Build an architecture, rebuild it at full rank and at half of its sites' MACs and params, save and reload it.

    Args:
        name: a key of `builders`.
        size: height and width of the images; SIZE, or SMALL_SIZE for a name that begins with OF_SMALL_IMAGES.
        options: further arguments of the builder.

    Returns:
        one row of the table, see applications_table.py.

    Raises:
        ModelError: the network differs at full rank by more than is allowed, or is above half of its budgets.
    """
    size = size or (SMALL_SIZE if name.startswith(OF_SMALL_IMAGES) else SIZE)
    with in_double_precision():
        return checked(_measured(name, size, options))


def measure_exports(name: str, size: int = SIZE, **options: Any) -> Record:
    """Build an architecture in single precision, halve it, and compare its exports with it in a fresh process.

    Args:
        name, size, options: of `measure`.

    Returns:
        by format how far the outputs are off (`export_comparison.ExportCheck.difference`), beside 'name', 'seconds' and
        'peak_bytes'.

    Raises:
        ExportError: one cannot be written, or differs by more than its tolerance.
    """
    from cobla_tf.export import export_model
    from cobla_tf.sites import find_sites

    began = time.perf_counter()
    model, images = _built(name, size, options)
    half = _halved(model, find_sites(model, "spatial"))
    with tempfile.TemporaryDirectory() as folder:
        checks = export_model(half, folder, FORMATS, images=images[:COMPARED]).checks
    differences = {check.name: check.difference for check in checks if check.name in FORMATS}
    return {"name": name, **differences, "seconds": time.perf_counter() - began, "peak_bytes": peak_bytes()}


def _built(name: str, size: int, options: dict[str, Any]) -> tuple["keras.Model", Array]:
    """An architecture with random weights, and the random images that its BatchNorm layers have seen."""
    import keras

    from cobla_tf.batchnorm import reestimate
    from cobla_tf.examples import Sample

    keras.utils.set_random_seed(0)
    make = builders()[name]
    if "classifier_activation" in inspect.signature(make).parameters:
        options["classifier_activation"] = None
    model = make(weights=None, input_shape=(size, size, 3), **options)
    images = np.random.default_rng(0).normal(size=(NORMALISED, size, size, 3)).astype(np.float32)
    reestimate(model, Sample(images, np.zeros(NORMALISED)), NORMALISED)
    return model, images


def _measured(name: str, size: int, options: dict[str, Any]) -> Record:
    from cobla_tf.calls import record_calls
    from cobla_tf.sites import find_sites

    began = time.perf_counter()
    model, images = _built(name, size, options)
    images = images[:COMPARED]
    sites = find_sites(model, "spatial")
    used = np.sum([site.original for site in sites.found], axis=0)
    return {
        "name": name,
        "sites": len(sites.found),
        "macs": network_macs(record_calls(model)),
        "site_macs": int(used[0]),
        "params": model.count_params(),
        "site_params": int(used[1]),
        "difference": _difference_at_full_rank(model, sites, images),
        **_at_half(model, sites, images),
        "seconds": time.perf_counter() - began,
        "peak_bytes": peak_bytes(),
    }


@contextmanager
def in_double_precision() -> Iterator[None]:
    """For networks whose weights and values are float64."""
    import keras

    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        yield
    finally:
        keras.config.set_floatx(before[0])
        keras.config.set_dtype_policy(before[1])


def checked(record: Record) -> Record:
    """The record, if it is what was promised."""
    if not record["difference"] <= ALLOWED:
        raise ModelError(f"differs at full rank by {record['difference']:.1e}, more than {ALLOWED:.1e}.")
    for name, budget in HALF.items():
        if record[f"kept_{name}"] > budget * record[f"site_{name}"]:
            raise ModelError(f"keeps {record[f'kept_{name}']:,} {name} of {record[f'site_{name}']:,}, more than half.")
    return record


def network_macs(calls: Iterable[Any]) -> int:
    """MACs of all kernels of a network, sites or not, over all uses."""
    from keras import layers

    kinds = (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D, layers.Dense)
    kernels = (
        call.times
        * int(np.prod(call.output_shape[:-1]))
        * sum(int(np.prod(w.shape)) for w in call.layer.weights if len(w.shape) > 1)
        for call in calls
        if isinstance(call.layer, kinds)
    )
    return sum(kernels)


def _difference_at_full_rank(model: "keras.Model", sites: "Sites", images: Array) -> float:
    """Largest difference between the outputs of a model and of its full-rank factors, over the largest output."""
    from cobla_tf.surgery import rebuild

    ones = np.ones(sites.layout.size)
    full = rebuild(model, sites, ones > 0, ones, np.zeros(len(sites.found), dtype=bool))
    return _difference(full, model, images)


def _difference(one: "keras.Model", other: "keras.Model", images: Array) -> float:
    outputs, expected = (np.asarray(network(images), dtype=np.float64) for network in (one, other))
    return float(np.abs(outputs - expected).max() / np.abs(expected).max())


def _at_half(model: "keras.Model", sites: "Sites", images: Array) -> Record:
    """Compressed by POS-CVX, saved, reloaded and counted anew."""
    import keras

    from cobla_tf.surgery import count_convolutions

    half = _halved(model, sites)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "half.keras")
        half.save(path)
        reloaded = keras.models.load_model(path)
    others = {layer.name for layer in sites.skipped}
    counted = [counts for layer, counts in count_convolutions(reloaded).items() if layer not in others]
    kept = dict(zip(("kept_macs", "kept_params"), np.sum(counted, axis=0).tolist(), strict=True))
    return {**kept, "reloaded": _difference(reloaded, half, images)}


def _halved(model: "keras.Model", sites: "Sites") -> "keras.Model":
    """Compressed by POS-CVX."""
    from cobla_tf.baselines.pos_cvx import select
    from cobla_tf.budgets import resolve_limits
    from cobla_tf.surgery import rebuild

    allocation = select(sites.sigmas, sites.costs, resolve_limits(sites.costs, HALF))
    leading = sites.layout.leading(allocation.ranks)
    return rebuild(model, sites, leading > 0, leading, allocation.whole)


def in_own_process(name: str, measure_one: Callable[[str], Record]) -> Record:
    """The row of an architecture, or {"name", "error"} where it failed or its process died."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(measure_one, name).result()
        except BrokenProcessPool:
            return {"name": name, "error": "its process was ended, probably for want of memory"}
        except Exception as error:  # whatever an architecture raises is its row
            return {"name": name, "error": str(error) if isinstance(error, CoblaError) else first_line(error)}


def main(argv: list[str]) -> None:
    """Measure what is not measured yet, and write the table after each."""
    del argv

    names, known = _NAMES.value or list(builders()), builders()
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(f"names must be among {', '.join(known)}, got {', '.join(unknown)}.")
    folder = Path(_OUTPUT.value)
    both = {"applications": _configuration(), "exports": _configuration() | {"dtype": "float32", "formats": FORMATS}}
    asked, measure_one = ("exports", measure_exports) if _EXPORTS.value else ("applications", measure)
    there = [file for file in both if file == asked or (folder / f"{file}.jsonl").exists()]
    files = {file: ResultFile(folder, file, both[file], ("name",)) for file in there}
    results = files[asked]
    failed: list[Record] = []
    for name in names:
        if results.has({"name": name}):
            continue
        record = in_own_process(name, measure_one)
        logging.info("%s: %s", name, record)
        if "error" in record:
            failed.append(record)  # not kept: the next run tries again
        else:
            results.add(record)
        _write_table(folder, files, failed)
    _write_table(folder, files, failed)


def _configuration() -> Record:
    """What all rows of a table share."""
    import keras

    return {"keras": keras.__version__, "size": SIZE, "budgets": HALF, "normalised": NORMALISED, "dtype": "float64"}


def _write_table(folder: Path, files: dict[str, ResultFile], failed: list[Record]) -> None:
    import keras

    sizes = f"[{SIZE}, {SIZE}, 3] (those of {OF_SMALL_IMAGES} [{SMALL_SIZE}, {SMALL_SIZE}, 3])"
    records = {file: results.records() for file, results in files.items()}
    records["exports" if _EXPORTS.value else "applications"] += failed
    rows, exports = (records.get(file, []) for file in ("applications", "exports"))
    text = markdown(rows, keras.__version__, sizes, exports)
    replace_with(folder / "applications.md", lambda path: path.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    logging.set_verbosity(logging.INFO)
    run_with_flags("applications", main, sys.argv)
