"""Sequential quadratic programming on a box with linear rows (paper, section 3.1)."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from absl import logging

from cobla_tf.errors import SolverError, first_line
from cobla_tf.qp.problem import QuadraticProgram
from cobla_tf.qp.solution import QPSolution
from cobla_tf.sqp.bfgs import CompactBFGS
from cobla_tf.sqp.constraints import Constraints
from cobla_tf.sqp.incumbent import Incumbent
from cobla_tf.sqp.interface import Iteration, Oracle, SQPResult, SQPSettings
from cobla_tf.sqp.line_search import search

Array = np.ndarray

NOT_FINITE = "stopped at the best masks so far: the loss is not finite on a new sample"
CURVATURE_FLOOR = 0.1
"""Of the mean measured curvature, what is added to each: most terms show next to none on their own."""


@dataclass
class SQP:
    """The loop and its state: `minimise` is `begin` and `run`; `tighten` goes to where less is allowed.

    Attributes:
        oracle: the loss.
        constraints: of the next `begin` or `run`.
        settings: see there.
        solve_qp: a back end.
        on_iteration: called after every iteration.
        curvature: diagonal of a first Hessian at x, float64 [n]; None guesses a multiple of the identity.
        judge: losses at x by which iterates are compared, on data that the gradients never see; None takes the loss.
        clock: seconds, for what is reported of an iteration.
    """

    oracle: Oracle
    constraints: Constraints
    settings: SQPSettings
    solve_qp: Callable[[QuadraticProgram], QPSolution]
    on_iteration: Callable[[Iteration], None]
    curvature: Callable[[Array], Array] | None = None
    judge: Callable[[Array], Array] | None = None
    clock: Callable[[], float] = time.perf_counter
    bfgs: CompactBFGS | None = None
    gradients: int = 0
    values: int = 0
    not_finite: int = 0
    taken: int = 0
    judged: float = math.nan
    recent: list[float] = field(default_factory=list)
    incumbent: Incumbent | None = None

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
        if self.constraints.violated(start):
            self.constraints.require_feasible()
        self.incumbent, self.not_finite = None, 0
        self._move(start, *self._gradient(start))
        if not math.isfinite(self.loss):
            raise SolverError(f"the loss at the starting masks is {self.loss}; expected a finite number.")
        self._forget()
        self.first_loss = self.loss
        if self.bfgs is None:
            self.bfgs = CompactBFGS(self._first_curvature(), self.settings.memory)

    def run(self, iterations: int | None = None) -> SQPResult:
        """Iterate from where the loop is, `settings.iterations` times if nothing else is said.

        Raises:
            SolverError: see `minimise`.
        """
        iterations = iterations or self.settings.iterations
        for number in range(1, iterations + 1):
            if number > 1 and self.oracle.renew(number, self._overfitted()) and not self.refresh():
                return self._result(NOT_FINITE)
            stop = self._iterate() or self._stale()
            if stop:
                return self._result(stop)
        return self._result(f"stopped after the most iterations allowed ({iterations})")

    def _converged(self, predicted: float) -> str:
        """On one sample of many there is more to gain on another, as long as the judge sees it."""
        if self.judge is not None and self.oracle.renew(self.taken + 1, overfitted=True):
            return "" if self.refresh() else NOT_FINITE
        return f"converged: predicted decrease {predicted:.1e} at loss {self.loss:.4f}"

    def _overfitted(self) -> bool:
        return self.judge is not None and self.incumbent is not None and not self.incumbent.improved

    def _stale(self) -> str:
        if self.judge is None or self.incumbent is None or self.incumbent.stale < self.settings.patience:
            return ""
        return f"converged: no gain beyond the noise in {self.incumbent.stale} iterations"

    def use_judge(self, judge: Callable[[Array], Array] | None) -> None:
        """Compare iterates by another judge from here on."""
        self.judge = judge
        if self.incumbent is not None:
            self.incumbent = Incumbent(self.x, self._losses())

    def move_rows(self, constraints: Constraints) -> None:
        """Go on under other constraints from where the loop is: only x can be an answer to them by now."""
        self.constraints, self.incumbent = constraints, None
        if not constraints.violated(self.x):
            self.incumbent = Incumbent(self.x, self._losses())

    def refresh(self) -> bool:
        """Take loss and gradient where the loop is again, on a new sample; False where they are not finite."""
        loss, gradient = self._gradient(self.x)
        if math.isnan(loss):
            return False
        self.loss, self.gradient = loss, gradient
        self._forget()
        return True

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
        began = self.clock()
        before, self.constraints = self.constraints, constraints
        try:
            program = self._program()
            qp = self.solve_qp(program)
        except Exception as error:  # as in `_iterate`
            self.constraints = before
            if not self._drop_pairs(error):
                raise _own(error) from error
            return False
        target, predicted = constraints.clip(self.x + qp.step), program.objective(qp.step)
        loss, gradient = self._gradient(target)
        if math.isnan(loss):
            self.constraints = before
            return False
        self.bfgs.update(target - self.x, gradient - self.gradient)
        if loss > self.loss + allowed(predicted):
            self.constraints = before
            return False
        self.incumbent = None
        self._move(target, loss, gradient)
        self._forget()
        self._report(-predicted, 1.0, qp, began)
        return True

    def _iterate(self) -> str:
        began = self.clock()
        try:
            program = self._program()
            qp = self.solve_qp(program)
        except Exception as error:  # whatever a back end raises, the masks found so far are not to be lost
            return self._unsolved(error)
        predicted = -program.objective(qp.step)
        feasible = not self.constraints.violated(self.x)
        if feasible and predicted <= self.settings.tolerance * self._unit():
            return self._converged(predicted)
        length = self._advance(qp.step, forced=not feasible)
        if length == 0.0:
            return self._stuck()
        self._report(predicted, length, qp, began)
        return ""

    def _report(self, predicted: float, length: float, qp: QPSolution, began: float) -> None:
        self.taken += 1
        spent = (self.gradients, self.values, self.clock() - began)
        self.on_iteration(Iteration(self.taken, self.loss, self.judged, predicted, length, self.x, qp, *spent))

    def _advance(self, step: Array, forced: bool) -> float:
        """Try the full step with its gradient (it is nearly always taken), then shorter ones by their loss.

        A forced step, off an infeasible point, only has to end where loss and gradient are finite.
        """
        start, before = self.x, self.gradient
        length = self._length(step, [math.inf] if forced else self.recent)
        if length == 0.0:
            return 0.0
        self._move(*self._trial)
        if forced:
            self._forget()
        if length < 1.0:
            self.bfgs.stiffen(1 / length)
        self.bfgs.update(self.x - start, self.gradient - before)
        return length

    def _length(self, step: Array, recent: list[float]) -> float:
        """The accepted length, 0 if there is none; its point, loss and gradient are left in `_trial`."""
        slope, length, search_settings = float(self.gradient @ step), 1.0, self.settings.line_search

        def point(shorter: float) -> Array:
            return self.constraints.clip(self.x + length * shorter * step)

        for _ in range(search_settings.trials):
            self._trial = (point(1.0), *self._gradient(point(1.0)))
            shorter, _ = search(
                lambda t: self._value(point(t)), self._trial[1], recent, length * slope, search_settings
            )
            if shorter in (0.0, 1.0):
                return length * shorter
            length *= shorter
        return 0.0

    def _unsolved(self, error: Exception) -> str:
        """After a quadratic program without a solution: try once more without the pairs, then stop."""
        if self._drop_pairs(error):
            return ""
        if self.incumbent is None:
            raise _own(error) from error
        return f"stopped at the best masks so far: {error}"

    def _drop_pairs(self, error: Exception) -> bool:
        """Fall back to the Hessian's diagonal; False where there is nothing else already."""
        if not self.bfgs.pairs:
            return False
        logging.warning("SQP goes on without its BFGS pairs: %s", first_line(error))
        self.bfgs.clear()
        return True

    def _stuck(self) -> str:
        if self.bfgs.pairs:
            self.bfgs.clear()
            return ""
        if self.incumbent is None:
            raise SolverError(f"no finite loss was found between the start, of loss {self.loss:.4f}, and the budget.")
        return f"stopped: no acceptable step from loss {self.loss:.4f}; the best masks so far are kept"

    def _program(self) -> QuadraticProgram:
        limits = self.constraints
        return QuadraticProgram(
            self.bfgs.form(), self.gradient, limits.rows, limits.limits - limits.rows @ self.x,
            limits.lower - self.x, limits.upper - self.x,
        )  # fmt: skip

    def _unit(self) -> float:
        """What a decrease is small against; a loss that falls to 0 is measured by where it came from."""
        return max(abs(self.loss), self.settings.tolerance * abs(self.first_loss))

    def _first_curvature(self) -> Array:
        if self.curvature is not None:
            measured = self.curvature(self.x)
            floor = CURVATURE_FLOOR * float(np.mean(measured[self.constraints.lower < self.constraints.upper]))
            if np.isfinite(measured).all() and floor > 0:
                return measured + floor
            logging.warning("the curvature measured is not finite or zero; a multiple of the identity is used")
        sizes = self.constraints.sizes(self.x)
        moving = self.constraints.lower < self.constraints.upper
        pull = float(np.sqrt(np.mean((self.gradient * sizes)[moving] ** 2))) if moving.any() else 0.0
        return (pull / self.settings.first_step if pull > 0 else 1.0) / sizes**2

    def _gradient(self, x: Array) -> tuple[float, Array]:
        self.gradients += 1
        loss, gradient = self.oracle.gradient(x)
        finite = math.isfinite(loss) and bool(np.isfinite(gradient).all())
        self.not_finite += not finite
        return (loss if finite else math.nan), gradient

    def _value(self, x: Array) -> float:
        self.values += 1
        loss = self.oracle.value(x)
        self.not_finite += not math.isfinite(loss)
        return loss

    def _move(self, x: Array, loss: float, gradient: Array) -> None:
        self.x, self.loss, self.gradient = x, loss, gradient
        self.recent.append(loss)
        self.judged = math.nan
        if self.constraints.violated(x):
            return
        losses = self._losses()
        self.judged = float(losses.mean()) if self.judge else math.nan
        if self.incumbent is None:
            self.incumbent = Incumbent(x, losses)
        else:
            self.incumbent.offer(x, losses)

    def _losses(self) -> Array:
        """What x is compared by."""
        if self.judge is None:
            return np.array([self.loss])
        self.values += 1
        return self.judge(self.x)

    def _forget(self) -> None:
        """Losses on another sample, or at an infeasible point, are no measure for the next ones."""
        self.recent = [self.loss]
        if self.judge is None and self.incumbent is not None:
            self.incumbent = Incumbent(self.x, np.array([self.loss]))

    def _result(self, status: str) -> SQPResult:
        x, loss = (self.x, self.loss) if self.incumbent is None else (self.incumbent.x, self.incumbent.loss)
        if self.constraints.violated(x):
            status += "; the rows are not met yet"
        if self.not_finite:
            status += f"; the loss or its gradient was not finite at {self.not_finite} trial points, which were left"
        return SQPResult(x, loss, status, self.gradients, self.values)


def _own(error: Exception) -> SolverError:
    return error if isinstance(error, SolverError) else SolverError(first_line(error))
