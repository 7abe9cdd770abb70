"""Where the loop is, and the best place that it has seen."""

import math
from dataclasses import InitVar, dataclass, field

import numpy as np

from cobla_tf.sqp.evaluations import Evaluations
from cobla_tf.sqp.incumbent import Incumbent

Array = np.ndarray


@dataclass
class Position:
    """An iterate, and what is known there.

    Attributes:
        evaluations: of the loss, and of the judge.
        x, loss, gradient: the iterate, E and dE/dx there on the present sample; float64 [n], float, float64 [n].
        recent: losses of the last iterates on the present sample, that of x last.
        judged: mean loss of x by the judge; NaN where there is none, or where x breaks a row.
        incumbent: the best iterate so far within the rows; None where there was none.

    `feasible` says whether x is within the rows.
    """

    evaluations: Evaluations
    x: Array
    loss: float
    gradient: Array
    feasible: InitVar[bool]
    recent: list[float] = field(default_factory=list)
    judged: float = math.nan
    incumbent: Incumbent | None = None

    def __post_init__(self, feasible: bool) -> None:
        """The first iterate is the best so far, where it is within the rows."""
        self.move(self.x, self.loss, self.gradient, feasible)

    def move(self, x: Array, loss: float, gradient: Array, feasible: bool) -> None:
        """Go to x; within the rows it is a candidate for the best."""
        self.x, self.loss, self.gradient = x, loss, gradient
        self.recent.append(loss)
        self.judged = math.nan
        if not feasible:
            return
        losses = self.evaluations.judged(x, loss)
        self.judged = float(losses.mean()) if self.evaluations.judge else math.nan
        if self.incumbent is None:
            self.incumbent = Incumbent(x, losses, gradient)
        else:
            self.incumbent.offer(x, losses, gradient)

    def forget(self) -> None:
        """Losses on another sample, or at an infeasible point, are no measure for the next ones."""
        self.recent = [self.loss]
        if self.evaluations.judge is None and self.incumbent is not None:
            self.incumbent = Incumbent(self.x, np.array([self.loss]), self.gradient)

    def refresh(self) -> bool:
        """Take loss and gradient again, on a new sample; False where they are not finite."""
        loss, gradient = self.evaluations.gradient(self.x)
        if math.isnan(loss):
            return False
        self.loss, self.gradient = loss, gradient
        self.forget()
        if self.incumbent is not None:
            self.incumbent.improved = True  # nothing has been overfitted on the new sample yet
        return True

    def stand(self, feasible: bool) -> None:
        """What was best before is no longer comparable: x is the best where it is within the rows."""
        losses = self.evaluations.judged(self.x, self.loss) if feasible else None
        self.incumbent = Incumbent(self.x, losses, self.gradient) if feasible else None

    @property
    def overfitted(self) -> bool:
        """Whether the judge saw no gain in the last step, though there was one on the present sample."""
        return self.evaluations.judge is not None and self.incumbent is not None and not self.incumbent.improved

    @property
    def stale(self) -> int:
        """Iterates since the judge saw a gain beyond its noise; 0 without a judge."""
        return 0 if self.evaluations.judge is None or self.incumbent is None else self.incumbent.stale
