"""Bars for what takes more than a moment: on a terminal, where messages of progress are wanted, and nowhere else."""

import logging as python_logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from absl import logging
from tqdm import tqdm

Step = TypeVar("Step")

DELAY = 1.0
"""Seconds before a bar appears."""
_WHAT: ContextVar[str] = ContextVar("what", default="")


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Call all bars that begin inside `what`."""
    token = _WHAT.set(what)
    try:
        yield
    finally:
        _WHAT.reset(token)


def bar(steps: Iterable[Step] | None, total: int | None, unit: str) -> "tqdm[Step]":
    """The same steps; a bar tells how many of them are done, how many a second, and, of a `total`, the time left.

    Without steps each is told by `update()`, and the end by `close()`.
    """
    wanted = logging.get_absl_logger().isEnabledFor(python_logging.INFO)
    return tqdm(
        steps, _WHAT.get(), total, unit=f" {unit}", delay=DELAY, leave=False, dynamic_ncols=True,
        disable=None if wanted else True,
    )  # fmt: skip
