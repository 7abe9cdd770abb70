"""Every pick within a given distance of the bound, by meeting in the middle; the best of them is the optimum."""

from dataclasses import dataclass

import numpy as np

from cobla_tf.knapsack.bound import Bound
from cobla_tf.knapsack.problem import Choices

Array = np.ndarray

PAIRS = 50
"""Most pairs looked at when the halves meet, for each combination that one half may hold."""
CHUNK = 500_000


class TooManyError(Exception):
    """There are more combinations than the search may hold."""


class WorkSpentError(Exception):
    """All that may be looked at has been."""


@dataclass
class Work:
    """Combinations that may still be looked at, over all searches: a limit that is the same on every machine."""

    left: int

    def spend(self, combinations: int) -> None:
        """Count them before they are looked at; raises WorkSpentError."""
        self.left -= combinations
        if self.left < 0:
            raise WorkSpentError


@dataclass(frozen=True)
class _Combinations:
    """Combined picks of some sites, in ascending order of loss.

    Attributes:
        losses: sums of `Choices.losses`, float64 [K].
        costs: int64 [R, K].
        picks: places, int32 [sites, K].
    """

    losses: Array
    costs: Array
    picks: Array

    def take(self, order: Array) -> "_Combinations":
        return _Combinations(self.losses[order], self.costs[:, order], self.picks[:, order])

    def distinct(self) -> "_Combinations":
        """Of those that cost the same, the one of least loss."""
        order = np.lexsort([self.losses, *self.costs])
        costs = self.costs[:, order]
        new = np.append(True, (np.diff(costs, axis=1) != 0).any(axis=0))
        kept = order[new]
        return self.take(kept[np.argsort(self.losses[kept], kind="stable")])


@dataclass(frozen=True)
class _Limit:
    """How far below the bound is looked, how many combinations a half may hold, and what may be spent in all."""

    distance: float
    most: int
    work: Work

    def check(self, combinations: int, times: int = 1) -> None:
        """Refuse more than `times` as many as a half may hold."""
        if combinations > self.most * times:
            raise TooManyError
        self.work.spend(combinations)


def search(choices: Choices, bound: Bound, distance: float, most: int, work: Work) -> Array | None:
    """Find the most valuable picks within the limits and within `distance` of the bound.

    The value of any picks is bound - sum of their losses - prices . (room that they leave), and no term is negative: so
    the losses alone cut the combinations of each half down, and the priced room leaves few pairs of halves.

    Args:
        choices, bound: the problem and its Lagrangian bound.
        distance: how far below the bound is looked.
        most: combinations that one half may hold.
        work: what may be spent, counted down.

    Returns:
        places [S], or None: then no picks within the limits have a value of bound - distance or more.

    Raises:
        TooManyError: the combinations outgrow `most`.
        WorkSpentError: the combinations of this search and those before outgrow `work`.
    """
    limit = _Limit(distance, most, work)
    left, right = _halves(_of_sites(choices, bound, limit), limit)
    prices = bound.prices / np.maximum(choices.limits, 1)
    picks = _best_pair(left, right, choices.limits, prices, limit)
    return None if picks is None else np.sort(picks).astype(np.int64)


def _of_sites(choices: Choices, bound: Bound, limit: _Limit) -> list[_Combinations]:
    """One set a group of twins: few of their combinations differ in cost, and only the best of each cost is kept."""
    losses = choices.losses(bound.prices)
    groups: dict[int, _Combinations] = {}
    for site, places in enumerate(np.split(np.arange(len(losses)), choices.starts[1:])):
        near = places[losses[places] <= limit.distance]
        near = near[np.argsort(losses[near], kind="stable")]
        alone = _Combinations(losses[near], choices.costs[:, near], near[None].astype(np.int32))
        twin = int(choices.twins[site])
        groups[twin] = _combine(groups[twin], alone, limit).distinct() if twin in groups else alone
    return list(groups.values())


def _halves(parts: list[_Combinations], limit: _Limit) -> tuple[_Combinations, _Combinations]:
    """Deal the sets out, the largest first, always to the half that is smaller so far."""
    rows = len(parts[0].costs)
    halves = [_Combinations(np.zeros(1), np.zeros((rows, 1), np.int64), np.zeros((0, 1), np.int32))] * 2
    for part in sorted(parts, key=lambda part: -len(part.losses)):
        smaller = int(np.argmin([len(half.losses) for half in halves]))
        halves[smaller] = _combine(halves[smaller], part, limit)
    return halves[0], halves[1]


def _combine(one: _Combinations, other: _Combinations, limit: _Limit) -> _Combinations:
    """All sums whose losses stay within the distance."""
    counts = np.searchsorted(other.losses, limit.distance - one.losses, side="right")
    limit.check(int(counts.sum()))
    i, j = _spans(np.zeros_like(counts), counts)
    losses = one.losses[i] + other.losses[j]
    both = _Combinations(losses, one.costs[:, i] + other.costs[:, j], np.vstack([one.picks[:, i], other.picks[:, j]]))
    return both.take(np.argsort(losses, kind="stable"))


def _best_pair(left: _Combinations, right: _Combinations, limits: Array, prices: Array, limit: _Limit) -> Array | None:
    """Of the pairs of halves within the limits, the one of least loss and priced room together."""
    worth = prices @ right.costs
    order = np.argsort(worth, kind="stable")
    right, worth = right.take(order), worth[order]
    room = prices @ limits - prices @ left.costs
    blur = 1e-9 * max(1.0, float(prices @ limits))  # float64 sums of priced costs; the limits themselves are integers
    firsts = np.searchsorted(worth, room - (limit.distance - left.losses) - blur)
    counts = np.maximum(np.searchsorted(worth, room + blur, side="right") - firsts, 0)
    limit.check(int(counts.sum()), PAIRS)
    best, found = limit.distance, None
    for rows in np.split(np.arange(len(counts)), _chunk_ends(counts)):
        i, j = _spans(firsts[rows], counts[rows])
        i = rows[i]
        costs = left.costs[:, i] + right.costs[:, j]
        fitting = (costs <= limits[:, None]).all(axis=0)
        losses = left.losses[i] + right.losses[j] + prices @ (limits[:, None] - costs)
        losses = np.where(fitting, losses, np.inf)
        if len(losses) and losses.min() <= best:
            place = int(np.argmin(losses))
            best, found = losses[place], np.append(left.picks[:, i[place]], right.picks[:, j[place]])
    return found


def _spans(firsts: Array, counts: Array) -> tuple[Array, Array]:
    """For every row i the pairs (i, firsts[i]), ..., (i, firsts[i] + counts[i] - 1)."""
    i = np.repeat(np.arange(len(counts)), counts)
    return i, np.arange(len(i)) - np.repeat(np.cumsum(counts) - counts - firsts, counts)


def _chunk_ends(counts: Array) -> Array:
    """Rows before which to cut so that a chunk holds about CHUNK pairs."""
    chunk = np.cumsum(counts) // CHUNK
    return np.flatnonzero(np.diff(chunk)) + 1
