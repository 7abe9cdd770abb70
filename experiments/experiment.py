"""What a runner of the paper's tables and figures is made of: its settings, and how network and data come in."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cobla_tf.config import SCHEMES, FineTuneConfig, SolveConfig
from cobla_tf.errors import ModelError

if TYPE_CHECKING:
    from cobla_tf.experiments.subject import Subject

SMOKE = {
    "exclude": (), "seeds": (0,), "etas": (0.4,), "exact_images": 100, "top": 2, "sample_fraction": 0.3,
    "iterations": 2, "draws": 1, "refine_iterations": 1, "epochs": 1, "batch_size": 64,
}  # fmt: skip
"""So little of everything that a run only shows that everything works."""


def _setting(default: Any, text: str, kind: type = str) -> Any:
    """A field that can be a flag: of this help, and with values of this kind."""
    return field(default=default, metadata={"help": text, "kind": kind})


@dataclass(frozen=True)
class Settings:
    """What can be chosen in a runner; each runner has defaults of its own, and says which of these it takes."""

    model: str = _setting("", "Path of the trained network, or a name in the zoo, which needs --weights.")
    weights: str | None = _setting(None, "Path of trained weights for a name in the zoo.")
    dataset: str = _setting("", "As for cobla_tf.main.")
    data_dir: str | None = _setting(None, "Where tensorflow-datasets keeps its sets; its own default if unset.")
    preprocessing: str = _setting("none", "Of the images: none, scale, caffe, tf or torch.")
    exclude: tuple[str, ...] = _setting((), "Patterns of layer names to leave alone.")
    schemes: tuple[str, ...] = _setting(SCHEMES, "Decomposition schemes.")
    seeds: tuple[int, ...] = _setting((0,), "For what leaves something to chance.", int)
    etas: tuple[float, ...] = _setting((), "Budgets on MACs and params, as shares of the original.", float)
    methods: tuple[str, ...] = _setting((), "Some of the methods; all if unset.")
    shares: tuple[float, ...] = _setting((1.0,), "Budgets of COBLA, as shares of what the given ranks cost.", float)
    ranks: tuple[int, ...] = _setting((), "One for each layer, in network order.", int)
    exact_images: int = _setting(
        5000, "Training images behind every exact gradient (the method cobla_exact): the first so many, shuffled by "
        "the seed.", int,
    )  # fmt: skip
    top: int | None = _setting(None, "An image is also counted as right where its class is among the so many "
        "likeliest.", int)  # fmt: skip
    sample_fraction: float = _setting(0.05, "Share of the training images behind a gradient.", float)
    iterations: int = _setting(SolveConfig.iterations, "Most SQP iterations in a phase.", int)
    draws: int = _setting(SolveConfig.draws, "Feasible draws of the randomised rounding, best kept.", int)
    refine_iterations: int = _setting(SolveConfig.refine_iterations, "Iterations that refine the rounded network.", int)
    epochs: int = _setting(0, "Epochs of fine-tuning.", int)
    optimizer: str = _setting("yellowfin", "yellowfin, or any Keras optimiser by name.")
    learning_rate: float | None = _setting(None, "As for cobla_tf.main.", float)
    batch_size: int = _setting(128, "Images a step.", int)

    def solve(self) -> SolveConfig:
        """How COBLA finds the masks."""
        return SolveConfig(
            sample_fraction=self.sample_fraction,
            iterations=self.iterations,
            draws=self.draws,
            refine_iterations=self.refine_iterations,
        )

    def fine_tune(self) -> FineTuneConfig:
        """How compressed networks are trained on."""
        return FineTuneConfig(self.epochs, self.optimizer, self.learning_rate)


SQUEEZENET = Settings(
    model="squeezenet_v1.0", dataset="imagenet2012", preprocessing="caffe", etas=(0.5, 0.6, 0.7), top=5,
    sample_fraction=0.01,  # of the 1.28 million images; the paper's 0.05 would take 36 GiB of memory
)  # fmt: skip
"""The network of the paper's section 5 and of Fig. 5."""
SQUEEZENET_WORDS = (
    "The paper's numbers are of SqueezeNet on ImageNet. It does not say of which release. VGG-16, which it calls 22 "
    "times larger in computation, has 18 times the MACs of version 1.0 and 40 times those of version 1.1, and the "
    "28.9 % that its Fig. 5 saves in conv1 are nearer to what a rank can save there in 1.0 (29.1) than in 1.1 (27.1)."
)


@dataclass(frozen=True)
class Experiment:
    """One table or figure.

    Attributes:
        name: of its files.
        settings: the paper's.
        smoke: what a smoke run has otherwise, beside SMOKE.
        flags: fields of Settings that it takes, beside those that all take.
        run: work through what has no result yet, and write the page, in a folder.
    """

    name: str
    settings: Settings
    flags: tuple[str, ...]
    run: Callable[["Subject", Settings, Path], None]
    smoke: Mapping[str, Any] = field(default_factory=dict)

    def try_out(self, folder: Path, chosen: Mapping[str, Any] | None = None) -> None:
        """Run on a tiny network and data made on the spot, with some settings as chosen."""
        settings = dataclasses.replace(self.settings, **{**SMOKE, **self.smoke, **(chosen or {})})
        self.run(made_on_the_spot(settings), settings, folder)


def load(settings: Settings) -> "Subject":
    """The network and data that the settings name.

    Raises:
        ModelError: there is no trained network.
        DataError: the data are not on this machine.
    """
    _check_trained(settings)
    from cobla_tf.experiments.subject import Subject

    from cobla_tf.datasets import load_dataset
    from cobla_tf.graph import check_model
    from cobla_tf.models import load_model

    model = load_model(settings.model, settings.weights)
    check_model(model)
    data = load_dataset(
        settings.dataset, data_dir=settings.data_dir, image_shape=tuple(model.inputs[0].shape[1:]),
        preprocessing=settings.preprocessing, seed=0,
    )  # fmt: skip
    return Subject.of(model, data, settings)


def made_on_the_spot(settings: Settings) -> "Subject":
    """The network and data of a smoke run, the same every time, so that such a run too can go on."""
    import tensorflow as tf
    from cobla_tf.experiments.smoke import trained_network
    from cobla_tf.experiments.subject import Subject

    tf.config.experimental.enable_op_determinism()
    return Subject.of(*trained_network(), settings)


def _check_trained(settings: Settings) -> None:
    from cobla_tf.models import ZOO

    origin = "third_party/README.md says where they come from"
    if settings.model in ZOO and settings.weights is None:
        raise ModelError(
            f"{settings.model} needs trained weights, without which accuracies mean nothing: give their file with "
            f"--weights, or a trained network with --model; {origin}."
        )
    path = settings.weights or settings.model
    if not Path(path).is_file():
        raise ModelError(
            f"there is no trained network in {path!r}: give one with --model, or a name in the zoo and --weights; "
            f"{origin}."
        )
