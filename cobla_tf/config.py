"""What a user can choose, as frozen dataclasses; every field's default works untuned."""

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from cobla_tf.errors import ConfigError, check_among, did_you_mean
from cobla_tf.files import at_home

SCHEMES = ("spatial", "channel")
AUTO = "auto"
"""A scheme for each site: see cobla_tf.schemes."""
LAYERS = ("conv2d", "conv1d", "conv3d", "conv2d_transpose", "separable_conv2d", "dense")
"""Kinds of layers that can be decomposed; the paper decomposes the first."""
ALL_LAYERS = "all"
QP_SOLVERS = ("auto", "mosek", "structured", "clarabel")
GRADIENTS = ("folded", "factored")
STARTS = ("pos_cvx", "cptv", "ones")
CURVATURES = ("fisher", "identity")
ROUNDINGS = ("model", "random")
ONE_DEVICE, MIRRORED, MULTI_WORKER = STRATEGIES = ("one_device", "mirrored", "multi_worker")
PRECISIONS = ("bfloat16", "float32")
EXPORTS = ("keras", "savedmodel", "litert", "litert_float16", "litert_int8", "onnx")
DEFAULT_EXPORTS = EXPORTS[:3]
RANK_METHODS = (
    "cobla", "cptv", "pos_greedy", "pos_cvx", "r_vbmf", "signal_recovery", "signal_recovery_exact", "uniform", "energy",
    "alds", "greedy_accuracy",
)  # fmt: skip
"""COBLA and the names in cobla_tf.baselines.RIVALS, which needs SciPy."""
PAPER_SAMPLE = 0.05
LEAST_SAMPLE = 1000


def check_layers(names: str | Sequence[str]) -> tuple[str, ...]:
    """The kinds that a user asks for, one name or several; "all" is all of them.

    Raises:
        ConfigError: there is no such kind, or none is asked for.
    """
    kinds = ", ".join((*LAYERS, ALL_LAYERS))
    if not isinstance(names, Collection):
        raise ConfigError(f"layers must be among {kinds}, got {names!r}.")
    names = (names,) if isinstance(names, str) else tuple(names)
    for name in names:
        if name not in (*LAYERS, ALL_LAYERS):
            raise ConfigError(f"layers must be among {kinds}, got {name!r}{did_you_mean(name, LAYERS)}")
    if not names:
        raise ConfigError(f"layers must name at least one of {kinds}, got none.")
    return LAYERS if ALL_LAYERS in names else names


def check_export_names(names: Collection[str]) -> None:
    """Raise ConfigError where one is not in EXPORTS."""
    unknown = sorted(set(names) - set(EXPORTS))
    if unknown:
        hint = did_you_mean(unknown[0], EXPORTS)
        raise ConfigError(f"exports must be among {', '.join(EXPORTS)}, got {', '.join(map(repr, unknown))}{hint}")


def as_config(config: "Config | None") -> "Config":
    """The user's choices, or the defaults.

    Raises:
        ConfigError: it is something else, a dict say.
    """
    if config is not None and not isinstance(config, Config):
        raise ConfigError(f"config must be a cobla_tf.Config, got {type(config).__name__}; write cobla_tf.Config(...).")
    return config or Config()


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def is_count(value: object, least: int) -> bool:
    """Whether it is a whole number, at least `least`, and no truth value."""
    return isinstance(value, Integral) and not isinstance(value, bool) and value >= least


def _is_flag(value: object) -> bool:
    return type(value).__name__ in ("bool", "bool_")  # NumPy's as well, without an import of it


def _require(ok: bool, name: str, expected: str, got: object) -> None:
    if not ok:
        raise ConfigError(f"{name} must be {expected}, got {got!r}.")


