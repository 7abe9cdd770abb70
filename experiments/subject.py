"""A network and its data, and what one compress() call on them comes to."""

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import keras
import numpy as np
from cobla_tf.experiments.experiment import Settings
from cobla_tf.experiments.result_file import MEASURED, Record

import cobla_tf
from cobla_tf.baselines.method import Method
from cobla_tf.budgets import Budgets
from cobla_tf.config import Config, FineTuneConfig, SolveConfig
from cobla_tf.datasets import DataSplits
from cobla_tf.errors import ConfigError
from cobla_tf.examples import Examples, Sample, Stream
from cobla_tf.losses import resolve_loss
from cobla_tf.provenance import first_loss
from cobla_tf.reading import as_examples
from cobla_tf.report_parts import SiteReport
from cobla_tf.result import Result
from cobla_tf.sites import Sites, find_sites


@dataclass(frozen=True)
class Subject:
    """What all results of an experiment share.

    Attributes:
        model: trained.
        data: what it was trained for; accuracies are of the test images, and no choice is.
        exclude: patterns of layers to leave alone.
        solve: how COBLA finds the masks; greedy_accuracy has a sample of the same size.
        batch_size: images a step.
        fine_tune: what every compressed network goes through before its accuracy is taken; nothing by default.
        top: a second accuracy, of classes that are among the so many likeliest; None for none.
    """

    model: keras.Model
    data: DataSplits
    exclude: tuple[str, ...]
    solve: SolveConfig
    batch_size: int
    fine_tune: FineTuneConfig = field(default_factory=FineTuneConfig)
    top: int | None = None

    def __post_init__(self) -> None:
        """Check the settings before any work; raises ConfigError."""
        Config(batch_size=self.batch_size)
        classes = self.data.classes
        if self.top is not None and not 0 < self.top < classes:
            raise ConfigError(
                f"--top must be from 1 to {classes - 1}, got {self.top}: any class is among the {classes} likeliest."
            )

    @classmethod
    def of(cls, model: keras.Model, data: DataSplits, settings: Settings) -> "Subject":
        """A network and its data under a runner's settings."""
        solve, fine_tune = settings.solve(), settings.fine_tune()
        return cls(model, data, settings.exclude, solve, settings.batch_size, fine_tune, settings.top)

    @cached_property
    def train(self) -> Examples:
        """The training images, read once."""
        return as_examples(self.data.train)

    @cached_property
    def test(self) -> Examples:
        """The test images, read once."""
        return as_examples(self.data.test, "test images")

    @cached_property
    def _loss(self) -> dict[str, Any]:
        """What tells networks of the same weights apart, training images of streams too: the loss on a few of them."""
        loss = resolve_loss(None, self.model, self.train.probe())
        value = float(f"{first_loss(self.model, loss, self.train):.6g}")
        return {"loss": loss.description, MEASURED: {"loss on the first images": value}}

    @cached_property
    def original_top(self) -> float:
        """The second accuracy of the original."""
        return self._top_accuracy(self.model)

    def sites(self, scheme: str) -> Sites:
        """What there is to decompose."""
        return find_sites(self.model, scheme, self.exclude, tuple(self.train.probe().images.shape[1:]))

    def configuration(self) -> dict[str, Any]:
        """All that a result depends on beside its cell, as JSON; what is switched off is left out."""
        further = {"fine_tune": dataclasses.asdict(self.fine_tune)} if self.fine_tune.epochs else {}
        return {
            "model": self.model.name,
            "weights": _digest(self.model.get_weights()),
            "data": self.data.description,
            "pixels": _digest(self._pixels()),
            **self._loss,
            "exclude": list(self.exclude),
            "solve": dataclasses.asdict(self.solve),
            "batch_size": self.batch_size,
            **further,
            **({"top": self.top} if self.top else {}),
        }

    def compress(
        self,
        method: str | Method,
        scheme: str,
        budgets: Budgets,
        seed: int | None,
        *,
        solve: SolveConfig | None = None,
        train: Examples | None = None,
    ) -> Record:
        """Compress once, and keep what figures and readers need.

        Args:
            method, scheme, budgets: as for cobla_tf.compress.
            seed: None is 0.
            solve, train: where they are others than for all results.
        """
        train = train or self.train
        result = cobla_tf.compress(
            self.model,
            train.afresh() if isinstance(train, Stream) else train,
            budgets=budgets,
            scheme=scheme,
            exclude=self.exclude,
            validation=self.test,
            method=method,
            config=Config(
                solve=solve or self.solve, fine_tune=self.fine_tune, batch_size=self.batch_size, seed=seed or 0
            ),
        )
        found = _summary(result)
        if self.top:
            found |= {"top_accuracy": self._top_accuracy(result.model), "original_top_accuracy": self.original_top}
        return found

    def _pixels(self) -> Sequence[np.ndarray]:
        """What tells these images from others: all of them; of a stream the first ones of the test images."""
        if isinstance(self.train, Sample) and isinstance(self.test, Sample):
            return self.train.images, self.train.labels, self.test.images, self.test.labels
        first = self.test.probe()
        return first.images, first.labels

    def _top_accuracy(self, model: keras.Model) -> float:
        right = keras.metrics.SparseTopKCategoricalAccuracy(self.top)
        for images, labels in self.test.batches(self.batch_size):
            right.update_state(labels, model.predict_on_batch(images))
        return float(right.result())


def _summary(result: Result) -> Record:
    report = result.report
    evaluations = report.evaluations
    final = evaluations.get("fine-tuned", evaluations["compressed"])
    last = report.iterations[-1] if report.iterations else None
    return {
        "accuracy": final.accuracy,
        "loss": float(np.nan_to_num(final.loss, posinf=np.finfo(np.float32).max)),
        "accuracy_before_fine_tuning": evaluations["compressed"].accuracy,
        "relaxed_accuracy": evaluations["relaxed"].accuracy if "relaxed" in evaluations else None,
        "original_accuracy": evaluations["original"].accuracy,
        "test_images": final.examples,
        **{budget.resource: budget.reached / budget.original for budget in report.budgets},
        "gradients": last.gradients if last else 0,
        "gradient_images": last.images if last else 0,
        "seconds": round(sum(report.seconds.values()), 1),
        "status": report.status,
        "precision": report.precision,
        "ranks": {site.name: site.rank for site in report.sites},
        "sites": [dataclasses.asdict(_without_terms(site)) for site in report.sites],
        "versions": report.versions,
    }


def _without_terms(site: SiteReport) -> SiteReport:
    """What a site keeps; that of each of its terms would outweigh all else in a result file."""
    return dataclasses.replace(site, singular_values=(), masks=(), scales=())


def _digest(arrays: Sequence[np.ndarray]) -> str:
    """Of the contents, their order included."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()[:16]
