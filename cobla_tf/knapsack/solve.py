"""Best-first branch and bound where the bound leaps, with an exhaustive search near the bound at every node."""

import heapq
from dataclasses import dataclass, field
from itertools import count

import numpy as np

from cobla_tf.knapsack.bound import Bound, lagrangian_bound
from cobla_tf.knapsack.greedy import filled, priced_picks
from cobla_tf.knapsack.problem import TOLERANCE, Choices, Solution
from cobla_tf.knapsack.search import TooManyError, Work, WorkSpentError, search

Array = np.ndarray

FEW, MANY = 100_000, 1_000_000
"""Combinations that one search may hold where its node can be branched on instead, and where that would not help."""
NODES, WORK = 2_000, 50_000_000
"""Nodes, and combinations in all searches, after which the proof is given up; the gap then says how much of it is
missing."""
NARROWEST, WIDENING = 1 / 256, 1.5
"""Of a node's distance between bound and incumbent, the first that is searched, and the growth from one to the next."""
TIED, LEAP = 1e-4, 1 / 8
"""Also of that distance: losses that count as none, and the difference in value of tied choices that is branched on."""


@dataclass
class _Tree:
    """The best picks so far, and the nodes that may hold better ones.

    Attributes:
        choices: the whole problem.
        picks, value: the incumbent.
        unproved: the largest bound of a node that was given up.
        work: what searches may still look at.
        nodes: (-bound, number, places, Bound), a heap.
    """

    choices: Choices
    picks: Array
    value: float
    unproved: float = -np.inf
    work: Work = field(default_factory=lambda: Work(WORK))
    nodes: list[tuple[float, int, Array, Bound]] = field(default_factory=list)
    numbers: count = field(default_factory=count)

    def offer(self, picks: Array | None) -> None:
        """Take picks as the incumbent where they are better."""
        if picks is not None and (value := float(self.choices.values[picks].sum())) > self.value:
            self.picks, self.value = picks, value

    def push(self, places: Array) -> None:
        """Add the node that has only some of the choices, unless it cannot hold anything better."""
        part = self.choices.take(places)
        if len(part.starts) < len(self.choices.twins):
            return
        bound = lagrangian_bound(part)
        if bound.value <= self.value + TOLERANCE:
            return
        picks = priced_picks(part, bound.prices)
        self.offer(None if picks is None else places[picks])
        heapq.heappush(self.nodes, (-bound.value, next(self.numbers), places, bound))

    def close(self, places: Array, bound: Bound) -> None:
        """Search a node if that is cheap; else branch where its bound leaps; else search it step by step."""
        distance = bound.value - self.value
        losses = self.choices.take(places).losses(bound.prices)
        places, losses = places[losses <= distance], losses[losses <= distance]
        try:
            self._search(places, bound, distance, FEW)
            return
        except TooManyError:
            split = _widest_tie(self.choices.take(places), losses <= max(TIED * distance, TOLERANCE))
        try:
            if split.leap <= LEAP * distance:
                self._deepen(places, bound)
                return
        except TooManyError:
            if not split.leap:
                self.unproved = max(self.unproved, bound.value)
                return
        self.push(places[split.low | ~split.site])
        self.push(places[~split.low | ~split.site])

    def _search(self, places: Array, bound: Bound, distance: float, most: int) -> bool:
        picks = search(self.choices.take(places), bound, distance, most, self.work)
        self.offer(None if picks is None else places[picks])
        return picks is not None

    def _deepen(self, places: Array, bound: Bound) -> None:
        """Look ever further below the bound: the best of what is found first is the node's optimum."""
        distance = (bound.value - self.value) * NARROWEST
        while not self._search(places, bound, distance, MANY) and distance < bound.value - self.value:
            distance = min(distance * WIDENING, bound.value - self.value)


@dataclass(frozen=True)
class _Split:
    """Two parts of one site's choices, between which the bound mixes.

    Attributes:
        site: which choices are the site's, bool [n].
        low: which of all choices are in one part, bool [n].
        leap: the difference in value of the tied choices.
    """

    site: Array
    low: Array
    leap: float


def _widest_tie(choices: Choices, tied: Array) -> _Split:
    """Part the site whose tied choices differ most in value: after the first of them, or after all of its kind."""
    ends = np.full((2, len(choices.twins)), -np.inf)
    np.maximum.at(ends[0], choices.sites[tied], choices.values[tied])
    np.maximum.at(ends[1], choices.sites[tied], -choices.values[tied])
    site = int(np.argmax(ends.sum(axis=0)))
    own = choices.sites == site
    first, last = np.flatnonzero(own & tied)[[0, -1]]
    by_kind = choices.kinds[first] != choices.kinds[last]
    low = choices.kinds <= choices.kinds[first] if by_kind else np.arange(len(own)) <= first
    return _Split(own, low, float(ends[:, site].sum()))


def solve(choices: Choices, start: Array) -> Solution:
    """Pick one choice a site, of most value within the limits, and prove it.

    The Lagrangian bound of a node leaves out every choice that costs more than what the incumbent lacks; what is left
    is enumerated by meeting in the middle, in integers. Where a site's choices leap, the bound is loose, and the node
    is branched on.

    Args:
        choices: the problem; finite limits only.
        start: places [S] within the limits.

    Returns:
        the optimum, with a gap of 0 where it is proved.
    """
    start = filled(choices, start)
    tree = _Tree(choices, start, float(choices.values[start].sum()))
    tree.push(np.arange(len(choices.values)))
    for _ in range(NODES):
        if not tree.nodes or -tree.nodes[0][0] <= tree.value + TOLERANCE:
            break
        _, _, places, bound = heapq.heappop(tree.nodes)
        try:
            tree.close(places, bound)
        except WorkSpentError:
            tree.unproved = max(tree.unproved, bound.value)
            break
    left = -tree.nodes[0][0] if tree.nodes else -np.inf
    bound = max(tree.value, tree.unproved, left)
    return Solution(tree.value, bound if bound > tree.value + TOLERANCE else tree.value, tree.picks)
