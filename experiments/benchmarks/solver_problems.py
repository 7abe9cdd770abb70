"""What the solvers are compared on: the masks of a network, and the meter that counts what each of them spends."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cobla_tf.baselines.pos_cvx import select as pos_cvx
from cobla_tf.budgets import resolve_limits
from cobla_tf.errors import BudgetError, DataError
from cobla_tf.sampling import JUDGES
from cobla_tf.sqp.constraints import Constraints

if TYPE_CHECKING:
    from cobla_tf.examples import Examples, Sample
    from cobla_tf.objective import Objective
    from cobla_tf.sites import Sites

Array = np.ndarray

LOSS_PRICE = 1 / 3
"""Of a loss without gradient, in gradients: forward against forward and two backward products; on a CPU it is less."""
CURVATURE_IMAGES = 64
"""Behind our first Hessian, as in cobla_tf.sampling; they are charged as their share of a gradient."""


@dataclass(frozen=True)
class Settings:
    """What to compare on; the fields are the flags."""

    model: str = "digits_cnn"
    dataset: str = "digits"
    data_dir: str | None = None
    preprocessing: str = "none"
    exclude: tuple[str, ...] = ()
    scheme: str = "spatial"
    budgets: tuple[float, ...] = (0.3, 0.2)
    sample: int = 500
    held_out: int = 500
    pretrain_epochs: int = 15
    batch_size: int = 64
    precision: str = "bfloat16"
    seed: int = 0
    ours: int = 10
    theirs: int = 20

    @property
    def judges(self) -> int:
        """Images set apart to choose an iterate by, as many as a solve of this sample takes (cobla_tf.sampling)."""
        return min(JUDGES, -(-self.sample // 2))


class BudgetSpentError(Exception):
    """A method asked for more gradients than it was given."""


@dataclass(frozen=True)
class Problem:
    """Minimise the loss on the sample over A x <= b and 0 <= x <= 1.

    Attributes:
        budget: fraction of the original MACs and params.
        start: feasible masks that are not fixed, float64 [n].
        constraints: rows in shares of the original cost.
        value: E(x) on the sample.
        gradient: E(x) and dE/dx, float64 [n], on the sample.
        judge: E(x) on other images, by which every method's answer is chosen among the points that it visited.
        held_out: E(x) on images that nothing is chosen by.
        curvature: empirical Fisher diagonal, float64 [n], on a part of the sample.
        curvature_price: of that, in gradients.
    """

    budget: float
    start: Array
    constraints: Constraints
    value: Callable[[Array], float]
    gradient: Callable[[Array], tuple[float, Array]]
    judge: Callable[[Array], float]
    held_out: Callable[[Array], float]
    curvature: Callable[[Array], Array]
    curvature_price: float


@dataclass(frozen=True)
class Visit:
    """A point x [n] that a method evaluated, its loss on the sample, and the gradients spent by then."""

    spent: float
    x: Array
    loss: float


@dataclass
class Meter:
    """The loss as one method sees it (an sqp.loop.Oracle): counted, recorded, and at an end after `gradients`.

    Attributes:
        problem: whose loss it is.
        gradients: what may be spent; losses alone cost LOSS_PRICE.
        visits: every evaluation.
        spent: gradients so far.
        seconds: processor time taken by the loss, not by the method.
    """

    problem: Problem
    gradients: float
    visits: list[Visit] = field(default_factory=list)
    spent: float = 0.0
    seconds: float = 0.0
    _paid: bytes = b""

    def value(self, x: Array) -> float:
        """E(x)."""
        loss = self._evaluate(self.problem.value, x, LOSS_PRICE)
        self.visits.append(Visit(self.spent, x.copy(), loss))
        self._paid = x.tobytes()
        return loss

    def gradient(self, x: Array) -> tuple[float, Array]:
        """E(x) and dE/dx."""
        price = 1 - LOSS_PRICE if x.tobytes() == self._paid else 1.0
        loss, gradient = self._evaluate(self.problem.gradient, x, price)
        self.visits.append(Visit(self.spent, x.copy(), loss))
        self._paid = b""
        return loss, gradient

    def curvature(self, x: Array) -> Array:
        """Diagonal of a first Hessian at x."""
        return self._evaluate(self.problem.curvature, x, self.problem.curvature_price)

    def renew(self, iteration: int, overfitted: bool) -> bool:
        """Never: the sample is fixed."""
        del iteration, overfitted
        return False

    def _evaluate(self, function: Callable[[Array], Any], x: Array, price: float) -> Any:
        if self.spent + price > self.gradients + 1e-9:
            raise BudgetSpentError
        began = time.process_time()
        answer = function(x)
        self.seconds += time.process_time() - began
        self.spent += price
        return answer


def mask_problem(objective: "Objective", sites: "Sites", samples: Sequence["Sample"], budget: float) -> Problem:
    """The masks of a network under one budget on MACs and params, from POS-CVX with its whole sites fixed whole.

    Args:
        objective, sites: of the network.
        samples: the images behind the gradients, the judge and the held-out loss.
        budget: see `Problem`.

    Raises:
        BudgetError: the budget cannot be met, or leaves every site whole.
    """
    costs, layout = sites.costs, sites.layout
    limits = resolve_limits(costs, dict.fromkeys(costs.resources, budget))
    start = pos_cvx(sites.sigmas, costs, limits)
    sample, judges, held_out = samples
    base, free = layout.leading(start.ranks), np.flatnonzero(~layout.spread(start.whole))
    if not free.size:
        raise BudgetError(f"the budget {budget:g} leaves every site whole: nothing is left to compare on; lower it.")
    totals = costs.totals()
    rows = layout.spread(costs.per_rank)[:, free] / totals[:, None]
    room = (limits - np.where(start.whole, costs.original, 0).sum(axis=1)) / totals
    constraints = Constraints(rows, room, np.zeros(free.size), np.ones(free.size))

    def expand(x: Array) -> Array:
        masks = base.copy()
        masks[free] = x
        return masks

    def gradient(x: Array) -> tuple[float, Array]:
        loss, slopes = objective.gradient(expand(x), sample)
        return loss, slopes[free]

    def value_on(images: "Sample") -> Callable[[Array], float]:
        return lambda x: objective.value(expand(x), images)

    part = sample.draw(CURVATURE_IMAGES, np.random.default_rng(0))
    return Problem(
        budget, base[free], constraints, value_on(sample), gradient, value_on(judges), value_on(held_out),
        lambda x: objective.fisher(expand(x), part)[free], part.size / sample.size,
    )  # fmt: skip


def load_problems(settings: Settings) -> list[Problem]:
    """Load or train the network, and pose the problem of every budget on the same images.

    Raises:
        CoblaError: a model, a data set or a budget that cannot be used, or too few images.
    """
    import keras
    from cobla_tf.experiments.benchmarks.pretraining import pretrain

    from cobla_tf.datasets import load_dataset
    from cobla_tf.models import ZOO, load_model
    from cobla_tf.objective import Objective
    from cobla_tf.precision import resolve_precision
    from cobla_tf.reading import as_examples
    from cobla_tf.sites import find_sites
    from cobla_tf.surgery import mask_model

    keras.utils.set_random_seed(settings.seed)
    model = load_model(settings.model, will_train=True)
    shape = tuple(model.inputs[0].shape[1:])
    data = load_dataset(
        settings.dataset, data_dir=settings.data_dir, image_shape=shape, preprocessing=settings.preprocessing,
        seed=settings.seed,
    )  # fmt: skip
    examples = as_examples(data.train)
    sizes = (settings.sample, settings.judges, settings.held_out)
    samples = draw_apart(examples, sizes, np.random.default_rng(settings.seed))
    # A file is a trained network already.
    loss = pretrain(model, examples, settings.pretrain_epochs if settings.model in ZOO else 0, settings.batch_size)
    sites = find_sites(model, settings.scheme, settings.exclude, shape)
    precision = resolve_precision(settings.precision)
    objective = Objective(mask_model(model, sites), loss, settings.batch_size, samples[0].probe(), precision)
    return [mask_problem(objective, sites, samples, budget) for budget in settings.budgets]


def draw_apart(examples: "Examples", sizes: Sequence[int], rng: np.random.Generator) -> list["Sample"]:
    """Random samples of these sizes, no two with a common image.

    Raises:
        DataError: there are fewer images than all of them need.
    """
    drawn = examples.draw(sum(sizes), rng)
    if drawn.size < sum(sizes):
        needs = " + ".join(f"{size:,}" for size in sizes)
        raise DataError(
            f"expected {sum(sizes):,} training images ({needs}: gradients, judge and held-out loss), got "
            f"{drawn.size:,}; lower --sample or --held_out."
        )
    parts = np.split(rng.permutation(drawn.size), np.cumsum(sizes)[:-1])
    return [replace(drawn, images=drawn.images[part], labels=drawn.labels[part]) for part in parts]
