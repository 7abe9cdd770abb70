"""The network as rows with strands between them, like the history of a repository: any topology, any length."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cobla_tf.report import Report
from cobla_tf.report_parts import MODEL_INPUT, LayerCall, SiteReport

TALL, LOW = 44, 24
"""Height in pixels of a row with a bar, and of one without."""
SPACING, WIDEST = 14.0, 112.0
"""Pixels from strand to strand, and what all strands together may take."""


@dataclass(frozen=True)
class Row:
    """One layer, or several in a chain of which only the first has kernel weights or more than one input.

    Attributes:
        name, kind: of the first layer.
        then: kinds of the layers that follow in the chain.
        inputs: rows that it reads from.
        site: what became of it; None where it is no site.
        reason: why it is none, though it has a kernel.
    """

    name: str
    kind: str
    then: tuple[str, ...]
    inputs: tuple[int, ...]
    site: SiteReport | None = None
    reason: str = ""

    @property
    def height(self) -> int:
        """In pixels."""
        return TALL if self.site else LOW


@dataclass(frozen=True)
class Strand:
    """Where a row's dot lies in pixels from the left, and the SVG path of all strands in its row."""

    dot: float
    path: str


def network_rows(report: Report) -> list[Row]:
    """The rows in the order of computation; without a network, the sites in a chain."""
    sites = {site.name: site for site in report.sites}
    reasons = {layer.name: layer.reason for layer in report.skipped}
    rows, place = [Row("input", "", (), ())], {MODEL_INPUT: 0}
    calls = report.network or [LayerCall(name, "", (i - 1,)) for i, name in enumerate(sites)]
    readers = Counter(i for call in calls for i in call.inputs)
    for number, call in enumerate(calls):
        inputs = tuple(dict.fromkeys(place[i] for i in call.inputs))
        plain = call.name not in sites and call.name not in reasons
        if plain and len(call.inputs) == 1 and readers[call.inputs[0]] == 1:
            place[number] = inputs[0]
            before = rows[inputs[0]]
            rows[inputs[0]] = replace(before, then=(*before.then, call.kind))
        else:
            place[number] = len(rows)
            rows.append(Row(call.name, call.kind, (), inputs, sites.get(call.name), reasons.get(call.name, "")))
    return rows


def strands(rows: Sequence[Row]) -> tuple[list[Strand], float]:
    """Strands from each row to all that read from it, and their whole width in pixels."""
    last = list(range(len(rows)))
    for number, row in enumerate(rows):
        for source in row.inputs:
            last[source] = number
    lanes: list[int | None] = []
    placed = [_place(lanes, number, row, last) for number, row in enumerate(rows)]
    spacing = min(SPACING, WIDEST / max(len(lanes), 1))
    drawn = [_draw(place, row.height, spacing) for place, row in zip(placed, rows, strict=True)]
    return drawn, (len(lanes) + 1) * spacing


@dataclass(frozen=True)
class _Place:
    """A row's own lane, the lanes that it reads from, those that pass by, and whether its own goes on."""

    lane: int
    reads: list[int]
    passing: list[int]
    goes_on: bool


def _place(lanes: list[int | None], number: int, row: Row, last: Sequence[int]) -> _Place:
    """Take the leftmost lane that ends here, else a free one; `lanes` holds the row whose output is in each."""
    reads = [lane for lane, owner in enumerate(lanes) if owner in row.inputs]
    for lane in (ending := [lane for lane in reads if last[lanes[lane]] == number]):
        lanes[lane] = None
    passing = [lane for lane, owner in enumerate(lanes) if owner is not None]
    own = ending[0] if ending else next((i for i, owner in enumerate(lanes) if owner is None), len(lanes))
    lanes.extend([None] * (own + 1 - len(lanes)))
    lanes[own] = number if last[number] > number else None
    return _Place(own, reads, passing, last[number] > number)


def _draw(place: _Place, height: int, spacing: float) -> Strand:
    def x(lane: int) -> float:
        return round((lane + 1) * spacing, 1)

    middle, dot = height / 2, x(place.lane)
    parts = [f"M{x(lane):g} 0V{height}" for lane in place.passing]
    parts += [f"M{x(lane):g} 0Q{x(lane):g} {middle:g} {dot:g} {middle:g}" for lane in place.reads]
    parts += [f"M{dot:g} {middle:g}V{height}"] * place.goes_on
    return Strand(dot, "".join(parts))
