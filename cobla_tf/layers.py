"""The masked two-factor convolution: the paper's reading of W(m), and the oracle of the folded one."""

from typing import Any

import keras


@keras.saving.register_keras_serializable(package="cobla_tf")
class MaskedConv2D(keras.layers.Layer):
    """A convolution by G, a mask on its output channels, and a convolution by H (Eqs. 3 and 4).

    With all masks one it equals the Conv2D that it was made from.

    Args:
        rank: number of masks, the full rank of the site.
        filters: output channels f.
        kernel_size: (kh, kw) of the original kernel.
        scheme: "spatial" or "channel".
        strides, dilation_rate: (vertical, horizontal).
        padding: "same" or "valid".
        activation: as of Conv2D, applied after the bias.
        use_bias: whether there is a bias [f].
    """

    def __init__(
        self,
        rank: int,
        filters: int,
        kernel_size: tuple[int, int],
        scheme: str,
        strides: tuple[int, int] = (1, 1),
        dilation_rate: tuple[int, int] = (1, 1),
        padding: str = "valid",
        activation: Any = None,
        use_bias: bool = True,
        **kwargs: Any,
    ) -> None:
        """Store the geometry."""
        super().__init__(**kwargs)
        self.rank = rank
        self.filters = filters
        self.kernel_size = tuple(kernel_size)
        self.scheme = scheme
        self.strides = tuple(strides)
        self.dilation_rate = tuple(dilation_rate)
        self.padding = padding
        self.activation = keras.activations.get(activation)
        self.use_bias = use_bias

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create mask [r], G, H and bias; all but the mask are constants of the optimisation."""
        kh, kw = self.kernel_size
        channels = input_shape[-1]
        first, second = ((kh, 1), (1, kw)) if self.scheme == "spatial" else ((kh, kw), (1, 1))
        self.mask = self.add_weight(name="mask", shape=(self.rank,), initializer="ones")
        self.G = self.add_weight(name="G", shape=(*first, channels, self.rank), trainable=False)
        self.H = self.add_weight(name="H", shape=(*second, self.rank, self.filters), trainable=False)
        self.bias = (
            self.add_weight(name="bias", shape=(self.filters,), initializer="zeros", trainable=False)
            if self.use_bias
            else None
        )

    def call(self, inputs: Any) -> Any:
        """Images [n, h, w, c] to activations [n, h', w', f]."""
        (first_strides, first_dilation), (second_strides, second_dilation) = factor_geometry(
            self.scheme, self.strides, self.dilation_rate
        )
        hidden = keras.ops.conv(inputs, self.G, first_strides, self.padding, dilation_rate=first_dilation)
        outputs = keras.ops.conv(
            hidden * self.mask, self.H, second_strides, self.padding, dilation_rate=second_dilation
        )
        return self.activation(outputs if self.bias is None else outputs + self.bias)

    def get_config(self) -> dict[str, Any]:
        """Arguments of __init__."""
        return {
            **super().get_config(),
            "rank": self.rank,
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "scheme": self.scheme,
            "strides": self.strides,
            "dilation_rate": self.dilation_rate,
            "padding": self.padding,
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
        }


Pair = tuple[int, int]


def factor_geometry(scheme: str, strides: Pair, dilation: Pair) -> tuple[tuple[Pair, Pair], tuple[Pair, Pair]]:
    """((strides, dilation) of G, (strides, dilation) of H) of a convolution's two factors."""
    if scheme == "spatial":
        return ((strides[0], 1), (dilation[0], 1)), ((1, strides[1]), (1, dilation[1]))
    return (strides, dilation), ((1, 1), (1, 1))
