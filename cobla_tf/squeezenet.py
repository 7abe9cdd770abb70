"""SqueezeNet 1.0 and 1.1 (Iandola et al., 2016), in the geometry that a release of trained weights expects."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Geometry:
    """What releases of the same weights' shapes differ in.

    Attributes:
        size: side of the images.
        classes: number of logits.
        conv1_padding: of the first convolution, in Keras' words.
        pooling: of the three 3x3 maxima at stride 2: 'ceil' rounds the output size up as Caffe does, 'valid' rounds it
            down, 'same' pads both sides.
        conv10_padding: zeros around the input of the last convolution.
    """

    size: int = 227
    classes: int = 1000
    conv1_padding: Literal["valid", "same"] = "valid"
    pooling: Literal["ceil", "valid", "same"] = "ceil"
    conv10_padding: Literal[0, 1] = 0

    def __str__(self) -> str:
        """The modes, to stand in a message."""
        return f"conv1 {self.conv1_padding}, pooling {self.pooling}, conv10 padded by {self.conv10_padding}"


@dataclass(frozen=True)
class _Version:
    conv1: tuple[int, int]
    pools_after: tuple[str, ...]
    caffe: Geometry


_VERSIONS = {
    "v1.0": _Version((96, 7), ("conv1", "fire4", "fire8"), Geometry(conv10_padding=1)),
    "v1.1": _Version((64, 3), ("conv1", "fire3", "fire5"), Geometry()),
}


def squeezenet(version: str, geometry: Geometry | None = None) -> "keras.Model":
    """The network with random weights: images [size, size, 3], logits [classes].

    Args:
        version: 'v1.0' or 'v1.1'.
        geometry: None is that of the authors' Caffe release.
    """
    from keras import Input, Model, layers

    plan = _VERSIONS[version]
    geometry = geometry or plan.caffe
    images = Input((geometry.size, geometry.size, 3), name="image")
    x = conv("conv1", *plan.conv1, strides=2, padding=geometry.conv1_padding)(images)
    x = _pool(x, "pool1", geometry.pooling)
    for fire, squeeze in enumerate((16, 16, 32, 32, 48, 48, 64, 64), start=2):
        x = _fire(x, f"fire{fire}", squeeze)
        if f"fire{fire}" in plan.pools_after:
            x = _pool(x, f"pool{fire}", geometry.pooling)
    x = layers.Dropout(0.5, name="drop9")(x)
    if geometry.conv10_padding:
        x = layers.ZeroPadding2D(geometry.conv10_padding, name="pad10")(x)
    x = conv("conv10", geometry.classes, 1)(x)
    name = f"squeezenet_{version.replace('.', '_')}"
    return Model(images, layers.GlobalAveragePooling2D(name="pool10")(x), name=name)


def conv(name: str, filters: int, kernel: int, **options: Any) -> "keras.Layer":
    """A square convolution as all networks of the zoo have it: 'same' padding and a ReLU, unless told otherwise."""
    from keras import layers

    return layers.Conv2D(filters, kernel, **{"padding": "same", "activation": "relu", "name": name, **options})


def _fire(x: Any, name: str, squeeze: int) -> Any:
    from keras import layers

    x = conv(f"{name}_squeeze1x1", squeeze, 1)(x)
    branches = [conv(f"{name}_expand{size}x{size}", 4 * squeeze, size)(x) for size in (1, 3)]
    return layers.Concatenate(name=f"{name}_concat")(branches)


def _pool(x: Any, name: str, rounding: str) -> Any:
    """Keras' 'same' at an even size pads one row and column at the end, which is what rounding up means."""
    from keras import layers

    ceil = "valid" if x.shape[1] % 2 else "same"
    return layers.MaxPooling2D(3, 2, padding=ceil if rounding == "ceil" else rounding, name=name)(x)
