"""What the user asks for, as absolute limits; and in one sentence, why it cannot be had."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import ROUND_CEILING, Context, Decimal
from fractions import Fraction
from numbers import Integral, Real

import numpy as np

from cobla_tf.costs import COUNTED, CostTable
from cobla_tf.errors import BudgetError, ConfigError, did_you_mean
from cobla_tf.knapsack.problem import LARGEST

Array = np.ndarray
Budgets = Mapping[str, float | None]


def merge_budgets(macs: float | None, params: float | None, further: Budgets | None) -> dict[str, float | None]:
    """All budgets by name, of the short forms and of `further`, which may hold macs and params as well.

    Raises:
        BudgetError: two budgets on one resource, or `further` is no mapping.
    """
    if further is not None and not isinstance(further, Mapping):
        raise BudgetError(f"budgets must map names of resources to numbers, got {further!r}; write e.g. macs: 0.5.")
    merged = {"macs": macs, "params": params}
    for name, budget in (further or {}).items():
        if merged.get(name) is not None and budget is not None:
            raise BudgetError(f"{name} has two budgets, {merged[name]!r} and {budget!r}; give one of them.")
        merged[name] = merged.get(name) if budget is None else budget
    return merged


def parse_budget(where: str, text: str | None, expected: str = "a number or none") -> float | None:
    """A budget from its text; None where it is unset or "none".

    Raises:
        ConfigError: something else than a number; it names `where`, and what is `expected` there.
    """
    if text is None or text.strip().lower() == "none":
        return None
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"{where} must be {expected}, got {text!r}{_spelling(text)}.") from None


def _spelling(text: str) -> str:
    """How a number is written, for someone who meant per cent, or set commas for the point or between thousands."""
    if re.fullmatch(r"\d{1,3}(,\d{3})+", text.strip()):
        return f"; write {text.strip().replace(',', '')}"
    number = text.strip().rstrip("% ").replace(",", ".")
    is_number = re.fullmatch(r"\d*\.?\d+", number) is not None
    if is_number and "%" in text and 0 < float(number) <= 100:
        return f"; {number} % is {float(number) / 100:.12g}"
    return f"; write {number}" if is_number and "%" not in text else "; 50 % is 0.5"


def parse_budgets(where: str, entries: Sequence[str]) -> dict[str, float | None]:
    """Budgets by name from texts NAME=NUMBER.

    Raises:
        ConfigError: an entry of another form, or two of one name.
    """
    budgets: dict[str, float | None] = {}
    for entry in entries:
        name, equals, text = entry.partition("=")
        if not equals or name.strip() in budgets:
            raise ConfigError(f"{where} must be NAME=NUMBER,..., each name once, got {','.join(entries)!r}.")
        budgets[name.strip()] = parse_budget(f"{where}: {name.strip()}", text)
    return budgets


def check_budgets(budgets: Budgets, further: Sequence[str] = ()) -> None:
    """Check form and names, before anything is known of the model.

    Args:
        budgets: as for `resolve_limits`.
        further: names of the resources that there are beside COUNTED.

    Raises:
        BudgetError: no budget at all, one that is not a positive number, or one on a resource that there is not.
    """
    names = (*COUNTED, *further)
    for name, budget in budgets.items():
        if name not in names:
            hint = did_you_mean(name, names, otherwise="; give others with resources= (--resources).")
            raise BudgetError(f"there is a budget on {name!r}, but the resources are {', '.join(names)}{hint}")
        if budget is not None and not _is_positive(budget):
            raise BudgetError(
                f"the {name} budget must be a fraction in (0, 1] or an absolute number above 1, got {budget!r}"
                f"{_spelling(budget) if isinstance(budget, str) else ''}."
            )
    if all(budget is None for budget in budgets.values()):
        raise BudgetError(
            f"expected a budget on at least one of {', '.join(names)}, got none; give e.g. macs=0.5 (--macs=0.5)."
        )


def resolve_limits(costs: CostTable, budgets: Budgets) -> Array:
    """Turn what the user asked for into absolute limits.

    Args:
        costs: the sites' costs.
        budgets: per resource a fraction up to 1 of the original sites' cost, an absolute number above 1, or None.

    Returns:
        limits, float64 [R] in units of the table, infinite where there is no budget.

    Raises:
        BudgetError: as `check_budgets`, or a budget below the smallest reachable, alone or together with the others.
    """
    limits = absolute_limits(costs, budgets)
    budgeted = np.isfinite(limits)
    _check_reachable(costs.take(budgeted), limits[budgeted], budgets)
    return limits


def absolute_limits(costs: CostTable, budgets: Budgets) -> Array:
    """The limits of `resolve_limits`, whether they can be reached or not; they depend on the original costs alone.

    Raises:
        BudgetError: as `check_budgets`.
    """
    check_budgets(budgets, [name for name in costs.resources if name not in COUNTED])
    parts = zip(costs.resources, costs.totals(), costs.decimals, strict=True)
    return np.array([_limit(budgets.get(name), int(total), int(places)) for name, total, places in parts])


def _is_positive(budget: object) -> bool:
    return isinstance(budget, Real) and not isinstance(budget, bool) and 0 < budget < math.inf


def _limit(budget: float | None, total: int, places: int) -> float:
    """Floored in units; a number is taken as it is written in decimals, so that 0.29 of 100 is 29."""
    if budget is None:
        return math.inf
    exact = Fraction(int(budget)) if isinstance(budget, Integral) else Fraction(repr(float(budget)))
    return float(min(math.floor(exact * total if exact <= 1 else exact * Fraction(10) ** places), int(LARGEST)))


def _check_reachable(costs: CostTable, limits: Array, budgets: Budgets) -> None:
    least = np.maximum(costs.least(), 1)
    too_low = np.flatnonzero(limits < least)
    if len(too_low):
        row = too_low[0]
        name = costs.resources[row]
        raise BudgetError(
            f"the {name} budget is {_amount(costs, row, limits[row])}, but the smallest reachable one is "
            f"{_with_share(costs, row, least[row])}; raise {name} to that or more{_percent_hint(name, budgets[name])}"
            f"{_multiple_hint(costs, limits)}."
        )
    nearest = costs.cheapest(limits)
    if not costs.fits(nearest, limits):
        way_out = _way_out(costs, limits, costs.used(nearest))
        raise BudgetError(f"the budgets cannot be met together; {way_out}{_multiple_hint(costs, limits)}.")


def _percent_hint(name: str, budget: float) -> str:
    """What someone who meant per cent should write."""
    meant = name in COUNTED and 1 < budget <= 100
    return f" (above 1 a budget is an absolute number; {budget:g} % is {budget / 100:g})" if meant else ""


def _multiple_hint(costs: CostTable, limits: Array) -> str:
    """The largest part of a multiple of ranks with which the limits can be met; nothing where it is not to blame."""
    for smaller in range(costs.multiple // 2, 0, -1):
        if costs.multiple % smaller:
            continue
        table = replace(costs, multiple=smaller)
        reachable = (limits >= np.maximum(table.least(), 1)).all()
        if reachable and table.fits(table.cheapest(limits), limits):
            return (
                f", or lower rank_multiple (--rank_multiple), the reason for this, from {costs.multiple} to {smaller}"
            )
    return ""


def _way_out(costs: CostTable, limits: Array, nearest: Array) -> str:
    """The smallest feasible limit of each resource with the others as they are; where there is none, of all at once."""
    ways = []
    for row, name in enumerate(costs.resources):
        found = costs.least_given(row, limits)
        if found is not None:
            ways.append(f"{name} to {_with_share(costs, row, costs.used(found)[row])}")
    if ways:
        return f"with the others as they are, raise {' or '.join(ways)}, the smallest that can be reached"
    needs = [f"{name} {_with_share(costs, row, nearest[row])}" for row, name in enumerate(costs.resources)]
    return f"no single one of them is enough, and the network that comes nearest needs {', '.join(needs)}"


def _with_share(costs: CostTable, row: int, units: int) -> str:
    """An amount and, up to 1, its fraction of the total; both are rounded up, so that they can be used as they are."""
    total = int(costs.totals()[row])
    share = -(-int(units) * 10**4 // total)
    of_all = f"the sites' {_amount(costs, row, total)}"
    return f"{_amount(costs, row, units)} ({f'{share / 10**4:.4f} of ' if share <= 10**4 else ''}{of_all})"


def _amount(costs: CostTable, row: int, units: float) -> str:
    """In the user's units: whole numbers as they are, others rounded up to six digits."""
    places = int(costs.decimals[row])
    exact = Decimal(int(units)).scaleb(-places)
    rounded = Context(prec=6, rounding=ROUND_CEILING).plus(exact) if places else exact
    return f"{rounded.normalize() if places else rounded:,f}"
