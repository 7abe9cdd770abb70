"""From a model's sites and budgets to integer ranks: start, SQP in phases, rounding, fading, refining."""

import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
from absl import logging

from cobla_tf.band import Band, heuristic_band, open_band
from cobla_tf.blas import one_blas_thread
from cobla_tf.config import SolveConfig
from cobla_tf.contest import Contest
from cobla_tf.costs import CostTable
from cobla_tf.errors import DataError, SolverError
from cobla_tf.examples import Examples
from cobla_tf.fading import fade
from cobla_tf.layout import Layout
from cobla_tf.objective import Objective
from cobla_tf.qp import solve as solve_qp
from cobla_tf.refinement import Refinement
from cobla_tf.region import Region
from cobla_tf.relaxation import Relaxation
from cobla_tf.report_parts import IterationRecord, RoundingRecord
from cobla_tf.rounding import Rounded, round_by_model, round_masks
from cobla_tf.sampling import SampledLoss
from cobla_tf.solution import Solution, WarmStart
from cobla_tf.solve_log import SolveLog
from cobla_tf.sqp.constraints import Constraints
from cobla_tf.sqp.evaluations import Evaluations
from cobla_tf.sqp.interface import SQPSettings
from cobla_tf.sqp.loop import SQP
from cobla_tf.start import ONES, Start

Array = np.ndarray

TOLERANCE = 1e-3
"""Of the loss, a predicted decrease that is not worth another gradient."""
WARM_PATIENCE, WARM_REFINING = 1, 2
"""Iterations without a gain beyond the noise after which a solve from another's solution, and its refining, stop: it
begins near the optimum and with a Hessian that has been learnt, so that steps without a gain are not followed by better
ones."""


