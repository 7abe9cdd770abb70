"""Sequential quadratic programming on a box with linear rows (paper, section 3.1)."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from absl import logging

from cobla_tf.errors import SolverError
from cobla_tf.qp.problem import QuadraticProgram
from cobla_tf.qp.solution import QPSolution
from cobla_tf.sqp.bfgs import CompactBFGS
from cobla_tf.sqp.constraints import Constraints
from cobla_tf.sqp.evaluations import Evaluations
from cobla_tf.sqp.first_hessian import first_diagonal
from cobla_tf.sqp.interface import Certificate, Iteration, SQPResult, SQPSettings
from cobla_tf.sqp.position import Position
from cobla_tf.sqp.subproblem import Subproblem
from cobla_tf.sqp.trial import try_step

Array = np.ndarray

STIFFEST = 10.0
"""Most that one iteration multiplies the Hessian's diagonal by: where noise alone makes a step very short, it tells
nothing of the curvature."""
NOT_FINITE = "stopped at the best masks so far: the loss or its gradient is not finite on a new sample"


@dataclass
class SQP:
    """The loop and its state: `minimise` is `begin` and `run`; `tighten` goes to where less is allowed.

    Attributes:
        evaluations: of the loss, and of the judge.
        constraints: of the next `begin` or `run`.
        settings: see there.
        solve_qp: a back end.
        on_iteration: called after every iteration.
        curvature: diagonal of a first Hessian at x, float64 [n]; None guesses a multiple of the identity.
        clock: seconds, for what is reported of an iteration.
        bfgs: the Hessian's model; None is made by the next `begin`.
        taken: steps so far.
        first_loss: at the last `begin`.
        at: where the loop is; None before `begin`.
    """

    evaluations: Evaluations
    constraints: Constraints
    settings: SQPSettings
    solve_qp: Callable[[QuadraticProgram], QPSolution]
    on_iteration: Callable[[Iteration], None]
    curvature: Callable[[Array], Array] | None = None
    clock: Callable[[], float] = time.perf_counter
    bfgs: CompactBFGS | None = None
    taken: int = 0
    at: Position | None = field(default=None, init=False)
    first_loss: float = field(init=False)

    def minimise(self, start: Array) -> SQPResult:
        """Run from `start` [n], clipped into its bounds; a full first step takes it to where the rows are met.

        Raises:
            SolverError: no point meets the rows (the sentence names one and its smallest feasible limit), a quadratic
                program cannot be solved before a feasible iterate, or the loss is not finite there.
        """
        self.begin(start)
        return self.run()

    def begin(self, start: Array) -> None:
        """Go to `start` [n]; what is known of the Hessian from before is kept.

        Raises:
            SolverError: see `minimise`.
        """
        start = self.constraints.clip(start)
        feasible = not self.constraints.violated(start)
        if not feasible:
            self.constraints.require_feasible()
        self.evaluations.not_finite = 0
        loss, gradient = self.evaluations.gradient(start)
        if math.isnan(loss):
            raise SolverError("the loss or its gradient is not finite at the starting masks; expected finite numbers.")
        self.at = Position(self.evaluations, start, loss, gradient, feasible)
        self.first_loss = loss
        if self.bfgs is None:
            diagonal = first_diagonal(start, gradient, self.constraints, self.settings.first_step, self.curvature)
            self.bfgs = CompactBFGS(diagonal, self.settings.memory)

    def return_to(self, x: Array) -> None:
        """Be at x [n] within the constraints, as `begin`; for nothing where the loop is there already.

        Raises:
            SolverError: see `minimise`.
        """
        if not self.stands_at(x):
            self.begin(x)

    def stands_at(self, x: Array) -> bool:
        """Whether loss and gradient at x [n] are those that the loop has."""
        return self.at is not None and np.array_equal(self.at.x, x)

    def run(self, iterations: int | None = None) -> SQPResult:
        """Iterate from where the loop is, `settings.iterations` times if nothing else is said.

        Raises:
            SolverError: see `minimise`.
        """
        iterations = iterations or self.settings.iterations
        for number in range(1, iterations + 1):
            if reached := self._reached():
                return self._result(reached)
            if number > 1 and self._renew(number, self.at.overfitted) and not self.at.refresh():
                return self._result(NOT_FINITE)
            stop = self._iterate() or self._stale()
            if stop:
                return self._result(stop)
        return self._result(f"stopped after the most iterations allowed ({iterations})")

    def refresh(self) -> None:
        """Take loss and gradient again where the sample has become another.

        Raises:
            SolverError: they are not finite on it.
        """
        if not self.at.refresh():
            raise SolverError("the loss or its gradient is not finite on a new sample.")

    def certificate(self) -> Certificate:
        """Of the point that `run` has returned; it costs a quadratic program, and no evaluation of the loss.

        Raises:
            SolverError: the program cannot be solved.
        """
        best = self.at.incumbent
        point = self.at if best is None or self.stands_at(best.x) else best
        return self._subproblem(point.x, point.gradient, self.constraints).certificate()

    def use_judge(self, judge: Callable[[Array], Array] | None) -> None:
        """Compare iterates by another judge from here on."""
        self.evaluations.judge = judge
        if self.at.incumbent is not None:
            self.at.stand(feasible=True)

    def move_rows(self, constraints: Constraints) -> None:
        """Go on under other constraints from where the loop is: only x can be an answer to them by now."""
        self.constraints = constraints
        self.at.stand(not constraints.violated(self.at.x))

    def tighten(self, constraints: Constraints, allowed: Callable[[float], float]) -> bool:
        """Try one full step to where tighter constraints are met.

        Args:
            constraints: become the loop's own if the step is taken.
            allowed: the largest increase of the loss that is let pass, of the predicted one.

        Returns:
            whether it was taken; where not, what it taught about the curvature is kept.

        Raises:
            SolverError: the quadratic program cannot be solved, even without BFGS pairs.
        """
        began, at = self.clock(), self.at
        try:
            qp, predicted = self._subproblem(at.x, at.gradient, constraints).step()
        except SolverError as error:
            if not self._drop_pairs(error):
                raise
            return False
        target = constraints.clip(at.x + qp.step)
        loss, gradient = self.evaluations.gradient(target)
        if math.isnan(loss):
            return False
        self.bfgs.update(target - at.x, gradient - at.gradient)
        if loss > at.loss + allowed(predicted):
            return False
        self.constraints, at.incumbent = constraints, None
        at.move(target, loss, gradient, not constraints.violated(target))
        at.forget()
        self._report(-predicted, 1.0, qp, began)
        return True

    def _iterate(self) -> str:
        began, at = self.clock(), self.at
        try:
            qp, change = self._subproblem(at.x, at.gradient, self.constraints).step()
        except SolverError as error:
            return self._unsolved(error)
        feasible = not self.constraints.violated(at.x)
        if feasible and -change <= self.settings.tolerance * self._unit():
            return self._converged(-change)
        length = self._advance(qp.step, forced=not feasible)
        if length == 0.0:
            return self._stuck()
        self._report(-change, length, qp, began)
        return ""

    def _subproblem(self, x: Array, gradient: Array, constraints: Constraints) -> Subproblem:
        return Subproblem(x, gradient, self.bfgs, constraints, self.solve_qp)

    def _advance(self, step: Array, forced: bool) -> float:
        """Move along a step and learn from it; the length, 0 where there is none."""
        start, before, bad = self.at.x, self.at.gradient, self.evaluations.not_finite
        trial = try_step(self.at, step, self.constraints, self.settings.line_search, forced)
        if trial is None:
            return 0.0
        self.at.move(trial.x, trial.loss, trial.gradient, not self.constraints.violated(trial.x))
        if forced:
            self.at.forget()
        if trial.length < 1.0 and self.evaluations.not_finite == bad:  # a loss that is none tells of no curvature
            self.bfgs.stiffen(min(1 / trial.length, STIFFEST))
        self.bfgs.update(trial.x - start, trial.gradient - before)
        return trial.length

    def _report(self, predicted: float, length: float, qp: QPSolution, began: float) -> None:
        self.taken += 1
        at, spent = self.at, self.evaluations
        costs = (spent.gradients, spent.values, self.clock() - began)
        self.on_iteration(Iteration(self.taken, at.loss, at.judged, predicted, length, at.x, qp, *costs))

    def _renew(self, iteration: int, overfitted: bool) -> bool:
        return self.evaluations.oracle.renew(iteration, overfitted)

    def _converged(self, predicted: float) -> str:
        """On one sample of many there is more to gain on another, as long as the judge's patience lasts."""
        self.at.incumbent.stale += 1
        lasts = self.evaluations.judge is not None and not self._stale()
        if lasts and self._renew(self.taken + 1, overfitted=True):
            return "" if self.at.refresh() else NOT_FINITE
        return f"converged: predicted decrease {predicted:.1e} at loss {self.at.loss:.4f}"

    def _reached(self) -> str:
        best, target = self.at.incumbent, self.settings.target
        if best is None or not best.loss <= target:
            return ""
        return f"good enough at loss {best.loss:.4f} (asked for: {target:.4f})"

    def _stale(self) -> str:
        stale = self.at.stale
        if stale < self.settings.patience:
            return ""
        return f"converged: no gain beyond the noise in {'1 iteration' if stale == 1 else f'{stale} iterations'}"

    def _unsolved(self, error: SolverError) -> str:
        """After a quadratic program without a solution: try once more without the pairs, then stop."""
        if self._drop_pairs(error):
            return ""
        if self.at.incumbent is None:
            raise error
        return f"stopped at the best masks so far: {error}"

    def _drop_pairs(self, error: SolverError) -> bool:
        """Fall back to the Hessian's diagonal; False where there is nothing else already."""
        if not self.bfgs.pairs:
            return False
        logging.warning("SQP goes on without its BFGS pairs: %s", error)
        self.bfgs.clear()
        return True

    def _stuck(self) -> str:
        at = self.at
        if self.bfgs.pairs:
            self.bfgs.clear()
            return ""
        if at.incumbent is None:
            raise SolverError(f"no finite loss was found between the start, of loss {at.loss:.4f}, and the budget.")
        return f"stopped: no acceptable step from loss {at.loss:.4f}; the best masks so far are kept"

    def _unit(self) -> float:
        """What a decrease is small against; a loss that falls to 0 is measured by where it came from."""
        return max(abs(self.at.loss), self.settings.tolerance * abs(self.first_loss))

    def _result(self, status: str) -> SQPResult:
        at, spent = self.at, self.evaluations
        x, loss = (at.x, at.loss) if at.incumbent is None else (at.incumbent.x, at.incumbent.loss)
        if self.constraints.violated(x):
            status += "; the rows are not met yet"
        if spent.not_finite:
            status += f"; the loss or its gradient was not finite at {spent.not_finite} trial points, which were left"
        return SQPResult(x, loss, status, spent.gradients, spent.values)
