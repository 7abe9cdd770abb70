"""Masking the sites of a model, and rebuilding it with plain layers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import keras
import numpy as np

from cobla_tf.calls import record_calls
from cobla_tf.config import LAYERS, check_layers
from cobla_tf.folding import folding_on
from cobla_tf.graph import leaf_layers
from cobla_tf.kinds import KINDS, name_of, sizes_of
from cobla_tf.layers import factor_layers, mask_layer, set_factors
from cobla_tf.rewrite import transform
from cobla_tf.sites import Site, Sites

Array = np.ndarray


@dataclass(frozen=True)
class MaskedModel:
    """A copy of a model whose sites are functions of the masks.

    Attributes:
        model: functional; run it with training=False.
        variables: what to differentiate: folded kernels, one a site; or the masks of the decomposed sites, then biases.
        write: sets all sites to a vector, float64 [n + b]: the masks, then the biases.
        to_vector: turns gradients by `variables` into one by that vector, float64 [n + b].
        keep: `mask_kept` of the same model.
        biases: float64 [b_i], one array a decomposed site whose bias is part of the vector: as it was learnt.
    """

    model: keras.Model
    variables: Sequence[Any]
    write: Callable[[Array], None]
    to_vector: Callable[[Sequence[Any]], Array]
    keep: Callable[[Array, Array], "MaskedModel"]
    biases: Sequence[Array] = ()


def mask_model(model: keras.Model, sites: Sites, path: str = "folded") -> MaskedModel:
    """Make the loss of a model a function of the masks.

    Args:
        model: the original; it is not changed.
        sites: its sites.
        path: "folded" keeps the original layer and gives it the kernel W(m) = P diag(m) V^T, so that an evaluation
            costs what the original network costs; "factored" runs G, the masks and H in a row.
    """
    if path == "folded":
        return _folded(model, sites)
    everything = np.ones(sites.layout.size, bool), np.zeros(len(sites.found), bool)
    return mask_kept(model, sites, *everything, with_biases=False)


def mask_kept(model: keras.Model, sites: Sites, kept: Array, whole: Array, with_biases: bool = True) -> MaskedModel:
    """Make the loss a function of the kept terms' masks; an evaluation costs what the compressed network costs.

    Args:
        model: the original; it is not changed.
        sites: its sites.
        kept: which terms there are, bool [n], at least one a decomposed site; the masks of others have no influence.
        whole: sites that stay as they are, bool [S], whatever their masks.
        with_biases: whether it is one of the biases of the decomposed sites, too: of those that may be fitted anew.
    """
    parts = zip(sites.found, sites.layout.split(kept), whole, strict=True)
    chosen = [(site, np.flatnonzero(keep)) for site, keep, stays in parts if not stays]
    taken = _names(model)
    chains = {id(site.layer): _chain(site, len(terms), taken) for site, terms in chosen}
    copy, _ = transform(model, lambda layer: chains.get(id(layer)))
    for site, terms in chosen:
        set_factors(chains[id(site.layer)][::2], site, terms)
    masks = [chains[id(site.layer)][1].mask for site, _ in chosen]
    fitted = [site for site, _ in chosen if with_biases and has_free_bias(site)]
    biases = [keras.ops.convert_to_numpy(site.layer.bias).astype(float) for site in fitted]
    variables = masks + [chains[id(site.layer)][2].bias for site in fitted]
    size = len(kept) + sum(map(len, biases))
    places = np.append(np.flatnonzero(kept & ~sites.layout.spread(whole)), np.arange(len(kept), size))
    values = [variable.value for variable in variables]
    return MaskedModel(copy, values, *_entries(variables, places, size), partial(mask_kept, model, sites), biases)


def _entries(
    variables: Sequence[keras.Variable], places: Array, size: int
) -> tuple[Callable[[Array], None], Callable[[Sequence[Any]], Array]]:
    """From a vector [size], whose entries at `places` are the values of vectors in a row, to these, and back."""
    ends = np.cumsum([variable.shape[0] for variable in variables])[:-1]

    def write(vector: Array) -> None:
        for variable, part in zip(variables, np.split(vector[places], ends), strict=True):
            variable.assign(part)

    def to_vector(gradients: Sequence[Any]) -> Array:
        gradient = np.zeros(size)
        gradient[places] = np.concatenate(gradients)
        return gradient

    return write, to_vector


def has_free_bias(site: Site) -> bool:
    """Whether a site has a bias that may be fitted anew: nobody froze it, or asked anything of its values."""
    layer = site.layer
    return bool(layer.use_bias and layer.trainable and layer.bias.trainable and layer.bias_constraint is None)


def _chain(site: Site, rank: int, taken: set[str]) -> list[keras.layers.Layer]:
    G, mask, H = (_free_name(f"{site.layer.name}_{part}", taken) for part in ("g", "mask", "h"))
    first, second = factor_layers(site, rank, [G, H])
    return [first, mask_layer(site, rank, mask), second]


def _folded(model: keras.Model, sites: Sites) -> MaskedModel:
    copy, layers = transform(model, lambda layer: None)
    kernels = [site.kind.kernel_of(layers[id(site.layer)]) for site in sites.found]
    values = [kernel.value for kernel in kernels]
    folding = folding_on(values[0].device, [site.decomposition for site in sites.found], sites.layout)

    def write(masks: Array) -> None:
        for kernel, value in zip(kernels, folding.kernels(masks), strict=True):
            kernel.assign(value)

    return MaskedModel(copy, values, write, folding.slopes, partial(mask_kept, model, sites))


def rebuild(
    model: keras.Model, sites: Sites, kept: Array, scale: Array, whole: Array, biases: Sequence[Array] | None = None
) -> keras.Model:
    """The compressed network, of built-in layers only.

    Args:
        model: the original; it is not changed.
        sites: its sites.
        kept: which terms stay, bool [n], at least one a decomposed site.
        scale: their masks, P_j <- m_j P_j (paper, section 3), float64 [n].
        whole: sites that stay as they are, bool [S].
        biases: as those of `mask_kept`; None leaves all as they are.

    Returns:
        a functional model in which every decomposed site is two layers, NAME_g and NAME_h; one that makes an output
        of the model, whose name labels and losses may go by, is NAME_g and NAME.
    """
    taken, last = _names(model), {id(tensor._keras_history.operation) for tensor in model.outputs}
    parts = zip(sites.found, sites.layout.split(kept), sites.layout.split(scale), whole, strict=True)
    pairs: dict[int, tuple[list[keras.layers.Layer], Site, Array, Array]] = {}
    for site, keep, factor, stays in parts:
        if not stays:
            terms, name = np.flatnonzero(keep), site.layer.name
            names = [_free_name(f"{name}_g", taken), name if id(site.layer) in last else _free_name(f"{name}_h", taken)]
            pairs[id(site.layer)] = factor_layers(site, len(terms), names), site, terms, factor[terms]
    copy, _ = transform(model, lambda layer: pairs[id(layer)][0] if id(layer) in pairs else None)
    for pair in pairs.values():
        set_factors(*pair)
    if biases is not None:
        fitted = [second for (_, second), site, *_ in pairs.values() if has_free_bias(site)]
        for layer, bias in zip(fitted, biases, strict=True):
            layer.bias.assign(bias)
    return copy


def _names(model: keras.Model) -> set[str]:
    return {name for path, _ in leaf_layers(model) for name in path.split("/")}


def _free_name(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def count_convolutions(
    model: keras.Model, input_shape: tuple[int, ...] | None = None, layers: str | Sequence[str] = LAYERS[:1]
) -> dict[str, tuple[int, int]]:
    """MACs and params of the kernels of some kinds of layers, counted by replaying the model's graph.

    Args:
        model: the network, original or compressed.
        input_shape: of one image, needed where the model leaves dimensions open.
        layers: kinds of layers, of config.LAYERS or "all".

    Returns:
        path -> (MACs of one image over all uses of the layer, kernel weights).
    """
    layers = check_layers(layers)
    counts: dict[str, tuple[int, int]] = {}
    first_path: dict[int, str] = {}
    for call in record_calls(model, input_shape):
        if name_of(call.layer) not in layers:
            continue
        path = first_path.setdefault(id(call.layer), call.path)
        kind = KINDS[name_of(call.layer)]
        weights = prod(kind.kernel_of(call.layer).shape)
        shape = call.input_shape if kind.transposed else call.output_shape
        macs = call.times * prod(sizes_of(call.layer, shape)) * weights
        counts[path] = (counts.get(path, (0, 0))[0] + macs, weights)
    return counts