@dataclass
class Solver:
    """One solve of Eq. 7 in the paper's two steps.

    Attributes:
        objective, examples: the loss and the training images.
        sigmas, costs, limits: the sites, their costs in the budgeted resources, and the finite limits on these.
        macs: their MACs, with a budget or without.
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
    macs: CostTable
    config: SolveConfig
    qp_solver: str
    rng: np.random.Generator
    on_record: Callable[[IterationRecord], None]
    warm: WarmStart | None = None
    clock: Callable[[], float] = time.perf_counter

    def run(self) -> Solution:
        """Solve, round, fade if need be, refine.

        Raises:
            SolverError: the first quadratic program or the first loss is unusable.
        """
        with one_blas_thread():
            return self._run()

    def _run(self) -> Solution:
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
        self.start = Start(config.start, self.oracle, self.sigmas, self.costs, self.limits)
        self.log = SolveLog(self.objective, self.start, self.costs.resources, self.limits, self.on_record)
        self.target = self._target()
        self.relaxation = self._relaxation()
        relaxed, whole = self.relaxation.run(self._first_masks(), self.start.allocation.whole)
        learnt = WarmStart(relaxed, deepcopy(self.relaxation.loop.bfgs), tuple(self.sigmas))
        warm = None if self.relaxation.left_out else learnt
        rounded = self._refine(self._round(relaxed, whole))
        log = self.log
        told = "; ".join(log.status), tuple(log.records), tuple(log.certificates), log.rounding
        return Solution(self.start.masks, relaxed, rounded, *told, warm)

    def _target(self) -> float:
        """The original's loss, where it is asked for; a bad image among those that judge is found by it anyway."""
        self.log.values += 1
        original = self.oracle.compared(np.ones(self.layout.size))
        if not np.isfinite(original):
            raise DataError(
                "the loss of the original network is not finite on the training images that solutions are compared on; "
                "look for bad ones."
            )
        return original if self.config.stop_at_original else -np.inf

    def _relaxation(self) -> Relaxation:
        region = Region(self.costs, self.layout, self._band())
        stops = {"patience": WARM_PATIENCE} if self.warm else {}
        loop = self._loop(self.oracle, region.constraints(self.limits, self.start.allocation.whole), **stops)
        if self.warm and self.warm.bfgs is not None:
            loop.bfgs = deepcopy(self.warm.bfgs)
            loop.bfgs.memory = self.config.memory
        return Relaxation(loop, region, self.limits, self.log, self.start, self.config.continuation, bool(self.warm))

    def _first_masks(self) -> Array:
        if self.warm:
            return self.warm.masks
        near = self.config.continuation and self.config.start != ONES
        return self.start.above_chance() if near else self.start.masks

    def _band(self) -> Band:
        if self.config.band:
            return heuristic_band(self.sigmas, self.costs, self.limits, self.start.masks)
        return open_band(self.layout)

    def _loop(self, oracle: SampledLoss, constraints: Constraints, **stops: int) -> SQP:
        settings = SQPSettings(
            self.config.iterations, self.config.memory, tolerance=TOLERANCE, target=self.target, **stops
        )
        return SQP(
            evaluations=Evaluations(oracle, oracle.judge if oracle.judges else None),
            constraints=constraints,
            settings=settings,
            solve_qp=lambda program: solve_qp(program, self.qp_solver),
            on_iteration=self.log.add,
            curvature=oracle.curvature if self.config.curvature == "fisher" else None,
            clock=self.clock,
        )

    def _round(self, masks: Array, whole: Array) -> Rounded:
        """The best of several roundings by the loss on one sample that all of them share, if need be after a fade."""
        self._tell_next("rounding")
        drawn, model = dict[bytes, Rounded](), self.config.rounding == "model"
        for _ in range(self.config.draws):
            rounded = round_masks(masks, whole, self.sigmas, self.costs, self.limits, self.rng, fill=model)
            drawn.setdefault(rounded.kept.tobytes(), rounded)
        candidates = {f"draw {i + 1}": rounded for i, rounded in enumerate(drawn.values())}
        if model and not whole.all():
            candidates |= self._by_model(masks)
            if self.config.start != ONES:  # no answer is worse than the heuristic's, as far as a sample tells
                start = Rounded(self.start.masks > 0, self.start.masks, self.start.allocation)
                candidates["heuristic start"] = start
        if len(candidates) == 1 and (whole.all() or not self.config.continuation):
            return next(iter(candidates.values()))
        contest = Contest(masks, self._compared, lambda: self.start.constant_loss)
        verdict = contest.verdict(candidates, self.config.continuation)
        self.log.tell("rounding", verdict.fading or verdict.best)
        self.log.rounding = RoundingRecord(verdict.relaxed, verdict.loss)
        faded = self._fade(masks, candidates[verdict.fading], verdict.loss) if verdict.fading else None
        return faded or candidates[verdict.best]

    def _tell_next(self, step: str) -> None:
        """Say in the log what begins, and in front of bars what goes on."""
        logging.info("%s begins", step)
        self.objective.tally.stage = step

    def _compared(self, masks: Array) -> float:
        self.log.values += 1
        return self.objective.value(masks, self.oracle.judges or self.oracle.sample)

    def _by_model(self, masks: Array) -> dict[str, Rounded]:
        loop = self.relaxation.loop
        if loop.stands_at(masks):
            loss, gradient = loop.at.loss, loop.at.gradient
        else:
            loss, gradient = loop.evaluations.gradient(masks)
        curvature = self.oracle.curvature(masks)
        if not (np.isfinite(loss) and np.isfinite([gradient, curvature]).all()):
            logging.warning("rounding: no integer program, the gradient or the curvature is not finite")
            return {}
        rounded = round_by_model(masks, gradient, curvature, self.sigmas, self.costs, self.limits)
        return {"integer program": rounded}

    def _fade(self, masks: Array, rounded: Rounded, at_once: float) -> Rounded | None:
        """The rounding after a fade; None where that does not pay, and then nothing is kept of what it has learnt."""
        loop, cost = self.relaxation.loop, self.costs.used(rounded.allocation)
        learnt = deepcopy(loop.bfgs)
        self.log.enter("fade", lambda _: cost)
        try:
            if self.oracle.fill() and loop.at is not None:
                loop.refresh()
            faded, sentence = fade(loop, masks, rounded, self.layout, self.start.constant_loss)
        except SolverError as error:
            faded, sentence = None, f"left out: {error}"
        if faded is not None and not self._compared(faded.scale) < at_once:
            faded, sentence = None, f"{sentence}; left, it does not pay"
        if faded is None:
            loop.bfgs = learnt
        self.log.tell("fading", sentence)
        return faded

    def _refine(self, rounded: Rounded) -> Rounded:
        """Fit the scale of what is kept, and the biases, to the loss: it costs nothing, so no row is left."""
        if not self.config.refine_iterations or rounded.allocation.whole.all():
            return rounded
        self._tell_next("refining")
        before, cost = self.relaxation, self.costs.used(rounded.allocation)
        share = float(self.macs.used(rounded.allocation)[0] / self.macs.totals()[0])
        oracle = self.oracle.keep(rounded.kept, rounded.allocation.whole, share)
        refinement = Refinement(rounded, oracle, self.layout)
        self.log.leave(before.loop.evaluations)
        self.log.enter("refine", lambda _: cost)
        stops = {"patience": WARM_REFINING} if self.warm else {}
        loop = self._loop(oracle, refinement.constraints, **stops)
        loop.bfgs = refinement.hessian(before.loop.bfgs, self.config.memory)
        try:
            loop.begin(refinement.start)
            result = loop.run(self.config.refine_iterations)
        except SolverError as error:
            self.log.tell("refining", f"left out: {error}")
            return rounded
        self.log.tell("refining", result.status)
        return refinement.rounded_at(result.x)
