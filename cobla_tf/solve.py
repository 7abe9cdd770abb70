"""From a model's sites and budgets to integer ranks: start, SQP in phases, rounding, re-scaling."""

import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from absl import logging

from cobla_tf.band import Band, heuristic_band, open_band
from cobla_tf.baselines import METHODS
from cobla_tf.config import SolveConfig
from cobla_tf.continuation import Continuation, budget_between
from cobla_tf.costs import Allocation, CostTable
from cobla_tf.errors import SolverError
from cobla_tf.examples import Examples
from cobla_tf.layout import Layout
from cobla_tf.objective import Objective
from cobla_tf.qp import solve as solve_qp
from cobla_tf.report import IterationRecord
from cobla_tf.rounding import LEAST_SCALE, Rounded, round_by_model, round_masks
from cobla_tf.sampling import SampledLoss
from cobla_tf.solution import Solution, WarmStart
from cobla_tf.sqp.constraints import Constraints
from cobla_tf.sqp.interface import Iteration, SQPSettings
from cobla_tf.sqp.loop import SQP

Array = np.ndarray

LARGEST_SCALE = 10.0
"""Upper bound of a kept term's scale once the ranks are fixed: far above what the loss ever asks for."""
TOLERANCE = 1e-3
"""Of the loss, a predicted decrease that is not worth another gradient."""
CHANCE = 0.5
"""A start has lost its way if it is further than this from the original's loss to that of a constant output."""
LOOSER = (0.75, 0.5, 0.25)
"""Where to look for a better start: budgets as these powers of the target's share."""


