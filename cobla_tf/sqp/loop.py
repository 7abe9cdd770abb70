"""Sequential quadratic programming on a box with linear rows (paper, section 3.1)."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from cobla_tf.errors import SolverError
from cobla_tf.qp.problem import QuadraticProgram
from cobla_tf.qp.solution import QPSolution
from cobla_tf.sqp.bfgs import CompactBFGS
from cobla_tf.sqp.line_search import LineSearchSettings, search

Array = np.ndarray


class Oracle(Protocol):
    """The loss, as the loop sees it: E on the current sample."""

    def gradient(self, x: Array) -> tuple[float, Array]:
        """E(x) and dE/dx, float64 [n], on the current sample."""

    def value(self, x: Array) -> float:
        """E(x) on the current sample."""

    def renew(self, iteration: int) -> bool:
        """Draw another sample where one is due before this iteration; True if it was."""


@dataclass(frozen=True)
class Constraints:
    """A x <= b and lower <= x <= upper.

    Attributes:
        rows: A, float64 [p, n].
        limits: b, float64 [p].
        lower, upper: float64 [n].
    """

    rows: Array
    limits: Array
    lower: Array
    upper: Array

    def violated(self, x: Array) -> bool:
        """Whether x breaks a row by more than round-off."""
        return bool((self.rows @ x > self.limits + 1e-6 * np.abs(self.limits)).any())


@dataclass(frozen=True)
class SQPSettings:
    """Options of the loop.

    Attributes:
        iterations: most iterations.
        memory: BFGS pairs kept.
        first_step: root-mean-square length of the first unconstrained step; sets the scale of the first Hessian.
        tolerance: stop once the predicted decrease is below this share of the loss.
        line_search: see there.
    """

    iterations: int = 20
    memory: int = 30
    first_step: float = 0.05
    tolerance: float = 1e-5
    line_search: LineSearchSettings = field(default_factory=LineSearchSettings)


@dataclass(frozen=True)
class Iteration:
    """What one iteration did.

    Attributes:
        number: from 1.
        loss: at the new iterate, on this iteration's sample.
        predicted_decrease: of the quadratic model at the full step.
        step: accepted step length in (0, 1].
        x: the new iterate.
        qp: the solution of its quadratic program.
        gradients, values: evaluations so far, with and without gradient.
        seconds: of this iteration.
    """

    number: int
    loss: float
    predicted_decrease: float
    step: float
    x: Array
    qp: QPSolution
    gradients: int
    values: int
    seconds: float


@dataclass(frozen=True)
class SQPResult:
    """Where the loop ended.

    Attributes:
        x: the feasible iterate of lowest loss on the last sample.
        loss: its loss there.
        status: one sentence.
        gradients, values: evaluations spent.
    """

    x: Array
    loss: float
    status: str
    gradients: int
    values: int


@dataclass
class SQP:
    """The loop and its state; `minimise` is its one entry."""

    oracle: Oracle
    constraints: Constraints
    settings: SQPSettings
    solve_qp: Callable[[QuadraticProgram], QPSolution]
    on_iteration: Callable[[Iteration], None]
    gradients: int = 0
    values: int = 0
    not_finite: int = 0
    recent: list[float] = field(default_factory=list)
    best: tuple[Array, float] | None = None

    def minimise(self, start: Array) -> SQPResult:
        """Run from `start` [n]; one that breaks a row is taken to the feasible set by a full first step.

        Raises:
            SolverError: a quadratic program cannot be solved at the first iterate, or the loss is not finite there.
        """
        self._move(start, *self._gradient(start))
        if not math.isfinite(self.loss):
            raise SolverError(f"the loss at the starting masks is {self.loss}; expected a finite number.")
        self._forget()
        self.bfgs = CompactBFGS(np.full(len(start), self._first_curvature()), self.settings.memory)
        for number in range(1, self.settings.iterations + 1):
            if number > 1 and self.oracle.renew(number):
                loss, gradient = self._gradient(self.x)
                if math.isnan(loss):
                    return self._result("stopped at the best masks so far: the loss is not finite on a new sample")
                self._move(self.x, loss, gradient)
                self._forget()
            stop = self._iterate(number)
            if stop:
                return self._result(stop)
        return self._result(f"stopped after the most iterations allowed ({self.settings.iterations})")

    def _iterate(self, number: int) -> str:
        began = time.perf_counter()
        program = self._program()
        try:
            qp = self.solve_qp(program)
        except SolverError as error:
            if self.best is None:
                raise
            return f"stopped at the best masks so far: {error}"
        slope = float(self.gradient @ qp.step)
        predicted = -program.objective(qp.step)
        feasible = not self.constraints.violated(self.x)
        if feasible and predicted <= self.settings.tolerance * max(abs(self.loss), self.settings.tolerance):
            return f"converged: predicted decrease {predicted:.1e} at loss {self.loss:.4f}"
        length = self._advance(qp.step, slope, forced=not feasible)
        if length == 0.0:
            return self._stuck()
        self.on_iteration(
            Iteration(
                number,
                self.loss,
                predicted,
                length,
                self.x,
                qp,
                self.gradients,
                self.values,
                time.perf_counter() - began,
            )
        )
        return ""

    def _advance(self, step: Array, slope: float, forced: bool) -> float:
        """Try the full step with its gradient (it is nearly always taken), then shorter ones by their loss."""
        start, before = self.x, self.gradient
        target = self._clip(start + step)
        loss, gradient = self._gradient(target)
        if forced:
            if math.isnan(loss):
                raise SolverError(f"the loss at the first feasible masks is {loss}; expected a finite number.")
            self._move(target, loss, gradient)
            self._forget()
            return 1.0
        length, _ = search(
            lambda t: self._value(self._clip(start + t * step)), loss, self.recent, slope, self.settings.line_search
        )
        if length == 0.0:
            return 0.0
        if length < 1.0:
            target = self._clip(start + length * step)
            loss, gradient = self._gradient(target)
            if math.isnan(loss):
                return 0.0
        self._move(target, loss, gradient)
        if length < 1.0:
            self.bfgs.stiffen(1 / length)
        self.bfgs.update(self.x - start, self.gradient - before)
        return length

    def _stuck(self) -> str:
        if not self.bfgs.pairs:
            return f"stopped: no acceptable step from loss {self.loss:.4f}; the best masks so far are kept"
        self.bfgs.clear()
        return ""

    def _program(self) -> QuadraticProgram:
        limits = self.constraints
        return QuadraticProgram(
            self.bfgs.form(), self.gradient, limits.rows, limits.limits - limits.rows @ self.x,
            limits.lower - self.x, limits.upper - self.x,
        )  # fmt: skip

    def _first_curvature(self) -> float:
        size = float(np.sqrt(np.mean(self.gradient**2)))
        return size / self.settings.first_step if size > 0 else 1.0

    def _clip(self, x: Array) -> Array:
        return np.clip(x, self.constraints.lower, self.constraints.upper)

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
        if not self.constraints.violated(x) and (self.best is None or loss <= self.best[1]):
            self.best = (x, loss)

    def _forget(self) -> None:
        """Losses on another sample, or at an infeasible point, are no measure for the next ones."""
        self.recent = [self.loss]
        self.best = None if self.constraints.violated(self.x) else (self.x, self.loss)

    def _result(self, status: str) -> SQPResult:
        x, loss = self.best or (self.x, self.loss)
        if self.not_finite:
            status += f"; the loss or its gradient was not finite at {self.not_finite} trial points, which were left"
        return SQPResult(x, loss, status, self.gradients, self.values)
