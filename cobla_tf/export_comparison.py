"""How near an exported file's outputs are to those of the network it was made from."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cobla_tf.runtimes import Arrays, parts_of
from cobla_tf.texts import short_text, table

Array = np.ndarray

TOLERANCES = {
    "keras": 1e-4,
    "savedmodel": 1e-4,
    "litert": 1e-4,
    "onnx": 1e-4,
    "litert_float16": 1e-2,
    "litert_int8": 0.25,
}
"""Largest accepted difference by export: of the same float32 arithmetic in another order, of weights rounded to 11
bits, and of weights and activations rounded to 8 bits in every layer."""
ROUNDINGS = 20
"""A network that computes in less than float32 may differ by this many of its roundings from itself."""


@dataclass(frozen=True)
class ExportCheck:
    """How near an exported file is to the network.

    Attributes:
        name: of the export, or of an endpoint of it.
        size: of the file or folder, in bytes.
        difference: |outputs of the file - those of the network| / |those of the network|, Euclidean norms over all
            images; the largest one where there are several outputs.
        tolerance: the largest difference that is accepted.
        images: how many were compared.
        agreement: share of the images with the same largest output, in [0, 1], the smallest where there are several;
            None where no output is a vector.
    """

    name: str
    size: int
    difference: float
    tolerance: float
    images: int
    agreement: float | None

    @property
    def passed(self) -> bool:
        """Whether the difference is within the tolerance; NaN is not."""
        return self.difference <= self.tolerance

    def sentence(self) -> str:
        """What was expected and what came."""
        return (
            f"{self.name}: its outputs on {self.images} images must differ from the network's by no more than "
            f"{self.tolerance:.1e} of their norm, and differ by {self.difference:.1e}"
        )


def compare(name: str, form: str, size: int, outputs: Arrays, expected: Arrays, epsilon: float) -> ExportCheck:
    """Judge the outputs of a file by those of the network, all [N, ...]; `epsilon` is of the network's arithmetic.

    `name`, `size`: of the check; `form`: of the export, for the tolerance.
    """
    both = zip(parts_of(outputs), parts_of(expected), strict=True)
    pairs = [(np.asarray(output, np.float64), np.asarray(right, np.float64)) for output, right in both]
    agreements = [share for share in (_agreement(*pair) for pair in pairs) if share is not None]
    tolerance = max(TOLERANCES[form], ROUNDINGS * epsilon)
    difference = float(np.max([_difference(*pair) for pair in pairs]))  # NaN if one is
    return ExportCheck(name, size, difference, tolerance, len(pairs[0][1]), min(agreements, default=None))


def _difference(output: Array, expected: Array) -> float:
    norm = np.linalg.norm(expected)
    distance = np.linalg.norm(output - expected) if output.shape == expected.shape else np.inf
    return float(distance / norm) if norm else float(np.inf if distance else 0.0)


def _agreement(output: Array, expected: Array) -> float | None:
    if output.shape != expected.shape or expected.ndim != 2 or expected.shape[1] == 1:
        return None
    return float(np.mean(output.argmax(axis=1) == expected.argmax(axis=1)))


def checks_table(checks: Sequence[ExportCheck], style: str = "simple") -> str:
    """How near each exported file is to the network."""
    rows = []
    for check in checks:
        agreement = "-" if check.agreement is None else f"{100 * check.agreement:.1f} %"
        errors = f"{check.difference:.1e}", f"{check.tolerance:.1e}"
        rows.append((check.name, f"{short_text(check.size)}B", *errors, agreement, f"{check.images:,}"))
    return table(("export", "size", "differs by", "allowed", "same top class", "images"), rows, style)
