"""The picture of a trade-off curve."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cobla_tf.curve import Curve, Point
from cobla_tf.plots import BUDGET_COLOURS, GREY, LOSS_COLOUR, PER_CENT, empty_figure, literal, plain
from cobla_tf.report import COUNTED_TITLES

MARKERS = "os^Dv<>"


def curve_figure(curve: Curve) -> Figure:
    """Accuracy (loss, where there is none) over the share kept, a panel a resource, and over the time where measured.

    Hollow points are dominated: in accuracy and all resources, in the last panel in accuracy and time.
    """
    resources = curve.resources
    count = len(resources) + curve.timed
    figure = empty_figure(width=max(5.0, 4.2 * count), height=4.0)
    if not resources:
        figure.text(0.5, 0.5, "no budget could be met", ha="center", color=GREY)
        return figure
    panels = figure.subplots(1, count, sharey=True, squeeze=False)[0]
    for axes, resource in zip(panels[: len(resources)], resources, strict=True):
        _draw_shares(axes, curve, resource)
    if curve.timed:
        _draw_times(panels[-1], curve)
    panels[0].set_ylabel("accuracy" if _has_accuracy(curve) else "loss")
    if _has_accuracy(curve):
        panels[0].yaxis.set_major_formatter(PER_CENT)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False, fontsize=9)
    return figure


def _draw_shares(axes: Axes, curve: Curve, resource: str) -> None:
    _draw(axes, curve, [point.kept.get(resource) for point in curve.points], curve.dominated())
    axes.set_xlabel(f"share of the original {literal(COUNTED_TITLES.get(resource, resource))}")
    axes.xaxis.set_major_formatter(PER_CENT)


def _draw_times(axes: Axes, curve: Curve) -> None:
    """Milliseconds, with lines from quartile to quartile; the original is a point among the others."""
    timings = [point.timing for point in curve.points]
    _draw(axes, curve, [1e3 * timing.compressed.median if timing else None for timing in timings], curve.outrun())
    heights = [_height(point, _has_accuracy(curve)) for point in curve.points if point.timing]
    timed = [timing for timing in timings if timing]
    spreads = [*(timing.compressed for timing in timed), timed[0].original]
    low, high = ([1e3 * getattr(spread, side) for spread in spreads] for side in ("low", "high"))
    axes.hlines([*heights, _original(curve)], low, high, color=GREY, linewidth=1.0)
    axes.plot(1e3 * timed[0].original.median, _original(curve), "X", color=GREY)
    axes.set_xlim(left=0)
    axes.set_xlabel("ms an image (LiteRT, 1 thread; quartiles)")


def _draw(axes: Axes, curve: Curve, places: list[float | None], late: list[bool]) -> None:
    has_accuracy = _has_accuracy(curve)
    for number, method in enumerate(dict.fromkeys(point.method for point in curve.points)):
        own = [
            (place, _height(point, has_accuracy), dominated)
            for point, place, dominated in zip(curve.points, places, late, strict=True)
            if point.method == method and place is not None
        ]
        colour = (LOSS_COLOUR, *BUDGET_COLOURS)[number % (1 + len(BUDGET_COLOURS))]
        sorted_places, heights = [place for place, _, _ in sorted(own)], [height for _, height, _ in sorted(own)]
        axes.plot(sorted_places, heights, color=colour, linewidth=1.2, alpha=0.6)
        for dominated in (False, True):
            axes.plot(
                [place for place, _, is_late in own if is_late == dominated],
                [height for _, height, is_late in own if is_late == dominated],
                MARKERS[number % len(MARKERS)], color=colour, markerfacecolor="white" if dominated else colour,
                linestyle="none", label=None if dominated else method,
            )  # fmt: skip
    axes.axhline(_original(curve), color=GREY, linestyle="--", linewidth=1.0, label="original")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    plain(axes)


def _original(curve: Curve) -> float:
    return curve.original.accuracy if _has_accuracy(curve) else curve.original.loss


def _has_accuracy(curve: Curve) -> bool:
    return curve.original.accuracy is not None


def _height(point: Point, accuracy: bool) -> float:
    return point.result.accuracy if accuracy else point.result.loss
