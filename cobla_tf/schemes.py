"""A scheme for each site: the one that POS-CVX takes if it has the ranks of both schemes to choose from.

Energies of both schemes are shares of the same kernel's, so they compare, and so do their costs. The joint program
(paper, Eq. 12, with staying whole, as in `baselines.pos_cvx`) has every choice of either pure one, and its optimum is
never below theirs. It decides nothing but the schemes: the ranks are the method's own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from absl import logging

from cobla_tf.allocate import SiteChoices, site_choices
from cobla_tf.baselines.pos_cvx import log_shares
from cobla_tf.budgets import Budgets, absolute_limits
from cobla_tf.costs import CostTable
from cobla_tf.errors import ConfigError
from cobla_tf.knapsack import Choices, solve
from cobla_tf.reach import balanced

if TYPE_CHECKING:
    from cobla_tf.sites import Sites

Array = np.ndarray

ALIKE = 1e-9
"""Difference of logarithms of energy shares that is round-off of two decompositions of one matrix."""


def check_auto(method: str, budgeted: bool, resources: Sequence[object]) -> None:
    """Check what else was asked for beside a scheme for each site.

    Raises:
        ConfigError: there are no budgets to serve, or costs that are known for one scheme only.
    """
    if not budgeted:
        raise ConfigError(f"scheme auto serves budgets, and {method} takes none; choose spatial or channel.")
    if resources:
        raise ConfigError("scheme auto knows MACs and params only, and there are other resources; choose one scheme.")


def choose_schemes(candidates: Sequence["Sites"], budgets: Budgets, multiple: int = 1) -> "Sites":
    """Each site in the scheme that serves the budgets best.

    Args:
        candidates: the same sites, once in each scheme.
        budgets: on COUNTED, as for `resolve_limits`.
        multiple: every rank is one of this.
    """
    tables = [replace(sites.costs, multiple=multiple) for sites in candidates]
    values = [[log_shares(sigma) for sigma in sites.sigmas] for sites in candidates]
    picks = best_schemes(values, tables, absolute_limits(tables[0], budgets))
    found = tuple(candidates[pick].found[i] for i, pick in enumerate(picks))
    for site in found:
        logging.info("%s: scheme %s", site.name, site.decomposition.form.scheme)
    return replace(candidates[0], found=found)


def best_schemes(values: Sequence[list[Array]], tables: Sequence[CostTable], limits: Array) -> Array:
    """The table of each site's choice at the optimum over all tables, int64 [S].

    A site that is whole there has the table in which the last rank below saturation is worth most. Where no mixture
    is within the limits, the sites have the tables that come nearest to them.

    Args:
        values: for each table, as for `allocate`.
        tables: of the same sites, with like original costs.
        limits: the budgets, float64 [R]; an infinite one is none.
    """
    finite = np.isfinite(limits)
    tables, limits = [table.take(finite) for table in tables], limits[finite]
    leanest = np.argmin([_least_shares(table, limits) for table in tables], axis=0)
    pure = [np.full(len(leanest), number) for number in range(len(tables))]
    sites = [_offers(values, tables, i) for i in range(len(leanest))]
    choices = Choices.of(
        [site.values for site in sites],
        [site.costs for site in sites],
        [site.kinds for site in sites],
        [site.costs.tobytes() for site in sites],
        limits,
    )
    starts = [start for pick in (*pure, leanest) if (start := _start(choices, tables, pick)) is not None]
    if not starts:
        leanest = _most_room(tables, limits)
        last = _start(choices, tables, leanest)
        if last is None:
            return leanest
        starts = [last]
    solution = solve(choices, max(starts, key=lambda picks: choices.values[picks].sum()))
    kinds = choices.kinds[solution.picks]
    return np.where(kinds < len(tables), kinds, [site.when_whole for site in sites])


@dataclass(frozen=True)
class _Offers:
    """What one site can be given in any scheme; whole comes last.

    Attributes:
        values, costs: float64 [n], int64 [R, n].
        kinds: the table, or the number of tables where whole, int64 [n].
        when_whole: the table in which the last rank below saturation is worth most.
    """

    values: Array
    costs: Array
    kinds: Array
    when_whole: int


def _offers(values: Sequence[list[Array]], tables: Sequence[CostTable], index: int) -> _Offers:
    parts = [site_choices(own[index], table, index) for own, table in zip(values, tables, strict=True)]
    last = [part.values[-2] if len(part.values) > 1 else -np.inf for part in parts]
    distinct = {}
    for number, part in enumerate(parts):  # of a 1 x 1 kernel, say, all schemes are one
        if not any(_alike(part, other) for other in distinct.values()):
            distinct[number] = part
    kinds = [np.full(len(part.values) - 1, number) for number, part in distinct.items()]
    return _Offers(
        np.concatenate([*(part.values[:-1] for part in distinct.values()), [0.0]]),
        np.concatenate([*(part.costs[:, :-1] for part in distinct.values()), parts[0].costs[:, -1:]], axis=1),
        np.concatenate([*kinds, [len(tables)]]).astype(np.int64),
        int(np.argmax(last)),
    )


def _alike(one: SiteChoices, other: SiteChoices) -> bool:
    return np.array_equal(one.costs, other.costs) and np.allclose(one.values, other.values, rtol=0, atol=ALIKE)


def _start(choices: Choices, tables: Sequence[CostTable], pick: Array) -> Array | None:
    """The cheapest places with each site in the table of its `pick`; None where they exceed a limit."""
    rows = ("original", "per_rank", "base")
    columns = {row: np.choose(pick, [getattr(table, row) for table in tables]) for row in rows}
    table = replace(tables[0], full_ranks=np.choose(pick, [table.full_ranks for table in tables]), **columns)
    cheapest = table.cheapest(choices.limits)
    costs = table.of_sites(cheapest)
    places = [
        np.flatnonzero((choices.sites == i) & (choices.costs == costs[:, [i]]).all(axis=0))[-1 if whole else 0]
        for i, whole in enumerate(cheapest.whole)
    ]
    return np.array(places) if table.fits(cheapest, choices.limits) else None


def _most_room(tables: Sequence[CostTable], limits: Array) -> Array:
    """The table of each site, int64 [S], with which the largest share of a limit that is used can be least."""
    original, least = tables[0].original, np.stack([table.least_costs for table in tables])  # [R, S], [T, R, S]
    count, _, sites = least.shape
    change = (least - original).transpose(1, 0, 2).reshape(len(limits), -1)  # of the choices, table by table
    chosen = balanced(original.sum(axis=1), change, np.maximum(limits, 1), np.tile(np.arange(sites), count))
    return np.argmax(chosen.reshape(count, sites), axis=0)


def _least_shares(table: CostTable, limits: Array) -> Array:
    """Largest share of a limit that each site takes at least, float64 [S]."""
    least = np.minimum(table.original, table.least_costs)
    return (least / np.maximum(limits, 1)[:, None]).max(axis=0)
