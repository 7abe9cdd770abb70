"""The band of masks left free: those on which heuristics disagree between a stricter and a looser budget."""

from dataclasses import dataclass

import numpy as np

from cobla_tf.baselines.cptv import select as cptv
from cobla_tf.baselines.pos_cvx import select as pos_cvx
from cobla_tf.costs import CostTable
from cobla_tf.layout import Layout

Array = np.ndarray

HEURISTICS = (cptv, pos_cvx)
STRICTER, LOOSER, LEAST = 1.8, 0.2, 0.03
"""Of the authors' program: a budget eta is read as 1 - 1.8 (1 - eta), at least 0.03, and as 1 - 0.2 (1 - eta)."""


@dataclass(frozen=True)
class Band:
    """Bounds on the masks.

    Attributes:
        lower: 1 where every heuristic keeps the term under the stricter budget, else 0; float64 [n].
        upper: 0 where every heuristic drops it under the looser budget, else 1; float64 [n].
    """

    lower: Array
    upper: Array


def open_band(layout: Layout) -> Band:
    """Every mask free in [0, 1]."""
    return Band(np.zeros(layout.size), np.ones(layout.size))


def heuristic_band(sigmas: list[Array], costs: CostTable, limits: Array, start: Array) -> Band:
    """Fix what CPTV and POS-CVX agree on (the authors' program, beyond the paper's text).

    Args:
        sigmas: singular values of every site.
        costs: of the sites.
        limits: the budgets, float64 [R].
        start: feasible masks, float64 [n]; the band is widened to hold them, so that it has a feasible point.
    """
    layout = Layout(costs.full_ranks)
    least = costs.used(costs.cheapest(limits))
    share = limits / costs.totals()
    stricter = np.maximum(costs.totals() * np.maximum(1 - STRICTER * (1 - share), LEAST), least)
    looser = np.maximum(costs.totals() * (1 - LOOSER * (1 - share)), limits)
    kept = [layout.leading(select(sigmas, costs, stricter).ranks) for select in HEURISTICS]
    reached = [layout.leading(select(sigmas, costs, looser).ranks) for select in HEURISTICS]
    return Band(np.min([*kept, start], axis=0), np.max([*reached, start], axis=0))
