"""What the limits allow a method: to begin with the cheapest allocation, or nothing at all."""

import numpy as np

from cobla_tf.costs import Allocation, CostTable
from cobla_tf.errors import BudgetError

Array = np.ndarray


def cheapest_within(costs: CostTable, limits: Array) -> Allocation:
    """The least rank or the whole layer at every site, within the limits [R].

    Raises:
        BudgetError: no allocation is within the limits.
    """
    cheapest = costs.cheapest(limits)
    if not costs.fits(cheapest, limits):
        used = zip(costs.resources, costs.own_units(costs.used(cheapest)), costs.own_units(limits), strict=True)
        needs = ", ".join(f"{name} {use:,} where {limit:,} is allowed" for name, use, limit in used)
        raise BudgetError(f"the budgets cannot be met, the cheapest network found needs {needs}; raise them.")
    return cheapest


def refuse_budget(method: str, limits: Array | None) -> None:
    """Let through a method that sets its own ranks only where nothing is limited.

    Raises:
        BudgetError: there is a finite limit.
    """
    if limits is not None and np.isfinite(limits).any():
        raise BudgetError(f"{method} sets its own ranks and takes no budget; leave the budgets out.")
