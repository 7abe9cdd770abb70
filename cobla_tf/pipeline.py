"""compress(): a trained Keras model and its budgets in, a smaller plain Keras model and a report out."""

import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from absl import logging

from cobla_tf.baselines.method import Method
from cobla_tf.batchnorm import batch_norms, reestimate
from cobla_tf.budgets import merge_budgets
from cobla_tf.cluster import own_config
from cobla_tf.config import LAYERS, Config
from cobla_tf.devices import Devices
from cobla_tf.digest import digest
from cobla_tf.distillation import softened
from cobla_tf.errors import DataError
from cobla_tf.export import Exports, FailedExportError, export_model, replace_with
from cobla_tf.export_formats import FILE_NAMES
from cobla_tf.finetune import train, training_backup
from cobla_tf.journal import Journal
from cobla_tf.notes import chosen_epoch, left_from_before, lost_attributes, of_one_output, renormalised, untrained
from cobla_tf.plan import Plan, make_plan
from cobla_tf.precision import products_in
from cobla_tf.progress import doing
from cobla_tf.provenance import budget_reports, command, fingerprint, site_reports, versions
from cobla_tf.recorded import evaluate_recorded
from cobla_tf.report import Evaluation, Report
from cobla_tf.report_files import write_report
from cobla_tf.resources import Resource
from cobla_tf.result import Result
from cobla_tf.selection import COBLA, method_name, select_ranks
from cobla_tf.shared_journal import SharedJournal
from cobla_tf.solution import Solution, WarmStart
from cobla_tf.speed import benchmark
from cobla_tf.strategy import find_devices, watched
from cobla_tf.surgery import rebuild
from cobla_tf.unfinished import Unfinished, held
from cobla_tf.watched_solve import make_solver