@dataclass(frozen=True)
class SolveConfig:
    """How the masks are found."""

    sample_fraction: float | None = None
    """Share of the training images behind one gradient; 1.0 is the exact gradient. None is the paper's 0.05 (section
    5.3), but at least LEAST_SAMPLE images."""
    renew_every: int = 5
    """Iterations after which a new sample is drawn; 0 keeps the first one."""
    growing: bool = True
    """Begin with a quarter of a sample and double it with every new one; not where the gradient is exact, or where the
    first sample is kept."""
    iterations: int = 20
    """Most SQP iterations in one phase."""
    curvature: str = "fisher"
    """The first Hessian of the masks: 'fisher' measures its diagonal, 'identity' guesses a multiple of the identity.
    That of the biases is always measured: their units differ from layer to layer."""
    gradient: str = "folded"
    """'folded' runs the original convolution with the kernel P diag(m) V^T, 'factored' the two factors."""
    start: str = "pos_cvx"
    """Where the SQP starts: a feasible heuristic's masks, or 'ones', which are over the budgets."""
    continuation: bool = True
    """Come down notch by notch from a start that is over the budgets, not by one step; where a heuristic's start within
    them is near chance, begin at looser ones. Where rounding would lose much, what it drops fades out likewise."""
    stop_at_original: bool = True
    """Ask for no less loss than the original's: below it is where overfitting is. On images that no gradient sees; an
    exact gradient leaves none, and there it is the training loss."""
    band: bool = False
    """Free only the masks on which heuristics disagree between a stricter and a looser budget."""
    qp_solver: str = "auto"
    """'auto' takes MOSEK where a licence answers and the open solver elsewhere."""
    precision: str = "bfloat16"
    """Of the products in losses, gradients and fine-tuning: 'bfloat16' where the machine has it, else 'float32'.
    Accuracies are always measured in the network's own precision."""
    memory: int = 30
    """BFGS pairs kept."""
    rounding: str = "model"
    """'model' adds to the draws the exact optimum of an integer program on a model of the loss; 'random' is Eq. 9."""
    rank_multiple: int = 1
    """Every rank is a multiple of it; a layer whose full rank is smaller stays whole."""
    draws: int = 4
    """Feasible draws of the randomised rounding (Eq. 9), the best by sampled loss kept; 1 is the paper's."""
    refine_iterations: int = 20
    """Iterations that fit the scale of the kept terms and the biases beside them to the loss, ranks fixed; 0 is the
    paper's."""

    def __post_init__(self) -> None:
        """Check every field; raises ConfigError."""
        fraction = self.sample_fraction
        in_range = fraction is None or (_is_number(fraction) and 0 < fraction <= 1)
        _require(in_range, "sample_fraction", "in (0, 1]", fraction)
        for name in ("growing", "continuation", "stop_at_original", "band"):
            _require(_is_flag(getattr(self, name)), name, "True or False", getattr(self, name))
        _require(is_count(self.iterations, 1), "iterations", "a whole number, at least 1", self.iterations)
        _require(is_count(self.renew_every, 0), "renew_every", "a whole number, at least 0", self.renew_every)
        _require(is_count(self.memory, 1), "memory", "a whole number, at least 1", self.memory)
        _require(is_count(self.rank_multiple, 1), "rank_multiple", "a whole number, at least 1", self.rank_multiple)
        _require(is_count(self.draws, 1), "draws", "a whole number, at least 1", self.draws)
        _require(
            is_count(self.refine_iterations, 0),
            "refine_iterations",
            "a whole number, at least 0",
            self.refine_iterations,
        )
        check_among("gradient", self.gradient, GRADIENTS)
        check_among("curvature", self.curvature, CURVATURES)
        check_among("rounding", self.rounding, ROUNDINGS)
        check_among("start", self.start, STARTS)
        if self.band and self.start == "ones":
            raise ConfigError("band is about where heuristics disagree, and needs one of them as start: not ones.")
        check_among("precision", self.precision, PRECISIONS)
        check_among("qp_solver", self.qp_solver, QP_SOLVERS)

    def sample_size(self, examples: int) -> int:
        """Images behind one gradient, of a training set of `examples`."""
        if self.sample_fraction is None:
            return min(examples, max(LEAST_SAMPLE, round(PAPER_SAMPLE * examples)))
        return max(1, round(self.sample_fraction * examples))


