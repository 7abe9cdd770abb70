"""Measured times as frozen dataclasses that print themselves; no TensorFlow."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np

from cobla_tf.errors import ConfigError
from cobla_tf.texts import share_text, table

WHOLE = 0.1
"""Seconds from which on milliseconds are told without a fraction."""


@dataclass(frozen=True)
class Spread:
    """Seconds of repeated runs of one thing: median, both quartiles, the fastest, and how many there were."""

    median: float
    low: float
    high: float
    fastest: float
    runs: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Spread":
        """Of all runs."""
        low, median, high = (float(value) for value in np.quantile(seconds, (0.25, 0.5, 0.75)))
        return cls(median, low, high, float(np.min(seconds)), len(seconds))

    def __str__(self) -> str:
        """Milliseconds: median and quartiles."""
        return f"{_ms(self.median)} ({_ms(self.low)} to {_ms(self.high)})"


@dataclass(frozen=True)
class Timing:
    """One batch through both networks, in one runtime with a number of threads.

    `ratio` is the median over the rounds of compressed / original, both taken in the same round: what else the machine
    does slows both; `fastest_ratio` is that of the fastest runs.
    """

    runtime: str
    threads: int
    batch: int
    original: Spread
    compressed: Spread
    ratio: float
    fastest_ratio: float

    @classmethod
    def of(
        cls, runtime: str, threads: int, batch: int, original: Sequence[float], compressed: Sequence[float]
    ) -> "Timing":
        """Of the seconds in every round."""
        before, after = Spread.of(original), Spread.of(compressed)
        ratio = float(np.median(np.divide(compressed, original)))
        return cls(runtime, threads, batch, before, after, ratio, after.fastest / before.fastest)


@dataclass(frozen=True)
class SiteTiming:
    """One decomposed layer alone in LiteRT against the two that replace it, one image and one thread.

    `macs` are (before, after), None where they are not counted; each is the sum over all uses of the layer.
    """

    name: str
    macs: tuple[int, int] | None
    original: float
    compressed: float


@dataclass(frozen=True)
class Benchmark:
    """How fast the compressed network is beside the original.

    Attributes:
        timings: of the whole networks.
        sites: of the decomposed layers, in seconds, the fastest runs.
        cores: of this machine that the process may use.
        notes: what could not be measured, and why.
    """

    timings: tuple[Timing, ...]
    sites: tuple[SiteTiming, ...]
    cores: int
    notes: tuple[str, ...] = ()

    def table(self, style: str = "simple") -> str:
        """Milliseconds a batch, medians and quartiles."""
        head = ("runtime", "threads", "batch", "original, ms", "compressed, ms", "time kept", "of the fastest")
        rows = [
            (t.runtime, str(t.threads), str(t.batch), str(t.original), str(t.compressed), *_shares(t))
            for t in self.timings
        ]
        return table(head, rows, style)

    def site_table(self, style: str = "simple") -> str:
        """What MACs predict for each site, what was measured, and how fast its MACs were done before and after."""
        head = ("site", "MACs kept", "time kept", "original, ms", "compressed, ms", "GMAC/s", "then")
        return table(head, [_site_row(site) for site in (*self.sites, self._total())], style)

    def _total(self) -> SiteTiming:
        counted = [site.macs for site in self.sites if site.macs]
        macs = (sum(before for before, _ in counted), sum(after for _, after in counted))
        complete = macs if len(counted) == len(self.sites) else None
        times = sum(site.original for site in self.sites), sum(site.compressed for site in self.sites)
        return SiteTiming("total", complete, *times)

    def __str__(self) -> str:
        """Both tables, and the notes."""
        parts = [self.table() if self.timings else "", self.site_table() if self.sites else ""]
        return "\n\n".join([*filter(None, parts), *(f"note: {note}" for note in self.notes)])


def check_amounts(what: str, count: object, seconds: object) -> None:
    """Refuse a count below 1, or a time that is none.

    Raises:
        ConfigError: it says `what` the count is of.
    """
    if not (isinstance(count, Integral) and count >= 1 and isinstance(seconds, Real) and 0 <= seconds < math.inf):
        raise ConfigError(f"expected {what} of at least 1 and seconds of at least 0, got {count!r} and {seconds!r}.")


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _ms(seconds: float) -> str:
    """Milliseconds to three digits, and never with an exponent."""
    return f"{1e3 * seconds:.3g}" if seconds < WHOLE else f"{1e3 * seconds:,.0f}"


def _shares(timing: Timing) -> tuple[str, str]:
    return f"{100 * timing.ratio:.1f} %", f"{100 * timing.fastest_ratio:.1f} %"


def _site_row(site: SiteTiming) -> tuple[str, ...]:
    seconds = site.original, site.compressed
    times = share_text(site.compressed, site.original), *map(_ms, seconds)
    if site.macs is None:
        return (site.name, "-", *times, "-", "-")
    speeds = (f"{macs / spent / 1e9:.1f}" for macs, spent in zip(site.macs, seconds, strict=True))
    return (site.name, share_text(site.macs[1], site.macs[0]), *times, *speeds)
