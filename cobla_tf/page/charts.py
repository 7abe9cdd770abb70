"""Numbers as the geometry of small charts, in pixels from the upper left; the template makes SVG of it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator

from cobla_tf.report_parts import Evaluation

WIDTH, HEIGHT = 440, 220
LEFT, RIGHT, TOP, BOTTOM = 58, 8, 18, 24
MOST_POINTS = 300
"""Of a line; more cannot be told apart at this width."""
MANY_TIMES = 20.0
"""Ratio of the largest to the smallest value at which an axis becomes logarithmic, where all are positive."""
INTERVAL_WIDTH, MARGIN = 180, 6
"""Of the bars of accuracies, which have no axis."""
MOST_LABELS = 7
"""Of a logarithmic axis, about."""
FAR = 300
"""Powers of ten between which floating-point numbers lie."""
ROOM = 0.06
"""Left free above and below all values, as a share of their range."""


@dataclass(frozen=True)
class Tick:
    """A place along an axis, and its label."""

    place: float
    text: str


@dataclass(frozen=True)
class Span:
    """A phase: its left edge, its width and its name."""

    left: float
    width: float
    name: str


@dataclass(frozen=True)
class _Axis:
    """The vertical one: its ends, logarithms to the base of 10 where it is logarithmic."""

    low: float
    high: float
    log: bool

    @classmethod
    def of(cls, values: np.ndarray) -> "_Axis":
        """Wide enough for all values, which are finite."""
        log = bool(values.min() > 0 and values.max() > MANY_TIMES * values.min())
        values = np.log10(values) if log else values
        low, high = float(values.min()), float(values.max())
        room = ROOM * (high - low) or 0.1 * abs(high) or 1.0  # of one value alone it takes a tenth, of 0 anything
        return cls(low - room, high + room, log)

    def places(self, values: np.ndarray) -> np.ndarray:
        """Pixels from the top; what is no number stays none."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.interp(np.log10(values) if self.log else values, [self.low, self.high], [HEIGHT - BOTTOM, TOP])

    def ticks(self, per_cent: bool) -> list[Tick]:
        """With labels, in per cent where values are shares."""
        values = self._values()
        digits = 4
        if len(values) > 1 and not self.log:  # so many that neighbours can be told apart
            digits = max(4, math.ceil(math.log10(max(map(abs, values)) / np.diff(values).min())) + 1)
        return [
            Tick(
                float(self.places(np.array(value))),
                f"{100 * value:.{digits}g} %" if per_cent else _plain(value, digits),
            )
            for value in values
        ]

    def _values(self) -> list[float]:
        if self.log:
            low, high = 10.0 ** max(self.low, -FAR), 10.0 ** min(self.high, FAR)
            ticks = LogLocator(subs=(1, 2, 5), numticks=12).tick_values(low, high)
            ticks = [tick for tick in ticks if low <= tick <= high]
            return ticks[:: 1 + len(ticks) // MOST_LABELS]
        ticks = MaxNLocator(5).tick_values(self.low, self.high)
        return [float(tick) for tick in ticks if self.low <= tick <= self.high]


@dataclass(frozen=True)
class Chart:
    """Lines over a common x axis; `lines` maps a label to an SVG path, `limit` is the height of a dashed line."""

    title: str
    lines: dict[str, str]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    spans: list[Span]
    limit: float | None


def line_chart(
    title: str,
    series: Mapping[str, Sequence[float]],
    phases: Sequence[str] = (),
    per_cent: bool = False,
    limit: float | None = None,
) -> Chart | None:
    """Values over 1, 2, ..., gaps where they are not finite; None where there is nothing to draw.

    Args:
        title: above the chart.
        series: label -> values, all of one length.
        phases: of each value, by name; neighbours of one name share a span.
        per_cent: whether values are shares.
        limit: where a dashed line goes.
    """
    arrays = {label: np.asarray(values, dtype=float) for label, values in series.items()}
    finite = np.concatenate([values[np.isfinite(values)] for values in arrays.values()] or [[]])
    if not finite.size:
        return None
    count = max(map(len, arrays.values()))
    axis = _Axis.of(finite if limit is None else np.append(finite, limit))
    across = np.interp(np.arange(count) + 1, [0.5, count + 0.5], [LEFT, WIDTH - RIGHT])
    return Chart(
        title=title,
        lines={label: _path(across, axis.places(values), np.isfinite(values)) for label, values in arrays.items()},
        x_ticks=[Tick(float(across[i - 1]), str(i)) for i in _whole_ticks(count)],
        y_ticks=axis.ticks(per_cent),
        spans=_spans(phases, (WIDTH - RIGHT - LEFT) / count),
        limit=None if limit is None else float(axis.places(np.array(limit))),
    )


def interval_bars(evaluations: Mapping[str, Evaluation]) -> dict[str, tuple[float, float, float]]:
    """Low end, accuracy and high end of every stage that has one, in pixels on one scale of INTERVAL_WIDTH."""
    known = {stage: (*interval, e.accuracy) for stage, e in evaluations.items() if (interval := e.interval())}
    if not known:
        return {}
    ends = min(low for low, _, _ in known.values()), max(high for _, high, _ in known.values())
    place = [MARGIN, INTERVAL_WIDTH - MARGIN]
    return {
        stage: tuple(np.interp((low, middle, high), ends, place).round(1).tolist())
        for stage, (low, high, middle) in known.items()
    }


def _plain(value: float, digits: int = 4) -> str:
    """So many digits, down to a millionth without an exponent: labels above one another are then read at a glance."""
    if 1e-6 <= value < 1e4:
        return np.format_float_positional(value, digits, fractional=False, trim="-")
    return f"{value:.{digits}g}"


def _whole_ticks(count: int) -> list[int]:
    return [int(tick) for tick in MaxNLocator(8, integer=True).tick_values(1, count) if 1 <= tick <= count]


def _path(x: np.ndarray, y: np.ndarray, finite: np.ndarray) -> str:
    """Runs of finite points; one that stands alone becomes a dot, as line ends are round."""
    chosen = np.unique(np.linspace(0, len(y) - 1, min(len(y), MOST_POINTS)).round().astype(int))
    parts = []
    for drawn, run in groupby(chosen, lambda i: bool(finite[i])):
        points = [f"{x[i]:.1f} {y[i]:.1f}" for i in run] if drawn else []
        parts.append(f"M{'L'.join(points)}{'h0' * (len(points) == 1)}" if points else "")
    return "".join(parts)


def _spans(phases: Sequence[str], step: float) -> list[Span]:
    spans, left = [], float(LEFT)
    for name, members in groupby(phases):
        width = step * len(list(members))
        spans.append(Span(round(left, 1), round(width, 1), name))
        left += width
    return spans
