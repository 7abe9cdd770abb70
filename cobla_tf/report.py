"""What one compression did, as a frozen dataclass that prints and serialises itself; no TensorFlow."""

import dataclasses
from dataclasses import dataclass, field

from tabulate import tabulate

from cobla_tf.config import AUTO, MULTI_WORKER
from cobla_tf.export_comparison import ExportCheck, checks_table
from cobla_tf.report_parts import (
    BudgetReport,
    CertificateRecord,
    Evaluation,
    IterationRecord,
    LayerCall,
    RoundingRecord,
    SiteReport,
    SkippedLayer,
)
from cobla_tf.texts import amount_text, by_reason, counted, json_text, share_text, short_text, table
from cobla_tf.timings import Benchmark

COUNTED_TITLES = {"macs": "MACs", "params": "params"}
"""What is counted in the network itself, and how tables spell it."""
NO_PRICE = 1e-9
"""Multipliers below this are round-off: the budget does not bind."""
CERTIFICATE = (
    "KKT residual: how far the relaxed masks are from the optimality conditions of the loss on the sample within the "
    "budgets, without unit; 0 at an optimum. QP residual: the same for the quadratic program there. Predicted "
    "decrease: what the model of the loss promises beyond the masks. Price: fall of the loss for a budget wider by 1 % "
    "of the original cost."
)
"""Explains `Report.certificate_table`."""


@dataclass(frozen=True)
class Report:
    """All that a reader needs to judge and to repeat a compression.

    `evaluations` maps a stage ('original', 'heuristic start', 'relaxed', 'rebuilt', 'compressed', 'fine-tuned', those
    that exist, in this order) to its result, and `evaluated_on` says on which data; 'rebuilt' is before the statistics
    of BatchNorm were re-estimated; `seconds` maps a stage to where the time went;
    `files` maps what a file is to its path, `failures` an export that could not be made or trusted to its reason, and
    `export_checks` says how near each exported file is to the network; `benchmark` how fast it is, if that was asked;
    `model_params` counts all parameters of the whole model, before and after; `network` holds every call of a layer in
    the original one, in the order of computation.
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
    certificates: tuple[CertificateRecord, ...] = ()
    rounding: RoundingRecord | None = None
    fine_tuning: tuple[dict[str, float], ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    export_checks: tuple[ExportCheck, ...] = ()
    benchmark: Benchmark | None = None
    model_params: tuple[int, int] = (0, 0)
    network: tuple[LayerCall, ...] = ()
    command: str = ""
    precision: str = "float32"

    def to_json(self) -> str:
        """All fields as standard JSON; NaN and infinities become null, paths become strings."""
        return json_text(dataclasses.asdict(self))

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
        passes = f", {counted(last.gradients, 'gradient')}, {counted(last.values, 'loss', 'losses')}" if last else ""
        total = sum(self.seconds.values())
        how = f"products in {self.precision}, QP solver {self.qp_solver}"
        return f"{counted(len(self.iterations), 'SQP iteration')}{passes}, {how}, {total:.1f} s in all"

    def certificate_table(self, style: str = "simple") -> str:
        """How near to an optimum every solve ended, and what a wider budget would buy there."""
        resources = list(dict.fromkeys(name for record in self.certificates for name in record.prices))
        head = ("solve", "KKT residual", "QP residual", "predicted decrease")
        rows = []
        for record in self.certificates:
            numbers = record.kkt_residual, record.qp_residual, record.predicted_decrease
            uses = [f"{100 * record.budget_use[name]:.2f} %" for name in resources]
            prices = [_price_text(record.prices[name]) for name in resources]
            rows.append((record.phase, *(f"{number:.1e}" for number in numbers), *uses, *prices))
        titles = [COUNTED_TITLES.get(name, name) for name in resources]
        head = (*head, *(f"{title} used" for title in titles), *(f"price of 1 % {title}" for title in titles))
        return table(head, rows, style) if rows else ""

    def certificate_notes(self) -> str:
        """What the table says, and what rounding cost at once."""
        notes = [CERTIFICATE] if self.certificates else []
        if self.rounding is not None:
            relaxed, rounded = self.rounding.relaxed, self.rounding.rounded
            notes.append(
                f"Rounding took the loss from {relaxed:.4f} to {rounded:.4f} on the training images that solutions are "
                "compared on, before fading and refining."
            )
        return " ".join(notes)

    def prices(self) -> str:
        """One line: what a wider budget would buy, at the masks of the last solve that has a certificate."""
        last = self.certificates[-1].prices if self.certificates else {}
        parts = [f"{name} {_price_text(price)}" for name, price in last.items()]
        ask = "a budget wider by 1 % of the original cost would lower the training loss by about"
        return f"{ask}: {', '.join(parts)}" if parts else ""

    def size(self) -> str:
        """One line: the parameters of the whole model, beside those of the sites."""
        before, after = self.model_params
        return f"whole model: {before:,} -> {after:,} params ({share_text(after, before)})" if before else ""

    def how_to_repeat(self) -> str:
        """What the command does not say, or which call it was."""
        sweep, parts = "sweep" in self.config, []
        if self.command and sweep:
            parts.append("This is one point of the sweep that the command makes.")
        if not self.command:
            call = "one point of cobla_tf.pareto()" if sweep else "cobla_tf.compress()"
            parts.append(f"Called from Python: {call} on the same model and data, with the configuration on this page.")
        if "warm" in self.config and sweep:
            parts.append("Its solve began at that of another point, with half of the iterations asked for.")
        elif "warm" in self.config:
            parts.append("The solve began at that of another compression, given as `warm`.")
        if self.config.get("strategy") == MULTI_WORKER:
            parts.append("Every worker was started so, each with a TF_CONFIG of its own.")
        return " ".join(parts)

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
            str(self.benchmark or ""),
            checks_table(self.export_checks) if self.export_checks else "",
            "\n".join(f"export {name} failed: {reason}" for name, reason in self.failures.items()),
            tabulate(self.files.items(), tablefmt="plain", disable_numparse=True),
        ]
        return "\n\n".join(part for part in parts if part)

    __str__ = summary

    def _left_alone(self) -> str:
        whole = [site for site in self.sites if site.rank is None]
        reasons = [(f"kept whole ({site.reason or 'no reason given'})", site.name) for site in whole]
        return by_reason(reasons + [(f"left alone ({layer.reason})", layer.name) for layer in self.skipped])


def rank_text(site: SiteReport) -> str:
    """'12 of 48', or 'whole'."""
    return "whole" if site.rank is None else f"{site.rank} of {site.full_rank}"


def _price_text(price: float) -> str:
    return f"{price:.1e}" if price > NO_PRICE else "nothing"


def left_alone(report: Report) -> list[tuple[str, str, str]]:
    """Name, kind and reason of every layer with a kernel that is as it was."""
    rows = [(site.name, "site, kept whole", site.reason or "-") for site in report.sites if site.rank is None]
    return rows + [(layer.name, layer.kind, layer.reason or "-") for layer in report.skipped]


def _costs(sites: tuple[SiteReport, ...], further: list[str]) -> list[str]:
    texts = []
    for resource in (*COUNTED_TITLES, *further):
        before, after = sum(s.before[resource] for s in sites), sum(s.after[resource] for s in sites)
        texts += [short_text(before), short_text(after)] if resource in COUNTED_TITLES else []
        texts.append(share_text(after, before))
    return texts
