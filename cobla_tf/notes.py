"""What the reader of a report should know beside its figures, as sentences."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from cobla_tf.calls import shared_by_reference
from cobla_tf.config import FineTuneConfig
from cobla_tf.costs import CostTable
from cobla_tf.elements import output_names
from cobla_tf.graph import of_keras
from cobla_tf.layers import OF_THE_KERNEL
from cobla_tf.loss import Loss, LossSum
from cobla_tf.optimizers import make_optimizer, tunes_itself
from cobla_tf.report_parts import Evaluation
from cobla_tf.sites import Sites
from cobla_tf.texts import counted, share_text

OF_FINE_TUNING = ("distillation", "validation_share", "patience", "callbacks")
"""Options that no training before the compression has a use for."""
DEVIATIONS = 3.0
"""Standard deviations above chance at which an accuracy is one."""
CROSS_ENTROPIES = (keras.losses.SparseCategoricalCrossentropy, keras.losses.CategoricalCrossentropy)
"""By which guessing among classes costs the logarithm of their number; for one output the binary one, too."""


def idle_budgets(costs: CostTable, limits: np.ndarray) -> list[str]:
    """Which budgets limit nothing; `limits` [R] are in units of the table, infinite where there is none."""
    return [
        f"the budget on {name} is no less than the original cost and asks for nothing"
        for name, total, limit in zip(costs.resources, costs.totals(), limits, strict=True)
        if total <= limit < math.inf
    ]


def lost_attributes(sites: Sites) -> list[str]:
    """What a kernel had and its factors have not."""
    return [
        f"{site.name}: its {name.replace('_', ' ')} does not carry over to two factors and is left out in fine-tuning"
        for site in sites.found
        for name in OF_THE_KERNEL
        if getattr(site.layer, name, None) is not None
    ]


def untied(original: keras.Model, compressed: keras.Model) -> list[str]:
    """Which layers shared weights by reference, as a layer does with a wrapper around it, and whose copies do not."""
    paths = set(shared_by_reference(original).values()) - set(shared_by_reference(compressed).values())
    if not paths:
        return []
    return [
        f"{', '.join(sorted(paths))} share weights; in the compressed network each has a copy of its own, which "
        "counts in its size and goes its own way in training"
    ]


def own_training(model: keras.Model) -> list[str]:
    """Whether the model's class trains in a way of its own, which its copy, a plain model, does not."""
    own = [name for name in ("train_step", "compute_loss") if not of_keras(getattr(type(model), name))]
    if not own:
        return []
    return [
        f"the model's own {' and '.join(own)} ({type(model).__name__}) does not carry over and is left out in training"
    ]


def of_one_output(model: keras.Model, loss: Loss | LossSum) -> list[str]:
    """Which output the accuracies are of, where there are several and one has classes."""
    if len(model.outputs) == 1 or loss.judged.labels == "other":
        return []
    name = output_names(model)[loss.judged.place]
    return [f"accuracies are those of the output {name!r}, the first with classes; losses are summed over the outputs"]


def doubtful(original: Evaluation, classes: int, loss: Any = None) -> list[str]:
    """Whether the original's accuracy or loss could be that of guessing among equally frequent classes, or worse.

    Args:
        original: judged on held-out images.
        classes: their number; 1 stands for the two of one output.
        loss: Keras' own object that judged it; None says nothing of losses.
    """
    if original.accuracy is None:
        return []
    chance = 1 / max(classes, 2)  # of places in images, too: their share in an image spreads no wider than one guess
    if original.accuracy > chance + DEVIATIONS * math.sqrt(chance * (1 - chance) / original.examples):
        binary = classes == 1 and isinstance(loss, keras.losses.BinaryCrossentropy)
        is_mean = not original.of_places or getattr(loss, "reduction", "sum") != "sum"  # over an image's places
        known = is_mean and (binary or isinstance(loss, CROSS_ENTROPIES))
        return _unprepared(original, -math.log(chance)) if known else []
    return [
        f"the original network's accuracy, {share_text(original.accuracy, 1)} on "
        f"{counted(original.examples, 'held-out image')}, cannot be told from chance ({share_text(chance, 1)}): it has "
        "no trained weights, or was trained too briefly for the statistics of its BatchNorm layers, or the images are "
        "not prepared as it needs them; accuracies mean nothing"
    ]


