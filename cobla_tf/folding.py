"""W(m) of all sites, and the way back from dE/dW to the masks: a processor does it in NumPy, other devices themselves.

A processor multiplies in double precision faster by NumPy than by TensorFlow. Beside an accelerator's gradients that
would take longer than these, and all kernels would cross the bus twice.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow.experimental.numpy as tnp

from cobla_tf.blas import on_all_cores
from cobla_tf.decomposition import Decomposition
from cobla_tf.kernels import KernelForm
from cobla_tf.layout import Layout

Array = np.ndarray
Factors = tuple[tf.Tensor, tf.Tensor]


class Folding(ABC):
    """Both maps between masks and kernels, in double precision."""

    @abstractmethod
    def kernels(self, masks: Array) -> Iterable[Any]:
        """W(m) of every site, for masks float64 [n]."""

    @abstractmethod
    def slopes(self, gradients: Sequence[Any]) -> Array:
        """dE/dm, float64 [n], from dE/dW of every site."""


class ProcessorFolding(Folding):
    """A site a core.

    Args:
        decompositions: of the sites, in the order of the masks.
        layout: which masks are whose.
    """

    def __init__(self, decompositions: Sequence[Decomposition], layout: Layout) -> None:
        """Keep both."""
        self._decompositions, self._layout = decompositions, layout

    def kernels(self, masks: Array) -> Iterable[Array]:
        """See `Folding`."""
        return on_all_cores(Decomposition.fold, self._decompositions, self._layout.split(masks))

    def slopes(self, gradients: Sequence[Any]) -> Array:
        """See `Folding`."""
        arrays = map(np.asarray, gradients)
        return np.concatenate(list(on_all_cores(Decomposition.project, self._decompositions, arrays)))


class DeviceFolding(Folding):
    """All sites in one graph, on a device that keeps P and V of them all: three to four times the bytes of the kernels.

    Args:
        device: TensorFlow's name of it.
        decompositions, layout: of `ProcessorFolding`.
    """

    def __init__(self, device: str, decompositions: Sequence[Decomposition], layout: Layout) -> None:
        """Copy the factors to the device."""
        self._layout, self._device = layout, device
        with tf.device(device):
            self._factors = [(tf.constant(one.P), tf.constant(one.V)) for one in decompositions]
        # Graphs that held the factors, or this object, would keep them until Python looks for cycles.
        forms = [one.form for one in decompositions]
        self._fold, self._project = (tf.function(partial(part, forms)) for part in (_folded, _projected))

    def kernels(self, masks: Array) -> Iterable[tf.Tensor]:
        """See `Folding`."""
        with tf.device(self._device):
            return self._fold(self._factors, [tf.constant(part, tf.float64) for part in self._layout.split(masks)])

    def slopes(self, gradients: Sequence[Any]) -> Array:
        """See `Folding`."""
        with tf.device(self._device):
            return self._project(self._factors, [tf.convert_to_tensor(gradient) for gradient in gradients]).numpy()


def folding_on(device: str, decompositions: Sequence[Decomposition], layout: Layout) -> Folding:
    """The one that suits the device, by TensorFlow's name, on which the kernels are."""
    if tf.DeviceSpec.from_string(device).device_type in (None, "CPU"):
        return ProcessorFolding(decompositions, layout)
    return DeviceFolding(device, decompositions, layout)


def _folded(forms: list[KernelForm], factors: list[Factors], masks: list[tf.Tensor]) -> list[tf.Tensor]:
    parts = zip(forms, factors, masks, strict=True)
    return [form.kernel(tf.matmul(P * mask, V, transpose_b=True), tnp) for form, (P, V), mask in parts]


def _projected(forms: list[KernelForm], factors: list[Factors], gradients: list[tf.Tensor]) -> tf.Tensor:
    parts = zip(forms, factors, gradients, strict=True)
    wide = ((form, P, V, tf.cast(gradient, P.dtype)) for form, (P, V), gradient in parts)
    return tf.concat([tf.reduce_sum(P * (form.matrices(dW, tnp) @ V), axis=(0, 1)) for form, P, V, dW in wide], 0)
