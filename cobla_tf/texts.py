"""Numbers, shares, tables and data as text."""

import json
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from tabulate import tabulate

Row = Sequence[str]


def amount_text(amount: float) -> str:
    """A whole number to its last digit, another to five digits or one decimal."""
    if isinstance(amount, int):
        return f"{amount:,}"
    return f"{amount:,.1f}" if amount >= 1e4 else f"{amount:.5g}"


def counted(count: int, noun: str, many: str = "") -> str:
    """'1 image', '1,000 images'; `many` is the plural where it takes more than an s."""
    return f"{count:,} {noun if count == 1 else many or noun + 's'}"


def share_text(part: float, whole: float | None) -> str:
    """Part of the whole in per cent; '-' where the whole is nothing."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


def table(head: Sequence[str], rows: Sequence[Row], style: str, text_columns: int = 1) -> str:
    """Tabulate ready-made texts: the first `text_columns` columns flush left, the others flush right."""
    align = ["left" if i < text_columns else "right" for i in range(len(head))]
    cells = [[_cell(text, style) for text in row] for row in rows]
    return tabulate(cells, head, tablefmt=style, disable_numparse=True, colalign=align if rows else None)


def _cell(text: str, style: str) -> str:
    """Keep a message on one line, and a bar in a name from ending its Markdown cell."""
    line = " ".join(text.split())
    return line.replace("|", "\\|") if style == "github" else line


def short_text(count: float) -> str:
    """One decimal and a decimal prefix: 15.4 G; below 1,000 whole numbers as they are, others to four digits."""
    if count < 1000:
        return f"{count:.4g}"
    for prefix in ("k", "M"):
        count /= 1000
        if count < 1000:
            return f"{count:.1f} {prefix}"
    return f"{count / 1000:,.1f} G"


def few(names: list[str], most: int = 8) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def by_reason(reasons: Iterable[tuple[str, str]]) -> str:
    """One line for each reason, with the names that share it; from pairs of a reason and a name."""
    groups: dict[str, list[str]] = {}
    for reason, name in reasons:
        groups.setdefault(reason, []).append(name)
    return "\n".join(f"{reason}: {few(names)}" for reason, names in groups.items())


def json_text(data: Any) -> str:
    """Standard JSON, a list of numbers on one line; NaN and infinities become null, paths strings, arrays lists."""
    text = json.dumps(_jsonable(data), indent=2, allow_nan=False, ensure_ascii=False)
    # a line break cannot stand within a JSON string, so this finds lists alone
    return re.sub(r"\[\n([^\[\]{}\"]*)\n *\]", lambda found: f"[{' '.join(found[1].split())}]", text)


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _jsonable(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(entry) for entry in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if hasattr(value, "tolist"):  # NumPy scalars and arrays
        return _jsonable(value.tolist())
    return value if value is None or isinstance(value, (str, int)) else str(value)
