"""The picture of a trade-off curve."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cobla_tf.curve import Curve, Point
from cobla_tf.plots import BUDGET_COLOURS, GREY, LOSS_COLOUR, PER_CENT, empty_figure, plain
from cobla_tf.report import COUNTED_TITLES

MARKERS = "os^Dv<>"


def curve_figure(curve: Curve) -> Figure:
    """A panel a resource: accuracy (loss, where there is none) over the share kept; hollow points are dominated."""
    resources = curve.resources
    figure = empty_figure(width=max(5.0, 4.2 * len(resources)), height=4.0)
    if not resources:
        figure.text(0.5, 0.5, "no budget could be met", ha="center", color=GREY)
        return figure
    panels = figure.subplots(1, len(resources), sharey=True, squeeze=False)[0]
    for axes, resource in zip(panels, resources, strict=True):
        _draw(axes, curve, resource)
    panels[0].set_ylabel("accuracy" if _has_accuracy(curve) else "loss")
    if _has_accuracy(curve):
        panels[0].yaxis.set_major_formatter(PER_CENT)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False, fontsize=9)
    return figure


def _draw(axes: Axes, curve: Curve, resource: str) -> None:
    has_accuracy, late = _has_accuracy(curve), curve.dominated()
    for number, method in enumerate(dict.fromkeys(point.method for point in curve.points)):
        own = [
            (point.kept[resource], _height(point, has_accuracy), dominated)
            for point, dominated in zip(curve.points, late, strict=True)
            if point.method == method and resource in point.kept
        ]
        colour = (LOSS_COLOUR, *BUDGET_COLOURS)[number % (1 + len(BUDGET_COLOURS))]
        shares, heights = [share for share, _, _ in sorted(own)], [height for _, height, _ in sorted(own)]
        axes.plot(shares, heights, color=colour, linewidth=1.2, alpha=0.6)
        for dominated in (False, True):
            axes.plot(
                [share for share, _, is_late in own if is_late == dominated],
                [height for _, height, is_late in own if is_late == dominated],
                MARKERS[number % len(MARKERS)], color=colour, markerfacecolor="white" if dominated else colour,
                linestyle="none", label=None if dominated else method,
            )  # fmt: skip
    original = curve.original.accuracy if has_accuracy else curve.original.loss
    axes.axhline(original, color=GREY, linestyle="--", linewidth=1.0, label="original")
    axes.set_xlabel(f"share of the original {COUNTED_TITLES.get(resource, resource)}")
    axes.xaxis.set_major_formatter(PER_CENT)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    plain(axes)


def _has_accuracy(curve: Curve) -> bool:
    return curve.original.accuracy is not None


def _height(point: Point, accuracy: bool) -> float:
    return point.result.accuracy if accuracy else point.result.loss
