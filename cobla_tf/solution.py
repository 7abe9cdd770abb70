"""What a solve found, and what another one can begin from."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cobla_tf.digest import digest
from cobla_tf.errors import ConfigError
from cobla_tf.report_parts import CertificateRecord, IterationRecord, RoundingRecord
from cobla_tf.rounding import Rounded
from cobla_tf.sqp.bfgs import CompactBFGS

Array = np.ndarray

SAME = 1e-3
"""Relative difference of singular values that another processor or library may make."""


@dataclass(frozen=True)
class WarmStart:
    """What one solve can begin from another's, on the same sites.

    Attributes:
        masks: float64 [n].
        bfgs: the Hessian's model, of which a copy is used; None where there was nothing to decide.
        sigmas: singular values of every site, by which the sites are known.
    """

    masks: Array
    bfgs: CompactBFGS | None
    sigmas: tuple[Array, ...]

    @property
    def digest(self) -> bytes:
        """What stands for it among those of other budgets."""
        return digest(self.masks, *([] if self.bfgs is None else self.bfgs.arrays))

    def check(self, sigmas: Sequence[Array]) -> None:
        """Raise ConfigError unless it is of the sites with these singular values."""
        if not (len(self.sigmas) == len(sigmas) and all(map(_same, self.sigmas, sigmas))):
            raise ConfigError(
                f"expected a warm start of the {len(sigmas)} sites of this model in this scheme, got one of "
                f"{len(self.sigmas)} sites whose singular values are others; take it from a compression of the same "
                "model, weights, scheme and layers."
            )


def _same(own: Array, other: Array) -> bool:
    return own.shape == other.shape and np.allclose(own, other, rtol=SAME, atol=SAME * float(other[0]))


def check_warm(warm: object) -> None:
    """Refuse what is no warm start, nor None.

    Raises:
        ConfigError: it is something else, a result say.
    """
    if warm is not None and not (isinstance(warm, WarmStart) and hasattr(warm, "sigmas")):
        raise ConfigError(
            f"warm must be the attribute warm of a result, as in warm=result.warm, got {type(warm).__name__}."
        )


@dataclass(frozen=True)
class Solution:
    """What the optimiser found.

    Attributes:
        start: the heuristic's masks at these budgets, float64 [n]; None where nothing was optimised.
        relaxed: masks in [0, 1] within the budgets, float64 [n]; None likewise.
        rounded: integer ranks within the budgets, and the scale of what is kept.
        status: one sentence a phase.
        records: one an iteration.
        certificates: one for every solve that came to masks.
        rounding: what it cost; None where no roundings were compared.
        warm: for a solve under other budgets; None likewise, and where the optimiser came to nothing.
    """

    start: Array | None
    relaxed: Array | None
    rounded: Rounded
    status: str
    records: tuple[IterationRecord, ...] = ()
    certificates: tuple[CertificateRecord, ...] = ()
    rounding: RoundingRecord | None = None
    warm: WarmStart | None = None