def _unprepared(original: Evaluation, guessing: float) -> list[str]:
    if not original.loss > guessing:
        return []
    return [
        f"the original network's loss, {original.loss:.4g}, is above that of guessing ({guessing:.4g}), although "
        f"{share_text(original.accuracy, 1)} of its answers are right: look whether the held-out images have the range "
        "of values that it was trained on (on the command line --preprocessing, such as scale for 0..1)"
    ]


def renormalised(layers: int, frozen: int, wrapped: int, images: int) -> list[str]:
    """Which statistics of BatchNorm were re-estimated, on how many training images, and which were not."""
    kept = f"; {counted(frozen, 'frozen one keeps its own', 'frozen ones keep theirs')}" if frozen else ""
    kept += f"; {counted(wrapped, 'inside a wrapper keeps its own', 'inside wrappers keep theirs')}" if wrapped else ""
    if layers:
        which, where = counted(layers, "BatchNorm layer"), counted(images, "training image")
        return [f"statistics of {which} re-estimated on {where}{kept}"]
    return [f"no statistics of BatchNorm were re-estimated{kept}"] if kept else []


def unused_options(config: FineTuneConfig) -> list[str]:
    """What was asked of fine-tuning and had no effect."""
    notes = []
    if config.learning_rate is not None and tunes_itself(make_optimizer(config)):
        notes.append(f"learning_rate {config.learning_rate:g} was not used: YellowFin finds its own")
    asked = [name for name in OF_FINE_TUNING if getattr(config, name)]
    if asked and not config.epochs:
        notes.append(f"there was no fine-tuning (epochs 0), and {', '.join(asked)} had nothing to do")
    return notes


def chosen_epoch(history: Sequence[dict[str, float]], best: int) -> list[str]:
    """Which epoch of fine-tuning the weights are from, where images were set apart to tell; `best` 0 is before it."""
    if not any("val_loss" in epoch for epoch in history):
        return []
    if best:
        return [f"the weights are those after epoch {best} of {len(history)}, best on the training images set apart"]
    return [
        "no epoch of fine-tuning was better than none on the training images set apart; the weights are those from "
        "before it: a smaller learning rate may help"
    ]


def worse_for_training(before: Evaluation, after: Evaluation, kept: bool) -> list[str]:
    """Whether fine-tuning made the network worse on held-out images, by loss and by accuracy.

    `kept` is whether the one before it was written.
    """
    if math.isfinite(after.loss) and after.loss <= before.loss:
        return []
    if after.accuracy is not None and after.accuracy >= before.accuracy:
        return []
    where = "; the one before it is before_fine_tuning.keras in the output folder" if kept else ""
    return [
        f"fine-tuning made the network worse on the held-out images{where}. A smaller learning rate, or "
        "validation_share, which keeps the best epoch, may help"
    ]


def left_from_before(folder: Path, names: Sequence[str], files: dict[str, str]) -> list[str]:
    """Which of the `names` lie in the folder though they are none of this run's `files`."""
    stale = [name for name in names if (folder / name).exists() and str(folder / name) not in files.values()]
    return [f"{name} is of an earlier run in the same folder" for name in stale]


def limited(exports: Mapping[str, str]) -> list[str]:
    """Which exports do less than others, each with a sentence."""
    return [f"export {name}: {note}" for name, note in exports.items()]


def to_try_again(failures: Mapping[str, str]) -> list[str]:
    """What is left to do about exports that failed, each with its reason."""
    if not failures:
        return []
    return [
        f"export {', '.join(failures)} failed: the same command, or one with other exports, tries again from what is "
        "kept in the folder unfinished, without repeating the work"
    ]
