"""From relaxed masks to integer ranks inside the budget (paper, section 3, Eq. 9)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from absl import logging

from cobla_tf.allocate import allocate
from cobla_tf.costs import Allocation, CostTable
from cobla_tf.layout import Layout

Array = np.ndarray

ATTEMPTS = 1000
"""Draws after which the budget is met by dropping terms instead of by luck."""
NEGLIGIBLE = 1e-9
"""Of the largest predicted loss, what breaks ties: of the terms that the model has no opinion on, the heavier stay."""
LEAST_SCALE = 1e-3
"""A kept term is never scaled to nothing: two zero factors would have no gradient in fine-tuning."""


@dataclass(frozen=True)
class Rounded:
    """A binary solution.

    Attributes:
        kept: m', which terms stay, bool [n]; all of them at whole sites.
        scale: the masks that P is multiplied by, float64 [n]; 0 where dropped, 1 at whole sites.
        allocation: the ranks and the whole sites.
        biases: of the decomposed sites, fitted anew, as `surgery.rebuild` takes them; None leaves them as they are.
    """

    kept: Array
    scale: Array
    allocation: Allocation
    biases: Sequence[Array] | None = None


def draw_ranks(sums: Array, rng: np.random.Generator) -> Array:
    """Round each sum up with the probability of its fractional part, else down (Eq. 9); int64 [S]."""
    floors = np.floor(sums)
    return (floors + (rng.random(len(sums)) < sums - floors)).astype(np.int64)


def round_masks(
    masks: Array,
    whole: Array,
    sigmas: list[Array],
    costs: CostTable,
    limits: Array,
    rng: np.random.Generator,
    fill: bool = False,
) -> Rounded:
    """Draw ranks r_i = randomised rounding of sum_j m_ij until the budgets hold, at least 1 a site.

    Where ranks are multiples of k, the sums are divided by k, rounded, and multiplied by k.

    Args:
        masks: relaxed masks within the budgets, float64 [n].
        whole: sites already kept whole, bool [S].
        sigmas: singular values a site.
        costs, limits: the budgets, met exactly, in integers.
        rng: the source of chance.
        fill: raise ranks as long as the budgets leave room: draws that fit are low ones.

    Returns:
        a solution whose S_sigma holds the r_i largest m_ij * sigma_ij of each site; where the budgets leave room, sites
        are whole, those that lost the most first.
    """
    layout = Layout(costs.full_ranks)
    sums = layout.sums(masks)
    lost = [np.sum((1 - m) * s**2) for m, s in zip(layout.split(masks), sigmas, strict=True)]
    order = np.argsort(-np.array(lost), kind="stable")
    weights = [m * s for m, s in zip(layout.split(masks), sigmas, strict=True)]
    for _ in range(ATTEMPTS):
        allocation = costs.settle(costs.multiple * draw_ranks(sums / costs.multiple, rng), whole)
        if costs.fits(allocation, limits):
            break
    else:
        allocation = _lowered(sums, weights, whole, costs, limits)
    allocation = costs.promote(allocation, limits, order)
    if fill:
        allocation = _filled(allocation, weights, costs, limits)
    return _keep_largest(masks, weights, layout, allocation)


def round_by_model(
    masks: Array, gradient: Array, curvature: Array, sigmas: list[Array], costs: CostTable, limits: Array
) -> Rounded:
    """Choose terms, ranks and whole sites at once: the exact optimum of a separable model of the loss.

    Dropping term j is predicted to cost -g_j m_j + h_j m_j^2 / 2, at least 0; a whole site costs nothing.

    Args:
        masks: relaxed masks within the budgets, float64 [n].
        gradient, curvature: g and the diagonal h of the Hessian at the masks, float64 [n].
        sigmas: singular values a site.
        costs, limits: the budgets, met exactly, in integers.
    """
    layout = Layout(costs.full_ranks)
    weights = masks * np.concatenate([sigma / max(sigma.max(), np.finfo(float).tiny) for sigma in sigmas])
    losses = np.maximum(-gradient * masks + curvature * masks**2 / 2, 0.0)
    losses = losses + NEGLIGIBLE * max(losses.max(), np.finfo(float).tiny) * (1 + weights)
    values = []
    for loss in layout.split(losses / losses.max()):
        kept = np.cumsum(np.sort(loss)[::-1])
        values.append(kept - kept[-1])
    best = allocate(values, costs, limits)
    if best.gap:
        logging.warning("rounding: the integer program is solved up to a gap of %.1e of all that can be lost", best.gap)
    return _keep_largest(masks, layout.split(losses), layout, best.allocation)


def _lowered(sums: Array, weights: list[Array], whole: Array, costs: CostTable, limits: Array) -> Allocation:
    """Round down, then drop the terms of least weight, m * sigma, while a budget is exceeded."""
    ranks = np.minimum(costs.admissible(np.floor(sums)), costs.full_ranks)
    weights = [np.sort(own)[::-1] for own in weights]
    while not costs.fits(costs.settle(ranks, whole), limits):
        last = [w[r - 1] / max(w[0], np.finfo(float).tiny) for w, r in zip(weights, ranks, strict=True)]
        open_sites = (ranks > costs.multiple) & ~whole
        if not open_sites.any():
            return costs.cheapest(limits)
        ranks[int(np.argmin(np.where(open_sites, last, np.inf)))] -= costs.multiple
    return costs.settle(ranks, whole)


def _filled(allocation: Allocation, weights: list[Array], costs: CostTable, limits: Array) -> Allocation:
    """Add the terms of largest weight, relative to a site's first, that still fit."""
    weights = [np.sort(own)[::-1] / max(own.max(), np.finfo(float).tiny) for own in weights]
    closed = allocation.whole.copy()
    while not closed.all():
        following = [w[min(r, len(w) - 1)] for w, r in zip(weights, allocation.ranks, strict=True)]
        i = int(np.argmax(np.where(closed, -np.inf, following)))
        ranks = allocation.ranks.copy()
        ranks[i] = min(ranks[i] + costs.multiple, costs.full_ranks[i])
        raised = costs.settle(ranks, allocation.whole)
        if costs.fits(raised, limits) and raised.ranks[i] > allocation.ranks[i]:
            allocation, closed = raised, closed | raised.whole
        else:
            closed[i] = True
    return allocation


def _keep_largest(masks: Array, weights: list[Array], layout: Layout, allocation: Allocation) -> Rounded:
    """Keep each site's ranks[i] terms of largest weight."""
    kept, scale = [], []
    for mask, weight, rank, is_whole in zip(
        layout.split(masks), weights, allocation.ranks, allocation.whole, strict=True
    ):
        keep = np.zeros(len(mask), dtype=bool)
        keep[np.argsort(-weight, kind="stable")[:rank]] = True
        kept.append(keep)
        scale.append(np.ones(len(mask)) if is_whole else np.where(keep, np.maximum(mask, LEAST_SCALE), 0.0))
    return Rounded(np.concatenate(kept), np.concatenate(scale), allocation)
