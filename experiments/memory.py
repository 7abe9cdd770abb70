"""The memory that a process has taken."""

import resource
import sys


def peak_bytes() -> int:
    """Most that this process held at any time; the system counts it in bytes or in units of 1,024."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
