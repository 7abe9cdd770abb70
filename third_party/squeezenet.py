"""SqueezeNet from a folder of .npy files: channels-first with ONNX names, channels-last with TFLite names.

The releases have weights of the same shapes and differ in padding, pooling and images. Given input and output vectors
tell which geometry is the right one; without them that of the release's own graph is taken, and the log says so.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from absl import logging
from cobla_tf.third_party.arrays import OUT_H_W_IN, OUT_IN_H_W, Arrays, Names, fill, read_npy_folder
from cobla_tf.third_party.check import Check

from cobla_tf.errors import ModelError
from cobla_tf.squeezenet import Geometry, squeezenet

if TYPE_CHECKING:
    import keras

FIRES = range(2, 10)
PARTS = ("squeeze1x1", "expand1x1", "expand3x3")
LAYERS = ("conv1", *(f"fire{fire}_{part}" for fire in FIRES for part in PARTS), "conv10")
CLASSES = 1000


def gluon_names(version: str) -> Names:
    """Of squeezenet1.1-7.onnx and others that came from MXNet's Gluon: convolutions are numbered."""
    return {layer: (f"squeezenet0_conv{i}_weight", f"squeezenet0_conv{i}_bias") for i, layer in enumerate(LAYERS)}


def caffe2_names(version: str) -> Names:
    """Of squeezenet1.0-*.onnx: the authors' names with an underscore for the slash."""
    return {layer: (f"{layer}_w_0", f"{layer}_b_0") for layer in LAYERS}


def torchvision_names(version: str) -> Names:
    """Of what torch.onnx.export makes of torchvision's squeezenet1_0 and 1_1: modules are numbered, pools too."""
    numbers = {"v1.0": (3, 4, 5, 7, 8, 9, 10, 12), "v1.1": (3, 4, 6, 7, 9, 10, 11, 12)}[version]
    modules = {"conv1": "features.0", "conv10": "classifier.1"}
    for fire, number in zip(FIRES, numbers, strict=True):
        for part, name in zip(PARTS, ("squeeze", "expand1x1", "expand3x3"), strict=True):
            modules[f"fire{fire}_{part}"] = f"features.{number}.{name}"
    return {layer: (f"{modules[layer]}.weight", f"{modules[layer]}.bias") for layer in LAYERS}


def tflite_names(version: str) -> Names:
    """Of the SqueezeNet among TensorFlow's hosted LiteRT models: squeeze, e1x1 and e3x3."""
    short = {layer: layer.replace("squeeze1x1", "squeeze").replace("expand", "e") for layer in LAYERS}
    return {layer: (f"{short[layer]}_kernel", f"{short[layer]}_Conv2D_bias") for layer in LAYERS}


@dataclass(frozen=True)
class Release:
    """A published form: how arrays are named and turned, the graph they belong to, and the images it takes."""

    title: str
    names: Callable[[str], Names]
    axes: tuple[int, ...]
    geometry: Geometry
    preprocessing: str


RELEASES = (
    Release("ONNX from Gluon", gluon_names, OUT_IN_H_W, Geometry(224), "torch"),
    Release("ONNX from Caffe2", caffe2_names, OUT_IN_H_W, Geometry(224, pooling="valid"), "caffe"),
    Release("ONNX from torchvision", torchvision_names, OUT_IN_H_W, Geometry(224), "torch"),
    Release("TFLite", tflite_names, OUT_H_W_IN, Geometry(224, CLASSES + 1, "same", "valid"), "tf"),
)


def convert_squeezenet(version: str, folder: Path, check: Check | None) -> tuple["keras.Model", str]:
    """The network with the folder's weights, and the preprocessing that it was trained on.

    Args:
        version: 'v1.0' or 'v1.1'.
        folder: .npy files in one of the forms of RELEASES.
        check: input and output of the original; its images decide on the size.

    Raises:
        ModelError: arrays in no known form, missing or wrong; no known geometry reproduces the given outputs.
    """
    arrays = read_npy_folder(folder)
    release = _recognise(version, arrays)
    geometry = replace(release.geometry, size=check.images.shape[1]) if check else release.geometry
    model = _built(version, geometry)
    if model is None:
        raise ModelError(
            f"Images of {geometry.size} x {geometry.size} are too small for squeezenet_{version}; give larger."
        )
    fill(model, arrays, release.names(version), release.axes)
    if check:
        model, geometry = _fitting(version, model, geometry, check)
    else:
        logging.warning("not checked against an output: %s as in the release's graph, %s", release.title, geometry)
    return _without_background(version, model, geometry), release.preprocessing


def _recognise(version: str, arrays: Arrays) -> Release:
    def found(release: Release) -> int:
        return sum(name in arrays for pair in release.names(version).values() for name in pair)

    release = max(RELEASES, key=found)
    if not found(release):
        forms = ", ".join(f"{each.names(version)['conv1'][0]}.npy ({each.title})" for each in RELEASES)
        raise ModelError(f"The folder has arrays {', '.join(sorted(arrays)[:5])}; expected those of one form: {forms}.")
    logging.info("names of %s", release.title)
    return release


def _fitting(version: str, model: "keras.Model", geometry: Geometry, check: Check) -> tuple["keras.Model", Geometry]:
    """The first geometry that reproduces the given outputs, the release's own before all others."""
    deviations = {}
    for candidate in _candidates(geometry):
        network = model if candidate == geometry else _built(version, candidate)
        if network is None:
            continue
        network.set_weights(model.get_weights())
        deviations[candidate] = check.deviation(network)
        if deviations[candidate] <= check.tolerance:
            logging.info("outputs reproduced to %.2g with %s", deviations[candidate], candidate)
            return network, candidate
    nearest = min(deviations, key=deviations.__getitem__)
    raise ModelError(
        f"No known padding and pooling reproduces the given outputs; nearest is {nearest}, with a deviation of "
        f"{deviations[nearest]:.2g} where {check.tolerance:g} is allowed: check that the vectors are of this release."
    )


def _built(version: str, geometry: Geometry) -> "keras.Model | None":
    """The network; None where its images are too small for it."""
    try:
        return squeezenet(version, geometry)
    except ValueError:  # of Keras, where nothing is left of an image
        return None


def _candidates(own: Geometry) -> Iterator[Geometry]:
    yield own
    for conv1, pooling, padding in product(("valid", "same"), ("ceil", "valid", "same"), (0, 1)):
        if (candidate := Geometry(own.size, own.classes, conv1, pooling, padding)) != own:
            yield candidate


def _without_background(version: str, model: "keras.Model", geometry: Geometry) -> "keras.Model":
    """The labels of ImageNet's 1,000 classes know no background, which is class 0 where there are 1,001."""
    if geometry.classes == CLASSES:
        return model
    logging.info("class 0 of %d is the background: left out", geometry.classes)
    smaller = squeezenet(version, replace(geometry, classes=CLASSES))
    weights = model.get_weights()
    smaller.set_weights([*weights[:-2], weights[-2][..., 1:], weights[-1][1:]])  # the last layer's kernel and bias
    return smaller
