"""The report of a run: what the solution costs, and what it takes to repeat it."""

import dataclasses
import platform
import shlex
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cobla_tf.account import Account
from cobla_tf.config import Config
from cobla_tf.costs import CostTable
from cobla_tf.digest import digest
from cobla_tf.elements import cast, forward
from cobla_tf.examples import Examples
from cobla_tf.loss import Loss, LossSum
from cobla_tf.plan import Plan
from cobla_tf.report import Report
from cobla_tf.report_parts import BudgetReport, SiteReport
from cobla_tf.solution import Solution

if TYPE_CHECKING:
    import keras

PACKAGE, MAIN = "cobla_tf", "cobla_tf.main"
PACKAGES = ("cobla-tf", "tensorflow", "keras", "numpy", "scipy", "mosek", "clarabel")

_beside: ContextVar[dict[str, Any]] = ContextVar("beside")


@contextmanager
def told_beside(**settings: Any) -> Iterator[None]:
    """Put what was asked for beside the arguments of compress() into the configuration of all reports made inside."""
    token = _beside.set(_beside.get({}) | settings)
    try:
        yield
    finally:
        _beside.reset(token)


def make_report(
    models: tuple["keras.Model", "keras.Model"],
    plan: Plan,
    solution: Solution,
    history: tuple[dict[str, float], ...],
    account: Account,
    asked: dict[str, Any],
    config: Config,
) -> Report:
    """All but what follows from files and benchmarks.

    Args:
        models: the original and the compressed one.
        plan, solution: the problem and its solution.
        history: of fine-tuning, a record an epoch.
        account: of the run so far; seconds and evaluations that come later are in the report, too.
        asked: arguments of compress(), to be shown.
        config: the other ones.
    """
    return Report(
        model=models[0].name,
        model_params=(models[0].count_params(), models[1].count_params()),
        scheme=asked["scheme"],
        budgets=_budget_reports(plan, solution),
        sites=_site_reports(plan, solution),
        skipped=plan.sites.skipped,
        network=plan.sites.network,
        iterations=solution.records,
        certificates=solution.certificates,
        rounding=solution.rounding,
        qp_solver=plan.qp_solver,
        precision=plan.precision,
        status=solution.status,
        evaluations=account.evaluations,
        evaluated_on=plan.evaluated_on,
        seed=config.seed,
        config={**_beside.get({}), **asked, **_told(config)},
        versions=versions(),
        seconds=account.seconds,
        notes=tuple(account.notes),
        fine_tuning=history,
        command=command(),
    )


def _told(config: Config) -> dict[str, Any]:
    """The settings as data: callbacks, which may hold files and models, by their classes."""
    tuned = config.fine_tune
    given = tuned.optimizer
    optimizer = given if isinstance(given, str) else {"class": type(given).__name__, **given.get_config()}
    plain = dataclasses.replace(tuned, optimizer=optimizer, callbacks=())
    told = dataclasses.asdict(dataclasses.replace(config, fine_tune=plain))
    told["fine_tune"]["callbacks"] = tuple(type(callback).__name__ for callback in tuned.callbacks)
    return told


def _budget_reports(plan: Plan, solution: Solution) -> tuple[BudgetReport, ...]:
    """Every resource in the user's units, whether it has a budget or not."""
    costs = plan.costs
    reached = costs.used(solution.rounded.allocation)
    amounts = (costs.own_units(units) for units in (costs.totals(), plan.limits, reached))
    return tuple(
        BudgetReport(name, total, None if np.isinf(limit) else limit, used)
        for name, total, limit, used in zip(costs.resources, *amounts, strict=True)
    )


def _site_reports(plan: Plan, solution: Solution) -> tuple[SiteReport, ...]:
    """Every site before and after, in the order of the network."""
    allocation, costs, layout = solution.rounded.allocation, plan.costs, plan.sites.layout
    after, scales = costs.of_sites(allocation), layout.split(solution.rounded.scale)
    masks = [()] * len(scales) if solution.relaxed is None else layout.split(solution.relaxed)
    return tuple(
        SiteReport(
            name=site.name,
            scheme=site.decomposition.form.scheme,
            kernel_shape=site.decomposition.form.shape,
            rank=None if allocation.whole[i] else int(allocation.ranks[i]),
            full_rank=site.decomposition.full_rank,
            before=dict(zip(costs.resources, costs.own_units(costs.original[:, i]), strict=True)),
            after=dict(zip(costs.resources, costs.own_units(after[:, i]), strict=True)),
            reason=_why_whole(costs, i) if allocation.whole[i] else "",
            singular_values=_digits(site.decomposition.sigma),
            masks=_digits(masks[i]),
            scales=_digits(scales[i]),
        )
        for i, site in enumerate(plan.sites.found)
    )


def _why_whole(costs: CostTable, i: int) -> str:
    if costs.full_ranks[i] < costs.multiple:
        return f"its full rank is below the rank multiple {costs.multiple}"
    return "two factors of the rank it is worth would cost no less"


def _digits(values: Iterable[float]) -> tuple[float, ...]:
    """To six significant digits, which is finer than what can be drawn and half as long in a file."""
    return tuple(float(f"{value:.6g}") for value in values)


def versions() -> dict[str, str]:
    """Of Python and of the packages that the result depends on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed as a package"
    return found


def command() -> str:
    """The command line that repeats this run, of this package's commands; empty where it was called from Python."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)  # of `python -m`
    by_path = Path(sys.argv[0]).parts[-2:] == ("cobla_tf", "main.py")
    module = spec.name if spec else MAIN if by_path else ""
    if module.partition(".")[0] != PACKAGE:
        return ""
    return shlex.join(["python", "-m", module, *sys.argv[1:]])


def told_loss(model: "keras.Model", loss: Loss | LossSum, examples: Examples) -> str:
    """A loss by its name and its value on the first images, which stands for the model's graph and the loss's code."""
    return f"{loss.description}, {first_loss(model, loss, examples):.4g} on the first images"


def first_loss(model: "keras.Model", loss: Loss | LossSum, examples: Examples) -> float:
    """The sum of a loss over the first images."""
    probe = examples.probe()
    return float(loss.total(probe.labels, forward(model, cast(model, probe.images))))


def fingerprint(model: "keras.Model", plan: Plan, asked: dict[str, Any], config: Config) -> dict[str, Any]:
    """All that the ranks depend on, to go as JSON; of what is large only a digest."""
    costs = plan.costs
    digests = {
        "weights": model.get_weights(),
        "training images": plan.train_set,
        "held-out images": plan.held_out,
        "costs": [costs.original, costs.base, costs.per_rank, plan.limits],
    }
    return {
        **{name: str(value) for name, value in asked.items()},
        **{name: str(value) for name, value in dataclasses.asdict(config.solve).items()},
        "batch_size": config.batch_size,
        "seed": config.seed,
        "qp_solver": plan.qp_solver,
        "precision": plan.precision,
        "loss": told_loss(model, plan.loss, plan.train_set),
        **{name: digest(content).hex() for name, content in digests.items()},
        **versions(),
    }
