"""Resources of the user's beside MACs and params: measured latency, energy, bytes; a cost per site and rank."""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from difflib import get_close_matches
from fractions import Fraction
from numbers import Real
from pathlib import Path

import numpy as np
from absl import logging

from cobla_tf.costs import COUNTED, CostTable
from cobla_tf.errors import ConfigError, first_line

DIGITS = 15
"""Decimal digits kept of the dearest network's cost: float64 holds the whole numbers up to 10^15 exactly."""
COLUMNS = ("site", "resource", "original", "per_rank")
OPTIONAL = "base"


@dataclass(frozen=True)
class Resource:
    """What each site costs in one resource, whole and as two factors of rank r: base + r * per_rank.

    Attributes:
        name: to name its budget by.
        original: cost of the original layer, by site; a site goes by its layer's name, nested ones joined by "/".
        per_rank: cost of one rank of the two factors, by site.
        base: what two factors cost whatever their rank (say, a kernel launch), by site; 0 where it is not given.

    All costs are real numbers, at least 0, in any one unit.

    Raises:
        ConfigError: a name or a cost that cannot be used.
    """

    name: str
    original: Mapping[str, float]
    per_rank: Mapping[str, float]
    base: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check every field, and keep copies."""
        _check_name(self.name)
        for part in ("original", "per_rank", "base"):
            costs = getattr(self, part)
            if not isinstance(costs, Mapping):
                raise ConfigError(f"resource {self.name}: {part} must map names of sites to costs, got {costs!r}.")
            for site, cost in costs.items():
                _check_cost(f"resource {self.name}, site {site}", part, cost)
            object.__setattr__(self, part, dict(costs))
        single = sorted(set(self.original) ^ set(self.per_rank))
        if single:
            names = ", ".join(map(str, single))
            raise ConfigError(f"resource {self.name}: expected original and per_rank of a site, got one for {names}.")


def read_resources(path: Path | str) -> tuple[Resource, ...]:
    """Read a CSV file with the columns site, resource, original, per_rank and, if wanted, base.

    Raises:
        ConfigError: the file cannot be read, or a line of it cannot be used; file and line are named.
    """
    tables: dict[str, dict[str, dict[str, float]]] = {}
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True, skipinitialspace=True)
            _check_head(path, reader.fieldnames or [])
            for row in reader:
                _add_row(f"{path}, line {reader.line_num}", row, tables)
    except (OSError, UnicodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise ConfigError(
            f"cannot read the resources in {path} ({reason}); expected a CSV file with the columns "
            f"{','.join(COLUMNS)} and, if wanted, {OPTIONAL}."
        ) from error
    if not tables:
        raise ConfigError(f"{path}: expected a row for every site and resource below the line of columns, got none.")
    return tuple(Resource(name, **columns) for name, columns in tables.items())


def write_resources(resources: Iterable[Resource], path: Path | str) -> None:
    """Write a CSV file that `read_resources` reads.

    Args:
        resources: one or several; a site's row has 0 where a resource has no base for it.
        path: of the file, which is replaced.

    Raises:
        OSError: it cannot be written.
    """
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow((*COLUMNS, OPTIONAL))
        for resource in resources:
            for site, cost in resource.original.items():
                writer.writerow((site, resource.name, cost, resource.per_rank[site], resource.base.get(site, 0)))


def check_resources(resources: Sequence[Resource]) -> None:
    """Check that they are what they should be, before anything is known of the model.

    Raises:
        ConfigError: something else than a resource, or two of one name.
    """
    if not isinstance(resources, Sequence) or not all(isinstance(resource, Resource) for resource in resources):
        raise ConfigError("resources must be a sequence of cobla_tf.Resource objects, e.g. [Resource(...)].")
    names = [resource.name for resource in resources]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"there are two resources of the name {twice[0]}; give each its own.")


def add_resources(
    costs: CostTable, sites: Sequence[str], resources: Iterable[Resource], left_alone: Sequence[str] = ()
) -> CostTable:
    """The table with a row for each further resource; real costs become whole units, rounded up.

    A unit is a power of ten, 10^-15 to 10^-14 of the dearest network's cost: sums are exact, a cost with no more
    digits than that stays as it is written, and limits that hold in units hold in what the user measured.

    Args:
        costs: of S sites.
        sites: their names [S].
        resources: with a cost for each of these sites.
        left_alone: names of layers that are no sites; they do not count, and costs given for them are passed over.

    Raises:
        ConfigError: a site without a cost or unknown, or a resource that costs nothing.
    """
    for resource in resources:
        _check_sites(resource, sites, left_alone)
        costs = _add(costs, sites, resource)
    return costs


def _add(costs: CostTable, sites: Sequence[str], resource: Resource) -> CostTable:
    parts = (resource.original, resource.per_rank, resource.base)
    exact = [[Fraction(repr(float(part.get(site, 0)))) for site in sites] for part in parts]
    if not any(exact[0]):
        raise ConfigError(f"resource {resource.name}: its original cost is 0 at every site; leave it out.")
    full_ranks = costs.full_ranks.tolist()
    factors = [base + rank * slope for slope, base, rank in zip(*exact[1:], full_ranks, strict=True)]
    dearest = sum(map(max, exact[0], factors))
    places = DIGITS - 1 - (Decimal(dearest.numerator) / Decimal(dearest.denominator)).adjusted()
    original, per_rank, base = ([math.ceil(cost * Fraction(10) ** places) for cost in part] for part in exact)
    return replace(
        costs,
        resources=(*costs.resources, resource.name),
        original=np.vstack([costs.original, np.array(original, dtype=np.int64)]),
        per_rank=np.vstack([costs.per_rank, np.array(per_rank, dtype=np.int64)]),
        base=np.vstack([costs.base, np.array(base, dtype=np.int64)]),
        decimals=np.append(costs.decimals, places),
    )


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not name.strip() or set(name) & set("=,\n"):
        raise ConfigError(f"the name of a resource must be a text without '=' and ',', got {name!r}.")
    if name.lower() in COUNTED:
        raise ConfigError(f"{name} is counted in the network itself; give a resource of your own another name.")


def _check_cost(where: str, part: str, cost: object) -> None:
    if isinstance(cost, bool) or not isinstance(cost, Real) or not 0 <= cost < math.inf:
        raise ConfigError(f"{where}: {part} must be a number, at least 0 and finite, got {cost!r}.")


def _check_head(path: Path | str, names: Sequence[str]) -> None:
    missing = [name for name in COLUMNS if name not in names]
    unknown = [name for name in names if name not in (*COLUMNS, OPTIONAL)]
    if missing or unknown or len(set(names)) < len(names):
        raise ConfigError(
            f"{path}, line 1: expected the columns {','.join(COLUMNS)} and, if wanted, {OPTIONAL}, each once, got "
            f"{','.join(names) or 'an empty file'}."
        )


def _add_row(where: str, row: dict, tables: dict[str, dict[str, dict[str, float]]]) -> None:
    if None in row or None in row.values():
        raise ConfigError(f"{where}: expected one value for each column of line 1, got fewer or more.")
    _check_name_at(where, row["resource"])
    table = tables.setdefault(row["resource"], {})
    for part in (*COLUMNS[2:], *([OPTIONAL] if OPTIONAL in row else [])):
        costs = table.setdefault(part, {})
        if row["site"] in costs:
            raise ConfigError(f"{where}: a second row for resource {row['resource']}, site {row['site']}; keep one.")
        costs[row["site"]] = _number(where, part, row[part])


def _check_name_at(where: str, name: str) -> None:
    try:
        _check_name(name)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _number(where: str, part: str, text: str) -> float:
    try:
        cost = float(text)
    except ValueError:
        raise ConfigError(f"{where}: {part} must be a number, at least 0, got {text!r}.") from None
    _check_cost(where, part, cost)
    return cost


def _check_sites(resource: Resource, sites: Sequence[str], left_alone: Sequence[str]) -> None:
    missing = [site for site in sites if site not in resource.original]
    if missing:
        names = ", ".join(missing)
        raise ConfigError(f"resource {resource.name}: expected costs for every site, got none for {names}.")
    known = {*sites, *left_alone}
    unknown = [site for site in {**resource.original, **resource.base} if site not in known]
    if unknown:
        near = get_close_matches(str(unknown[0]), sites, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ConfigError(
            f"resource {resource.name}: {', '.join(map(str, unknown))}{hint} is no site of this model; the sites are: "
            f"{', '.join(sites)}."
        )
    passed_over = [site for site in resource.original if site not in sites]
    if passed_over:
        logging.info("resource %s: costs of layers left alone do not count: %s", resource.name, ", ".join(passed_over))
