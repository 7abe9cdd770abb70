"""compress(): a trained Keras model and its budgets in, a smaller plain Keras model and a report out."""

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from absl import logging

from cobla_tf.batchnorm import batch_norms, reestimate
from cobla_tf.budgets import merge_budgets
from cobla_tf.config import Config
from cobla_tf.errors import DataError
from cobla_tf.export import FILE_NAMES, export_model, replace_with
from cobla_tf.finetune import train
from cobla_tf.notes import left_from_before, lost_attributes, of_one_output, renormalised, untrained
from cobla_tf.objective import Objective, evaluate
from cobla_tf.plan import Plan, make_plan
from cobla_tf.provenance import budget_reports, command, site_reports, versions
from cobla_tf.report import Evaluation, IterationRecord, Report
from cobla_tf.report_files import write_report
from cobla_tf.resources import Resource
from cobla_tf.selection import COBLA, select_ranks
from cobla_tf.solution import Solution
from cobla_tf.solve import Solver
from cobla_tf.surgery import mask_model, rebuild

BEFORE_FINE_TUNING = "before_fine_tuning.keras"


@dataclass(frozen=True)
class Result:
    """What compress() returns.

    Attributes:
        model: the compressed network, of built-in layers only; fine-tuned where that was asked for.
        report: what was done, per site and in total.
    """

    model: keras.Model
    report: Report


def compress(
    model: keras.Model,
    dataset: Any,
    *,
    macs: float | None = None,
    params: float | None = None,
    budgets: Mapping[str, float | None] | None = None,
    resources: Sequence[Resource] = (),
    scheme: str = "spatial",
    exclude: Sequence[str] = (),
    validation: Any = None,
    loss: Any = None,
    method: str = COBLA,
    config: Config | None = None,
) -> Result:
    """Compress a trained CNN by low-rank approximation under hard budgets.

    Args:
        model: functional or Sequential, with weights; it is not changed.
        dataset: training data, a tf.data.Dataset of (images, labels) batches or a pair of arrays; with tuples or dicts
            of arrays for several inputs or outputs, as Keras' fit takes them.
        macs, params: budgets on the sites' kernels: a fraction up to 1 of the original, or an absolute number above 1.
        budgets: the same for any resource by its name, e.g. {"latency": 0.6}; a resource without one is only reported.
        resources: what sites cost beside MACs and params, from measurements of yours or a CSV (`read_resources`).
            Absolute budgets are in its unit, which should be so small that they are above 1.
        scheme: "spatial" (Eq. 3) or "channel" (Eq. 4).
        exclude: fnmatch patterns of layer names to leave alone.
        validation: held-out data, in either form, for every accuracy in the report; without it a random tenth of an
            in-memory `dataset` is set apart and never optimised on.
        loss: anything that keras.losses.get takes; (sparse) categorical cross-entropy by default. For several outputs
            also a list or dict, as Keras' compile takes it; the sum is minimised, None leaves an output out.
        method: what selects the ranks: "cobla", or a published method in cobla_tf.baselines.RIVALS, under the same
            budgets; some of these set their own cost and take no budgets.
        config: everything else.

    The seed in `config` is set for Python, NumPy and TensorFlow alike.

    Raises:
        CoblaError: bad input, found before any work, with one sentence that says what to do.
    """
    config = config or Config()
    keras.utils.set_random_seed(config.seed)
    budgets = merge_budgets(macs, params, budgets)
    asked = {"method": method, "budgets": budgets, "scheme": scheme, "exclude": list(exclude)}
    run = _Run(config, asked)
    with run.clock("checks and decomposition"):
        plan = make_plan(
            model,
            dataset,
            budgets=budgets,
            resources=resources,
            scheme=scheme,
            exclude=exclude,
            validation=validation,
            loss=loss,
            config=config,
            method=method,
        )
    return run.compress(model, plan)