@dataclass
class Solver:
    """One solve of Eq. 7 in the paper's two steps.

    Attributes:
        objective, examples: the loss and the training images.
        sigmas, costs, limits: the sites, their costs in the budgeted resources, and the finite limits on these.
        config: the user's choices.
        qp_solver: a resolved back end.
        rng: the one source of chance.
        on_record: called after every iteration.
        warm: what another solve left; None starts from a heuristic.
        clock: seconds, for the records.
    """

    objective: Objective
    examples: Examples
    sigmas: list[Array]
    costs: CostTable
    limits: Array
    config: SolveConfig
    qp_solver: str
    rng: np.random.Generator
    on_record: Callable[[IterationRecord], None]
    warm: WarmStart | None = None
    clock: Callable[[], float] = time.perf_counter
    records: list[IterationRecord] = field(default_factory=list)
    status: list[str] = field(default_factory=list)
    phase: str = ""
    cost: Array | None = None
    gradients: int = 0
    values: int = 0

    def run(self) -> Solution:
        """Solve, round, re-scale.

        Raises:
            SolverError: the first quadratic program or the first loss is unusable.
        """
        config = self.config
        self.layout = Layout(self.costs.full_ranks)
        self.oracle = SampledLoss(
            self.objective,
            self.examples,
            config.sample_size(self.examples.size),
            config.renew_every,
            config.growing,
            self.rng,
        )
        heuristic = self._heuristic(self.limits)
        start, whole = self._start(heuristic)
        relaxed, whole = self._relax(start, whole, self._band(heuristic))
        rounded = self._refine(self._round(relaxed, whole))
        warm = WarmStart(relaxed, self.loop.bfgs)
        return Solution(
            self.layout.leading(heuristic.ranks), relaxed, rounded, "; ".join(self.status), tuple(self.records), warm
        )

    def _heuristic(self, limits: Array) -> Allocation:
        if self.config.start == "ones":
            return Allocation(self.costs.full_ranks, self.costs.cheapest(limits).whole)
        return METHODS[self.config.start](self.sigmas, self.costs, limits)

    def _start(self, heuristic: Allocation) -> tuple[Array, Array]:
        """Masks and whole sites to start from, at looser budgets where the heuristic's are near chance."""
        masks = self.warm.masks if self.warm else self.layout.leading(heuristic.ranks)
        if self.warm or self.config.start == "ones" or not self.config.continuation:
            return masks, heuristic.whole
        self.values += 2
        original, loss = self.oracle.value(np.ones(self.layout.size)), self.oracle.value(masks)
        chance = original + CHANCE * (self.constant_loss - original)
        for power in LOOSER:
            if loss <= chance:
                break
            masks = self._looser(heuristic, power)
            self.values += 1
            loss = self.oracle.value(masks)
            logging.info("start at the budgets to the power %.2f: loss %.3f, chance is above %.3f", power, loss, chance)
        return masks, heuristic.whole

    @cached_property
    def constant_loss(self) -> float:
        """Loss of the original's mean output for every image: that of a network that sees nothing."""
        self.values += 1
        return self.oracle.constant_loss(np.ones(self.layout.size))

    def _looser(self, heuristic: Allocation, power: float) -> Array:
        """A heuristic's masks at looser budgets, with no site whole that is not whole at the target."""
        allocation = self._heuristic(budget_between(self.costs.totals().astype(float), self.limits, power))
        ranks = np.where(
            allocation.whole & ~heuristic.whole, np.maximum(self.costs.saturation_ranks() - 1, 1), allocation.ranks
        )
        return self.layout.leading(np.where(heuristic.whole, self.costs.full_ranks, ranks))

    def _band(self, heuristic: Allocation) -> Band:
        if self.config.band and self.config.start != "ones":
            return heuristic_band(self.sigmas, self.costs, self.limits, self.layout.leading(heuristic.ranks))
        return open_band(self.layout)

    def _relax(self, masks: Array, whole: Array, band: Band) -> tuple[Array, Array]:
        """Solve Eq. 8; keep sites that come out saturated whole, and solve again with what that frees."""
        self.loop = self._loop(self._constraints(self.limits, whole, band))
        self.loop.bfgs = deepcopy(self.warm.bfgs) if self.warm else None
        for phase in range(1, len(self.sigmas) + 2):
            self.phase, self.whole = f"solve {phase}", whole
            try:
                masks = self._solve(masks, whole, band)
            except SolverError as error:
                if phase == 1:
                    raise
                self.status.append(f"solve {phase}: left out: {error}")
                break
            saturated = self.costs.settle(np.floor(self.layout.sums(masks) + 1e-6).astype(np.int64), whole).whole
            if (saturated == whole).all():
                break
            logging.info("%d saturated sites are kept whole; solving again", int(saturated.sum()))
            whole = saturated
        return masks, whole

    def _solve(self, masks: Array, whole: Array, band: Band) -> Array:
        loop = self.loop
        loop.constraints = self._constraints(self.limits, whole, band)
        if (loop.constraints.lower == loop.constraints.upper).all():
            self.status.append(f"{self.phase}: nothing left to decide")
            return loop.constraints.clip(masks)
        loop.begin(masks)
        if self.config.continuation and loop.constraints.violated(loop.x):
            self._come_down(whole, band)
        result = loop.run()
        self.status.append(f"{self.phase}: {result.status}")
        return result.x

    def _come_down(self, whole: Array, band: Band) -> None:
        phase, self.phase = self.phase, "continuation"
        used = self._used(self.loop.x, whole)
        way = Continuation(
            self.loop, lambda limits: self._constraints(limits, whole, band), used, self.limits, self.constant_loss
        )
        self.status.append(f"continuation: {way.run()}")
        self.phase = phase

    def _used(self, masks: Array, whole: Array) -> Array:
        """Cost of relaxed masks, float64 [R]."""
        return self.costs.of_sites(Allocation(self.layout.sums(masks), whole)).sum(axis=1)

    def _constraints(self, limits: Array, whole: Array, band: Band) -> Constraints:
        """Budget rows as shares of the original cost, less what whole sites take; their masks are fixed at one."""
        scale = self.costs.totals()
        fixed = self.layout.spread(whole)
        rows = np.where(fixed, 0, self.layout.spread(self.costs.per_rank)) / scale[:, None]
        taken = np.where(whole, self.costs.original, self.costs.base).sum(axis=1)
        lower, upper = np.where(fixed, 1.0, band.lower), np.where(fixed, 1.0, band.upper)
        return Constraints(rows, (limits - taken) / scale, lower, upper)

    def _loop(self, constraints: Constraints) -> SQP:
        return SQP(
            oracle=self.oracle,
            constraints=constraints,
            settings=SQPSettings(self.config.iterations, self.config.memory, tolerance=TOLERANCE),
            solve_qp=lambda program: solve_qp(program, self.qp_solver),
            on_iteration=self._record,
            curvature=self.oracle.curvature if self.config.curvature == "fisher" else None,
            judge=self.oracle.judge if self.oracle.judges else None,
            clock=self.clock,
        )

    def _record(self, step: Iteration) -> None:
        used = self._used(step.x, self.whole) if self.cost is None else self.cost
        shares = {name: float(share) for name, share in zip(self.costs.resources, used / self.limits, strict=True)}
        entry = IterationRecord(
            phase=self.phase,
            iteration=step.number,
            loss=step.loss,
            judged=step.judged,
            predicted_decrease=step.predicted_decrease,
            step=step.step,
            budget_use=shares,
            seconds=step.seconds,
            gradients=self.gradients + step.gradients,
            values=self.values + step.values,
            images=self.objective.seen,
            qp_residual=step.qp.residual,
            prices=dict(zip(shares, (step.qp.row_multipliers / 100).tolist(), strict=False)),
            ranks=tuple(self.layout.sums(step.x).tolist()) if self.cost is None else (),
        )
        self.records.append(entry)
        self.on_record(entry)

    def _round(self, masks: Array, whole: Array) -> Rounded:
        """The best of several roundings by the loss on one sample that all of them share."""
        drawn: dict[bytes, Rounded] = {}
        for _ in range(self.config.draws):
            rounded = round_masks(masks, whole, self.sigmas, self.costs, self.limits, self.rng)
            drawn.setdefault(rounded.kept.tobytes(), rounded)
        candidates = {f"draw {i + 1}": rounded for i, rounded in enumerate(drawn.values())}
        if self.config.rounding == "model":
            candidates |= self._by_model(masks)
        if len(candidates) == 1:
            return next(iter(candidates.values()))
        judges = self.oracle.judges or self.oracle.sample
        self.values += len(candidates)
        losses = {name: self.objective.value(rounded.scale, judges) for name, rounded in candidates.items()}
        best = min(losses, key=lambda name: np.nan_to_num(losses[name], nan=np.inf))
        logging.info("rounding: %s", ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items()))
        self.status.append(f"rounding: {best}")
        return candidates[best]

    def _by_model(self, masks: Array) -> dict[str, Rounded]:
        self.gradients += 1
        (_, gradient), curvature = self.oracle.gradient(masks), self.oracle.curvature(masks)
        if not np.isfinite([gradient, curvature]).all():
            logging.warning("rounding: no integer program, the gradient or the curvature is not finite")
            return {}
        rounded = round_by_model(masks, gradient, curvature, self.sigmas, self.costs, self.limits)
        return {"integer program": rounded}

    def _refine(self, rounded: Rounded) -> Rounded:
        """Re-optimise the scale of the kept terms; no change in cost, so bounds are all that is left."""
        self.whole = rounded.allocation.whole
        free = rounded.kept & ~self.layout.spread(self.whole)
        if not self.config.refine_iterations or not free.any():
            return rounded
        self.gradients, self.values = self.gradients + self.loop.gradients, self.values + self.loop.values
        lower, upper = np.where(free, LEAST_SCALE, rounded.scale), np.where(free, LARGEST_SCALE, rounded.scale)
        loop = self._loop(Constraints(np.zeros((0, len(free))), np.zeros(0), lower, upper))
        loop.bfgs = deepcopy(self.loop.bfgs)  # the caller's warm start is not to change
        self.phase, self.cost = "re-scale", self.costs.used(rounded.allocation)
        try:
            loop.begin(rounded.scale)
            result = loop.run(self.config.refine_iterations)
        except SolverError as error:
            self.status.append(f"re-scaling: left out: {error}")
            return rounded
        self.status.append(f"re-scaling: {result.status}")
        return replace(rounded, scale=result.x)
