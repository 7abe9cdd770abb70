"""One compression, step by step: evaluate, select the ranks, rebuild, fine-tune, export and report."""

import dataclasses
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from absl import logging

from cobla_tf.account import Account
from cobla_tf.batchnorm import batch_norms, reestimate
from cobla_tf.config import Config
from cobla_tf.devices import Devices
from cobla_tf.digest import digest
from cobla_tf.distillation import softened
from cobla_tf.errors import DataError
from cobla_tf.export_formats import plain
from cobla_tf.files import replace_with
from cobla_tf.finetune import train, training_backup
from cobla_tf.journal import Journal
from cobla_tf.notes import (
    chosen_epoch,
    doubtful,
    idle_budgets,
    lost_attributes,
    of_one_output,
    own_training,
    renormalised,
    untied,
    unused_options,
    worse_for_training,
)
from cobla_tf.output import BEFORE_FINE_TUNING, write_output
from cobla_tf.plan import Plan
from cobla_tf.precision import products_in
from cobla_tf.provenance import fingerprint, make_report
from cobla_tf.recorded import evaluate_recorded
from cobla_tf.report import Report
from cobla_tf.report_parts import Evaluation
from cobla_tf.result import Result
from cobla_tf.selection import COBLA, select_ranks
from cobla_tf.shared_journal import SharedJournal
from cobla_tf.solution import Solution, WarmStart
from cobla_tf.speed import benchmark
from cobla_tf.surgery import rebuild
from cobla_tf.texts import counted
from cobla_tf.unfinished import Unfinished
from cobla_tf.watched_solve import make_solver


