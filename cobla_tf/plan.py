"""Everything that is checked and settled before the first gradient."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
from absl import logging

from cobla_tf.baselines.method import Method
from cobla_tf.budgets import Budgets, resolve_limits
from cobla_tf.config import AUTO, LAYERS, SCHEMES, Config, FineTuneConfig, check_layers
from cobla_tf.costs import CostTable
from cobla_tf.distillation import check_distillation, tells_accuracy
from cobla_tf.elements import check_images, form_of, parts_of, shape_of
from cobla_tf.errors import ConfigError, DataError, check_among
from cobla_tf.examples import Examples, Sample, Stream
from cobla_tf.export import check_exports
from cobla_tf.files import check_writable
from cobla_tf.graph import check_model, of_keras
from cobla_tf.loss import Loss, LossSum
from cobla_tf.losses import check_finite, resolve_loss
from cobla_tf.optimizers import make_optimizer
from cobla_tf.precision import resolve_precision
from cobla_tf.qp import resolve_solver
from cobla_tf.reading import as_examples, batches_of
from cobla_tf.resources import Resource, add_resources, check_resources
from cobla_tf.rewrite import check_copy
from cobla_tf.schemes import check_auto, choose_schemes
from cobla_tf.selection import COBLA, check_method, needs_sample, takes_budgets
from cobla_tf.sites import Sites, find_sites
from cobla_tf.texts import counted

HELD_OUT_SHARE = 0.1


@dataclass(frozen=True)
class Plan:
    """What a compression will work on.

    Attributes:
        train_set: what the optimiser sees.
        held_out: what every accuracy is measured on.
        evaluated_on: a sentence about the held-out data.
        sites: of the model.
        costs: of the sites, in MACs, params and the resources given beside them.
        limits: float64 [R] in the order and units of `costs`, infinite where there is no budget.
        loss: how the network is judged.
        qp_solver: a resolved back end; "none" where nothing is optimised.
        method: what selects the ranks, a name in RANK_METHODS or one of the caller's own.
        precision: of products in gradients and fine-tuning, resolved.
    """

    train_set: Examples
    held_out: Examples
    evaluated_on: str
    sites: Sites
    costs: CostTable
    limits: np.ndarray
    loss: Loss | LossSum
    qp_solver: str
    method: str | Method
    precision: str

    @property
    def streamed(self) -> bool:
        """Whether batches are read while the work goes on, and what is wrong with them is found only then."""
        return isinstance(self.train_set, Stream) or isinstance(self.held_out, Stream)


def make_plan(
    model: Any,
    dataset: Any,
    *,
    budgets: Budgets,
    config: Config,
    resources: Sequence[Resource] = (),
    scheme: str = "spatial",
    exclude: Sequence[str] = (),
    layers: str | Sequence[str] = LAYERS[:1],
    validation: Any = None,
    loss: Any = None,
    method: str | Method = COBLA,
) -> Plan:
    """Check all input, cheapest first; arguments and defaults are those of compress(), all budgets in one mapping.

    Raises:
        CoblaError: see there.
    """
    _check_choices(budgets, resources, scheme, layers, method, config)
    qp_solver = resolve_solver(config.solve.qp_solver) if method == COBLA else "none"
    check_model(model)
    train_set, held_out, evaluated_on = _split(dataset, validation, config.seed, model, loss)
    probe = _probe("dataset", train_set)
    if isinstance(train_set, Stream) and needs_sample(method):
        train_set.check_draw(config.solve.sample_size(train_set.size))
    check_images(model, probe.images)
    check_copy(model, probe.images)
    chosen = resolve_loss(loss, model, probe)
    for name, examples in (("dataset", train_set), ("validation", held_out)):
        _check_examples(name, examples, probe, model, chosen)
    _warn_if_sorted(train_set, probe, chosen)
    schemes = SCHEMES if scheme == AUTO else (scheme,)
    found = [find_sites(model, each, exclude, shape_of(probe.images), layers) for each in schemes]
    sites = choose_schemes(found, budgets, config.solve.rank_multiple) if scheme == AUTO else found[0]
    costs = _in_multiples(sites.costs, sites.names, config.solve.rank_multiple)
    costs = add_resources(costs, sites.names, resources, [layer.name for layer in sites.skipped])
    limits = resolve_limits(costs, budgets) if takes_budgets(method) else np.full(len(costs.resources), np.inf)
    _check_fine_tuning(config.fine_tune, model, train_set, probe, chosen)
    precision = resolve_precision(config.solve.precision)
    return Plan(train_set, held_out, evaluated_on, sites, costs, limits, chosen, qp_solver, method, precision)


def _check_choices(
    budgets: Budgets,
    resources: Sequence[Resource],
    scheme: str,
    layers: str | Sequence[str],
    method: str | Method,
    config: Config,
) -> None:
    """What needs neither model nor data."""
    if config.output_dir is not None:
        check_exports(config.exports)
        check_writable(config.output_dir)
    check_among("scheme", scheme, (*SCHEMES, AUTO))
    check_layers(layers)
    check_resources(resources)
    check_method(method, budgets, [resource.name for resource in resources])
    if scheme == AUTO:
        check_auto(method, takes_budgets(method), resources)
    make_optimizer(config.fine_tune)


def _check_fine_tuning(
    config: FineTuneConfig, model: keras.Model, train_set: Examples, probe: Sample, loss: Loss | LossSum
) -> None:
    if config.epochs and config.distillation:
        check_distillation(loss, probe, tuple(model.outputs[0].shape[1:]), config.distillation)
    if config.epochs and not model.trainable_variables:
        raise ConfigError(
            "all weights of the model are frozen, and fine-tuning has nothing to do: set epochs to 0, or before that "
            "model.trainable = True."
        )
    if config.epochs and isinstance(loss, Loss):
        _check_watched(config, loss)
    if config.validation_share and isinstance(train_set, Stream):
        raise DataError("validation_share sets apart images that are in memory, and these are streamed; leave it at 0.")
    if config.validation_share and train_set.size < 2:
        raise DataError("validation_share sets apart at least 1 of 2 training images, got 1; leave it at 0.")


def _check_watched(config: FineTuneConfig, loss: Loss) -> None:
    """Refuse callbacks that wait for what training never tells."""
    told = ("accuracy", "loss") if tells_accuracy(loss, config.distillation) else ("loss",)
    if not all(of_keras(type(callback)) for callback in config.callbacks):
        return  # one of the user's own may tell more
    for name, watched in config.watched:
        if watched.removeprefix("val_") not in told:
            raise ConfigError(
                f"{name} watches {watched}, and this training tells {' and '.join(told)}: name one of these as its "
                "monitor, with val_ before it where training images are set apart."
            )


def _split(dataset: Any, validation: Any, seed: int, model: keras.Model, loss: Any) -> tuple[Examples, Examples, str]:
    train_set = _examples(dataset, "dataset", model, loss)
    if validation is not None:
        held_out = _examples(validation, "validation", model, loss)
        return train_set, held_out, f"the {counted(held_out.size, 'validation image')} given, never optimised on"
    if isinstance(train_set, Stream):
        raise DataError("the dataset is too large to set a part of it apart in memory; pass validation= as well.")
    if train_set.size < 2:
        raise DataError("expected at least 2 images, of which one is held out, got 1; pass validation=.")
    rest, held_out = train_set.split(HELD_OUT_SHARE, np.random.default_rng(seed))
    apart = counted(held_out.size, "image")
    return rest, held_out, f"{apart} set apart from the {train_set.size:,} given, never optimised on"


def _examples(given: Any, name: str, model: keras.Model, loss: Any) -> Examples:
    examples = as_examples(given, name, form_of(model, loss))
    if isinstance(examples, Sample):
        check_finite(name, loss, model, examples.labels)
    return examples


def _probe(name: str, examples: Examples) -> Sample:
    with batches_of(name):
        return examples.probe()


def _in_multiples(costs: CostTable, names: Sequence[str], multiple: int) -> CostTable:
    """Ranks in multiples only.

    Raises:
        ConfigError: no site has such a rank.
    """
    largest = int(costs.full_ranks.max())
    if largest < multiple:
        raise ConfigError(
            f"rank_multiple must be at most {largest}, the largest full rank of a site "
            f"({names[int(costs.full_ranks.argmax())]}), got {multiple}."
        )
    for i in np.flatnonzero(costs.full_ranks < multiple):
        logging.info("%s is kept whole: its full rank %d is below the multiple", names[i], costs.full_ranks[i])
    return replace(costs, multiple=multiple)


def _warn_if_sorted(train_set: Examples, probe: Sample, loss: Loss | LossSum) -> None:
    """Of a stream that cannot be put into another order, samples are what comes next to each other in it."""
    in_order = isinstance(train_set, Stream) and train_set.ordered is None
    one_class = len(np.unique(parts_of(probe.labels)[0], axis=0)) == 1
    if in_order and loss.judged.labels != "other" and probe.size > 1 and one_class:
        logging.warning(
            "the first %d examples of the dataset are all of one class: if it is sorted, samples hold few classes; "
            "shuffle its files, with a seed, before they are read", probe.size,
        )  # fmt: skip


def _check_examples(name: str, examples: Examples, probe: Sample, model: keras.Model, loss: Loss | LossSum) -> None:
    """Images and labels of the form of the probe; all labels where they are in memory."""
    sample = examples if isinstance(examples, Sample) else _probe(name, examples)
    check_images(model, sample.images)
    expected, got = shape_of(probe.labels), shape_of(sample.labels)
    if got != expected:
        raise DataError(f"{name}: expected labels of shape {expected} an image, as in the dataset, got {got}.")
    try:
        loss.check_labels(sample.labels)
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
