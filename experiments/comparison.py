"""Methods under the same budgets: a grid of cells, each one compress() call and one line of a result file."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from cobla_tf.experiments.experiment import Settings
from cobla_tf.experiments.result_file import Record, ResultFile
from cobla_tf.experiments.subject import Subject

from cobla_tf.baselines import RIVALS, Method
from cobla_tf.budgets import resolve_limits
from cobla_tf.config import RANK_METHODS, SCHEMES, Config
from cobla_tf.errors import BudgetError, ConfigError, DataError
from cobla_tf.examples import Examples, Sample
from cobla_tf.selection import COBLA, needs_sample, takes_budgets

EXACT = f"{COBLA}_exact"
"""COBLA with the gradient of all of a stated number of training images in every iteration."""
METHODS = (COBLA, EXACT, *(name for name in RANK_METHODS if name != COBLA and takes_budgets(name)))
"""What can be compared under the same budgets."""


@dataclass(frozen=True)
class Cell:
    """One bar of a figure.

    Attributes:
        scheme: of the decomposition.
        eta: budget on MACs and on params, as a share of the original.
        method: a name in METHODS.
        seed: None where nothing is left to chance: a method that looks at the weights only, and no fine-tuning.
        images: training images that the method can draw from.
    """

    scheme: str
    eta: float
    method: str
    seed: int | None
    images: int


KEYS = tuple(field.name for field in dataclasses.fields(Cell))


@dataclass(frozen=True)
class Comparison:
    """Methods under the same budgets on one network.

    Attributes:
        subject: the network and its data.
        exact_images: for the exact gradient; the first so many of the training images, shuffled by the cell's seed.
    """

    subject: Subject
    exact_images: int = 0
    _asked: dict[tuple[str, str, int | None], Method] = field(default_factory=dict, init=False, repr=False)

    def cells(
        self, schemes: Sequence[str], etas: Sequence[float], methods: Sequence[str], seeds: Sequence[int]
    ) -> list[Cell]:
        """The grid, in the order in which it is worked through: all methods of one scheme and budget together.

        Raises:
            ConfigError: a scheme or a method that there is not, a seed that cannot be, or nothing to do.
            BudgetError: a method that takes no budget, or a budget below the smallest reachable.
            DataError: exact gradients on images that are not in memory.
        """
        check_names("scheme", schemes, SCHEMES)
        self._check_methods(methods)
        cells = list(self._cells(schemes, etas, methods, seeds))
        check_cells(cells)
        for scheme in schemes:
            costs = self.subject.sites(scheme).costs
            for eta in etas:
                resolve_limits(costs, {"macs": eta, "params": eta})
        return cells

    def run(self, cells: Sequence[Cell], results: ResultFile) -> list[Record]:
        """Work through the cells that have no result yet; returns the results of all of them."""
        return work_through(cells, results, self.result)

    def result(self, cell: Cell) -> Record:
        """What one cell comes to."""
        exact, solve = cell.method == EXACT, self.subject.solve
        found = self.subject.compress(
            COBLA if exact else self._method(cell),
            cell.scheme,
            {"macs": cell.eta, "params": cell.eta},
            cell.seed,
            solve=dataclasses.replace(solve, sample_fraction=1.0, growing=False) if exact else solve,
            train=self._training_images(cell),
        )
        return {**dataclasses.asdict(cell), **found}

    def _method(self, cell: Cell) -> str | Method:
        """What the cell names; a published method that asks for losses asks for each once for all budgets.

        Their time is then counted with the first budget alone.
        """
        if cell.method == COBLA or not needs_sample(cell.method):
            return cell.method
        key = (cell.method, cell.scheme, cell.seed)
        return self._asked.setdefault(key, self._remembering(cell.method))

    @staticmethod
    def _remembering(method: str) -> Method:
        once = RIVALS[method].remembering()
        return dataclasses.replace(once, source=f"{method} ({once.source})")

    def _check_methods(self, methods: Sequence[str]) -> None:
        without = [method for method in methods if method in RANK_METHODS and not takes_budgets(method)]
        if without:
            raise BudgetError(
                f"{without[0]} sets its own ranks and takes no budget: leave it out here, "
                "cobla_tf.experiments.section52 compares with it."
            )
        check_names("method", methods, METHODS)
        if EXACT not in methods:
            return
        if self.exact_images < 1:
            raise ConfigError(f"{EXACT} needs at least one image a gradient, got --exact_images={self.exact_images}.")
        if not isinstance(self.subject.train, Sample):
            raise DataError(f"{self.subject.data.description} do not fit into memory; {EXACT} needs a smaller set.")

    def _cells(
        self, schemes: Sequence[str], etas: Sequence[float], methods: Sequence[str], seeds: Sequence[int]
    ) -> Iterator[Cell]:
        total, tuned = self.subject.train.size, self.subject.fine_tune.epochs > 0
        for scheme, eta, method in product(schemes, etas, methods):
            chosen = seeds if tuned or method == EXACT or needs_sample(method) else [None]
            images = min(self.exact_images, total) if method == EXACT else total
            yield from (Cell(scheme, eta, method, seed, images) for seed in chosen)

    def _training_images(self, cell: Cell) -> Examples:
        train = self.subject.train
        if cell.images == train.size:
            return train
        return train.take(np.random.default_rng(cell.seed).permutation(train.size)[: cell.images])


def results_of(subject: Subject, settings: Settings, file: Path) -> list[Record]:
    """Results of the grid that the settings span, those of an earlier run included.

    Args:
        subject: what is compressed.
        settings: the grid; without methods all of them.
        file: path of the result files without their endings.
    """
    comparison = Comparison(subject, settings.exact_images)
    cells = comparison.cells(settings.schemes, settings.etas, settings.methods or METHODS, settings.seeds)
    return comparison.run(cells, ResultFile(file.parent, file.name, subject.configuration(), KEYS))


def check_names(what: str, given: Sequence[str], known: Sequence[str]) -> None:
    """Raise ConfigError where one of the `given` names is not among the `known` ones."""
    unknown = [name for name in given if name not in known]
    if unknown:
        raise ConfigError(f"expected a {what} among {', '.join(known)}, got {', '.join(unknown)}.")


def check_cells(cells: Sequence[Any]) -> None:
    """Raise ConfigError where there are none, or where one has a seed that cannot be."""
    if not cells:
        raise ConfigError("there is nothing to compare; give at least one of each: scheme, budget, method and seed.")
    for seed in {cell.seed for cell in cells} - {None}:
        Config(seed=seed)


def work_through(cells: Sequence[Any], results: ResultFile, result: Callable[[Any], Record]) -> list[Record]:
    """Compute and file the results of cells that have none yet; returns those of all of them, in their order.

    Args:
        cells: dataclass instances whose fields are the keys of `results`; at least one.
        results: where each result goes as it comes.
        result: what makes one of a cell.
    """
    for number, cell in enumerate(cells, start=1):
        if not results.has(dataclasses.asdict(cell)):
            logging.info("cell %d of %d: %s", number, len(cells), cell)
            results.add(result(cell))
    names = [field.name for field in dataclasses.fields(cells[0])]
    found = {tuple(record[name] for name in names): record for record in results.records()}
    return [found[dataclasses.astuple(cell)] for cell in cells]
