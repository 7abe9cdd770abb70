"""The kinds of layers that can be decomposed: what tells one from the others, and nothing else."""

from dataclasses import dataclass

import keras

from cobla_tf.config import SCHEMES
from cobla_tf.kernels import KernelForm

Layer = keras.layers.Layer


@dataclass(frozen=True)
class Kind:
    """One kind of layer.

    Attributes:
        layer: its class; one of its two factors is always of this class as well.
        pointwise: the class of a second factor that has nothing but channels to mix.
        schemes: those that differ; a layer without a width has only "channel".
        kernel: the name of what is decomposed.
        transposed: as of KernelForm.
    """

    layer: type[Layer]
    pointwise: type[Layer]
    schemes: tuple[str, ...] = ("channel",)
    kernel: str = "kernel"
    transposed: bool = False

    def kernel_of(self, layer: Layer) -> keras.Variable:
        """The variable that is decomposed."""
        return getattr(layer, self.kernel)

    def form(self, layer: Layer, scheme: str) -> KernelForm:
        """How a layer's kernel is read in a scheme, or in the only one that there is for its kind."""
        own = scheme if scheme in self.schemes else self.schemes[0]
        return KernelForm(own, tuple(self.kernel_of(layer).shape), getattr(layer, "groups", 1), self.transposed)


KINDS = {
    "conv2d": Kind(keras.layers.Conv2D, keras.layers.Conv2D, SCHEMES),
    "conv1d": Kind(keras.layers.Conv1D, keras.layers.Conv1D),
    "conv3d": Kind(keras.layers.Conv3D, keras.layers.Conv3D),
    "conv2d_transpose": Kind(keras.layers.Conv2DTranspose, keras.layers.Conv2D, SCHEMES, transposed=True),
    "separable_conv2d": Kind(keras.layers.SeparableConv2D, keras.layers.Conv2D, kernel="pointwise_kernel"),
    "dense": Kind(keras.layers.Dense, keras.layers.Dense),
}
"""Every kind by its name in cobla_tf.config.LAYERS."""
NAMES = {kind.layer: name for name, kind in KINDS.items()}


def name_of(layer: Layer) -> str | None:
    """The name of a layer's kind; None for subclasses too, whose own code two plain layers could not stand for."""
    return NAMES.get(type(layer))


def channels_first(layer: Layer) -> bool:
    """Whether a layer's channels stand before its sizes."""
    return getattr(layer, "data_format", None) == "channels_first"


def sizes_of(layer: Layer, shape: tuple[int, ...]) -> tuple[int, ...]:
    """What is left of the shape of an image, input or output of a layer, without its channels."""
    return shape[1:] if channels_first(layer) else shape[:-1]
