"""What one compression did, as frozen dataclasses that print and serialise themselves; no TensorFlow."""

import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import Any

from tabulate import tabulate

from cobla_tf.config import AUTO
from cobla_tf.texts import amount_text, few, share_text, short_text, table

COUNTED_TITLES = {"macs": "MACs", "params": "params"}
"""What is counted in the network itself, and how tables spell it."""
NO_PRICE = 1e-9
"""Multipliers below this are round-off: the budget does not bind."""


@dataclass(frozen=True)
class SiteReport:
    """One site before and after, kernels only; `rank` is None where it was kept whole, and `reason` says why.

    `before` and `after` map each resource ('macs', 'params', ...) to what the site costs in it.
    """

    name: str
    scheme: str
    kernel_shape: tuple[int, ...]
    rank: int | None
    full_rank: int
    before: dict[str, float]
    after: dict[str, float]
    reason: str = ""


@dataclass(frozen=True)
class SkippedLayer:
    """A layer that is no site, and why."""

    name: str
    kind: str
    reason: str


@dataclass(frozen=True)
class IterationRecord:
    """One SQP iteration: its own seconds, the run's gradients and loss-only values so far, used / limit by resource.

    `loss` is that on the sample, `judged` that on training images that no gradient sees (NaN where there are none), and
    `images` counts each image once for every gradient that was taken on it.

    `prices` holds the multipliers of the budget rows: by how much about the loss on the sample would fall if a budget
    were wider by one per cent of the original cost; empty where no budget was in play.
    """

    phase: str
    iteration: int
    loss: float
    judged: float
    predicted_decrease: float
    step: float
    budget_use: dict[str, float]
    seconds: float
    gradients: int
    values: int
    images: int
    qp_residual: float
    prices: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """Mean loss and accuracy in [0, 1] (None where the task has none) over `examples` examples."""

    loss: float
    accuracy: float | None
    examples: int


@dataclass(frozen=True)
class BudgetReport:
    """Cost of all sites for one resource ('macs', 'params', ...); `limit` None means that no budget was set.

    Counted resources have whole numbers; those of the user's own are in the user's units.
    """

    resource: str
    original: float
    limit: float | None
    reached: float


