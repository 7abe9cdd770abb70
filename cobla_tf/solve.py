"""From a model's sites and budgets to integer ranks: start, SQP in phases, rounding, re-scaling."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from absl import logging

from cobla_tf.band import Band, heuristic_band, open_band
from cobla_tf.baselines import METHODS
from cobla_tf.config import SolveConfig
from cobla_tf.costs import Allocation, CostTable
from cobla_tf.errors import SolverError
from cobla_tf.examples import Examples
from cobla_tf.layout import Layout
from cobla_tf.objective import Objective
from cobla_tf.qp import solve as solve_qp
from cobla_tf.report import IterationRecord
from cobla_tf.rounding import LEAST_SCALE, Rounded, round_masks
from cobla_tf.sampling import SampledLoss
from cobla_tf.sqp.loop import SQP, Constraints, Iteration, SQPResult, SQPSettings

Array = np.ndarray

LARGEST_SCALE = 10.0
"""Upper bound of a kept term's scale once the ranks are fixed: far above what the loss ever asks for."""


@dataclass(frozen=True)
class Solution:
    """What the optimiser found.

    Attributes:
        start: the heuristic's binary masks, float64 [n].
        relaxed: masks in [0, 1] within the budgets, float64 [n].
        rounded: integer ranks within the budgets, and the scale of what is kept.
        status: one sentence a phase.
        records: one an iteration.
    """

    start: Array
    relaxed: Array
    rounded: Rounded
    status: str
    records: tuple[IterationRecord, ...]


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
    records: list[IterationRecord] = field(default_factory=list)
    gradients: int = 0
    values: int = 0

    def run(self) -> Solution:
        """Solve, round, re-scale.

        Raises:
            SolverError: the first quadratic program or the first loss is unusable.
        """
        self.layout = Layout(self.costs.full_ranks)
        self.count = self.config.sample_size(self.examples.size)
        start = self._start()
        relaxed, whole, status = self._relax(start)
        rounded = self._round(relaxed, whole)
        rounded, refined = self._refine(rounded)
        sentences = [*status, *([f"re-scaling: {refined}"] if refined else [])]
        return Solution(self.layout.leading(start.ranks), relaxed, rounded, "; ".join(sentences), tuple(self.records))

    def _start(self) -> Allocation:
        if self.config.start == "ones":
            return Allocation(self.costs.full_ranks, self.costs.cheapest(self.limits).whole)
        return METHODS[self.config.start](self.sigmas, self.costs, self.limits)

    def _band(self, start: Array) -> Band:
        if self.config.band and self.config.start != "ones":
            return heuristic_band(self.sigmas, self.costs, self.limits, start)
        return open_band(self.layout)

    def _relax(self, start: Allocation) -> tuple[Array, Array, list[str]]:
        """Solve Eq. 8; keep sites that come out saturated whole, and solve again with what that frees."""
        masks, whole, status = self.layout.leading(start.ranks), start.whole, []
        band = self._band(masks)
        for phase in range(1, len(self.sigmas) + 2):
            try:
                masks, result = self._sqp(f"solve {phase}", masks, whole, band)
            except SolverError as error:
                if phase == 1:
                    raise
                status.append(f"solve {phase}: left out: {error}")
                break
            status.append(f"solve {phase}: {result.status}")
            saturated = self.costs.settle(np.floor(self.layout.sums(masks) + 1e-6).astype(np.int64), whole).whole
            if (saturated == whole).all():
                break
            logging.info("%d saturated sites are kept whole; solving again", int(saturated.sum()))
            whole = saturated
            masks = np.where(self.layout.spread(whole), 1.0, masks)
        return masks, whole, status

    def _sqp(self, phase: str, masks: Array, whole: Array, band: Band) -> tuple[Array, SQPResult]:
        fixed = self.layout.spread(whole) | (band.lower == band.upper)
        free = np.flatnonzero(~fixed)
        base = np.where(self.layout.spread(whole), 1.0, masks)
        if not len(free):
            return base, SQPResult(base[free], float("nan"), "nothing left to decide", 0, 0)
        constraints = self._constraints(base, whole, free, band)

        def used(x: Array) -> Array:
            sums = self.layout.sums(_with(base, free, x))
            return np.where(whole, self.costs.original, self.costs.per_rank * sums).sum(axis=1)

        result = self._minimise(phase, base, free, constraints, self.config.iterations, used)
        return _with(base, free, result.x), result

    def _constraints(self, base: Array, whole: Array, free: Array, band: Band) -> Constraints:
        """Budget rows as shares of the original cost, less what whole sites and fixed masks take."""
        scale = self.costs.totals()[:, None]
        rows = np.where(self.layout.spread(whole), 0, self.layout.spread(self.costs.per_rank)) / scale
        taken = np.where(whole, self.costs.original, 0).sum(axis=1) / scale[:, 0]
        fixed = np.ones(len(base), dtype=bool)
        fixed[free] = False
        limits = self.limits / scale[:, 0] - taken - rows[:, fixed] @ base[fixed]
        return Constraints(rows[:, free], limits, band.lower[free], band.upper[free])

    def _minimise(
        self, phase: str, base: Array, free: Array, constraints: Constraints, iterations: int,
        used: Callable[[Array], Array],
    ) -> SQPResult:  # fmt: skip
        oracle = SampledLoss(self.objective, self.examples, self.count, self.config.renew_every, self.rng, base, free)
        settings = SQPSettings(iterations=iterations, memory=self.config.memory)

        def record(step: Iteration) -> None:
            self._record(phase, step, used(step.x))

        loop = SQP(oracle, constraints, settings, lambda program: solve_qp(program, self.qp_solver), record)
        result = loop.minimise(base[free])
        self.gradients += result.gradients
        self.values += result.values
        return result

    def _record(self, phase: str, step: Iteration, used: Array) -> None:
        shares = {name: float(share) for name, share in zip(self.costs.resources, used / self.limits, strict=True)}
        entry = IterationRecord(
            phase=phase,
            iteration=step.number,
            loss=step.loss,
            predicted_decrease=step.predicted_decrease,
            step=step.step,
            budget_use=shares,
            seconds=step.seconds,
            gradients=self.gradients + step.gradients,
            values=self.values + step.values,
            qp_residual=step.qp.residual,
            prices=dict(zip(shares, (step.qp.row_multipliers / 100).tolist(), strict=False)),
        )
        self.records.append(entry)
        self.on_record(entry)

    def _round(self, masks: Array, whole: Array) -> Rounded:
        """The best of several feasible draws by the loss on one sample that all of them share."""
        sample = self.examples.draw(self.count, self.rng)
        drawn: dict[bytes, Rounded] = {}
        for _ in range(self.config.draws):
            rounded = round_masks(masks, whole, self.sigmas, self.costs, self.limits, self.rng)
            drawn.setdefault(rounded.kept.tobytes(), rounded)
        candidates = list(drawn.values())
        if len(candidates) == 1:
            return candidates[0]
        self.values += len(candidates)
        losses = [self.objective.value(rounded.scale, sample) for rounded in candidates]
        return candidates[int(np.argmin(np.nan_to_num(losses, nan=np.inf)))]

    def _refine(self, rounded: Rounded) -> tuple[Rounded, str]:
        """Re-optimise the scale of the kept terms; no change in cost, so bounds are all that is left."""
        free = np.flatnonzero(rounded.kept & ~self.layout.spread(rounded.allocation.whole))
        if not self.config.refine_iterations or not len(free):
            return rounded, ""
        constraints = Constraints(
            np.zeros((0, len(free))), np.zeros(0), np.full(len(free), LEAST_SCALE), np.full(len(free), LARGEST_SCALE)
        )
        cost = self.costs.used(rounded.allocation)
        iterations = self.config.refine_iterations
        try:
            result = self._minimise("re-scale", rounded.scale, free, constraints, iterations, lambda _: cost)
        except SolverError as error:
            return rounded, f"left out: {error}"
        return replace(rounded, scale=_with(rounded.scale, free, result.x)), result.status


def _with(vector: Array, places: Array, values: Array) -> Array:
    changed = vector.copy()
    changed[places] = values
    return changed
