"""Which form to give sites so that limits hold: small mixed-integer programs in shares of the limits."""

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

Array = np.ndarray

SCALE = 1e4
"""HiGHS' tolerances are absolute, 1e-6: rows and objective of order 1 are scaled, to be right to 1e-10 of a limit."""
SECONDS = 10.0
"""Most time for one program; the best choice found by then is taken. A site is one variable: they take milliseconds."""


def balanced(lean: Array, change: Array, limits: Array, sites: Array | None = None) -> Array:
    """The choice that leaves the most room: least largest share of a limit that is used.

    Args:
        lean: use [R] of every resource with nothing chosen.
        change: what each of C choices adds to it, of either sign, [R, C].
        limits: positive, [R].
        sites: of each choice, from 0, int [C]; at most one of a site's is taken. None: each has its own.

    Returns:
        bool [C].
    """
    count = change.shape[1]
    rows = np.column_stack([change / limits[:, None], -np.ones(len(limits))])
    room = -lean / limits
    if sites is not None:
        one_each = np.zeros((sites.max(initial=-1) + 1, count + 1))
        one_each[sites, np.arange(count)] = 1
        rows, room = np.concatenate([rows, one_each]), np.append(room, np.ones(len(one_each)))
    chosen = _choose(np.append(np.zeros(count), 1.0), rows, room, count)
    return np.zeros(count, dtype=bool) if chosen is None else chosen


def least_use(row: int, lean: Array, change: Array, limits: Array) -> Array | None:
    """The choice of least use of one resource within the limits on the others; None where none is found.

    Args:
        row: the resource.
        lean, change, limits: as for `balanced`.

    Returns:
        bool [C], or None.
    """
    others = np.delete(np.arange(len(limits)), row)
    room = (1 - lean / limits)[others]
    return _choose(change[row] / limits[row], (change / limits[:, None])[others], room, change.shape[1])


def _choose(cost: Array, rows: Array, room: Array, binary: int) -> Array | None:
    """Minimise cost @ x within rows @ x <= room, where the first `binary` of x are 0 or 1 and the rest not negative."""
    if not binary:
        return np.zeros(0, dtype=bool)
    is_binary = np.arange(len(cost)) < binary
    answer = milp(
        SCALE * cost,
        constraints=[LinearConstraint(SCALE * rows, ub=SCALE * room)] if len(rows) else None,
        bounds=Bounds(0, np.where(is_binary, 1, np.inf)),
        integrality=is_binary.astype(int),
        options={"mip_rel_gap": 0, "time_limit": SECONDS},
    )
    return None if answer.x is None else answer.x[:binary] > 0.5
