"""The layers of a model that can be decomposed, and the reasons for the others."""

from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import keras
import numpy as np

from cobla_tf.blas import on_all_cores
from cobla_tf.calls import Call, calls_by_layer, record_operations
from cobla_tf.config import LAYERS, SCHEMES, check_layers
from cobla_tf.costs import COUNTED, CostTable, kernel_costs
from cobla_tf.decomposition import Decomposition, decompose
from cobla_tf.errors import ConfigError, ModelError, check_among
from cobla_tf.graph import check_model
from cobla_tf.kinds import KINDS, Kind, name_of, sizes_of
from cobla_tf.layout import Layout
from cobla_tf.progress import bar
from cobla_tf.report_parts import LayerCall, SkippedLayer
from cobla_tf.texts import amount_text, by_reason, table


@dataclass(frozen=True)
class Site:
    """One layer that can be decomposed.

    Attributes:
        name: its path in the model, nested names joined by "/".
        layer: the layer of the original model.
        kind: of the layer.
        decomposition: SVD of its kernel.
        original, per_rank: costs in COUNTED, int64 [2].
    """

    name: str
    layer: keras.layers.Layer
    kind: Kind
    decomposition: Decomposition
    original: np.ndarray
    per_rank: np.ndarray


@dataclass(frozen=True, repr=False)
class Sites:
    """All sites of a model in the order of computation, and the layers that are none though they have a kernel.

    `network` holds every call of a layer, sites or not, as a graph.
    """

    found: tuple[Site, ...]
    skipped: tuple[SkippedLayer, ...]
    network: tuple[LayerCall, ...] = ()

    def __str__(self) -> str:
        """What each site costs as it is and each rank of two factors, and the reasons of the other layers."""
        head = ("site", "kind", "kernel", "full rank", "MACs", "a rank", "params", "a rank")
        left = by_reason((f"left alone ({layer.reason})", layer.name) for layer in self.skipped)
        return "\n\n".join(filter(None, (table(head, [_row(site) for site in self.found], "simple", 3), left)))

    __repr__ = __str__

    @property
    def names(self) -> tuple[str, ...]:
        """The name of every site."""
        return tuple(site.name for site in self.found)

    @property
    def layout(self) -> Layout:
        """Where each site's masks lie."""
        return Layout(np.array([site.decomposition.full_rank for site in self.found], dtype=np.int64))

    @property
    def costs(self) -> CostTable:
        """MACs and params of every site."""
        original = np.stack([site.original for site in self.found], axis=1)
        per_rank = np.stack([site.per_rank for site in self.found], axis=1)
        return CostTable(COUNTED, original, per_rank, self.layout.full_ranks)

    @property
    def sigmas(self) -> list[np.ndarray]:
        """Singular values of every site, descending."""
        return [site.decomposition.sigma for site in self.found]

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Rows and columns of every site's matricised kernel, of one group where there are several."""
        return [site.decomposition.form.matrix_shape for site in self.found]


def _row(site: Site) -> tuple[str, ...]:
    form = site.decomposition.form
    kernel, kind = "x".join(map(str, form.shape)), name_of(site.layer) or ""
    costs = [amount_text(int(cost)) for pair in zip(site.original, site.per_rank, strict=True) for cost in pair]
    return site.name, kind, kernel, str(site.decomposition.full_rank), *costs


def find_sites(
    model: keras.Model,
    scheme: str = SCHEMES[0],
    exclude: Sequence[str] = (),
    input_shape: tuple[int, ...] | None = None,
    layers: str | Sequence[str] = LAYERS[:1],
) -> Sites:
    """Find and decompose every layer of some kinds that is not excluded.

    Args:
        model: functional or Sequential, nested and shared layers included; it is not changed.
        scheme: "spatial" or "channel"; a layer without a width has only "channel".
        exclude: patterns in fnmatch's form, held against a layer's name and its path.
        input_shape: of one image, needed where the model leaves dimensions open; a tuple of shapes for several inputs.
        layers: kinds of layers, of config.LAYERS or "all".

    Raises:
        ModelError: the model cannot be read, or no site is left.
        ConfigError: an exclude pattern matches no layer, or the scheme or a kind is unknown.
    """
    check_model(model)
    check_among("scheme", scheme, SCHEMES)
    check_patterns(exclude)
    layers = check_layers(layers)
    operations = record_operations(model, input_shape)
    calls = calls_by_layer([call for call in operations if isinstance(call.layer, keras.layers.Layer)])
    _check_matches(exclude, [call for (call, *_) in calls])
    found, skipped = [], []
    for uses in calls:
        reason = _excluded(uses, exclude) or _wrong_kind(uses[0].layer, layers) or _unusable(uses)
        if reason is None:
            found.append(uses)
        elif any(len(weight.shape) > 1 for weight in uses[0].layer.weights):
            skipped.append(SkippedLayer(uses[0].path, type(uses[0].layer).__name__, reason))
    if not found:
        raise ModelError(
            f"model {model.name!r} has no layer left to decompose (expected at least one of the kinds "
            f"{', '.join(layers)} that is not excluded): {_way_out(calls, layers, skipped)}."
        )
    return Sites(_decomposed(found, scheme), tuple(skipped), _network(operations))


