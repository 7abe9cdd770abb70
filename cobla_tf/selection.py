"""Ranks by a rival method instead of the optimiser: checks, what the method needs, and a solution of the same form."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from absl import logging

from cobla_tf.baselines import RIVALS
from cobla_tf.baselines.method import Method
from cobla_tf.baselines.pos_cvx import optimum
from cobla_tf.budgets import Budgets, check_budgets
from cobla_tf.config import RANK_METHODS, Config
from cobla_tf.costs import Allocation, CostTable
from cobla_tf.errors import BudgetError, ConfigError, check_among
from cobla_tf.journal import Journal
from cobla_tf.rounding import Rounded
from cobla_tf.solution import Solution
from cobla_tf.texts import counted

if TYPE_CHECKING:
    import keras

    from cobla_tf.plan import Plan

Array = np.ndarray

COBLA = RANK_METHODS[0]


def check_method(method: str | Method, budgets: Budgets, further: Sequence[str] = ()) -> None:
    """Check a method and whether it takes the budgets, before anything is known of the model.

    Args:
        method: a name in RANK_METHODS, or one of the caller's own.
        budgets, further: as for `check_budgets`.

    Raises:
        ConfigError: there is no such method.
        BudgetError: as `check_budgets`; or a budget for a method that sets its own cost.
    """
    if not isinstance(method, Method):
        check_among("method", method, RANK_METHODS)
    if takes_budgets(method):
        check_budgets(budgets, further)
        return
    given = [str(name) for name, budget in budgets.items() if budget is not None]
    if given:
        raise BudgetError(
            f"{method_name(method)} sets its own ranks and takes no budget, got one on {', '.join(given)}; leave it "
            "out, or set it to none."
        )


def takes_budgets(method: str | Method) -> bool:
    """Whether a method meets budgets, rather than setting its own cost."""
    return method == COBLA or _rival(method).budgeted


def needs_sample(method: str | Method) -> bool:
    """Whether a method looks at training images, and not only at the weights."""
    return method == COBLA or "evaluate" in _rival(method).needs


def method_name(method: str | Method) -> str:
    """What reports call a method: its name, or where the caller's own one comes from."""
    return method.source if isinstance(method, Method) else method


def _rival(method: str | Method) -> Method:
    return method if isinstance(method, Method) else RIVALS[method]


def select_ranks(model: "keras.Model", plan: "Plan", config: Config, journal: Journal) -> Solution:
    """Give every site the rank that `plan.method` chooses, of its leading terms, at their own scale.

    Args:
        model: the original; it is not changed.
        plan: all that is known of the problem; its method is any but COBLA.
        config: the seed, and the size of the sample for a method that needs one.
        journal: of the losses that such a method asks for.

    Returns:
        a solution without masks to start from, without relaxed ones and without iterations.

    Raises:
        BudgetError: the limits cannot be met.
    """
    rival, budgeted = _rival(plan.method), np.isfinite(plan.limits)
    costs, limits = (plan.costs.take(budgeted), plan.limits[budgeted]) if rival.budgeted else (plan.costs, None)
    status = f"ranks by {plan.method} ({rival.source})" if isinstance(plan.method, str) else f"ranks by {rival.source}"
    if plan.method == "pos_cvx":
        allocation, proof = _proved(plan.sites.sigmas, costs, limits)
        status = f"{status}; {proof}"
    else:
        inputs = {"shapes": plan.sites.shapes}
        if needs_sample(plan.method):
            inputs["evaluate"], images = _sampled_loss(model, plan, config, journal)
            status = f"{status}; losses on {counted(images, 'training image')}"
        allocation = rival(plan.sites.sigmas, costs, limits, **inputs)
        _check(allocation, costs, limits, rival.source)
    leading = plan.sites.layout.leading(allocation.ranks)
    return Solution(None, None, Rounded(leading > 0, leading, allocation), status)


def _check(allocation: Allocation, costs: CostTable, limits: Array | None, source: str) -> None:
    """Refuse what no network can be rebuilt from, or what breaks a budget: a method may be the caller's own."""
    ranks, whole = allocation.ranks, allocation.whole
    alike = np.shape(ranks) == np.shape(whole) == costs.full_ranks.shape
    if not (alike and ((ranks >= 1) & (ranks <= costs.full_ranks) & (whole | (ranks % costs.multiple == 0))).all()):
        raise ConfigError(
            f"the method by {source} must give each site a rank from 1 to its full one, in multiples of "
            f"{costs.multiple} unless it is whole; got {np.array(ranks).tolist()} for full ranks "
            f"{costs.full_ranks.tolist()}."
        )
    if limits is not None and not costs.fits(allocation, limits):
        used = costs.own_units(costs.used(allocation))
        raise BudgetError(f"the method by {source} uses {used} of {', '.join(costs.resources)}, and the limits are "
                          f"{costs.own_units(limits)}.")  # fmt: skip


def _proved(sigmas: list[Array], costs: CostTable, limits: Array) -> tuple[Allocation, str]:
    """POS-CVX, and how far its optimum is proved."""
    best = optimum(sigmas, costs, limits)
    if best.gap:
        return best.allocation, f"proved up to a gap of {best.gap:.1e} in the logarithm of Eq. 12"
    return best.allocation, "proved optimal, gap 0"


def _sampled_loss(
    model: "keras.Model", plan: "Plan", config: Config, journal: Journal
) -> tuple[Callable[[Allocation], float], int]:
    """The loss under an allocation on one random sample of the training images, and the size of the sample."""
    from cobla_tf.recorded import recorded_objective

    objective = recorded_objective(model, plan, config, journal, "float32")
    size = config.solve.sample_size(plan.train_set.size)
    sample = plan.train_set.draw(size, np.random.default_rng(config.seed))

    def evaluate(allocation: Allocation) -> float:
        loss = objective.value(plan.sites.layout.leading(allocation.ranks), sample)
        cut = (f"{plan.sites.names[i]} at rank {allocation.ranks[i]}" for i in np.flatnonzero(~allocation.whole))
        logging.info("%s alone: loss %.4f", ", ".join(cut), loss)
        return loss

    return evaluate, sample.size
