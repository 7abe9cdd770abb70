"""Whether a converted network does what the original did: given images in, given outputs out."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from cobla_tf.third_party.arrays import read_npy

from cobla_tf.errors import ModelError

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Check:
    """Images [n, h, w, c] as the original took them, and its outputs [n, classes], logits or probabilities.

    Attributes:
        tolerance: largest difference that is let pass, as a share of the spread of the outputs.
    """

    images: np.ndarray
    outputs: np.ndarray
    tolerance: float = 1e-3

    def deviation(self, model: "keras.Model") -> float:
        """The largest difference between the model's outputs and the given ones over the spread of these.

        Raises:
            ModelError: the model takes images, or gives outputs, of another shape.
        """
        taken = tuple(model.inputs[0].shape[1:])
        if self.images.shape[1:] != taken or self.outputs.shape[1] != model.output.shape[1]:
            raise ModelError(
                f"{model.name} takes images {list(taken)} and gives {model.output.shape[1]} outputs, but "
                f"the vectors are {list(self.images.shape)} and {list(self.outputs.shape)}: give those of its release."
            )
        got = np.asarray(model(self.images, training=False), np.float64)
        expected = self.outputs.astype(np.float64)
        if _are_probabilities(expected):
            got = np.exp(got - got.max(axis=1, keepdims=True))
            got /= got.sum(axis=1, keepdims=True)
        return float(np.abs(got - expected).max() / max(np.ptp(expected), np.finfo(np.float32).tiny))

    def require(self, model: "keras.Model") -> float:
        """The deviation, where it is within the tolerance.

        Raises:
            ModelError: it is not.
        """
        deviation = self.deviation(model)
        if not deviation <= self.tolerance:
            raise ModelError(
                f"{model.name} does not reproduce the given outputs, its deviation is {deviation:.2g} and "
                f"{self.tolerance:g} is allowed: check that weights, input and output are of one release."
            )
        return deviation


def read_check(images: str, outputs: str, tolerance: float) -> Check:
    """The check from two .npy files; channels-first images are turned, and axes of length 1 dropped from outputs.

    Raises:
        ModelError: files that cannot be read, or arrays of another form.
    """
    x, y = read_npy(Path(images)), read_npy(Path(outputs))
    if x.ndim != 4 or 3 not in (x.shape[1], x.shape[3]) or not x.size:
        raise ModelError(f"{images} must hold images [n, h, w, 3] or [n, 3, h, w], got {list(x.shape)}.")
    if x.shape[3] != 3:
        x = x.transpose(0, 2, 3, 1)
    if y.ndim < 2 or len(y) != len(x) or y.size != len(y) * max(y.shape[1:]):
        raise ModelError(f"{outputs} must hold outputs [{len(x)}, classes], got {list(y.shape)}.")
    return Check(x.astype(np.float32), y.reshape(len(y), -1).astype(np.float32), tolerance)


def _are_probabilities(outputs: np.ndarray) -> bool:
    return bool((outputs >= 0).all() and np.allclose(outputs.sum(axis=1), 1, atol=1e-3))