@dataclass
class Compression:
    """The steps of one `compress()`, once its arguments are checked, and what they share.

    Attributes:
        config: of the caller.
        model: the original; it is not changed.
        plan: all that is known of the problem.
        asked: arguments of compress(), to be shown in the report.
        account: of the run so far.
        devices: what shares each batch.
    """

    config: Config
    model: keras.Model
    plan: Plan
    asked: dict[str, Any]
    account: Account
    devices: Devices

    def run(self, warm: WarmStart | None) -> Result:
        """Compress, from where an earlier attempt had come to if there was one.

        Args:
            warm: what the solve starts from; None starts from a heuristic.

        Raises:
            CoblaError: the run cannot go on.
        """
        unfinished = Unfinished(self.config.output_dir)
        if self.config.output_dir is not None:
            with self.account.clock("checks and decomposition"):
                header = fingerprint(self.model, self.plan, self.asked, self.config)
                journal = Journal(unfinished.path("solve.journal", digest(sorted(header.items()))), header)
            self.account.journal = journal
        if self.devices.workers > 1:
            self.account.journal = SharedJournal(self.account.journal, self.devices)
        with closing(self.account.journal):
            result = self._steps(warm, unfinished)
        unfinished.end(complete=not result.report.failures)
        return result

    def _steps(self, warm: WarmStart | None, unfinished: Unfinished) -> Result:
        """Evaluate, select the ranks, rebuild, fine-tune, export and report."""
        plan, account = self.plan, self.account
        account.notes += [
            *of_one_output(self.model, plan.loss),
            *lost_attributes(plan.sites),
            *own_training(self.model),
            *unused_options(self.config.fine_tune),
        ]
        _log_budgets(plan)
        for note in idle_budgets(plan.costs, plan.limits):
            account.warn(note)
        self._judge_original()
        solution = self._solve(warm) if plan.method == COBLA else self._select()
        compressed = self._rebuild(solution)
        history = self._fine_tune(compressed, unfinished)
        compressed = plain(compressed)
        if account.journal.replayed:
            account.notes.append(
                f"resumed: {account.journal.replayed} losses, gradients and evaluations are of an earlier attempt; the "
                "times include theirs"
            )
        report = make_report((self.model, compressed), plan, solution, history, account, self.asked, self.config)
        report = self._timed(report, compressed)
        if self.config.output_dir is not None:
            report = write_output(compressed, plan, report, account, self.config)
        return Result(compressed, report, solution.warm)

    def _judge(self, stage: str, model: keras.Model) -> Evaluation:
        plan, journal = self.plan, self.account.journal
        asked = (model, plan.held_out, plan.loss, self.config.batch_size, self.devices)
        return self.account.evaluate(stage, lambda: evaluate_recorded(journal, *asked))

    def _judge_original(self) -> None:
        original = self._judge("original", self.model)
        if not np.isfinite(original.loss):
            raise DataError("the loss of the original network is not finite on the held-out images; look for bad ones.")
        loss = self.plan.loss
        for note in doubtful(original, loss.judged.classes, getattr(loss, "function", None)):
            self.account.warn(note)

    def _select(self) -> Solution:
        with self.account.clock("solve"):
            solution = select_ranks(self.model, self.plan, self.config, self.account.journal)
        logging.info("%s", solution.status)
        return solution

    def _solve(self, warm: WarmStart | None) -> Solution:
        account, held_out = self.account, self.plan.held_out
        solver = make_solver(self.model, self.plan, self.config, account.journal, warm)
        objective = solver.objective
        with account.clock("solve: the optimiser itself"):
            solution = solver.run()
        if solution.warm is None:
            account.warn(
                "the optimiser came to nothing, and the ranks are those of the heuristic start: see the status"
            )
        account.seconds["solve: losses and gradients"] = objective.tally.seconds
        account.seconds["solve: the optimiser itself"] -= objective.tally.seconds
        account.evaluate("heuristic start", lambda: objective.evaluate(solution.start, held_out))
        account.evaluate("relaxed", lambda: objective.evaluate(solution.relaxed, held_out))
        return solution

    def _rebuild(self, solution: Solution) -> keras.Model:
        rounded = solution.rounded
        with self.account.clock("rebuild"):
            whole = rounded.allocation.whole
            compressed = rebuild(self.model, self.plan.sites, rounded.kept, rounded.scale, whole, rounded.biases)
        if not whole.all():
            self._renormalise(compressed)
        self.account.notes += untied(self.model, compressed)
        self._judge("compressed", compressed)
        return compressed

    def _renormalise(self, model: keras.Model) -> None:
        """Re-estimate the statistics of BatchNorm layers where there are any, and measure the network before it."""
        config, norms = self.config, batch_norms(model)
        if not config.batch_norm_images:
            return
        counts = [len(kind) for kind in (norms.open, norms.frozen, norms.wrapped)]
        if not norms.open:
            self.account.notes += renormalised(*counts, 0)
            return
        self._judge("rebuilt", model)
        with self.account.clock("batch statistics"):
            sample = self.plan.train_set.draw(config.batch_norm_images, np.random.default_rng(config.seed))
            reestimate(model, sample, config.batch_size)
            self.devices.share_weights(model.variables)
        self.account.notes += renormalised(*counts, sample.size)

    def _fine_tune(self, model: keras.Model, unfinished: Unfinished) -> tuple[dict[str, float], ...]:
        config, account, plan = self.config, self.account, self.plan
        if not config.fine_tune.epochs:
            return ()
        if config.output_dir is not None:
            account.add_files({"before fine-tuning": replace_with(config.output_dir / BEFORE_FINE_TUNING, model.save)})
        with account.clock("fine-tuning"), products_in(plan.precision):
            examples, loss, schedule = plan.train_set, plan.loss, (config.fine_tune, config.batch_size)
            # Not of softened labels, whose last digits are the processor's: they follow from the original's weights.
            asked = (model, examples, loss, *schedule, config.seed, plan.precision)
            backup = training_backup(unfinished, "fine_tuning", *asked)
            if share := config.fine_tune.distillation:
                examples, loss = softened(self.model, examples, loss, share, config.batch_size)
            history = train(model, examples, loss, *schedule, config.seed, backup, self.devices)
        account.seconds["fine-tuning"] += backup.seconds
        if backup.restored:
            kept = counted(backup.restored, "epoch of fine-tuning is", "epochs of fine-tuning are")
            account.notes.append(f"resumed: {kept} of an earlier attempt")
        if not all(np.isfinite(epoch["loss"]) for epoch in history):
            account.notes.append("fine-tuning diverged to NaN; the best weights from before that were kept")
        account.notes += chosen_epoch(history, backup.best_epoch)
        tuned = self._judge("fine-tuned", model)
        account.notes += worse_for_training(account.evaluations["compressed"], tuned, config.output_dir is not None)
        return history

    def _timed(self, report: Report, compressed: keras.Model) -> Report:
        """With the speed of both networks, where that was asked for."""
        if not self.config.benchmark:
            return report
        with self.account.clock("benchmark"):
            times = benchmark(self.model, compressed, images=self.plan.held_out.probe().images)
        return dataclasses.replace(report, benchmark=times)


def _log_budgets(plan: Plan) -> None:
    for name, limit, total in zip(plan.costs.resources, plan.limits, plan.costs.totals(), strict=True):
        text = f"{100 * limit / total:.2f} % of the original" if np.isfinite(limit) else "none, only reported"
        logging.info("budget on %s: %s", name, text)
