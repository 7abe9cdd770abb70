"""Masks between 0 and 1 within the budgets, of least loss (Eq. 8), in the paper's two steps."""

from dataclasses import dataclass

import numpy as np
from absl import logging

from cobla_tf.continuation import Continuation, budget_between, first_notch
from cobla_tf.errors import SolverError
from cobla_tf.region import Region
from cobla_tf.solve_log import SolveLog
from cobla_tf.sqp.constraints import Constraints
from cobla_tf.sqp.loop import SQP
from cobla_tf.start import Start
from cobla_tf.texts import counted

Array = np.ndarray


@dataclass
class Relaxation:
    """Solves; keeps sites that come out saturated whole; solves again with what that frees, until no site is left.

    Attributes:
        loop: goes on from one solve to the next with what it knows of the Hessian.
        region: the masks that budgets allow.
        limits: the budgets, float64 [R].
        log: takes iterations and sentences.
        start: knows the loss of an output that does not depend on the image.
        continuation: whether masks that break the budgets come down to them notch by notch, or else in one step.
        warm: whether the masks are another solve's.
        left_out: whether nothing could be solved, and the masks are the start's.
    """

    loop: SQP
    region: Region
    limits: Array
    log: SolveLog
    start: Start
    continuation: bool
    warm: bool
    left_out: bool = False

    def run(self, masks: Array, whole: Array) -> tuple[Array, Array]:
        """From masks [n] and whole sites [S] to those of least loss.

        Where the first quadratic program or the first loss is unusable, they are the start's, if these are within the
        limits.

        Raises:
            SolverError: it is, and they are not.
        """
        for phase in range(1, len(whole) + 2):
            try:
                masks = self._solve(f"solve {phase}", masks, whole)
            except SolverError as error:
                masks = self._without(phase, masks, whole, error)
                break
            saturated = self.region.saturated(masks, whole)
            if (saturated == whole).all() or not self.region.leave_room(saturated, self.limits):
                break
            kept = counted(int(saturated.sum()), "saturated site is", "saturated sites are")
            logging.info("%s kept whole; solving again", kept)
            whole = saturated
        return masks, whole

    def _without(self, phase: int, masks: Array, whole: Array, error: SolverError) -> Array:
        """The masks to go on with after a phase that came to nothing."""
        constraints = self.region.constraints(self.limits, whole)
        masks = constraints.clip(self.start.masks if phase == 1 else masks)
        if constraints.violated(masks):
            raise error
        self.left_out = phase == 1
        logging.warning("solve %d is left out: %s", phase, error)
        self.log.tell(f"solve {phase}", f"left out: {error}")
        return masks

    def _solve(self, phase: str, masks: Array, whole: Array) -> Array:
        loop = self.loop
        self._enter(phase, whole)
        loop.constraints = self.region.constraints(self.limits, whole)
        if (loop.constraints.lower == loop.constraints.upper).all():
            self.log.tell(phase, "nothing left to decide")
            return loop.constraints.clip(masks)
        loop.begin(masks)
        if self.continuation and loop.constraints.violated(loop.at.x):
            self._come_down(whole)
            self._enter(phase, whole)
        if self.warm and self.start.oracle.fill():  # so near the optimum, a small sample has no gain to show
            loop.refresh()
        result = loop.run()
        if loop.constraints.violated(result.x):
            raise SolverError(f"{result.status}: more iterations, or another start, may get there.")
        self.log.tell(phase, result.status)
        self._certify(phase)
        return result.x

    def _certify(self, phase: str) -> None:
        try:
            self.log.certify(phase, self.loop.certificate())
        except SolverError as error:
            logging.warning("%s: its masks have no certificate: %s", phase, error)
            self.log.tell(phase, f"no certificate: {error}")

    def _come_down(self, whole: Array) -> None:
        self._enter("continuation", whole)
        loop, region = self.loop, self.region
        used, limits = region.used(loop.at.x, whole), self.limits

        def constraints_at(level: float) -> Constraints:
            return region.constraints(budget_between(used, limits, level), whole)

        way = Continuation(loop, constraints_at, first_notch(used, limits), self.start.constant_loss)
        self.log.tell("continuation", way.run())

    def _enter(self, phase: str, whole: Array) -> None:
        region = self.region
        self.log.enter(phase, lambda masks: region.used(masks, whole), region.layout.sums)
