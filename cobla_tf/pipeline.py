"""compress(): a trained Keras model and its budgets in, a smaller plain Keras model and a report out."""

import dataclasses
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import keras
import numpy as np
from absl import logging

from cobla_tf.config import Config
from cobla_tf.costs import resolve_limits
from cobla_tf.errors import DataError
from cobla_tf.examples import Examples, Sample, Stream, as_examples
from cobla_tf.export import check_writable, export_model
from cobla_tf.finetune import make_optimizer, train
from cobla_tf.losses import Loss, check_images, check_labels, resolve_loss
from cobla_tf.objective import Objective, evaluate
from cobla_tf.qp import resolve_solver
from cobla_tf.report import BudgetReport, Evaluation, IterationRecord, Report, SiteReport
from cobla_tf.report_files import write_report
from cobla_tf.sites import Sites, find_sites
from cobla_tf.solve import Solution, Solver
from cobla_tf.surgery import mask_model, rebuild

HELD_OUT_SHARE = 0.1
PACKAGES = ("cobla-tf", "tensorflow", "keras", "numpy", "scipy", "mosek", "clarabel")


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
    scheme: str = "spatial",
    exclude: Sequence[str] = (),
    validation: Any = None,
    loss: Any = None,
    config: Config | None = None,
) -> Result:
    """Compress a trained CNN by low-rank approximation under hard budgets (COBLA).

    Args:
        model: functional or Sequential, with weights; it is not changed.
        dataset: training data, a tf.data.Dataset of (images, labels) batches or a pair of arrays.
        macs, params: budgets on the sites' kernels: a fraction up to 1 of the original, or an absolute number.
        scheme: "spatial" (Eq. 3) or "channel" (Eq. 4).
        exclude: fnmatch patterns of layer names to leave alone.
        validation: held-out data, in either form, for every accuracy in the report; without it a random tenth of an
            in-memory `dataset` is set apart and never optimised on.
        loss: anything that keras.losses.get takes; (sparse) categorical cross-entropy by default.
        config: everything else.

    Raises:
        CoblaError: bad input, found before any work, with one sentence that says what to do.
    """
    return _Run(config or Config(), scheme).compress(model, dataset, validation, {"macs": macs, "params": params}, exclude, loss)  # fmt: skip  # noqa: E501


