"""COBLA under the costs of ranks that come from elsewhere: a method that sets its own cost, or a list of ranks."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import product
from pathlib import Path

import numpy as np
from cobla_tf.experiments.comparison import check_cells, check_names, work_through
from cobla_tf.experiments.result_file import Record, ResultFile
from cobla_tf.experiments.subject import Subject

from cobla_tf.baselines.method import Method
from cobla_tf.budgets import resolve_limits
from cobla_tf.config import SCHEMES
from cobla_tf.costs import Allocation, CostTable
from cobla_tf.errors import ConfigError
from cobla_tf.selection import COBLA
from cobla_tf.sites import Sites


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        scheme: of the decomposition.
        baseline: whose costs the row is about.
        method: the baseline itself, or COBLA.
        share: of the baseline's costs that the method has as its budgets; 1 for the baseline.
        seed: of all that is left to chance.
    """

    scheme: str
    baseline: str
    method: str
    share: float
    seed: int


KEYS = tuple(field.name for field in dataclasses.fields(Row))


@dataclass(frozen=True)
class SameCosts:
    """Baselines that set their own cost, and COBLA under these costs.

    Attributes:
        subject: the network and its data.
        baselines: by name; none takes a budget.
        schemes: of the decomposition.
    """

    subject: Subject
    baselines: Mapping[str, Method]
    schemes: Sequence[str]

    def rows(self, shares: Sequence[float], seeds: Sequence[int]) -> list[Row]:
        """Each baseline, and below it COBLA under each share of its costs.

        Raises:
            ConfigError: a scheme that there is not, a share that is none, ranks that do not fit the network, or
                nothing to do.
            BudgetError: a share of the costs that is below the smallest reachable.
        """
        check_names("scheme", self.schemes, SCHEMES)
        if wrong := [share for share in shares if not 0 < share < math.inf]:
            raise ConfigError(f"--shares must be positive numbers, as in 1.0,0.7, got {wrong[0]:g}.")
        rows = []
        for scheme, name in product(self.schemes, self.baselines):
            methods = [(name, 1.0), *((COBLA, share) for share in shares)]
            rows += [Row(scheme, name, method, share, seed) for method, share in methods for seed in seeds]
        check_cells(rows)
        for scheme, name, share in product(self.schemes, self.baselines, shares):
            resolve_limits(self._costs[scheme][0], self.budgets(scheme, name, share))
        return rows

    def run(self, rows: Sequence[Row], file: Path, further: Mapping[str, object]) -> list[Record]:
        """Work through the rows that have no result yet; returns the results of all of them.

        Args:
            rows: from `rows`.
            file: path of the result files without their endings.
            further: what results depend on beside the subject and the row.
        """
        configuration = {**self.subject.configuration(), **further}
        return work_through(rows, ResultFile(file.parent, file.name, configuration, KEYS), self.result)

    def result(self, row: Row) -> Record:
        """What one row comes to."""
        if row.method == COBLA:
            method, budgets = COBLA, self.budgets(row.scheme, row.baseline, row.share)
        else:
            method, budgets = self.baselines[row.baseline], {}
        return {**dataclasses.asdict(row), **self.subject.compress(method, row.scheme, budgets, row.seed)}

    def budgets(self, scheme: str, baseline: str, share: float) -> dict[str, int]:
        """A share of what a baseline costs, in MACs and params."""
        costs, used = self._costs[scheme]
        exact = Fraction(repr(float(share)))  # as it was written: 0.7 of 10 is 7
        return {name: int(exact * int(amount)) for name, amount in zip(costs.resources, used[baseline], strict=True)}

    @cached_property
    def _costs(self) -> dict[str, tuple[CostTable, dict[str, np.ndarray]]]:
        """By scheme the sites' costs, and what each baseline uses of them, which follows from the weights alone."""
        return {scheme: self._costs_of(self.subject.sites(scheme)) for scheme in self.schemes}

    def _costs_of(self, sites: Sites) -> tuple[CostTable, dict[str, np.ndarray]]:
        return sites.costs, {
            name: sites.costs.used(method(sites.sigmas, sites.costs, None, shapes=sites.shapes))
            for name, method in self.baselines.items()
        }


def given_ranks(ranks: Sequence[int], source: str) -> Method:
    """A method that gives the sites these ranks, in network order; saturated ones are whole.

    Raises:
        ConfigError: when it is applied to a network of another number of sites, or of smaller ones.
    """

    def select(sigmas: list[np.ndarray], costs: CostTable, limits: np.ndarray | None) -> Allocation:
        """As `Method.select`; looks at neither weights nor limits."""
        del sigmas, limits
        full = costs.full_ranks
        if len(ranks) != len(full) or not all(1 <= rank <= most for rank, most in zip(ranks, full, strict=True)):
            raise ConfigError(
                f"expected a rank for each of the network's {len(full)} layers, at most {', '.join(map(str, full))}, "
                f"got {', '.join(map(str, ranks)) or 'none'}; give them with --ranks."
            )
        return costs.settle(np.array(ranks), np.zeros(len(full), dtype=bool))

    return Method(select, source, budgeted=False)
