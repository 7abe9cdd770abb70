"""Results of a comparison as a table, a bar chart, and sentences that say whether COBLA is ahead."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from cobla_tf.experiments.comparison import EXACT, METHODS
from cobla_tf.experiments.result_file import Record
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cobla_tf.plots import empty_figure, literal
from cobla_tf.selection import COBLA
from cobla_tf.texts import table

TITLES = {
    COBLA: "COBLA, sub-sampled gradient", "cptv": "CPTV", "pos_greedy": "POS-Greedy", "pos_cvx": "POS-CVX",
    "uniform": "uniform", "energy": "energy", "alds": "ALDS", "greedy_accuracy": "greedy accuracy (AIMET)",
}  # fmt: skip
COLOURS = {
    COBLA: "#1f4e79", EXACT: "#5b9bd5", "cptv": "#b5651d", "pos_greedy": "#e0a458", "pos_cvx": "#c44536",
    "uniform": "#d5d8dc", "energy": "#a9b0b7", "alds": "#4b7f52", "greedy_accuracy": "#7a5195",
}  # fmt: skip
WITHIN_EXACT = 1.0
"""Points between the sub-sampled and the exact gradient (paper, section 5.3)."""


@dataclass(frozen=True)
class Bar:
    """Accuracies of one method at one budget, in per cent.

    Attributes:
        values: one a seed, float64 [seeds].
    """

    values: np.ndarray

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return float(np.mean(self.values))

    @property
    def spread(self) -> float:
        """Standard deviation over the seeds; 0 where there is one value only."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else 0.0

    def __str__(self) -> str:
        """Mean and spread."""
        return f"{self.mean:.2f} ± {self.spread:.2f}" if len(self.values) > 1 else f"{self.mean:.2f}"


class Chart:
    """Bars by scheme, budget and method.

    Args:
        records: results of one comparison.
        measure: the field of the results that is shown, which "original_" before it names for the original.
        name: what the figure calls it.

    Attributes:
        name: as given.
        original: of the original, in per cent.
        schemes, etas, series: what there is, in order; a series is a method's name and its number of training images.
    """

    def __init__(self, records: Sequence[Record], measure: str = "accuracy", name: str = "accuracy") -> None:
        """Sort the results into bars."""
        self.name = name
        self.original = 100 * records[0][f"original_{measure}"]
        self.schemes = list(dict.fromkeys(record["scheme"] for record in records))
        self.etas = sorted({record["eta"] for record in records})
        found = {(record["method"], record["images"]) for record in records}
        self.series = sorted(found, key=lambda one: (METHODS.index(one[0]), one[1]))
        self._values: dict[tuple, list[float]] = {}
        for record in records:
            key = (record["scheme"], record["eta"], (record["method"], record["images"]))
            self._values.setdefault(key, []).append(100 * record[measure])

    def bar(self, scheme: str, eta: float, series: tuple[str, int]) -> Bar | None:
        """None where there is no result."""
        values = self._values.get((scheme, eta, series))
        return Bar(np.array(values)) if values else None

    def table(self, paper: dict[str, str], style: str = "github") -> str:
        """A line a method, a column a scheme and budget, the paper's numbers last, where there are some.

        Args:
            paper: the paper's number by a method's name or "original".
            style: one of tabulate's formats.
        """
        places = [(scheme, eta) for scheme in self.schemes for eta in self.etas]
        rows = [["original", *[f"{self.original:.2f}"] * len(places), paper.get("original", "-")]]
        for series in self.series:
            bars = [self.bar(*place, series) for place in places]
            rows.append([title(series), *["-" if bar is None else str(bar) for bar in bars], paper.get(series[0], "-")])
        return table(["method", *[f"{scheme} {eta:g}" for scheme, eta in places], "paper"], rows, style)

    def verdicts(self) -> list[str]:
        """Whether COBLA is ahead of every rival by more than the spread of both, and near the exact gradient."""
        return [line for scheme in self.schemes for eta in self.etas for line in self._verdicts(scheme, eta)]

    def figure(self, title_text: str, *beside: "Chart") -> Figure:
        """A panel a scheme, a group of bars a budget, the original as a dashed line; further charts as columns."""
        charts = (self, *beside)
        figure = empty_figure(4.0 + 6.0 * len(charts), 1.2 + 3.0 * len(self.schemes))
        figure.suptitle(literal(title_text), x=0.01, ha="left", fontsize=11)
        panels = figure.subplots(len(self.schemes), len(charts), sharex=True, squeeze=False)
        for column, chart in zip(panels.T, charts, strict=True):
            for axes, scheme in zip(column, self.schemes, strict=True):
                chart.draw(axes, scheme)
            column[-1].set_xlabel("budget on MACs and params, as a share of the original")
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=8)
        return figure

    def of_method(self, scheme: str, eta: float, method: str) -> Bar | None:
        """Of the first series of a method; None where there is no result."""
        bars = (self.bar(scheme, eta, series) for series in self.series if series[0] == method)
        return next((bar for bar in bars if bar), None)

    def _verdicts(self, scheme: str, eta: float) -> list[str]:
        bars = {series: bar for series in self.series if (bar := self.bar(scheme, eta, series))}
        own = self.of_method(scheme, eta, COBLA)
        if own is None:
            return []
        where, lines = f"{scheme}, {eta:g}: COBLA {own}", []
        rivals = {series: bar for series, bar in bars.items() if series[0] not in (COBLA, EXACT)}
        if rivals:
            leads = {series: own.mean - bar.mean - own.spread - bar.spread for series, bar in rivals.items()}
            near = min(leads, key=leads.__getitem__)
            word = "ahead" if leads[near] > 0 else "NOT ahead"
            by = "by more than the spread" if len(own.values) > 1 else "with one seed, so that no spread is known"
            lead = own.mean - rivals[near].mean
            lines.append(
                f"{where}, {word} of every other method {by}; nearest {title(near)} {rivals[near]} ({lead:+.2f})"
            )
        for series, bar in bars.items():
            if series[0] == EXACT:
                gap = own.mean - bar.mean
                word = "within" if math.fabs(gap) <= WITHIN_EXACT else "NOT within"
                lines.append(f"{where}, {word} {WITHIN_EXACT:g} point of {title(series)}, {bar} ({gap:+.2f})")
        return lines

    def draw(self, axes: Axes, scheme: str) -> None:
        """One panel: the bars of a scheme."""
        width = 0.84 / len(self.series)
        for number, series in enumerate(self.series):
            places = [place - 0.42 + (number + 0.5) * width for place in range(len(self.etas))]
            drawn = [
                (at, bar) for at, eta in zip(places, self.etas, strict=True) if (bar := self.bar(scheme, eta, series))
            ]
            axes.bar(
                [at for at, _ in drawn], [bar.mean for _, bar in drawn], 0.92 * width, color=COLOURS[series[0]],
                yerr=[bar.spread for _, bar in drawn], error_kw={"linewidth": 1.0}, label=title(series),
            )  # fmt: skip
        axes.axhline(self.original, color="#666666", linestyle="--", linewidth=1.0, label="original")
        axes.set_xticks(range(len(self.etas)), [f"{eta:g}" for eta in self.etas])
        axes.set_ylabel(f"{scheme}: {self.name} in %")
        axes.set_ylim(0, 100)
        axes.spines[["top", "right"]].set_visible(False)


def title(series: tuple[str, int]) -> str:
    """A method as a figure calls it."""
    method, images = series
    return f"COBLA, exact gradient on {images:,} images" if method == EXACT else TITLES[method]