@dataclass(frozen=True)
class FineTuneConfig:
    """How the rebuilt network is trained on; 0 epochs leave it as rebuilt."""

    epochs: int = 0
    optimizer: Any = "adam"
    """A Keras optimiser, of which a copy is used, or its name, or 'yellowfin', which tunes itself. Gradients are
    clipped to a global norm of 1, save by YellowFin and by one given with a limit of its own."""
    learning_rate: float | None = None
    """Of the first step; it falls to zero along a half cosine. None is that of the optimiser given, whose own schedule
    stays; of one given by name 1e-3. YellowFin finds its own and has no use for this one; the factor on it, an argument
    of `YellowFin`, stays for half of the steps and then falls likewise."""
    distillation: float = 0.0
    """Share of the original network's outputs in what is learnt; the rest are labels, of which 1 has no use. Below 1 it
    takes losses that are linear in their targets, but for a constant: cross-entropies, squared error and the like."""
    validation_share: float = 0.0
    """Share of the training images that is set apart to compare epochs on; the weights after the best one are kept."""
    patience: int = 0
    """Epochs without a better validation loss after which training stops; 0 never stops it early."""
    callbacks: tuple[Any, ...] = ()
    """Further callbacks of Keras, in a tuple; none that sets the learning rate. After an interruption they begin anew
    with the epoch at which training goes on; in a sweep the same ones serve all points."""

    def __post_init__(self) -> None:
        """Check every field; raises ConfigError."""
        epochs = self.epochs
        _require(is_count(epochs, 0) and epochs < 2**31, "epochs", "a whole number, at least 0 and below 2^31", epochs)
        share, kept = self.distillation, self.validation_share
        _require(_is_number(share) and 0 <= share <= 1, "distillation", "in [0, 1]", share)
        _require(_is_number(kept) and 0 <= kept < 1, "validation_share", "in [0, 1)", kept)
        _require(is_count(self.patience, 0), "patience", "a whole number, at least 0", self.patience)
        if self.patience and not self.validation_share:
            raise ConfigError("to stop early, training images must be set apart: set validation_share, e.g. to 0.1.")
        rate = self.learning_rate
        positive = _is_number(rate) and 0 < rate < float("inf")
        _require(rate is None or positive, "learning_rate", "a positive number or None", rate)
        self._check_callbacks()

    def _check_callbacks(self) -> None:
        given = self.callbacks
        _require(isinstance(given, list | tuple), "callbacks", "a tuple of Keras callbacks", given)
        for callback in given:
            known = "Callback" in {kind.__name__ for kind in type(callback).__mro__}
            _require(known, "callbacks", "a tuple of Keras callbacks, such as EarlyStopping()", callback)
        kinds = {kind.__name__ for callback in given for kind in type(callback).__mro__}
        for name in sorted(kinds & {"LearningRateScheduler", "ReduceLROnPlateau"}):
            raise ConfigError(
                f"callbacks holds a {name}, but the learning rate falls along a cosine already: leave it out, or pass "
                "an optimiser with a schedule of its own."
            )
        for name, watched in self.watched:
            if watched.startswith("val_") and not self.validation_share:
                raise ConfigError(
                    f"{name} watches {watched}, for which training images must be set apart: set validation_share, "
                    "e.g. to 0.1."
                )

    @property
    def watched(self) -> list[tuple[str, str]]:
        """What callbacks wait for, after the name of their class; one that saves every epoch waits for nothing."""
        return [
            (type(callback).__name__, callback.monitor)
            for callback in self.callbacks
            if isinstance(getattr(callback, "monitor", None), str) and getattr(callback, "save_best_only", True)
        ]


@dataclass(frozen=True, kw_only=True)
class Config:
    """All that compress() can be told beside the model, the data and the budgets."""

    solve: SolveConfig = field(default_factory=SolveConfig)
    fine_tune: FineTuneConfig = field(default_factory=FineTuneConfig)
    batch_size: int = 128
    batch_norm_images: int = 1000
    """Training images on which the statistics of BatchNorm layers are re-estimated after compression; 0 keeps them."""
    seed: int = 0
    output_dir: Path | str | None = None
    """Where files go; None writes nothing."""
    benchmark: bool = False
    """Time the compressed network beside the original; in a sweep all points beside it, in one run."""
    strategy: str = ONE_DEVICE
    """What shares the work: 'one_device', 'mirrored' (all GPUs of this machine), or 'multi_worker' (all processes that
    TF_CONFIG names; from Python, call `cobla_tf.find_devices` first)."""
    exports: tuple[str, ...] = DEFAULT_EXPORTS
    export_batch: int | None = None
    """Gives the SavedModel a second endpoint, serve_batch_N, for batches of just this size."""

    def __post_init__(self) -> None:
        """Check every field; raises ConfigError."""
        _require(isinstance(self.solve, SolveConfig), "solve", "a SolveConfig", self.solve)
        _require(isinstance(self.fine_tune, FineTuneConfig), "fine_tune", "a FineTuneConfig", self.fine_tune)
        _require(_is_flag(self.benchmark), "benchmark", "True or False", self.benchmark)
        folder = self.output_dir
        _require(folder is None or isinstance(folder, str | os.PathLike), "output_dir", "a path or None", folder)
        if self.output_dir is not None:
            object.__setattr__(self, "output_dir", Path(at_home(os.fspath(self.output_dir))))
            name = os.fspath(self.output_dir)
            _require(name.isprintable(), "output_dir", "a path that can be printed", name)
        given = self.exports
        names = isinstance(given, list | tuple | set | frozenset) and all(isinstance(name, str) for name in given)
        _require(names, "exports", "a list or tuple of names", self.exports)
        size = self.batch_size
        _require(is_count(size, 1) and size < 2**31, "batch_size", "a whole number, at least 1 and below 2^31", size)
        images = self.batch_norm_images
        _require(is_count(images, 0), "batch_norm_images", "a whole number, at least 0", images)
        _require(is_count(self.seed, 0) and self.seed < 2**32, "seed", "in [0, 2^32)", self.seed)
        batch = self.export_batch
        _require(batch is None or is_count(batch, 1), "export_batch", "a whole number, at least 1, or None", batch)
        check_among("strategy", self.strategy, STRATEGIES)
        check_export_names(self.exports)
        _require(
            batch is None or "savedmodel" in self.exports or folder is None,
            "export_batch",
            "None where there is no export savedmodel, which has the endpoint",
            batch,
        )
