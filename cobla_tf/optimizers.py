"""The optimiser of a training: by name or a copy of one given, and its learning rate."""

import inspect
from difflib import get_close_matches
from typing import Any

import keras

from cobla_tf.config import FineTuneConfig
from cobla_tf.errors import ConfigError, first_line
from cobla_tf.yellowfin import YellowFin

CLIP_NORM = 1.0
"""Global gradient norm: the first steps after a coarse approximation are otherwise the largest of all."""
LEARNING_RATE = 1e-3
"""Of the first step of an optimiser named without one."""


def make_optimizer(config: FineTuneConfig) -> keras.optimizers.Optimizer:
    """A fresh optimiser, by its name in any case or like the one given.

    Gradients are clipped to CLIP_NORM in all, save by an optimiser that was given a limit of its own, and by YellowFin,
    which clips by what it measures.

    Raises:
        ConfigError: no optimiser has such a name, one given cannot be copied, or it averages weights where the best
            epoch's are kept.
    """
    given = config.optimizer
    optimizer = _copied(given) if isinstance(given, keras.optimizers.Optimizer) else _optimizer_class(given)()
    own = inner(optimizer)
    if config.validation_share and getattr(own, "use_ema", False):
        raise ConfigError("use_ema and validation_share both choose the final weights; leave out one of the two.")
    if not tunes_itself(optimizer) and not clip_limits(own):
        own.global_clipnorm = CLIP_NORM
    return optimizer


def _copied(given: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """One of the same settings that has trained nothing yet."""
    try:
        copy = type(given).from_config(given.get_config())
    except (TypeError, ValueError, KeyError, AttributeError, NotImplementedError) as error:
        raise ConfigError(
            f"the optimizer {type(given).__name__} cannot be copied ({first_line(error)}): it, and a schedule in it, "
            "must be made anew by from_config(get_config()); a rate that is a lambda cannot."
        ) from error
    if getattr(inner(given), "_exclude_from_weight_decay", None):
        raise ConfigError("variables cannot be excluded from weight decay by themselves: give var_names.")
    if excluded := without_decay(given):
        inner(copy).exclude_from_weight_decay(var_names=[excluded])
    return copy


def without_decay(optimizer: keras.optimizers.Optimizer) -> str:
    """The pattern of names that weight decay leaves out, which no configuration of Keras holds; empty where there is
    none. Keras joins several from a set, in any order.
    """
    pattern = getattr(inner(optimizer), "_exclude_from_weight_decay_pattern", None)
    return "" if pattern is None else pattern.pattern


def inner(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """What clips and steps: the optimiser itself, or the one that it wraps to scale the loss."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def clip_limits(optimizer: keras.optimizers.Optimizer) -> dict[str, float]:
    """The limits that an optimiser has, by Keras' names for them."""
    limits = {name: getattr(optimizer, name, None) for name in ("clipnorm", "global_clipnorm", "clipvalue")}
    return {name: limit for name, limit in limits.items() if limit is not None}


def scheduled_optimizer(config: FineTuneConfig, steps: int) -> keras.optimizers.Optimizer:
    """The optimiser with its learning rate falling to zero along a half cosine, unless it has a schedule of its own.

    What multiplies the rate that YellowFin finds is left as it is for half of the steps, and falls in the others; the
    rate in `config` is for others.
    """
    optimizer = make_optimizer(config)
    tuned = tunes_itself(optimizer)
    rate = (None if tuned else config.learning_rate) or _own_rate(config, optimizer)
    if not isinstance(rate, dict):
        optimizer.learning_rate = _falling(float(rate), steps, constant=steps // 2 if tuned else 0)
    return optimizer


def _falling(rate: float, steps: int, constant: int) -> keras.optimizers.schedules.CosineDecay:
    """A rate that stays for `constant` of the steps, by Keras a warm-up, and falls to zero in the others."""
    as_it_is = {"warmup_target": rate, "warmup_steps": constant} if constant else {}
    return keras.optimizers.schedules.CosineDecay(rate, steps - constant, **as_it_is)


def _optimizer_class(name: object) -> type[keras.optimizers.Optimizer]:
    """The class of that name; only those that have a learning rate can be made from a name alone."""
    known = {"yellowfin": YellowFin}
    for key, value in vars(keras.optimizers).items():
        if inspect.isclass(value) and "learning_rate" in inspect.signature(value).parameters:
            known[key.lower()] = value
    wanted = str(name).lower()
    if wanted not in known:
        nearest = ", ".join(map(repr, get_close_matches(wanted, known, n=3, cutoff=0)))
        raise ConfigError(
            f"optimizer must be 'yellowfin', a Keras optimiser or its name, got {name!r}; the nearest are {nearest}."
        )
    return known[wanted]


def tunes_itself(optimizer: keras.optimizers.Optimizer) -> bool:
    """Whether it has no use for a learning rate."""
    return isinstance(inner(optimizer), YellowFin)


def _own_rate(config: FineTuneConfig, optimizer: keras.optimizers.Optimizer) -> Any:
    """Of the first step where none is asked for: a number, or the description of a schedule, a dict."""
    if isinstance(config.optimizer, str) and not tunes_itself(optimizer):
        return LEARNING_RATE
    return inner(optimizer).get_config()["learning_rate"]
