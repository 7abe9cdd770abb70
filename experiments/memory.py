"""The memory that a process has taken, and that the training of a network takes."""

import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    import keras

T = TypeVar("T")


def peak_bytes() -> int:
    """Most that this process held at any time; the system counts it in bytes or in units of 1,024."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def alone(function: Callable[..., T], *arguments: Any) -> T:
    """What a function gives in a process of its own, whose memory nothing else has taken."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def training_bytes(model: "keras.Model", images: np.ndarray, labels: np.ndarray, batch_size: int) -> int:
    """The most that this process held after an epoch of SGD with momentum, for a network with logits out."""
    import keras

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1e-4, momentum=0.9), loss)
    model.fit(images, labels, batch_size=batch_size, verbose=0)
    return peak_bytes()
