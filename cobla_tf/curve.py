"""Accuracy against cost over several budgets and methods; no TensorFlow."""

import csv
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import StringIO
from typing import TYPE_CHECKING, Any

from cobla_tf.report import COUNTED_TITLES, Report
from cobla_tf.report_parts import Evaluation
from cobla_tf.texts import share_text, table
from cobla_tf.timings import Timing

if TYPE_CHECKING:
    import keras
    from matplotlib.figure import Figure

FILES = {"curve": "curve.md", "curve data": "curve.csv", "curve picture": "curve.png"}


@dataclass(frozen=True)
class Point:
    """One budget met by one method, or the reason why it could not be.

    Attributes:
        method: what selected the ranks.
        budgets: what was asked for, by resource.
        report: of the compression; None where there was none.
        failure: why there was none, one sentence.
        broken: whether the attempt failed; else a point without a report has a budget that cannot be met.
        model: the compressed network; None likewise.
        timing: of its network beside the original, in one run with all other points; None where none was asked for.
    """

    method: str
    budgets: dict[str, float]
    report: Report | None = field(default=None, repr=False)
    failure: str = ""
    broken: bool = False
    model: "keras.Model | None" = field(default=None, repr=False, compare=False)
    timing: Timing | None = None

    @property
    def name(self) -> str:
        """Method and budgets, fit for a folder's name: 'cobla_macs0.5_params0.5'."""
        name = "_".join([self.method, *(f"{resource}{value:.12g}" for resource, value in self.budgets.items())])
        return re.sub(r"[/\\]", "_", name)

    @property
    def outcome(self) -> str:
        """What became of it: "met", "cannot be met", or "failed"."""
        if self.report is not None:
            return "met"
        return "failed" if self.broken else "cannot be met"

    @property
    def asked(self) -> str:
        """Its budgets in words: 'macs 0.5, params 0.5'."""
        return ", ".join(f"{resource} {value:.12g}" for resource, value in self.budgets.items())

    @property
    def result(self) -> Evaluation | None:
        """Of the network as it ends up: fine-tuned where that was asked for."""
        return list(self.report.evaluations.values())[-1] if self.report else None

    @property
    def merit(self) -> float:
        """What is to be large: accuracy in [0, 1], or the loss's negative where accuracy has no meaning."""
        result = self.result
        if result is None:
            return -math.inf
        merit = -result.loss if result.accuracy is None else result.accuracy
        return -math.inf if math.isnan(merit) else merit

    @property
    def kept(self) -> dict[str, float]:
        """Share of the original cost by resource."""
        budgets = self.report.budgets if self.report else ()
        return {budget.resource: budget.reached / budget.original for budget in budgets if budget.original}


