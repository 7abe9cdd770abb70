"""What the reader of a report should know beside its figures, as sentences."""

import math
from collections.abc import Sequence
from pathlib import Path

from cobla_tf.report import Evaluation
from cobla_tf.sites import Sites

DEVIATIONS = 3.0
"""Standard deviations above chance at which an accuracy is one."""


def lost_attributes(sites: Sites) -> list[str]:
    """What a kernel had and its factors have not."""
    return [
        f"{site.name}: its {name.replace('_', ' ')} does not carry over to two factors and is left out in fine-tuning"
        for site in sites.found
        for name in ("kernel_regularizer", "kernel_constraint", "pointwise_regularizer", "pointwise_constraint")
        if getattr(site.layer, name, None) is not None
    ]


def untrained(original: Evaluation, classes: int) -> list[str]:
    """Whether the original's accuracy could be that of guessing among equally frequent classes."""
    if original.accuracy is None:
        return []
    chance = 1 / max(classes, 2)
    if original.accuracy > chance + DEVIATIONS * math.sqrt(chance * (1 - chance) / original.examples):
        return []
    return [
        f"the original network's accuracy, {original.accuracy:.2%} on {original.examples:,} held-out images, cannot be "
        f"told from chance ({chance:.2%}): it has no trained weights, or the images are not prepared as it needs them; "
        "accuracies mean nothing"
    ]


def left_from_before(folder: Path, names: Sequence[str], files: dict[str, str]) -> list[str]:
    """Which of the `names` lie in the folder though they are none of this run's `files`."""
    stale = [name for name in names if (folder / name).exists() and str(folder / name) not in files.values()]
    return [f"{name} is of an earlier run in the same folder" for name in stale]
