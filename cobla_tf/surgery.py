"""Masking the sites of a model, and rebuilding it with plain layers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from cobla_tf.graph import leaf_layers, record_calls, transform
from cobla_tf.layers import MaskedConv2D, factor_geometry
from cobla_tf.sites import Site, Sites

Array = np.ndarray


@dataclass(frozen=True)
class MaskedModel:
    """A copy of a model whose sites are functions of the masks.

    Attributes:
        model: functional; run it with training=False.
        variables: what to differentiate, one a site: its folded kernel, or its mask.
        write: sets all sites to a mask vector, float64 [n].
        to_masks: turns gradients by `variables` (NumPy) into dE/dm, float64 [n].
    """

    model: keras.Model
    variables: Sequence[Any]
    write: Callable[[Array], None]
    to_masks: Callable[[Sequence[Array]], Array]


def mask_model(model: keras.Model, sites: Sites, path: str = "folded") -> MaskedModel:
    """Make the loss of a model a function of the masks.

    Args:
        model: the original; it is not changed.
        sites: its sites.
        path: "folded" keeps the original convolution and gives it the kernel W(m) = P diag(m) V^T, so that an
            evaluation costs what the original network costs; "factored" runs MaskedConv2D.
    """
    return _folded(model, sites) if path == "folded" else _factored(model, sites)


def _folded(model: keras.Model, sites: Sites) -> MaskedModel:
    copy, layers = transform(model, lambda layer: None)
    kernels = [layers[id(site.layer)].kernel for site in sites.found]
    decompositions = [site.decomposition for site in sites.found]

    def write(masks: Array) -> None:
        for kernel, decomposition, mask in zip(kernels, decompositions, sites.layout.split(masks), strict=True):
            kernel.assign(decomposition.fold(mask))

    def to_masks(gradients: Sequence[Array]) -> Array:
        return np.concatenate([d.project(g.astype(float)) for d, g in zip(decompositions, gradients, strict=True)])

    return MaskedModel(copy, [kernel.value for kernel in kernels], write, to_masks)


def _factored(model: keras.Model, sites: Sites) -> MaskedModel:
    masked = {id(site.layer): _masked_layer(site) for site in sites.found}
    copy, _ = transform(model, lambda layer: [masked[id(layer)]] if id(layer) in masked else None)
    for site in sites.found:
        layer = masked[id(site.layer)]
        G, H = site.decomposition.factors(np.arange(site.decomposition.full_rank))
        layer.G.assign(G)
        layer.H.assign(H)
        if layer.bias is not None:
            layer.bias.assign(site.layer.bias)
    masks = [masked[id(site.layer)].mask for site in sites.found]

    def write(vector: Array) -> None:
        for mask, part in zip(masks, sites.layout.split(vector), strict=True):
            mask.assign(part)

    return MaskedModel(
        copy, [mask.value for mask in masks], write, lambda gradients: np.concatenate(gradients).astype(float)
    )


def _masked_layer(site: Site) -> MaskedConv2D:
    layer = site.layer
    return MaskedConv2D(
        rank=site.decomposition.full_rank,
        filters=layer.filters,
        kernel_size=layer.kernel_size,
        scheme=site.decomposition.scheme,
        strides=layer.strides,
        dilation_rate=layer.dilation_rate,
        padding=layer.padding,
        activation=layer.activation,
        use_bias=layer.use_bias,
        name=layer.name,
        dtype=layer.dtype_policy,
    )


def rebuild(model: keras.Model, sites: Sites, kept: Array, scale: Array, whole: Array) -> keras.Model:
    """The compressed network, of built-in layers only.

    Args:
        model: the original; it is not changed.
        sites: its sites.
        kept: which terms stay, bool [n], at least one a decomposed site.
        scale: their masks, P_j <- m_j P_j (paper, section 3), float64 [n].
        whole: sites that stay as they are, bool [S].

    Returns:
        a functional model in which every decomposed site is two Conv2D layers, NAME_g and NAME_h.
    """
    layout = sites.layout
    taken = {name for path, _ in leaf_layers(model) for name in path.split("/")}
    pairs: dict[int, tuple[Site, list[keras.layers.Layer], tuple[Array, Array]]] = {}
    for i, (keep, factor) in enumerate(zip(layout.split(kept), layout.split(scale), strict=True)):
        site = sites.found[i]
        if not whole[i]:
            terms = np.flatnonzero(keep)
            names = [_free_name(f"{site.layer.name}_{letter}", taken) for letter in "gh"]
            kernels = site.decomposition.factors(terms, factor[terms])
            pairs[id(site.layer)] = (site, _plain_pair(site, len(terms), names), kernels)
    copy, _ = transform(model, lambda layer: pairs[id(layer)][1] if id(layer) in pairs else None)
    for site, (first, second), (G, H) in pairs.values():
        first.set_weights([G])
        second.set_weights([H, site.layer.bias.numpy()] if site.layer.use_bias else [H])
    return copy


def _free_name(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _plain_pair(site: Site, rank: int, names: list[str]) -> list[keras.layers.Layer]:
    layer, scheme = site.layer, site.decomposition.scheme
    kh, kw = layer.kernel_size
    sizes = ((kh, 1), (1, kw)) if scheme == "spatial" else ((kh, kw), (1, 1))
    geometry = factor_geometry(scheme, layer.strides, layer.dilation_rate)
    shared = {"padding": layer.padding, "dtype": layer.dtype_policy, "trainable": layer.trainable}
    first, second = (
        {"kernel_size": size, "strides": strides, "dilation_rate": dilation}
        for size, (strides, dilation) in zip(sizes, geometry, strict=True)
    )
    activation = keras.activations.deserialize(keras.activations.serialize(layer.activation))  # a layer: not shared
    return [
        keras.layers.Conv2D(rank, use_bias=False, name=names[0], **first, **shared),
        keras.layers.Conv2D(
            layer.filters,
            use_bias=layer.use_bias,
            activation=activation,
            activity_regularizer=layer.activity_regularizer,
            bias_regularizer=layer.bias_regularizer,
            bias_constraint=layer.bias_constraint,
            name=names[1],
            **second,
            **shared,
        ),
    ]


def count_convolutions(model: keras.Model, input_shape: tuple[int, ...] | None = None) -> dict[str, tuple[int, int]]:
    """MACs and params of every Conv2D kernel, counted by replaying the model's graph.

    Returns:
        path -> (MACs of one image over all uses of the layer, kernel weights).
    """
    counts: dict[str, tuple[int, int]] = {}
    first_path: dict[int, str] = {}
    for call in record_calls(model, input_shape):
        if not isinstance(call.layer, keras.layers.Conv2D):
            continue
        kh, kw, c, f = call.layer.kernel.shape
        path = first_path.setdefault(id(call.layer), call.path)
        positions = int(np.prod(call.output_shape[:2]))
        counts[path] = (counts.get(path, (0, 0))[0] + positions * kh * kw * c * f, kh * kw * c * f)
    return counts
