"""What a user can choose, as frozen dataclasses; every field's default works untuned."""

from dataclasses import dataclass, field
from pathlib import Path

from cobla_tf.errors import ConfigError

SCHEMES = ("spatial", "channel")
QP_SOLVERS = ("auto", "mosek", "structured", "clarabel")
GRADIENTS = ("folded", "factored")
STARTS = ("pos_cvx", "cptv", "ones")
EXPORTS = ("keras", "savedmodel", "litert")
PAPER_SAMPLE = 0.05
LEAST_SAMPLE = 1000


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
    iterations: int = 20
    """Most SQP iterations in one phase."""
    gradient: str = "folded"
    """'folded' runs the original convolution with the kernel P diag(m) V^T, 'factored' the two factors."""
    start: str = "pos_cvx"
    """Where the SQP starts: a feasible heuristic's masks, or 'ones' (projected on the budget by the first step)."""
    band: bool = True
    """Free only the masks on which heuristics disagree between a stricter and a looser budget."""
    qp_solver: str = "auto"
    """'auto' takes MOSEK where a licence answers and the open solver elsewhere."""
    memory: int = 30
    """BFGS pairs kept."""
    draws: int = 10
    """Feasible draws of the randomised rounding (Eq. 9), the best by sampled loss kept; 1 is the paper's."""
    refine_iterations: int = 5
    """Iterations that re-optimise the scale of the kept terms with the ranks fixed; 0 is the paper's."""

    def __post_init__(self) -> None:
        """Check every field; raises ConfigError."""
        fraction = self.sample_fraction
        _require(fraction is None or 0 < fraction <= 1, "sample_fraction", "in (0, 1]", fraction)
        _require(self.iterations >= 1, "iterations", "at least 1", self.iterations)
        _require(self.renew_every >= 0, "renew_every", "at least 0", self.renew_every)
        _require(self.memory >= 1, "memory", "at least 1", self.memory)
        _require(self.draws >= 1, "draws", "at least 1", self.draws)
        _require(self.refine_iterations >= 0, "refine_iterations", "at least 0", self.refine_iterations)
        _require(self.gradient in GRADIENTS, "gradient", f"one of {GRADIENTS}", self.gradient)
        _require(self.start in STARTS, "start", f"one of {STARTS}", self.start)
        _require(self.qp_solver in QP_SOLVERS, "qp_solver", f"one of {QP_SOLVERS}", self.qp_solver)

    def sample_size(self, examples: int) -> int:
        """Images behind one gradient, of a training set of `examples`."""
        if self.sample_fraction is None:
            return min(examples, max(LEAST_SAMPLE, round(PAPER_SAMPLE * examples)))
        return max(1, round(self.sample_fraction * examples))


@dataclass(frozen=True)
class FineTuneConfig:
    """How the rebuilt network is trained on; 0 epochs leave it as rebuilt."""

    epochs: int = 0
    optimizer: str = "adam"
    """Any name that keras.optimizers.get knows."""
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        """Check every field; raises ConfigError."""
        _require(self.epochs >= 0, "epochs", "at least 0", self.epochs)
        _require(0 < self.learning_rate < float("inf"), "learning_rate", "positive", self.learning_rate)


@dataclass(frozen=True)
class Config:
    """All that compress() can be told beside the model, the data and the budgets."""

    solve: SolveConfig = field(default_factory=SolveConfig)
    fine_tune: FineTuneConfig = field(default_factory=FineTuneConfig)
    batch_size: int = 128
    seed: int = 0
    output_dir: Path | None = None
    """Where files go; None writes nothing."""
    exports: tuple[str, ...] = EXPORTS

    def __post_init__(self) -> None:
        """Check every field; raises ConfigError."""
        _require(self.batch_size >= 1, "batch_size", "at least 1", self.batch_size)
        _require(0 <= self.seed < 2**32, "seed", "in [0, 2^32)", self.seed)
        unknown = sorted(set(self.exports) - set(EXPORTS))
        _require(not unknown, "exports", f"among {EXPORTS}", unknown)
