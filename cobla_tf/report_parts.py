"""What a report is made of: a site, a layer, an iteration, an evaluation, a budget; no TensorFlow."""

import math
from dataclasses import dataclass, field

MODEL_INPUT = -1
"""In the place of a call: an input of the model."""


@dataclass(frozen=True)
class SiteReport:
    """One site before and after, kernels only; `rank` is None where it was kept whole, and `reason` says why.

    `before` and `after` map each resource ('macs', 'params', ...) to what the site costs in it. For each term of its
    decomposition, `singular_values` in descending order, the relaxed `masks` (empty where nothing was optimised) and
    the `scales` in the compressed network: 0 where the term was dropped, else positive.
    """

    name: str
    scheme: str
    kernel_shape: tuple[int, ...]
    rank: int | None
    full_rank: int
    before: dict[str, float]
    after: dict[str, float]
    reason: str = ""
    singular_values: tuple[float, ...] = ()
    masks: tuple[float, ...] = ()
    scales: tuple[float, ...] = ()

    def kept_share(self, resource: str) -> float:
        """What is left of its cost, as a share; 1 where it had none."""
        return self.after[resource] / self.before[resource] if self.before.get(resource) else 1.0


@dataclass(frozen=True)
class LayerCall:
    """One use of a layer in the original network.

    `inputs` are the places in `Report.network` of the calls that it reads from; MODEL_INPUT is an input of the network.
    """

    name: str
    kind: str
    inputs: tuple[int, ...]


@dataclass(frozen=True)
class SkippedLayer:
    """A layer that is no site, and why."""

    name: str
    kind: str
    reason: str


@dataclass(frozen=True)
class IterationRecord:
    """One SQP iteration: its own seconds, the run's gradients and loss-only values so far, used / limit by resource.

    `loss` is that on the sample, `judged` that on training images that no gradient sees (NaN where there are none), and
    `images` counts each image once for every gradient that was taken on it.

    `prices` holds the multipliers of the budget rows before the step: by how much about the loss on the sample would
    fall if a budget were wider by one per cent of the original cost; empty where no budget was in play. `ranks` holds
    the sums of the sites' masks; empty where the ranks are fixed, to which `budget_use` belongs then.
    """

    phase: str
    iteration: int
    loss: float
    judged: float
    predicted_decrease: float
    step: float
    budget_use: dict[str, float]
    seconds: float
    gradients: int
    values: int
    images: int
    qp_residual: float
    prices: dict[str, float] = field(default_factory=dict)
    ranks: tuple[float, ...] = ()


@dataclass(frozen=True)
class CertificateRecord:
    """How near the relaxed masks of a solve are to an optimum, without unit but for the decrease and the prices.

    `kkt_residual` is that of the loss at the masks, by its gradient on the sample: 0 at an optimum. `qp_residual` is
    that of the quadratic program there, `predicted_decrease` what its model of the loss promises beyond the masks, and
    `prices` are its multipliers, as in `IterationRecord`.
    """

    phase: str
    kkt_residual: float
    qp_residual: float
    predicted_decrease: float
    budget_use: dict[str, float]
    prices: dict[str, float]


@dataclass(frozen=True)
class RoundingRecord:
    """Losses of the relaxed masks and of the best rounding of them, before fading and refining, on the same images."""

    relaxed: float
    rounded: float


@dataclass(frozen=True)
class Evaluation:
    """Mean loss and accuracy in [0, 1] (None where the task has none) over `examples` examples.

    `of_places` is whether it is the share of correct places, such as pixels, of which an example has several.
    """

    loss: float
    accuracy: float | None
    examples: int
    of_places: bool = False

    def interval(self) -> tuple[float, float] | None:
        """Wilson's 95 % confidence interval of the accuracy; None where there is none.

        Nor is there one of places: those of one example are not independent.
        """
        if self.accuracy is None or not math.isfinite(self.accuracy) or self.examples < 1 or self.of_places:
            return None
        from scipy.stats import binomtest

        correct = round(self.accuracy * self.examples)
        interval = binomtest(correct, self.examples).proportion_ci(0.95, method="wilson")
        return float(interval.low), float(interval.high)


@dataclass(frozen=True)
class BudgetReport:
    """Cost of all sites for one resource ('macs', 'params', ...); `limit` None means that no budget was set.

    Counted resources have whole numbers; those of the user's own are in the user's units.
    """

    resource: str
    original: float
    limit: float | None
    reached: float
