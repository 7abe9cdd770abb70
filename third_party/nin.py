"""Network in Network for CIFAR-10 from Caffe's HDF5 snapshot."""

from pathlib import Path
from typing import TYPE_CHECKING

from cobla_tf.third_party.arrays import OUT_IN_H_W, fill, read_hdf5
from cobla_tf.third_party.check import Check
from cobla_tf.third_party.whitening import give_whitening

from cobla_tf.models import INPUT_PREPROCESSING, ZOO

if TYPE_CHECKING:
    import keras

LAYERS = ("conv1", "cccp1", "cccp2", "conv2", "cccp3", "cccp4", "conv3", "cccp5", "cccp6")


def convert_nin(snapshot: Path, whitening: str | None, check: Check | None) -> tuple["keras.Model", str]:
    """The zoo's `nin_cifar10` with the snapshot's weights, and the preprocessing that it takes.

    The channels stay in CIFAR-10's own order, RGB, in which Caffe reads that data set. Caffe rounds the sizes of its
    pools up and averages over what lies inside the image, as Keras' 'same' does at these sizes.

    Args:
        snapshot: HDF5 with data/LAYER/0 [out, in, h, w] and data/LAYER/1 [out].
        whitening: see `give_whitening`.
        check: images in 0..255 before any normalisation, and outputs.

    Raises:
        ModelError: arrays that are missing or wrong, no whitening, or outputs that are not reproduced.
    """
    arrays = read_hdf5(snapshot)
    model = ZOO["nin_cifar10"]()
    fill(model, arrays, {layer: (f"data/{layer}/0", f"data/{layer}/1") for layer in LAYERS}, OUT_IN_H_W)
    give_whitening(model, whitening)
    if check:
        check.require(model)
    return model, INPUT_PREPROCESSING["nin_cifar10"]
