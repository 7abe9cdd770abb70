"""All methods on one network before fine-tuning: every cell is one compress() call, and one line of a result file."""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import keras
import numpy as np
from absl import logging
from cobla_tf.experiments.result_file import Record, ResultFile

import cobla_tf
from cobla_tf.config import RANK_METHODS, SCHEMES, Config, SolveConfig
from cobla_tf.datasets import Arrays, DataSplits
from cobla_tf.errors import ConfigError
from cobla_tf.report import Report
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
        seed: None for a method in which nothing is left to chance.
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
    """What all cells share.

    Attributes:
        model: trained.
        data: what it was trained for, in memory; accuracies are of the test images, and no choice is.
        exclude: patterns of layers to leave alone.
        solve: how COBLA finds the masks; greedy_accuracy has a sample of the same size.
        exact_images: for the exact gradient; the first so many of the training images, shuffled by the cell's seed.
        batch_size: images a step.
    """

    model: keras.Model
    data: DataSplits
    exclude: tuple[str, ...]
    solve: SolveConfig
    exact_images: int
    batch_size: int

    def cells(
        self, schemes: Sequence[str], etas: Sequence[float], methods: Sequence[str], seeds: Sequence[int]
    ) -> list[Cell]:
        """The grid, in the order in which it is worked through: all methods of one scheme and budget together.

        Raises:
            ConfigError: a scheme or a method that there is not, or nothing to do.
        """
        for what, given, known in (("scheme", schemes, SCHEMES), ("method", methods, METHODS)):
            unknown = [name for name in given if name not in known]
            if unknown:
                raise ConfigError(f"expected a {what} among {', '.join(known)}, got {', '.join(unknown)}.")
        cells = list(self._cells(schemes, etas, methods, seeds))
        if not cells:
            raise ConfigError("there is nothing to compare; give at least one scheme, eta, method and seed.")
        return cells

    def configuration(self) -> dict[str, Any]:
        """All that a result depends on beside its cell."""
        return {
            "model": self.model.name,
            "weights": _digest(self.model.get_weights()),
            "data": self.data.description,
            "pixels": _digest([*self.data.train, *self.data.test]),
            "exclude": list(self.exclude),
            "solve": dataclasses.asdict(self.solve),
            "batch_size": self.batch_size,
        }

    def run(self, cells: Sequence[Cell], results: ResultFile) -> list[Record]:
        """Work through the cells that have no result yet; returns the results of all of them."""
        for number, cell in enumerate(cells, start=1):
            if not results.has(dataclasses.asdict(cell)):
                logging.info("cell %d of %d: %s", number, len(cells), cell)
                results.add(self.result(cell))
        wanted = {dataclasses.astuple(cell) for cell in cells}
        return [record for record in results.records() if tuple(record[key] for key in KEYS) in wanted]

    def result(self, cell: Cell) -> Record:
        """Compress once, and keep what figures and readers need."""
        exact = cell.method == EXACT
        solve = dataclasses.replace(self.solve, sample_fraction=1.0, growing=False) if exact else self.solve
        report = cobla_tf.compress(
            self.model,
            self._training_images(cell),
            macs=cell.eta,
            params=cell.eta,
            scheme=cell.scheme,
            exclude=self.exclude,
            validation=self.data.test,
            method=COBLA if exact else cell.method,
            config=Config(solve=solve, batch_size=self.batch_size, seed=cell.seed or 0),
        ).report
        return {**dataclasses.asdict(cell), **_summary(report)}

    def _cells(
        self, schemes: Sequence[str], etas: Sequence[float], methods: Sequence[str], seeds: Sequence[int]
    ) -> Iterator[Cell]:
        total = len(self.data.train[0])
        for scheme, eta, method in product(schemes, etas, methods):
            chosen = seeds if method == EXACT or needs_sample(method) else [None]
            images = min(self.exact_images, total) if method == EXACT else total
            yield from (Cell(scheme, eta, method, seed, images) for seed in chosen)

    def _training_images(self, cell: Cell) -> Arrays:
        images, labels = self.data.train
        if cell.images == len(images):
            return images, labels
        first = np.random.default_rng(cell.seed).permutation(len(images))[: cell.images]
        return images[first], labels[first]


def _summary(report: Report) -> Record:
    accuracies = {stage: result.accuracy for stage, result in report.evaluations.items()}
    last = report.iterations[-1] if report.iterations else None
    return {
        "accuracy": accuracies["compressed"],
        "loss": float(np.nan_to_num(report.evaluations["compressed"].loss, posinf=np.finfo(np.float32).max)),
        "relaxed_accuracy": accuracies.get("relaxed"),
        "original_accuracy": accuracies["original"],
        "test_images": report.evaluations["compressed"].examples,
        **{budget.resource: budget.reached / budget.original for budget in report.budgets},
        "gradients": last.gradients if last else 0,
        "gradient_images": last.images if last else 0,
        "seconds": round(sum(report.seconds.values()), 1),
        "status": report.status,
        "precision": report.precision,
        "ranks": {site.name: site.rank for site in report.sites},
        "versions": report.versions,
    }


def _digest(arrays: Sequence[np.ndarray]) -> str:
    """Of the contents, their order included."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()[:16]
