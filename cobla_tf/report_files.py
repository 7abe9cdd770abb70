"""A report as files in a folder: JSON for programs, one HTML page, Markdown and two figures for readers."""

import dataclasses
import json
from pathlib import Path

from cobla_tf.export_comparison import checks_table
from cobla_tf.files import check_writable, replace_with
from cobla_tf.page import html_page
from cobla_tf.plots import convergence_figure, save_png, sites_figure
from cobla_tf.report import Report, left_alone
from cobla_tf.report_parts import IterationRecord
from cobla_tf.texts import table

STYLE = "github"
NAMES = {
    "report page": "report.html",
    "report": "report.md",
    "report data": "report.json",
    "convergence": "convergence.png",
    "sites": "sites.png",
}


def write_report(report: Report, folder: Path) -> dict[str, Path]:
    """Write report.html, report.md, report.json, convergence.png and sites.png; each appears complete or not at all.

    Returns:
        What each file is, to its path; the reports list these paths beside those in `report.files`.

    Raises:
        OutputError: if the folder cannot be written.
    """
    check_writable(folder)
    paths = {what: folder / name for what, name in NAMES.items()}
    report = dataclasses.replace(report, files=report.files | {what: str(path) for what, path in paths.items()})
    texts = {"report page": html_page(report), "report": markdown(report), "report data": report.to_json() + "\n"}
    for what, text in texts.items():
        replace_with(paths[what], lambda path, text=text: path.write_text(text, encoding="utf-8"))
    replace_with(paths["convergence"], lambda path: save_png(convergence_figure(report), path))
    replace_with(paths["sites"], lambda path: save_png(sites_figure(report), path))
    return paths


def markdown(report: Report) -> str:
    """The report as one Markdown page; its figures lie beside it."""
    sections = {
        f"# {report.model}, compressed": _opening(report),
        "## Budgets": "\n\n".join(
            part for part in (report.budget_table(STYLE), report.size(), report.prices()) if part
        ),
        "## Accuracy": _accuracy(report),
        "## Sites": f"![Share of MACs kept at each site]({NAMES['sites']})\n\n{report.site_table(STYLE)}",
        "## Left alone": _left_alone(report),
        "## Certificate": _certificate(report),
        "## Solver": _solver(report),
        "## Fine-tuning": _fine_tuning(report),
        "## Time": _pairs(("stage", "seconds"), {stage: f"{spent:.1f}" for stage, spent in report.seconds.items()}),
        "## Configuration": _fenced(json.dumps(json.loads(report.to_json())["config"], indent=2), "json"),
        "## How to repeat": _repeat(report),
        "## Speed": _speed(report),
        "## Exports": _exports(report),
        "## Files": _pairs(("what", "path"), report.files),
    }
    return "\n\n".join(f"{head}\n\n{body}" for head, body in sections.items() if body) + "\n"


def _opening(report: Report) -> str:
    whole = sum(site.rank is None for site in report.sites)
    ranked = f"{len(report.sites) - whole} of {len(report.sites)} sites decomposed (scheme {report.scheme})"
    lines = [f"{report.status}.".replace("..", "."), f"{ranked}; {report.effort()}."]
    lines += [f"Note: {note}" for note in report.notes]
    lines += [f"Export {name} failed: {reason}" for name, reason in report.failures.items()]
    return "\n".join(f"- {line}" for line in lines)


def _accuracy(report: Report) -> str:
    if not report.evaluations:
        return ""
    return f"{report.evaluation_table(STYLE)}\n\nEvaluated on: {report.evaluated_on}"


def _left_alone(report: Report) -> str:
    rows = left_alone(report)
    return table(("layer", "kind", "reason"), rows, STYLE, text_columns=3) if rows else ""


def _certificate(report: Report) -> str:
    return "\n\n".join(part for part in (report.certificate_table(STYLE), report.certificate_notes()) if part)


def _solver(report: Report) -> str:
    if not report.iterations:
        return "No SQP iterations."
    head = ("phase", "iteration", "loss", "predicted decrease", "step", "budget used", "seconds", "gradients", "values")
    rows = [_iteration(record) for record in report.iterations]
    figure = f"![Loss and budget use over the iterations]({NAMES['convergence']})"
    return f"QP solver: {report.qp_solver}.\n\n{figure}\n\n{table((*head, 'QP residual'), rows, STYLE)}"


def _iteration(record: IterationRecord) -> tuple[str, ...]:
    used = ", ".join(f"{resource} {100 * share:.1f} %" for resource, share in record.budget_use.items())
    decisions = (f"{record.loss:.5g}", f"{record.predicted_decrease:.3g}", f"{record.step:.3g}", used)
    costs = (f"{record.seconds:.1f}", str(record.gradients), str(record.values), f"{record.qp_residual:.1e}")
    return (record.phase, str(record.iteration), *decisions, *costs)


def _fine_tuning(report: Report) -> str:
    names = tuple(dict.fromkeys(name for epoch in report.fine_tuning for name in epoch))
    rows = [
        (str(number), *(f"{epoch[name]:.5g}" if name in epoch else "-" for name in names))
        for number, epoch in enumerate(report.fine_tuning, start=1)
    ]
    return table(("epoch", *names), rows, STYLE) if rows else ""


def _speed(report: Report) -> str:
    times = report.benchmark
    if times is None:
        return ""
    tables = [times.table(STYLE), times.site_table(STYLE)] if times.sites else [times.table(STYLE)]
    return "\n\n".join((f"On {times.cores} processor cores.", *tables, *(f"- {note}" for note in times.notes)))


def _exports(report: Report) -> str:
    if not report.export_checks:
        return ""
    opening = "Each file, read and run again on real images, against the network; relative to its outputs' norm."
    return f"{opening}\n\n{checks_table(report.export_checks, STYLE)}"


def _repeat(report: Report) -> str:
    parts = [_fenced(report.command, "sh") if report.command else "", report.how_to_repeat()]
    parts += [f"Seed {report.seed}, with these versions:", _pairs(("package", "version"), report.versions)]
    return "\n\n".join(part for part in parts if part)


def _pairs(head: tuple[str, str], pairs: dict[str, str]) -> str:
    return table(head, list(pairs.items()), STYLE, text_columns=2) if pairs else ""


def _fenced(text: str, language: str) -> str:
    return f"```{language}\n{text}\n```"
