"""VGG-16 from the file of weights that Keras publishes."""

from pathlib import Path
from typing import TYPE_CHECKING

from cobla_tf.third_party.arrays import AS_IN_KERAS, fill, read_hdf5
from cobla_tf.third_party.check import Check

from cobla_tf.models import INPUT_PREPROCESSING, ZOO

if TYPE_CHECKING:
    import keras


def convert_vgg16(weights: Path, check: Check | None) -> tuple["keras.Model", str]:
    """The zoo's `vgg16` with these weights, and the preprocessing that it takes.

    The published network ends in a softmax, the zoo's in its logits: the same weights, without the softmax.

    Args:
        weights: vgg16_weights_tf_dim_ordering_tf_kernels.h5, with LAYER/LAYER_W_1:0 and LAYER/LAYER_b_1:0.
        check: images after Keras' own preprocessing of VGG-16, and outputs.

    Raises:
        ModelError: arrays that are missing or wrong, or outputs that are not reproduced.
    """
    arrays = read_hdf5(weights)
    model = ZOO["vgg16"]()
    layers = [layer.name for layer in model.layers if layer.weights]
    names = {layer: (f"{layer}/{layer}_W_1:0", f"{layer}/{layer}_b_1:0") for layer in layers}
    fill(model, arrays, names, AS_IN_KERAS)
    if check:
        check.require(model)
    return model, INPUT_PREPROCESSING["vgg16"]