@dataclass(frozen=True)
class Report:
    """All that a reader needs to judge and to repeat a compression.

    `evaluations` maps a stage ('original', 'heuristic start', 'relaxed', 'compressed', 'fine-tuned', those that exist,
    in this order) to its result, and `evaluated_on` says on which data; `seconds` maps a stage to where the time went;
    `files` maps what a file is to its path, `failures` an export that could not be made to its reason;
    `model_params` counts all parameters of the whole model, before and after.
    """

    model: str
    scheme: str
    budgets: tuple[BudgetReport, ...]
    sites: tuple[SiteReport, ...]
    skipped: tuple[SkippedLayer, ...]
    iterations: tuple[IterationRecord, ...]
    qp_solver: str
    status: str
    evaluations: dict[str, Evaluation]
    evaluated_on: str
    seed: int
    config: dict
    versions: dict[str, str]
    seconds: dict[str, float]
    notes: tuple[str, ...]
    fine_tuning: tuple[dict[str, float], ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    model_params: tuple[int, int] = (0, 0)
    command: str = ""

    def to_json(self) -> str:
        """All fields as standard JSON; NaN and infinities become null, paths become strings."""
        return json.dumps(_jsonable(dataclasses.asdict(self)), indent=2, allow_nan=False, ensure_ascii=False)

    def site_table(self, style: str = "simple") -> str:
        """Rank and cost of every site in network order, with a total; `style` is one of tabulate's formats.

        Of resources beside MACs and params, the table shows the share that is kept.
        """
        further = [budget.resource for budget in self.budgets if budget.resource not in COUNTED_TITLES]
        labels = self._labels("site", "scheme", "kernel", "rank")
        head = [*labels]
        for title in COUNTED_TITLES.values():
            head += [title, "after", "kept"]
        head += [f"{name} kept" for name in further]
        rows = []
        for s in self.sites:
            scheme, kernel = s.scheme if s.rank else "", "x".join(map(str, s.kernel_shape))
            rows.append(self._labels(s.name, scheme, kernel, rank_text(s)) + _costs((s,), further))
        rows.append(self._labels("total", "", "", "") + _costs(self.sites, further))
        return table(head, rows, style, text_columns=len(labels))

    def _labels(self, name: str, scheme: str, *further: str) -> list[str]:
        """The scheme only where sites may differ in it."""
        return [name, *([scheme] if self.scheme == AUTO else []), *further]

    def budget_table(self, style: str = "simple") -> str:
        """Exact totals of the sites against their limits."""
        rows = []
        for budget in self.budgets:
            original, reached = amount_text(budget.original), amount_text(budget.reached)
            limit = "none" if budget.limit is None else amount_text(budget.limit)
            shares = share_text(budget.reached, budget.original), share_text(budget.reached, budget.limit)
            rows.append((budget.resource, original, limit, reached, *shares))
        return table(("resource", "original", "limit", "reached", "kept", "of the limit"), rows, style)

    def evaluation_table(self, style: str = "simple") -> str:
        """Accuracy, its change against the original model in percentage points, and loss of every stage."""
        original = self.evaluations.get("original")
        reference = original.accuracy if original else None
        rows = []
        for stage, result in self.evaluations.items():
            accuracy = "-" if result.accuracy is None else f"{100 * result.accuracy:.2f} %"
            known = stage != "original" and None not in (reference, result.accuracy)
            points = f"{100 * (result.accuracy - reference):+.2f}" if known else ""
            rows.append((stage, accuracy, points, f"{result.loss:.4f}", f"{result.examples:,}"))
        return table(("stage", "accuracy", "points", "loss", "examples"), rows, style)

    def effort(self) -> str:
        """One line: what the solver did and what it cost."""
        last = self.iterations[-1] if self.iterations else None
        passes = f", {last.gradients} gradients, {last.values} losses" if last else ""
        total = sum(self.seconds.values())
        return f"{len(self.iterations)} SQP iterations{passes}, QP solver {self.qp_solver}, {total:.1f} s in all"

    def prices(self) -> str:
        """One line: what a wider budget would buy, from the last iteration that had one."""
        last = next((record.prices for record in reversed(self.iterations) if record.prices), {})
        parts = [f"{name} {f'{price:.1e}' if price > NO_PRICE else 'nothing'}" for name, price in last.items()]
        ask = "a budget wider by 1 % of the original cost would lower the training loss by about"
        return f"{ask}: {', '.join(parts)}" if parts else ""

    def size(self) -> str:
        """One line: the parameters of the whole model, beside those of the sites."""
        before, after = self.model_params
        return f"whole model: {before:,} -> {after:,} params ({share_text(after, before)})" if before else ""

    def summary(self) -> str:
        """The closing text for a terminal."""
        parts = [
            f"{self.model}, scheme {self.scheme}: {self.status}",
            self.site_table(),
            self._left_alone(),
            "\n".join(part for part in (self.budget_table(), self.size(), self.prices()) if part),
            f"{self.evaluation_table()}\nevaluated on: {self.evaluated_on}" if self.evaluations else "",
            self.effort(),
            "\n".join(f"note: {note}" for note in self.notes),
            "\n".join(f"export {name} failed: {reason}" for name, reason in self.failures.items()),
            tabulate(self.files.items(), tablefmt="plain", disable_numparse=True),
        ]
        return "\n\n".join(part for part in parts if part)

    __str__ = summary

    def _left_alone(self) -> str:
        groups: dict[str, list[str]] = {}
        for site in self.sites:
            if site.rank is None:
                groups.setdefault(f"kept whole ({site.reason or 'no reason given'})", []).append(site.name)
        for layer in self.skipped:
            groups.setdefault(f"left alone ({layer.reason})", []).append(layer.name)
        return "\n".join(f"{why}: {few(names)}" for why, names in groups.items())


def rank_text(site: SiteReport) -> str:
    """'12 of 48', or 'whole'."""
    return "whole" if site.rank is None else f"{site.rank} of {site.full_rank}"


def _costs(sites: tuple[SiteReport, ...], further: list[str]) -> list[str]:
    texts = []
    for resource in (*COUNTED_TITLES, *further):
        before, after = sum(s.before[resource] for s in sites), sum(s.after[resource] for s in sites)
        texts += [short_text(before), short_text(after)] if resource in COUNTED_TITLES else []
        texts.append(share_text(after, before))
    return texts


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _jsonable(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(entry) for entry in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if hasattr(value, "tolist"):  # NumPy scalars and arrays
        return _jsonable(value.tolist())
    return value if value is None or isinstance(value, (str, int)) else str(value)
