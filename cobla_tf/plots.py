"""The two figures of a report, drawn without pyplot's global state."""

from collections.abc import Sequence
from io import BytesIO
from itertools import groupby
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from cobla_tf.report import Report, rank_text
from cobla_tf.report_parts import SiteReport

LOSS_COLOUR = "#1f4e79"
BUDGET_COLOURS = ("#b5651d", "#4b7f52", "#7a5195", "#8a8a8a")
BUDGET_MARKERS = "osv^D"
SITE_COLOUR = "#5b84b1"
WHOLE_COLOUR = "#d5d8dc"
GREY = "#666666"
DOTS_PER_INCH = 150
LONGEST_NAME = 36
PER_CENT = FuncFormatter(lambda share, position: f"{100 * share:.4g} %")


class _ShownFigure(Figure):
    """A figure that a notebook shows although pyplot does not know of it."""

    def _repr_png_(self) -> bytes:
        png = BytesIO()
        save_png(self, png)
        return png.getvalue()


def convergence_figure(report: Report) -> Figure:
    """Loss (upper panel) and share of each budget used (lower panel) over the SQP iterations, phases marked."""
    figure = empty_figure(width=8.0, height=5.4)
    figure.suptitle(literal(f"{report.model}: convergence"), x=0.01, ha="left", fontsize=11)
    if not report.iterations:
        figure.text(0.5, 0.5, "no SQP iterations", ha="center", color=GREY)
        return figure
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    upper.set_ylabel("loss on the sample")
    lower.set_ylabel("share of budget used")
    lower.set_xlabel("SQP iteration, counted through all phases")
    _draw_losses(upper, report)
    _draw_budget_use(lower, report)
    _mark_phases(upper, lower, report)
    lower.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return figure


def sites_figure(report: Report) -> Figure:
    """Share of its MACs that each site keeps, in network order, as in the paper's Figure 5."""
    return shares_figure(report.model, report.sites)


def shares_figure(model: str, sites: Sequence[SiteReport]) -> Figure:
    """The same of sites by themselves, in network order, under the model's name."""
    count = len(sites)
    figure = empty_figure(width=8.0, height=1.5 + 0.24 * max(count, 2))
    figure.suptitle(literal(f"{model}: MACs kept at each site"), x=0.01, ha="left", fontsize=11)
    axes = figure.subplots()
    _draw_shares(axes, sites)
    _draw_total(axes, sites)
    middle, half = (count - 1) / 2, max(count, 2) / 2 + 0.1
    axes.set_ylim(middle + half, middle - half)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0])
    axes.xaxis.set_major_formatter(PER_CENT)
    return figure


FIGURES = {"sites": sites_figure, "convergence": convergence_figure}


def save_png(figure: Figure, path: Path | BytesIO) -> None:
    """Write the figure as a PNG file."""
    figure.savefig(path, dpi=DOTS_PER_INCH, format="png")


def empty_figure(width: float, height: float) -> Figure:
    """An empty figure in inches on the Agg canvas, which needs no display."""
    figure = _ShownFigure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def literal(text: str) -> str:
    """A text with names in it, which may hold dollars; matplotlib would read what is between two as a formula."""
    return text.replace("$", r"\$")


def plain(axes: Axes) -> None:
    """No frame but the two axes."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9, colors="#333333")


def _draw_losses(axes: Axes, report: Report) -> None:
    losses = [record.loss for record in report.iterations]
    axes.plot(range(1, len(losses) + 1), losses, color=LOSS_COLOUR, marker="o", markersize=3.5, linewidth=1.4)
    positive = [loss for loss in losses if 0 < loss < float("inf")]
    if positive and max(positive) > 20 * min(positive):
        axes.set_yscale("log")
    plain(axes)


def _draw_budget_use(axes: Axes, report: Report) -> None:
    steps = range(1, len(report.iterations) + 1)
    for index, resource in enumerate(dict.fromkeys(name for record in report.iterations for name in record.budget_use)):
        use = [record.budget_use.get(resource, float("nan")) for record in report.iterations]
        colour = BUDGET_COLOURS[index % len(BUDGET_COLOURS)]
        # hollow markers of falling size, for two budgets often bind together
        marker = {
            "marker": BUDGET_MARKERS[index % len(BUDGET_MARKERS)],
            "markersize": 6 - 2 * (index % 3),
            "markevery": max(1, len(steps) // 30),
        }
        axes.plot(steps, use, color=colour, linewidth=1.2, label=literal(resource), markerfacecolor="none", **marker)
    axes.axhline(1.0, color=GREY, linestyle="--", linewidth=1.0, label="limit")
    axes.yaxis.set_major_formatter(PER_CENT)
    axes.margins(y=0.15)
    axes.legend(frameon=False, fontsize=9, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=4)
    plain(axes)


def _mark_phases(upper: Axes, lower: Axes, report: Report) -> None:
    """Shade every second phase and name each above its iterations, slanted where the name is too long for them."""
    spans = [(name, len(list(records))) for name, records in groupby(report.iterations, lambda record: record.phase)]
    total = len(report.iterations)
    room = [count / total * 85 - len(name) for name, count in spans]  # about 85 characters fit the width
    slanted = {"rotation": 30, "ha": "left"} if min(room) < 1 else {"ha": "center"}
    start = 0.5
    for index, (name, count) in enumerate(spans):
        if index % 2:
            for axes in (upper, lower):
                axes.axvspan(start, start + count, color="#f2f3f5", zorder=0)
        place = (start + count / 2, 1.01)
        upper.text(*place, name, transform=upper.get_xaxis_transform(), va="bottom", fontsize=9, color=GREY, **slanted)
        start += count
    upper.set_xlim(0.5, total + 0.5)


def _label(site: SiteReport) -> str:
    return "whole" if site.rank is None else f"{100 * site.kept_share('macs'):.1f} %   rank {rank_text(site)}"


def _shortened(name: str) -> str:
    """The name with its middle left out where it would take the bars' place."""
    half = LONGEST_NAME // 2
    return name if len(name) <= LONGEST_NAME else f"{name[: half - 1]}…{name[-half:]}"


def _draw_shares(axes: Axes, sites: Sequence[SiteReport]) -> None:
    shares = [site.kept_share("macs") for site in sites]
    colours = [WHOLE_COLOUR if site.rank is None else SITE_COLOUR for site in sites]
    axes.barh(range(len(sites)), shares, height=0.72, color=colours)
    axes.set_yticks(range(len(sites)), [literal(_shortened(site.name)) for site in sites])
    for row, site in enumerate(sites):
        place = {"xy": (shares[row], row), "xytext": (4, 0), "textcoords": "offset points", "va": "center"}
        axes.annotate(_label(site), **place, fontsize=8, bbox={"color": "white", "pad": 1})
    axes.set_xlim(0, 1.35 * max([1.0, *shares]))
    axes.tick_params(axis="y", length=0)
    plain(axes)


def _draw_total(axes: Axes, sites: Sequence[SiteReport]) -> None:
    before = sum(site.before["macs"] for site in sites)
    if before:
        total = sum(site.after["macs"] for site in sites) / before
        axes.axvline(total, color=BUDGET_COLOURS[0], linestyle="--", linewidth=1.0, zorder=0)
        axes.set_xlabel(f"share of the original MACs (dashed: all sites together, {100 * total:.1f} %)")
