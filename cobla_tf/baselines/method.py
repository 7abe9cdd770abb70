"""One published method as the registry knows it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cobla_tf.costs import Allocation, CostTable

Array = np.ndarray


@dataclass(frozen=True)
class Method:
    """A rank-selection method, called like the function behind it, with all inputs that any method may need.

    Attributes:
        select: select(sigmas, costs, limits, **needs) -> Allocation.
        source: who published it, and where.
        needs: further inputs by name: "shapes", rows and columns of every matricised kernel, and "evaluate", the
            network's loss under an allocation.
        budgeted: False where the method sets its own cost and refuses a budget; limits may then be None.
    """

    select: Callable[..., Allocation]
    source: str
    needs: tuple[str, ...] = ()
    budgeted: bool = True

    def __call__(self, sigmas: list[Array], costs: CostTable, limits: Array | None, **inputs: Any) -> Allocation:
        """Select ranks; inputs that the method does not need are left out.

        Raises:
            BudgetError: the limits cannot be met, or the method takes none.
        """
        return self.select(sigmas, costs, limits, **{name: inputs[name] for name in self.needs})

    def remembering(self) -> "Method":
        """The same for several budgets on one network and sample: what `evaluate` said of an allocation is kept."""
        known: dict[bytes, float] = {}

        def select(*args: Any, evaluate: Callable[[Allocation], float], **inputs: Any) -> Allocation:
            def ask(allocation: Allocation) -> float:
                key = allocation.ranks.tobytes() + allocation.whole.tobytes()
                if key not in known:
                    known[key] = evaluate(allocation)
                return known[key]

            return self.select(*args, evaluate=ask, **inputs)

        return replace(self, select=select)
