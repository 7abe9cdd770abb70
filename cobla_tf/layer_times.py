"""Layers alone in LiteRT: what a site costs whole, as two factors of a rank, and what that makes of a budget."""

import dataclasses
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from absl import logging
from scipy.optimize import nnls

from cobla_tf.calls import Call, calls_by_layer, record_calls
from cobla_tf.config import ALL_LAYERS, LAYERS
from cobla_tf.errors import ModelError, first_line
from cobla_tf.export_formats import WRITERS, Source
from cobla_tf.quiet import quiet
from cobla_tf.resources import Resource
from cobla_tf.rewrite import alone
from cobla_tf.runtimes import interpreter
from cobla_tf.sites import Site, Sites, find_sites
from cobla_tf.stopwatch import interleave
from cobla_tf.surgery import count_convolutions, rebuild
from cobla_tf.timings import SiteTiming, check_amounts

Array = np.ndarray
Shape = tuple[int, ...]
SHARES = (0.125, 0.25, 0.5, 1.0)
"""Of the rank at which two factors save no MACs: where a site's factors are timed."""
MICRO = 1e6
FINE = 1e-6
"""Seconds that a clock must tell apart."""


def time_models(models: Sequence[keras.Model], threads: int, seconds: float) -> Array:
    """Seconds of the fastest of many runs of each model, float64 [M], on one random image, in LiteRT.

    They are run in turn; models of the same layers and shapes are timed once. What disturbs a run can only add to its
    time, so the fastest one is nearest to what the layers cost. With one thread it is that thread's processor time
    where the system counts it finely: other programs then take nothing but the cache.

    Raises:
        ModelError: LiteRT does not run one of them.
    """
    keys = [_key(model) for model in models]
    distinct = dict(zip(keys, models, strict=True))
    with tempfile.TemporaryDirectory(prefix="cobla-") as folder:
        runs = [_runnable(model, Path(folder, "alone.tflite"), threads) for model in distinct.values()]
    fastest = dict(zip(distinct, interleave(runs, seconds, _clock(threads)).min(axis=0), strict=True))
    return np.array([fastest[key] for key in keys])


def compare_sites(
    original: keras.Model, compressed: keras.Model, input_shape: Shape, seconds: float
) -> tuple[SiteTiming, ...]:
    """Every decomposed layer alone against the two that replace it, which rebuild() names after it.

    Args:
        original, compressed: neither is changed.
        input_shape: of one image; a tuple of shapes for several inputs.
        seconds: to measure in all.
    """
    before, after = (_uses(model, input_shape) for model in (original, compressed))
    after = _as_named(after, before)
    names = [name for name in before if f"{name}_g" in after and f"{name}_h" in after]
    models: list[keras.Model] = []
    owners: list[tuple[str, int, int]] = []
    for name in names:
        first, second = after[f"{name}_g"], after[f"{name}_h"][0].layer
        whole = [alone([call.layer], call.input_shape) for call in before[name]]
        pairs = [alone([call.layer, second], call.input_shape) for call in first]
        models += [*whole, *pairs]
        owners += [(name, side, call.times) for side, calls in enumerate((before[name], first)) for call in calls]
    spent = {(name, side): 0.0 for name in names for side in (0, 1)}
    for (*owner, count), once in zip(owners, time_models(models, 1, seconds) if models else (), strict=True):
        spent[*owner] += count * float(once)
    macs = _macs(original, compressed, input_shape)
    return tuple(SiteTiming(name, macs(name), spent[name, 0], spent[name, 1]) for name in names)


def measure_latency(
    model: keras.Model,
    scheme: str = "spatial",
    exclude: Sequence[str] = (),
    *,
    layers: str | Sequence[str] = LAYERS[:1],
    input_shape: Shape | None = None,
    threads: int = 1,
    seconds: float = 20.0,
    name: str = "latency",
) -> Resource:
    """A latency table to set a budget on: microseconds of each site in LiteRT on this machine, for one image.

    Each site is timed alone, whole and as two factors of four ranks, and base + per_rank * rank is fitted to the latter
    by least squares of the relative error, both at least 0. What lies between the sites is not in the table. A model
    that computes in less than float32 is timed in float32, as it is exported.

    Args:
        model, scheme, exclude, layers: as of compress(), so that the sites are the same; the model is not changed.
        input_shape: of one image, where the model leaves it open; a tuple of shapes for several inputs.
        threads: of LiteRT.
        seconds: to measure in all; five rounds at the least.
        name: of the resource.

    Raises:
        ModelError, ConfigError: as `find_sites`, and ModelError for layers that LiteRT does not run alone.
    """
    check_amounts("a number of threads", threads, seconds)
    sites = find_sites(model, scheme, exclude, input_shape, layers)
    uses = _uses(model, input_shape)
    ranks = [_ranks(site, most) for site, most in zip(sites.found, sites.costs.saturation_ranks(), strict=True)]
    calls = [uses[site.name] for site in sites.found]
    variants = [
        [_variant(site, call.input_shape, rank) for rank in (None, *chosen) for call in at]
        for site, chosen, at in zip(sites.found, ranks, calls, strict=True)
    ]
    times = iter(time_models([variant for group in variants for variant in group], threads, seconds) * MICRO)
    original, per_rank, base = {}, {}, {}
    for site, chosen, at in zip(sites.found, ranks, calls, strict=True):
        whole, *spent = (sum(call.times * next(times) for call in at) for _ in range(1 + len(chosen)))
        original[site.name] = round(float(whole), 2)
        base[site.name], per_rank[site.name] = _line(site.name, chosen, np.array(spent))
    return Resource(name, original, per_rank, base)


