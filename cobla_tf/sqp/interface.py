"""What the SQP loop asks of a loss, what it can be told, and what it tells."""

import math
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from cobla_tf.qp.solution import QPSolution
from cobla_tf.sqp.line_search import LineSearchSettings

Array = np.ndarray


class Oracle(Protocol):
    """The loss, as the loop sees it: E on the current sample."""

    def gradient(self, x: Array) -> tuple[float, Array]:
        """E(x) and dE/dx, float64 [n], on the current sample."""

    def value(self, x: Array) -> float:
        """E(x) on the current sample."""

    def renew(self, iteration: int, overfitted: bool) -> bool:
        """Draw another sample where one is due before this iteration; True if it was.

        One is due at once where the last step was no gain for the judge, though it was one on the present sample.
        """


@dataclass(frozen=True)
class SQPSettings:
    """Options of the loop.

    Attributes:
        iterations: most iterations.
        memory: BFGS pairs kept.
        first_step: root-mean-square length of the first unconstrained step, in `Constraints.sizes` (1 for a mask); sets
            the scale of the first Hessian.
        tolerance: stop once the predicted decrease is below this share of the loss.
        patience: stop after so many iterations without a gain beyond the noise, where there is a judge.
        target: stop at an iterate within the rows whose loss, the judge's where there is one, is no higher.
        line_search: see there.
    """

    iterations: int = 20
    memory: int = 30
    first_step: float = 0.05
    tolerance: float = 1e-5
    patience: int = 5
    target: float = -math.inf
    line_search: LineSearchSettings = field(default_factory=LineSearchSettings)


@dataclass(frozen=True)
class Iteration:
    """What one iteration did.

    Attributes:
        number: of the steps taken so far, from 1.
        loss: at the new iterate, on this iteration's sample.
        judged: its mean loss by the judge; NaN where there is none, or where the iterate breaks a row.
        predicted_decrease: of the quadratic model at the full step.
        step: accepted step length in (0, 1].
        x: the new iterate.
        qp: the solution of its quadratic program.
        gradients, values: evaluations so far, with and without gradient.
        seconds: of this iteration.
    """

    number: int
    loss: float
    judged: float
    predicted_decrease: float
    step: float
    x: Array
    qp: QPSolution
    gradients: int
    values: int
    seconds: float


@dataclass(frozen=True)
class Certificate:
    """What is known of a point's optimality: the KKT conditions of the loss within the constraints, as they stand.

    Attributes:
        x: the point, float64 [n].
        residual: worst part of `qp.solution.kkt_residual` for no step at all from the point, with the multipliers of
            `qp`: 0 where the gradient on the sample, the rows and the bounds meet the KKT conditions of the loss.
        predicted_decrease: of the quadratic model, the Hessian's model included, at its optimum.
        qp: the solution of the quadratic program at the point; its row multipliers are the prices of the rows.
    """

    x: Array
    residual: float
    predicted_decrease: float
    qp: QPSolution


@dataclass(frozen=True)
class SQPResult:
    """Where the loop ended.

    Attributes:
        x: the best feasible iterate, by the judge where there is one, else by its loss on the last sample; the last
            iterate where none was feasible, as the status then says.
        loss: its loss there.
        status: one sentence.
        gradients, values: evaluations spent.
    """

    x: Array
    loss: float
    status: str
    gradients: int
    values: int
