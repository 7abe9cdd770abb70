"""All parts of a report on one page: what the template shows, and how numbers are written in it."""

import json
import math
import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from cobla_tf.curve import Curve
from cobla_tf.export_comparison import checks_table
from cobla_tf.page import charts, network, terms
from cobla_tf.report import COUNTED_TITLES, Report, left_alone, rank_text
from cobla_tf.report_parts import SiteReport
from cobla_tf.texts import amount_text, json_text, share_text, short_text

ABSENT = "-"


def html_page(report: Report) -> str:
    """The report as one HTML page that needs no network and no other file."""
    rows = network.network_rows(report)
    strands, strands_width = network.strands(rows)
    return (
        _environment()
        .get_template("report.html")
        .render(
            report=report,
            headlines=headlines(report),
            resources=[budget.resource for budget in report.budgets],
            titles=COUNTED_TITLES,
            total=_total(report),
            share=SiteReport.kept_share,
            share_text=share_text,
            rank_text=rank_text,
            left_alone=left_alone(report),
            rows=list(zip(rows, strands, strict=True)),
            strands_width=strands_width,
            charts=[chart for chart in _solver_charts(report) if chart],
            fine_tuning_charts=[chart for chart in _fine_tuning_charts(report) if chart],
            epoch_names=list(dict.fromkeys(name for epoch in report.fine_tuning for name in epoch)),
            bars=charts.interval_bars(report.evaluations),
            terms=[(site, chart) for site in report.sites if (chart := terms.terms_chart(site))],
            checks_table=checks_table,
            config=list(_flat(json.loads(json_text(report.config)))),
            size=charts,
            term_size=terms,
        )
    )


def brief_html(report: Report) -> str:
    """Headlines, accuracies and sites as a part of a page, without scripts or styles of its own."""
    return _environment().get_template("brief.html").render(report=report, headlines=headlines(report))


def curve_html(curve: Curve) -> str:
    """The table of a trade-off curve, and why there are points without a network, as a part of a page likewise."""
    report = next((point.report for point in curve.points if point.report), None)
    title = f"{report.model}, accuracy against cost" if report else "accuracy against cost"
    return _environment().get_template("curve.html").render(curve=curve, title=title)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("cobla_tf.page"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_unbroken,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"amount": amount_text, "short": short_text, "sentence": sentence}
    environment.filters |= {"number": number_text, "per_cent": share_of_one}
    return environment


def headlines(report: Report) -> list[str]:
    """The whole report in five lines."""
    whole, sites = sum(site.rank is None for site in report.sites), len(report.sites)
    others = len(report.skipped)
    shares = [
        f"{COUNTED_TITLES.get(b.resource, b.resource)} {share_text(b.reached, b.original)} of the original"
        + (f" (limit {share_text(b.limit, b.original)})" if b.limit is not None else "")
        for b in report.budgets
    ]
    return [
        f"{'; '.join(shares) or 'no costs known'}.",
        f"{sites - whole} of {sites} layers that can be decomposed are two smaller ones each (scheme {report.scheme}), "
        f"{whole} kept whole; {others} other{'s' * (others != 1)} with weights left alone.",
        _accuracies(report),
        sentence(report.size() or "whole model: not counted"),
        sentence(report.effort()),
    ]


def number_text(value: float | None, form: str = ".4g") -> str:
    """A number in Python's format; a dash where there is none or where it is not finite."""
    return ABSENT if value is None or not math.isfinite(value) else f"{value:{form}}"


def share_of_one(value: float | None, decimals: int = 1) -> str:
    """A share in per cent; a dash as in `number_text`."""
    return ABSENT if value is None or not math.isfinite(value) else f"{100 * value:.{decimals}f} %"


def sentence(text: str) -> str:
    """With a capital first and a full stop last, all else as it is."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def _unbroken(value: Any) -> Any:
    """A text in which no line breaks between a number and its per cent sign.

    Ready-made HTML stays as it is, and with it what the template escapes itself: commands, paths and settings, to be
    copied.
    """
    return re.sub(r"(?<=\d) (?=%)", "\N{NO-BREAK SPACE}", value) if type(value) is str else value


def _accuracies(report: Report) -> str:
    stages = [stage for stage in ("original", "compressed", "fine-tuned") if stage in report.evaluations]
    if not stages:
        return "Not evaluated."
    known = [(stage, report.evaluations[stage]) for stage in stages]
    if any(evaluation.accuracy is None for _, evaluation in known):
        parts = [f"{stage} {number_text(evaluation.loss)}" for stage, evaluation in known]
        return f"Loss: {', '.join(parts)}; on {report.evaluated_on}."
    parts = [f"{stage} {share_of_one(evaluation.accuracy, 2)}" for stage, evaluation in known]
    return f"Accuracy: {', '.join(parts)}; on {report.evaluated_on}."


def _total(report: Report) -> SiteReport:
    """All sites together, as if they were one."""
    names = list(dict.fromkeys(name for site in report.sites for name in site.before))
    before = {name: sum(site.before[name] for site in report.sites) for name in names}
    after = {name: sum(site.after[name] for site in report.sites) for name in names}
    return SiteReport("total", report.scheme, (), None, 0, before, after)


def _solver_charts(report: Report) -> list[charts.Chart | None]:
    records = report.iterations
    phases = [record.phase for record in records]
    losses = {
        "on the sample": [record.loss for record in records],
        "on images that no gradient sees": [record.judged for record in records],
    }
    known = {label: values for label, values in losses.items() if any(map(math.isfinite, values))}
    uses = _by_name([record.budget_use for record in records])
    prices = _by_name([record.prices for record in records])
    return [
        charts.line_chart("Loss", known, phases),
        charts.line_chart("Share of each budget used", uses, phases, per_cent=True, limit=1.0),
        charts.line_chart("Prices: fall of the loss for a budget wider by 1 % of the original cost", prices, phases),
    ]


def _fine_tuning_charts(report: Report) -> list[charts.Chart | None]:
    series = _by_name(report.fine_tuning)
    losses = {name: values for name, values in series.items() if name.endswith("loss")}
    accuracies = {name: values for name, values in series.items() if name.endswith(("accuracy", "acc"))}
    return [
        charts.line_chart("Loss by epoch", losses),
        charts.line_chart("Accuracy by epoch", accuracies, per_cent=True),
    ]


def _by_name(records: Sequence[dict[str, float]]) -> dict[str, list[float]]:
    """One list a name, NaN where a record has none."""
    names = dict.fromkeys(name for record in records for name in record)
    return {name: [record.get(name, math.nan) for record in records] for name in names}


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every leaf of nested mappings with its path."""
    if isinstance(value, dict) and value:
        for key, entry in value.items():
            yield from _flat(entry, f"{path}.{key}" if path else key)
    else:
        yield path, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