@dataclass
class _Run:
    """The steps of one compression, with the clock and the notes that they share."""

    config: Config
    scheme: str
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    evaluations: dict[str, Evaluation] = field(default_factory=dict)

    def compress(
        self, model: Any, dataset: Any, validation: Any, budgets: dict, exclude: Sequence[str], loss: Any
    ) -> Result:
        config = self.config
        if config.output_dir is not None:
            check_writable(config.output_dir)
        make_optimizer(config.fine_tune)
        keras.utils.set_random_seed(config.seed)
        rng = np.random.default_rng(config.seed)
        with self._clock("data"):
            train_set, held_out, evaluated_on = self._data(dataset, validation, rng)
        probe = train_set.probe()
        with self._clock("decomposition"):
            sites = find_sites(model, self.scheme, exclude, tuple(probe.images.shape[1:]))
        limits = resolve_limits(sites.costs, budgets)
        chosen = resolve_loss(loss, model, probe)
        self._check(model, chosen, (train_set, held_out))
        qp_solver = resolve_solver(config.solve.qp_solver)
        self._evaluate("original", lambda: evaluate(model, held_out, chosen, config.batch_size))
        masked = mask_model(model, sites, config.solve.gradient)
        objective = Objective(masked, chosen, config.batch_size, probe)
        budgeted = np.isfinite(limits)
        solver = Solver(
            objective, train_set, sites.sigmas, sites.costs.take(budgeted), limits[budgeted], config.solve, qp_solver,
            rng, _log_iteration,
        )  # fmt: skip
        with self._clock("solve"):
            solution = solver.run()
        for stage, masks in (("heuristic start", solution.start), ("relaxed", solution.relaxed)):
            self._evaluate(stage, lambda masks=masks: objective.evaluate(masks, held_out, chosen))
        rounded = solution.rounded
        with self._clock("rebuild"):
            compressed = rebuild(model, sites, rounded.kept, rounded.scale, rounded.allocation.whole)
        self._evaluate("compressed", lambda: evaluate(compressed, held_out, chosen, config.batch_size))
        history = self._fine_tune(compressed, train_set, held_out, chosen)
        report = self._report(model, sites, limits, solution, qp_solver, evaluated_on, history)
        return Result(compressed, self._write(compressed, report))

    @contextmanager
    def _clock(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - began

    def _evaluate(self, stage: str, run: Callable[[], Evaluation]) -> None:
        with self._clock("evaluation"):
            self.evaluations[stage] = run()
        result = self.evaluations[stage]
        accuracy = "" if result.accuracy is None else f", accuracy {result.accuracy:.4f}"
        logging.info("%s: loss %.4f%s on %d held-out images", stage, result.loss, accuracy, result.examples)

    def _data(self, dataset: Any, validation: Any, rng: np.random.Generator) -> tuple[Examples, Examples, str]:
        train_set = as_examples(dataset)
        if validation is not None:
            held_out = as_examples(validation, "validation")
            return train_set, held_out, f"the {held_out.size:,} validation images given, never optimised on"
        if isinstance(train_set, Stream):
            raise DataError(
                "the dataset is too large to set a part of it apart in memory; pass validation= with held-out data."
            )
        if train_set.size < 2:
            raise DataError("expected at least 2 images, of which one is held out, got 1; pass validation=.")
        rest, held_out = train_set.split(HELD_OUT_SHARE, rng)
        return (
            rest,
            held_out,
            f"{held_out.size:,} images set apart from the {train_set.size:,} given, never optimised on",
        )

    @staticmethod
    def _check(model: keras.Model, loss: Loss, sets: tuple[Examples, ...]) -> None:
        for examples in sets:
            if isinstance(examples, Sample):
                check_images(model, examples)
                if loss.labels == "sparse":
                    check_labels(examples.labels, model.outputs[0].shape[-1])

    def _fine_tune(
        self, model: keras.Model, train_set: Examples, held_out: Examples, loss: Loss
    ) -> tuple[dict[str, float], ...]:
        if not self.config.fine_tune.epochs:
            return ()
        if self.config.output_dir is not None:
            model.save(self.config.output_dir / "before_fine_tuning.keras")
        with self._clock("fine-tuning"):
            progress = sys.stderr.isatty()
            history = train(model, train_set, loss, self.config.fine_tune, self.config.batch_size, progress)
        self._evaluate("fine-tuned", lambda: evaluate(model, held_out, loss, self.config.batch_size))
        return history

    def _report(
        self, model: keras.Model, sites: Sites, limits: np.ndarray, solution: Solution, qp_solver: str,
        evaluated_on: str, history: tuple[dict[str, float], ...],
    ) -> Report:  # fmt: skip
        return Report(
            model=model.name,
            scheme=self.scheme,
            budgets=_budget_reports(sites, limits, solution),
            sites=_site_reports(sites, solution),
            skipped=sites.skipped,
            iterations=solution.records,
            qp_solver=qp_solver,
            status=solution.status,
            evaluations=self.evaluations,
            evaluated_on=evaluated_on,
            seed=self.config.seed,
            config=dataclasses.asdict(self.config),
            versions=_versions(),
            seconds=self.seconds,
            notes=tuple(self.notes),
            fine_tuning=history,
            command=shlex.join(sys.argv),
        )

    def _write(self, model: keras.Model, report: Report) -> Report:
        if self.config.output_dir is None:
            return report
        with self._clock("export"):
            exports = export_model(model, self.config.output_dir, self.config.exports)
        files = {name: str(path) for name, path in exports.files.items()}
        report = dataclasses.replace(report, files=files, failures=exports.failures)
        written = write_report(report, self.config.output_dir)
        return dataclasses.replace(report, files={**files, **{name: str(path) for name, path in written.items()}})


def _budget_reports(sites: Sites, limits: np.ndarray, solution: Solution) -> tuple[BudgetReport, ...]:
    costs = sites.costs
    reached = costs.used(solution.rounded.allocation)
    return tuple(
        BudgetReport(name, int(total), int(limit) if np.isfinite(limit) else None, int(used))
        for name, total, limit, used in zip(costs.resources, costs.totals(), limits, reached, strict=True)
    )


def _site_reports(sites: Sites, solution: Solution) -> tuple[SiteReport, ...]:
    allocation = solution.rounded.allocation
    after = sites.costs.of_sites(allocation)
    return tuple(
        SiteReport(
            name=site.name,
            scheme=site.decomposition.scheme,
            kernel_shape=site.decomposition.kernel_shape,
            rank=None if allocation.whole[i] else int(allocation.ranks[i]),
            full_rank=site.decomposition.full_rank,
            macs_before=int(site.original[0]),
            macs_after=int(after[0, i]),
            params_before=int(site.original[1]),
            params_after=int(after[1, i]),
            reason="two factors of the rank it is worth would cost no less" if allocation.whole[i] else "",
        )
        for i, site in enumerate(sites.found)
    )


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed as a package"
    return found


def _log_iteration(record: IterationRecord) -> None:
    use = " ".join(f"{name} {share:.1%}" for name, share in record.budget_use.items())
    logging.info(
        "%s %d: loss %.4f, predicted decrease %.1e, step %.2g, %s, %.1f s",
        record.phase, record.iteration, record.loss, record.predicted_decrease, record.step, use, record.seconds,
    )  # fmt: skip