def _clock(threads: int) -> Callable[[], float]:
    fine = time.get_clock_info("thread_time").resolution <= FINE
    return time.thread_time if threads == 1 and fine else time.perf_counter


def _key(model: keras.Model) -> str:
    layers = [(type(layer).__name__, layer.get_config() | {"name": ""}) for layer in model.layers]
    return f"{model.inputs[0].shape}{layers}"


def _runnable(model: keras.Model, path: Path, threads: int) -> Callable[[], Any]:
    try:
        invoke = _invoke(model, path, threads)
        invoke()  # some fail only here
    except Exception as error:  # converters and interpreters raise nearly anything
        last = model.layers[-1]
        raise ModelError(
            f"LiteRT does not run layer {last.name!r} alone, which is to compute in {last.compute_dtype} "
            f"({first_line(error)}); measure a float32 version of the model, or write the table of costs by hand."
        ) from error
    return invoke


def _invoke(model: keras.Model, path: Path, threads: int) -> Callable[[], Any]:
    with quiet():
        WRITERS["litert"](Source(model), path)
        lite = interpreter(threads, model_content=path.read_bytes())
        lite.allocate_tensors()
    entry = lite.get_input_details()[0]
    lite.set_tensor(entry["index"], np.random.default_rng(0).uniform(size=entry["shape"]).astype(entry["dtype"]))
    return lite.invoke


def _uses(model: keras.Model, input_shape: Shape | None) -> dict[str, list[Call]]:
    """The calls of each layer, by the path of its first one."""
    return {calls[0].path: calls for calls in calls_by_layer(record_calls(model, input_shape))}


def _as_named(after: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """What is new in a compressed network, by path as if rebuild() had met no name in use and kept none."""
    new = {path.rstrip("_"): what for path, what in after.items() if path not in before}
    first = [path.removesuffix("_g") for path in new if path.endswith("_g")]
    return {f"{name}_h": after[name] for name in first if name in after} | new


def _macs(
    original: keras.Model, compressed: keras.Model, input_shape: Shape
) -> Callable[[str], tuple[int, int] | None]:
    before = count_convolutions(original, input_shape, ALL_LAYERS)
    after = _as_named(count_convolutions(compressed, input_shape, ALL_LAYERS), before)

    def of(name: str) -> tuple[int, int] | None:
        parts = before.get(name), after.get(f"{name}_g"), after.get(f"{name}_h")
        return None if None in parts else (parts[0][0], parts[1][0] + parts[2][0])

    return of


def _ranks(site: Site, most: int) -> list[int]:
    top = max(1, min(int(most), site.decomposition.full_rank))
    return sorted({max(1, round(share * top)) for share in SHARES})


def _variant(site: Site, shape: Shape, rank: int | None) -> keras.Model:
    """The site's layer alone, or the two that replace it at a rank."""
    whole = alone([site.layer], shape)
    if rank is None:
        return whole
    kept = np.arange(site.decomposition.full_rank) < rank
    one = Sites((dataclasses.replace(site, layer=whole.layers[-1]),), ())
    return rebuild(whole, one, kept, kept.astype(float), np.array([False]))


def _line(site: str, ranks: Sequence[int], times: Array) -> tuple[float, float]:
    """base and per_rank that fit the times best, relative to them."""
    rows = np.stack([np.ones(len(ranks)), np.array(ranks, dtype=float)], axis=1) / times[:, None]
    (base, per_rank), _ = nnls(rows, np.ones(len(ranks)))
    worst = float(np.abs(rows @ (base, per_rank) - 1).max())
    logging.info("%s: %.4g us + %.4g us a rank, off by up to %.0f %%", site, base, per_rank, 100 * worst)
    return round(base, 3), round(per_rank, 6)
