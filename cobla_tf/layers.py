"""The two plain layers that stand for one, and the mask between them in the two-factor reading of W(m)."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from cobla_tf.kinds import channels_first
from cobla_tf.sites import Site

Array = np.ndarray

NEUTRAL = {"kernel_size": 1, "strides": 1, "dilation_rate": 1, "output_padding": 0}
"""What leaves a size as it is."""
PASSED_ON = (
    "trainable", "dtype", "data_format", "padding", "groups", "filters", "units", "use_bias", "activation",
    "activity_regularizer", "bias_initializer", "bias_regularizer", "bias_constraint",
)  # fmt: skip
"""What the second factor has from the layer, beside its share of the sizes."""
OF_THE_KERNEL = ("kernel_regularizer", "kernel_constraint", "pointwise_regularizer", "pointwise_constraint")
"""What was said of the kernel as a whole, and holds for neither factor."""
DROPPED = ("activation", "activity_regularizer", "bias_regularizer", "bias_constraint", *OF_THE_KERNEL)
"""What the first factor has not: the bias and all that comes after it, and OF_THE_KERNEL."""
INITIALISERS = ("kernel_initializer", "pointwise_initializer")
"""Of the kernel, which may be one array of its shape."""


def factor_layers(site: Site, rank: int, names: Sequence[str]) -> list[keras.layers.Layer]:
    """Two layers in a row, not built yet: G, of the layer's own class, and H, which ends in its bias and activation."""
    form, kind, config = site.decomposition.form, site.kind, site.layer.get_config()
    first, second = {}, {}
    for key, neutral in NEUTRAL.items():
        if config.get(key) is not None:
            own, rest = tuple(config[key]), (neutral,) * len(config[key])
            first[key] = own[: form.split] + rest[form.split :]
            second[key] = rest[: form.split] + own[form.split :]
    dropped = {key: None for key in DROPPED if key in config}
    config = {key: value for key, value in config.items() if key not in INITIALISERS}
    width = {"units" if "units" in config else "filters": form.groups * rank}
    G = kind.layer.from_config({**config, **dropped, **first, **width, "use_bias": False, "name": names[0]})
    passed_on = {key: config[key] for key in PASSED_ON if key in config}
    if form.scheme == "spatial":
        return [G, kind.layer.from_config({**passed_on, **second, "name": names[1]})]
    second.pop("output_padding", None)
    return [G, kind.pointwise.from_config({**passed_on, **second, "name": names[1]})]


def set_factors(pair: Sequence[keras.layers.Layer], site: Site, terms: Array, scale: Array | None = None) -> None:
    """Give two built layers the kept terms of a site, and all else that the layer has learnt."""
    kind, layer, (first, second) = site.kind, site.layer, pair
    G, H = site.decomposition.factors(terms, scale)
    kind.kernel_of(first).assign(G)
    second.kernel.assign(H)
    if hasattr(layer, "depthwise_kernel"):
        first.depthwise_kernel.assign(layer.depthwise_kernel)
        first.depthwise_kernel.trainable = layer.depthwise_kernel.trainable
    for part in (kind.kernel_of(first), second.kernel):
        part.trainable = kind.kernel_of(layer).trainable
    if layer.use_bias:
        second.bias.assign(layer.bias)
        second.bias.trainable = layer.bias.trainable


class Mask(keras.layers.Layer):
    """Multiplies each of r channels, in every group, by a weight of its own: diag(m) of Eqs. 3 and 4.

    Args:
        rank: number of masks r.
        groups: the input has groups * r channels.
        axis: of the channels.
    """

    def __init__(self, rank: int, groups: int, axis: int, **kwargs: Any) -> None:
        """Store the sizes."""
        super().__init__(**kwargs)
        self.supports_masking = True
        self.rank = rank
        self.groups = groups
        self.axis = axis

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the mask [r]."""
        self.mask = self.add_weight(name="mask", shape=(self.rank,), initializer="ones")

    def call(self, inputs: Any) -> Any:
        """Of the same shape as the inputs."""
        shape = [1] * len(inputs.shape)
        shape[self.axis] = self.groups * self.rank
        return inputs * keras.ops.reshape(keras.ops.tile(self.mask, self.groups), shape)


def mask_layer(site: Site, rank: int, name: str) -> Mask:
    """The mask between both factors of a site."""
    axis = 1 if channels_first(site.layer) else -1
    return Mask(rank, site.decomposition.form.groups, axis, name=name, dtype=site.layer.dtype_policy)