@dataclass(frozen=True, repr=False)
class Curve:
    """The trade-off between accuracy and cost: what pareto() returns, a sequence of its points.

    At the end of a notebook's cell it shows its table.

    Attributes:
        points: in the order in which they were worked out.
    """

    points: tuple[Point, ...]

    def __len__(self) -> int:
        """Number of points."""
        return len(self.points)

    def __iter__(self) -> Iterator[Point]:
        """The points in order."""
        return iter(self.points)

    def __getitem__(self, place: int | slice) -> Point | tuple[Point, ...]:
        """One point, or a tuple of some."""
        return self.points[place]

    @property
    def resources(self) -> list[str]:
        """Of all points, in order."""
        return list(dict.fromkeys(name for point in self.points for name in point.kept))

    @property
    def original(self) -> Evaluation | None:
        """Of the network before compression; None where no point has a report."""
        return next((point.report.evaluations["original"] for point in self.points if point.report), None)

    @property
    def timed(self) -> bool:
        """Whether the networks were timed."""
        return any(point.timing for point in self.points)

    @property
    def failures(self) -> dict[str, str]:
        """Points that failed, and exports that could not be made or trusted, over all points, and why."""
        reports = {point.name: point.report for point in self.points if point.report}
        exports = {f"{name}: {what}": why for name, report in reports.items() for what, why in report.failures.items()}
        return {point.name: point.failure for point in self.points if point.broken} | exports

    def dominated(self) -> list[bool]:
        """Whether another point is at least as good in accuracy and in every resource, and better in one of them."""
        return [any(_beats(other, point) for other in self.points) for point in self.points]

    def outrun(self) -> list[bool]:
        """Whether another point is at least as good in accuracy and in measured time, and better in one of them."""
        timed = [point for point in self.points if point.timing]
        return [point.timing is not None and any(_outruns(other, point) for other in timed) for point in self.points]

    def rows(self) -> list[dict[str, Any]]:
        """One flat record a point."""
        judged = zip(self.points, self.dominated(), self.outrun(), strict=True)
        return [self._row(point, dominated) | _times(point, outrun) for point, dominated, outrun in judged]

    def to_csv(self) -> str:
        """The records with a line of names above them."""
        rows, text = self.rows(), StringIO()
        writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    def table(self, style: str = "simple") -> str:
        """Method, budgets, shares kept, accuracy and its change of every point; `style` is one of tabulate's.

        Where time was measured, its share and milliseconds (median, quartiles) as well.
        """
        resources = self.resources
        titles = [f"{COUNTED_TITLES.get(name, name)} kept" for name in resources]
        titles += ["time kept", "ms"] if self.timed else []
        lines = [self._line(*judged) for judged in zip(self.points, self.dominated(), self.outrun(), strict=True)]
        return table(["method", "budgets", *titles, "accuracy", "points", "loss", ""], lines, style, text_columns=2)

    def text(self, style: str = "simple") -> str:
        """The table, and why there are points without a network."""
        failed = [f"{point.name}: {point.failure}" for point in self.points if point.failure]
        return "\n\n".join([self.table(style), *failed])

    def plot(self) -> "Figure":
        """Accuracy over cost as a figure that a notebook shows, and that `savefig(path)` writes."""
        from cobla_tf.curve_figure import curve_figure

        return curve_figure(self)

    def __str__(self) -> str:
        """As `text`."""
        return self.text()

    def __repr__(self) -> str:
        """The table; `print(curve)` also tells why there are points without a network."""
        return self.table()

    def _repr_html_(self) -> str:
        from cobla_tf.page import curve_html

        return curve_html(self)

    def _row(self, point: Point, dominated: bool) -> dict[str, Any]:
        row: dict[str, Any] = {"method": point.method}
        row |= {f"{resource}_budget": value for resource, value in point.budgets.items()}
        row |= {f"{resource}_kept": share for resource, share in point.kept.items()}
        if point.report:
            last = point.report.iterations[-1] if point.report.iterations else None
            row |= {
                "stage": list(point.report.evaluations)[-1],
                "accuracy": point.result.accuracy,
                "loss": point.result.loss,
                "images": last.images if last else 0,
                "seconds": round(sum(point.report.seconds.values()), 1),
            }
        return {**row, "dominated": dominated, "outcome": point.outcome, "failure": point.failure}

    def _line(self, point: Point, dominated: bool, outrun: bool) -> list[str]:
        resources = self.resources
        if point.report is None:
            return [point.method, point.asked, *[""] * (len(resources) + 2 * self.timed), "", "", "", point.outcome]
        accuracy, original = point.result.accuracy, self.original.accuracy
        known = accuracy is not None and original is not None
        shares = [share_text(point.kept[name], 1.0) if name in point.kept else "-" for name in resources]
        numbers = [f"{100 * accuracy:.2f} %", f"{100 * (accuracy - original):+.2f}"] if known else ["-", ""]
        if self.timed:
            shares += (
                [share_text(point.timing.ratio, 1.0), str(point.timing.compressed)] if point.timing else ["-", "-"]
            )
        words = [word for word, holds in (("dominated", dominated), ("dominated in time", outrun)) if holds]
        return [point.method, point.asked, *shares, *numbers, f"{point.result.loss:.4f}", ", ".join(words)]


def _gain(one: Point, other: Point) -> float:
    """In merit; between two that have none there is none."""
    return 0.0 if one.merit == other.merit else one.merit - other.merit


def _beats(one: Point, other: Point) -> bool:
    if one.report is None or other.report is None or one is other:
        return False
    shared = [name for name in one.kept if name in other.kept]
    gains = [_gain(one, other), *(other.kept[name] - one.kept[name] for name in shared)]
    return min(gains) >= 0 and max(gains) > 0


def _outruns(one: Point, other: Point) -> bool:
    gains = _gain(one, other), other.timing.ratio - one.timing.ratio
    return min(gains) >= 0 and max(gains) > 0


def _times(point: Point, outrun: bool) -> dict[str, Any]:
    """What was measured, as part of a flat record: a median, its quartiles, and the original's median."""
    if point.timing is None:
        return {}
    own, original = point.timing.compressed, point.timing.original
    seconds = {"": own.median, "_low": own.low, "_high": own.high, "_original": original.median}
    times = {f"measured{which}_ms": round(1e3 * spent, 6) for which, spent in seconds.items()}
    return {**times, "measured_kept": point.timing.ratio, "measured_dominated": outrun}
