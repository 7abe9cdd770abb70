"""Keeping the terminal for what a user wants to read."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from absl import logging


@contextmanager
def quiet() -> Iterator[None]:
    """Send standard error, where TensorFlow's C++ code writes dozens of lines, to the debug log."""
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile("w+", errors="replace") as lines:
        os.dup2(lines.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
            lines.seek(0)
            logging.debug("%s", lines.read())


def import_tensorflow() -> None:
    """Import it now, where its first import would else write to the terminal."""
    with quiet():
        import tensorflow  # noqa: F401