BEFORE_FINE_TUNING = "before_fine_tuning.keras"
CALIBRATION = 100
"""Training images that 8-bit exports take their ranges from."""


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
    layers: str | Sequence[str] = LAYERS[:1],
    validation: Any = None,
    loss: Any = None,
    method: str | Method = COBLA,
    warm: WarmStart | None = None,
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
        scheme: "spatial" (Eq. 3), "channel" (Eq. 4), or "auto": for each site what keeps most within the budgets.
        exclude: fnmatch patterns of layer names to leave alone.
        layers: kinds of layers to decompose, of config.LAYERS or "all"; Conv2D alone is the paper's choice.
        validation: held-out data, in either form, for every accuracy in the report; without it a random tenth of an
            in-memory `dataset` is set apart and never optimised on.
        loss: anything that keras.losses.get takes; (sparse) categorical cross-entropy by default. For several outputs
            also a list or dict, as Keras' compile takes it; the sum is minimised, None leaves an output out.
        method: what selects the ranks: "cobla", or a published method in cobla_tf.baselines.RIVALS, under the same
            budgets; some of these set their own cost and take no budgets. A `baselines.Method` is one of your own.
        warm: `Result.warm` of a compression of the same model, scheme and layers under other budgets, best somewhat
            looser ones: the solve starts from there and takes fewer gradients.
        config: everything else.

    The seed in `config` is set for Python, NumPy and TensorFlow alike. With an `output_dir`, the same call made again
    after an interruption goes on where that one had come to.

    Raises:
        CoblaError: bad input, found before any work, with one sentence that says what to do.
    """
    config = own_config(config or Config())
    devices = find_devices(config.strategy)
    devices.check_batch(config.batch_size)
    keras.utils.set_random_seed(config.seed)
    budgets = merge_budgets(macs, params, budgets)
    asked = {
        "method": method_name(method),
        "budgets": budgets,
        "scheme": scheme,
        "exclude": list(exclude),
        "layers": layers,
    }
    run = _Run(config, asked, devices)
    with watched(devices), held(config.output_dir):
        with run.clock("checks and decomposition"), doing("checks and decomposition"):
            plan = make_plan(
                model,
                dataset,
                budgets=budgets,
                resources=resources,
                scheme=scheme,
                exclude=exclude,
                layers=layers,
                validation=validation,
                loss=loss,
                config=config,
                method=method,
            )
        if warm is not None:
            warm.check(plan.sites.layout.size)
        result = run.compress(model, plan, warm)
        devices.meet()
        return result


@dataclass
class _Run:
    """The steps of one compression, with the clock and the notes that they share."""

    config: Config
    asked: dict[str, Any]
    devices: Devices
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    evaluations: dict[str, Evaluation] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    journal: Journal | SharedJournal = field(default_factory=lambda: Journal(None, {}))

    def compress(self, model: keras.Model, plan: Plan, warm: WarmStart | None) -> Result:
        """Go on where an earlier attempt had come to, if there was one."""
        unfinished = Unfinished(self.config.output_dir)
        if self.config.output_dir is not None:
            with self.clock("checks and decomposition"):
                header = fingerprint(model, plan, self.asked, self.config)
                self.journal = Journal(unfinished.path("solve.journal", digest(sorted(header.items()))), header)
        if self.devices.workers > 1:
            self.journal = SharedJournal(self.journal, self.devices)
        with closing(self.journal):
            result = self._compress(model, plan, warm, unfinished)
        unfinished.remove()
        return result

    def _compress(self, model: keras.Model, plan: Plan, warm: WarmStart | None, unfinished: Unfinished) -> Result:
        """Evaluate, select the ranks, rebuild, fine-tune, export and report."""
        self.notes += [*of_one_output(model, plan.loss), *lost_attributes(plan.sites)]
        _log_budgets(plan)
        self._evaluate("original", lambda: self._judge(model, plan))
        self._judge_original(model, plan)
        solution = self._solve(model, plan, warm) if plan.method == COBLA else self._select(model, plan)
        rounded = solution.rounded
        with self.clock("rebuild"):
            compressed = rebuild(model, plan.sites, rounded.kept, rounded.scale, rounded.allocation.whole)
        if not rounded.allocation.whole.all():
            self._renormalise(compressed, plan)
        self._evaluate("compressed", lambda: self._judge(compressed, plan))
        history = self._fine_tune(compressed, model, plan, unfinished)
        if self.journal.replayed:
            self.notes.append(
                f"resumed: {self.journal.replayed} losses, gradients and evaluations are of an earlier attempt; the "
                "times include theirs"
            )
        report = self._report((model, compressed), plan, solution, history)
        if self.config.benchmark:
            with self.clock("benchmark"):
                times = benchmark(model, compressed, images=plan.held_out.probe().images)
            report = dataclasses.replace(report, benchmark=times)
        return Result(compressed, self._write(compressed, plan, report), solution.warm)

    def _judge(self, model: keras.Model, plan: Plan) -> Evaluation:
        batch_size = self.config.batch_size
        return evaluate_recorded(self.journal, model, plan.held_out, plan.loss, batch_size, self.devices)

    def _judge_original(self, model: keras.Model, plan: Plan) -> None:
        original = self.evaluations["original"]
        if not np.isfinite(original.loss):
            raise DataError("the loss of the original network is not finite on the held-out images; look for bad ones.")
        for note in untrained(original, model.outputs[plan.loss.place].shape[-1]):
            logging.warning("%s", note)
            self.notes.append(note)

    def _select(self, model: keras.Model, plan: Plan) -> Solution:
        with self.clock("solve"):
            solution = select_ranks(model, plan, self.config, self.journal)
        logging.info("%s", solution.status)
        return solution

    def _solve(self, model: keras.Model, plan: Plan, warm: WarmStart | None) -> Solution:
        solver = make_solver(model, plan, self.config, self.journal, warm)
        objective = solver.objective
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
        began = self.journal.clock()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + self.journal.clock() - began

    def _evaluate(self, stage: str, run: Callable[[], Evaluation]) -> None:
        with self.clock("evaluation"), doing(f"evaluation: {stage}"):
            self.evaluations[stage] = run()
        result = self.evaluations[stage]
        accuracy = "" if result.accuracy is None else f", accuracy {result.accuracy:.4f}"
        logging.info("%s: loss %.4f%s on %d held-out images", stage, result.loss, accuracy, result.examples)

    def _renormalise(self, model: keras.Model, plan: Plan) -> None:
        """Re-estimate the statistics of BatchNorm layers where there are any, and measure the network before it."""
        config, norms = self.config, batch_norms(model)
        if not norms.open or not config.batch_norm_images:
            return
        self._evaluate("rebuilt", lambda: self._judge(model, plan))
        with self.clock("batch statistics"):
            sample = plan.train_set.draw(config.batch_norm_images, np.random.default_rng(config.seed))
            reestimate(model, sample, config.batch_size)
            self.devices.share_weights(model.variables)
        self.notes += renormalised(len(norms.open), len(norms.frozen), sample.size)

    def _fine_tune(
        self, model: keras.Model, original: keras.Model, plan: Plan, unfinished: Unfinished
    ) -> tuple[dict[str, float], ...]:
        config = self.config
        if not config.fine_tune.epochs:
            return ()
        if config.output_dir is not None:
            path = replace_with(config.output_dir / BEFORE_FINE_TUNING, model.save)
            self.files["before fine-tuning"] = str(path)
        with self.clock("fine-tuning"), products_in(plan.precision):
            examples, loss = plan.train_set, plan.loss
            if share := config.fine_tune.distillation:
                examples, loss = softened(original, examples, loss, share, config.batch_size)
            training = (model, examples, loss, config.fine_tune, config.batch_size)
            backup = training_backup(unfinished, "fine_tuning", *training, config.seed)
            history = train(*training, sys.stderr.isatty(), config.seed, backup, self.devices)
        self.seconds["fine-tuning"] += backup.seconds
        if backup.restored:
            self.notes.append(f"resumed: {backup.restored} epochs of fine-tuning are of an earlier attempt")
        if not all(np.isfinite(epoch["loss"]) for epoch in history):
            self.notes.append("fine-tuning diverged to NaN; the best weights from before that were kept")
        self.notes += chosen_epoch(history)
        self._evaluate("fine-tuned", lambda: self._judge(model, plan))
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
            network=plan.sites.network,
            iterations=solution.records,
            qp_solver=plan.qp_solver,
            precision=plan.precision,
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

    def _export(self, model: keras.Model, plan: Plan) -> Exports:
        config = self.config
        calibration = plan.train_set.draw(CALIBRATION, np.random.default_rng(config.seed))
        shared = {"images": plan.held_out.probe().images, "calibration": calibration.images}
        with self.clock("export"):
            try:
                return export_model(model, config.output_dir, config.exports, batch=config.export_batch, **shared)
            except FailedExportError as error:  # the run has its result, and the report says what is missing
                return error.exports

    def _write(self, model: keras.Model, plan: Plan, report: Report) -> Report:
        if self.config.output_dir is None:
            return report
        exports = self._export(model, plan)
        files = {**self.files, **{name: str(path) for name, path in exports.files.items()}}
        names = (BEFORE_FINE_TUNING, *FILE_NAMES.values())
        notes = (*report.notes, *left_from_before(self.config.output_dir, names, files))
        report = dataclasses.replace(
            report, files=files, failures=exports.failures, export_checks=exports.checks, notes=notes
        )
        written = write_report(report, self.config.output_dir)
        return dataclasses.replace(report, files={**files, **{name: str(path) for name, path in written.items()}})


def _log_budgets(plan: Plan) -> None:
    for name, limit, total in zip(plan.costs.resources, plan.limits, plan.costs.totals(), strict=True):
        text = f"{limit / total:.2%} of the original" if np.isfinite(limit) else "none, only reported"
        logging.info("budget on %s: %s", name, text)