@dataclass
class _Run:
    """The steps of one compression, with the clock and the notes that they share."""

    config: Config
    asked: dict[str, Any]
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    evaluations: dict[str, Evaluation] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    def compress(self, model: keras.Model, plan: Plan) -> Result:
        """Evaluate, select the ranks, rebuild, fine-tune, export and report."""
        batch_size = self.config.batch_size
        self.notes += [*of_one_output(model, plan.loss), *lost_attributes(plan.sites)]
        _log_budgets(plan)
        self._evaluate("original", lambda: evaluate(model, plan.held_out, plan.loss, batch_size))
        self._judge_original(model, plan)
        solution = self._solve(model, plan) if plan.method == COBLA else self._select(model, plan)
        rounded = solution.rounded
        with self.clock("rebuild"):
            compressed = rebuild(model, plan.sites, rounded.kept, rounded.scale, rounded.allocation.whole)
        if not rounded.allocation.whole.all():
            self._renormalise(compressed, plan)
        self._evaluate("compressed", lambda: evaluate(compressed, plan.held_out, plan.loss, batch_size))
        history = self._fine_tune(compressed, plan)
        report = self._report((model, compressed), plan, solution, history)
        return Result(compressed, self._write(compressed, report))

    def _judge_original(self, model: keras.Model, plan: Plan) -> None:
        original = self.evaluations["original"]
        if not np.isfinite(original.loss):
            raise DataError("the loss of the original network is not finite on the held-out images; look for bad ones.")
        for note in untrained(original, model.outputs[plan.loss.place].shape[-1]):
            logging.warning("%s", note)
            self.notes.append(note)

    def _select(self, model: keras.Model, plan: Plan) -> Solution:
        with self.clock("solve"):
            solution = select_ranks(model, plan, self.config)
        logging.info("%s", solution.status)
        return solution

    def _solve(self, model: keras.Model, plan: Plan) -> Solution:
        config, sites = self.config, plan.sites
        budgeted = np.isfinite(plan.limits)
        masked = mask_model(model, sites, config.solve.gradient)
        objective = Objective(masked, plan.loss, config.batch_size, plan.train_set.probe())
        solver = Solver(
            objective=objective,
            examples=plan.train_set,
            sigmas=sites.sigmas,
            costs=plan.costs.take(budgeted),
            limits=plan.limits[budgeted],
            config=config.solve,
            qp_solver=plan.qp_solver,
            rng=np.random.default_rng(config.seed),
            on_record=_log_iteration,
        )
        with self.clock("solve: the optimiser itself"):
            solution = solver.run()
        self.seconds["solve: losses and gradients"] = objective.seconds
        self.seconds["solve: the optimiser itself"] -= objective.seconds
        for stage, masks in (("heuristic start", solution.start), ("relaxed", solution.relaxed)):
            self._evaluate(stage, lambda masks=masks: objective.evaluate(masks, plan.held_out))
        return solution

    @contextmanager
    def clock(self, stage: str) -> Iterator[None]:
        """Add the time spent inside to a stage's seconds."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - began

    def _evaluate(self, stage: str, run: Callable[[], Evaluation]) -> None:
        with self.clock("evaluation"):
            self.evaluations[stage] = run()
        result = self.evaluations[stage]
        accuracy = "" if result.accuracy is None else f", accuracy {result.accuracy:.4f}"
        logging.info("%s: loss %.4f%s on %d held-out images", stage, result.loss, accuracy, result.examples)

    def _renormalise(self, model: keras.Model, plan: Plan) -> None:
        """Re-estimate the statistics of BatchNorm layers where there are any, and measure the network before it."""
        config, norms = self.config, batch_norms(model)
        if not norms.open or not config.batch_norm_images:
            return
        self._evaluate("rebuilt", lambda: evaluate(model, plan.held_out, plan.loss, config.batch_size))
        with self.clock("batch statistics"):
            sample = plan.train_set.draw(config.batch_norm_images, np.random.default_rng(config.seed))
            reestimate(model, sample, config.batch_size)
        self.notes += renormalised(len(norms.open), len(norms.frozen), sample.size)

    def _fine_tune(self, model: keras.Model, plan: Plan) -> tuple[dict[str, float], ...]:
        config = self.config
        if not config.fine_tune.epochs:
            return ()
        if config.output_dir is not None:
            path = replace_with(config.output_dir / BEFORE_FINE_TUNING, model.save)
            self.files["before fine-tuning"] = str(path)
        with self.clock("fine-tuning"):
            history = train(model, plan.train_set, plan.loss, config.fine_tune, config.batch_size, sys.stderr.isatty())
        if not all(np.isfinite(epoch["loss"]) for epoch in history):
            self.notes.append("fine-tuning diverged to NaN; the best weights from before that were kept")
        self._evaluate("fine-tuned", lambda: evaluate(model, plan.held_out, plan.loss, config.batch_size))
        return history

    def _report(
        self,
        models: tuple[keras.Model, keras.Model],
        plan: Plan,
        solution: Solution,
        history: tuple[dict[str, float], ...],
    ) -> Report:
        return Report(
            model=models[0].name,
            model_params=(models[0].count_params(), models[1].count_params()),
            scheme=self.asked["scheme"],
            budgets=budget_reports(plan, solution),
            sites=site_reports(plan, solution),
            skipped=plan.sites.skipped,
            iterations=solution.records,
            qp_solver=plan.qp_solver,
            status=solution.status,
            evaluations=self.evaluations,
            evaluated_on=plan.evaluated_on,
            seed=self.config.seed,
            config={**self.asked, **dataclasses.asdict(self.config)},
            versions=versions(),
            seconds=self.seconds,
            notes=tuple(self.notes),
            fine_tuning=history,
            command=command(),
        )

    def _write(self, model: keras.Model, report: Report) -> Report:
        if self.config.output_dir is None:
            return report
        with self.clock("export"):
            exports = export_model(model, self.config.output_dir, self.config.exports)
        files = {**self.files, **{name: str(path) for name, path in exports.files.items()}}
        names = (BEFORE_FINE_TUNING, *FILE_NAMES.values())
        notes = (*report.notes, *left_from_before(self.config.output_dir, names, files))
        report = dataclasses.replace(report, files=files, failures=exports.failures, notes=notes)
        written = write_report(report, self.config.output_dir)
        return dataclasses.replace(report, files={**files, **{name: str(path) for name, path in written.items()}})


def _log_budgets(plan: Plan) -> None:
    for name, limit, total in zip(plan.costs.resources, plan.limits, plan.costs.totals(), strict=True):
        text = f"{limit / total:.2%} of the original" if np.isfinite(limit) else "none, only reported"
        logging.info("budget on %s: %s", name, text)


def _log_iteration(record: IterationRecord) -> None:
    use = " ".join(f"{name} {share:.1%}" for name, share in record.budget_use.items())
    logging.info(
        "%s, iteration %d: loss %.4f, judged %.4f, predicted decrease %.1e, step %.2g, %s, %.1f s",
        record.phase, record.iteration, record.loss, record.judged, record.predicted_decrease, record.step, use,
        record.seconds,
    )  # fmt: skip
