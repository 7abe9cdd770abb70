"""Linear algebra on one thread, where several only wait for one another."""

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import cache
from typing import TypeVar

from threadpoolctl import ThreadpoolController

from cobla_tf.timings import cores

T = TypeVar("T")


def on_all_cores(function: Callable[..., T], *arguments: Iterable) -> Generator[T, None, None]:
    """map(function, *arguments), a core and one BLAS thread a call: better used so than all on one matrix.

    Calls that have not begun when it is closed are left out.
    """
    with one_blas_thread(), ThreadPoolExecutor(cores()) as pool:
        yield from pool.map(function, *arguments)


def one_blas_thread() -> AbstractContextManager:
    """For the length of a with block, NumPy and SciPy multiply on the thread that called them.

    Each of the two brings its own BLAS, whose threads go on spinning for a while after every product. On thin matrices
    that gains nothing, and where other programs want the cores it takes ten times as long.
    """
    return _controller().limit(limits=1, user_api="blas")


@cache
def _controller() -> ThreadpoolController:
    """Found once a process: it looks through all libraries that are loaded."""
    return ThreadpoolController()