def _way_out(calls: list[list[Call]], layers: Sequence[str], skipped: list[SkippedLayer]) -> str:
    """Why each layer is none, with those of kinds that were not asked for counted, and how to ask for them."""
    unasked = {uses[0].path: name for uses in calls if (name := name_of(uses[0].layer)) and name not in layers}
    kinds = Counter(unasked[layer.name] for layer in skipped if layer.reason == _not_asked_for(unasked.get(layer.name)))
    others = [layer for layer in skipped if layer.reason != _not_asked_for(unasked.get(layer.name))]
    parts = [f"{layer.name}: {layer.reason}" for layer in others]
    if kinds:
        held = " and ".join(f"{count} of the kind {name}" for name, count in kinds.items())
        parts.append(
            f"there are {held}, not asked for: ask for them by layers={next(iter(kinds))!r} or 'all' (--layers)"
        )
    return "; ".join(parts) or "it has no layer with a kernel"


def _not_asked_for(name: str | None) -> str:
    return f"layers of the kind {name} were not asked for"


def _network(operations: list[Call]) -> tuple[LayerCall, ...]:
    names: dict[int, str] = {}  # a shared layer has the name of its first use, as its site has
    return tuple(
        LayerCall(names.setdefault(id(call.layer), call.path), type(call.layer).__name__, call.inputs)
        for call in operations
    )


def _matches(call: Call, pattern: str) -> bool:
    return fnmatchcase(call.path, pattern) or fnmatchcase(call.layer.name, pattern)


def check_patterns(exclude: Any) -> None:
    """Refuse what is no sequence of patterns, cheaply.

    Raises:
        ConfigError: it is one string, or something else.
    """
    if isinstance(exclude, str):
        raise ConfigError(f"exclude must be a sequence of patterns, got the string {exclude!r}; write [{exclude!r}].")
    if not isinstance(exclude, Collection) or not all(isinstance(pattern, str) for pattern in exclude):
        raise ConfigError(f"exclude must be a sequence of patterns, got {exclude!r}; write ['name', 'other*'].")


def _check_matches(exclude: Sequence[str], calls: list[Call]) -> None:
    for pattern in exclude:
        if not any(_matches(call, pattern) for call in calls):
            names = ", ".join(call.path for call in calls if name_of(call.layer))
            raise ConfigError(f"exclude pattern {pattern!r} matches no layer; those that can be named are: {names}.")


def _excluded(uses: list[Call], exclude: Sequence[str]) -> str | None:
    pattern = next((p for p in exclude for call in uses if _matches(call, p)), None)
    return None if pattern is None else f"excluded by {pattern!r}"


def _wrong_kind(layer: keras.layers.Layer, layers: Sequence[str]) -> str | None:
    name = name_of(layer)
    if name in layers:
        return None
    if name is not None:
        return _not_asked_for(name)
    if isinstance(layer, (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)):
        return "depthwise: every channel has one small kernel of its own, of which two factors would save nothing"
    return f"of a kind that is not decomposed{_inside(layer, layers)}"


def _inside(layer: keras.layers.Layer, layers: Sequence[str]) -> str:
    """What it holds that would be sites by themselves, and how they become that."""
    kinds = Counter(name for part in layer._flatten_layers(include_self=False) if (name := name_of(part)) in layers)
    if not kinds:
        return ""
    if isinstance(layer, keras.layers.TimeDistributed):
        advice = "fold the frames into the batch with keras.ops.reshape, and call what is wrapped directly"
    else:
        advice = "call them directly in the model"
    held = ", ".join(f"{count} {name}" for name, count in sorted(kinds.items()))
    return f": the layers inside ({held}) cannot be reached; {advice}"


def _unusable(uses: list[Call]) -> str | None:
    layer = uses[0].layer
    if uses[0].shares_with:
        return f"shares a weight by reference with {uses[0].shares_with}"
    if isinstance(layer.activation, keras.layers.PReLU) or getattr(layer.activation, "weights", None):
        return "its activation has weights of its own"
    if getattr(layer, "lora_enabled", False):
        return "its kernel has a LoRA part: merge it first"
    if layer.dtype_policy.quantization_mode is not None:
        return "it is quantized: compress the network before that"
    if not np.isfinite(KINDS[name_of(layer)].kernel_of(layer).numpy().astype(float)).all():
        return "its kernel holds values that are not finite"
    if any(size is None for call in uses for size in (*call.input_shape, *call.output_shape)):
        return "its image size is open; give the model a fixed input shape"
    return None


def _decomposed(found: list[list[Call]], scheme: str) -> tuple[Site, ...]:
    """The sites in their order."""
    with closing(on_all_cores(partial(_site, scheme=scheme), found)) as sites:  # so that Ctrl-C leaves none to be done
        return tuple(bar(sites, len(found), "layers"))


def _site(uses: list[Call], scheme: str) -> Site:
    layer = uses[0].layer
    kind = KINDS[name_of(layer)]
    form = kind.form(layer, scheme)
    uses = [call for call in uses for _ in range(call.times)]
    sizes = [(sizes_of(layer, call.input_shape), sizes_of(layer, call.output_shape)) for call in uses]
    costs = kernel_costs(form, sizes)
    return Site(uses[0].path, layer, kind, decompose(kind.kernel_of(layer).numpy(), form), *costs)
