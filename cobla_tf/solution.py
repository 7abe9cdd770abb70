"""What a solve found, and what another one can begin from."""

from dataclasses import dataclass

import numpy as np

from cobla_tf.digest import digest
from cobla_tf.errors import ConfigError
from cobla_tf.report_parts import IterationRecord
from cobla_tf.rounding import Rounded
from cobla_tf.sqp.bfgs import CompactBFGS

Array = np.ndarray


@dataclass(frozen=True)
class WarmStart:
    """What one solve can begin from another's, on the same sites.

    Attributes:
        masks: float64 [n].
        bfgs: the Hessian's model, of which a copy is used; None where there was nothing to decide.
    """

    masks: Array
    bfgs: CompactBFGS | None

    @property
    def digest(self) -> bytes:
        """What stands for it among those of other budgets."""
        return digest(self.masks, *([] if self.bfgs is None else [self.bfgs.diagonal, self.bfgs.pairs]))

    def check(self, masks: int) -> None:
        """Raise ConfigError unless it is of as many masks."""
        if len(self.masks) != masks:
            raise ConfigError(
                f"expected a warm start with {masks} masks, as the sites of this model in this scheme have, got "
                f"{len(self.masks)}; take it from a compression of the same model, scheme and layers."
            )


def check_warm(warm: object) -> None:
    """Refuse what is no warm start, nor None.

    Raises:
        ConfigError: it is something else, a result say.
    """
    if warm is not None and not isinstance(warm, WarmStart):
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
        warm: for a solve under other budgets; None likewise.
    """

    start: Array | None
    relaxed: Array | None
    rounded: Rounded
    status: str
    records: tuple[IterationRecord, ...]
    warm: WarmStart | None
