"""The SQP loop against SLSQP, trust-constr and IPOPT on the linearly constrained problems of S2MPJ.

python -m cobla_tf.experiments.benchmarks.s2mpj needs the packages of the `test` extra. All get exact gradients and no
Hessian; all are judged from outside by what x is worth. The size limit of 100 variables leaves none out: of the default
sizes with at most 5 rows the largest has 96. A second table holds the length of the line search's memory against its
outcome, with exact losses and with noisy ones.
"""

import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from absl import flags, logging
from cobla_tf.experiments.benchmarks import general_solvers
from cobla_tf.experiments.benchmarks.s2mpj_problems import LinearProblem, Meter, load, select
from tabulate import tabulate

from cobla_tf.sqp.line_search import LineSearchSettings
from cobla_tf.terminal import run_with_flags

SOLVERS: dict[str, general_solvers.Solver] = {
    "sqp": general_solvers.sqp(LineSearchSettings().history),
    "SLSQP": general_solvers.slsqp,
    "trust-constr": general_solvers.trust_constr,
    "IPOPT": general_solvers.ipopt,
}
ROWS = 5
HISTORIES = (1, LineSearchSettings().history, 10)
"""Monotone, the default, and the example in NLPQLP's documentation."""
NOISES = (0.0, 1e-4, 1e-2)
"""Relative errors of the loss under which the histories are compared."""
NOISE_SIZE = 20
"""Most variables in that comparison: the losses of the larger ones take most of a second in Python."""
FEASIBLE, CLOSE = 1e-6, 1e-5
"""Largest violation, and largest excess over the best loss that any solver found as a share of max(1, |best|)."""

_SIZE = flags.DEFINE_integer("size", 100, "Most variables of a problem.", 1)
_SECONDS = flags.DEFINE_float("seconds", 120.0, "Processor time of one solver on one problem.", 0.1)
_ITERATIONS = flags.DEFINE_integer("iterations", 1000, "Most iterations of one solver on one problem.", 1)
_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write; none by default.")
_SMOKE = flags.DEFINE_bool("smoke", False, "Problems in 2 variables only, a few iterations.")


@dataclass(frozen=True)
class Outcome:
    """What one solver made of one problem.

    Attributes:
        problem, solver: names.
        loss, violation: at its x; NaN where it gave none.
        losses, gradients: evaluations spent.
        seconds: processor time.
        message: its own words, or the exception.
        solved: whether x is feasible and as good as the best found by any solver.
    """

    problem: str
    solver: str
    loss: float
    violation: float
    losses: int
    gradients: int
    seconds: float
    message: str
    solved: bool = False

    @property
    def feasible(self) -> bool:
        """Whether x may be compared at all."""
        return self.violation <= FEASIBLE and math.isfinite(self.loss)


def attempt(
    problem: LinearProblem, name: str, solver: general_solvers.Solver, iterations: int, seconds: float, noise: float = 0
) -> Outcome:
    """Run one solver on one problem; whatever it raises is its failure."""
    meter = Meter(problem, seconds, noise)
    try:
        with np.errstate(all="ignore"):
            x, message = solver(problem, meter, iterations)
            loss, violation = float(problem.loss(x)), problem.violation(x)
    except Exception as error:  # the comparison goes on without it
        loss, violation, message = math.nan, math.nan, f"{type(error).__name__}: {error}"
    spent = time.process_time() - meter.began
    return Outcome(problem.name, name, loss, violation, meter.losses, meter.gradients, spent, message)


def best_loss(outcomes: Sequence[Outcome]) -> float:
    """The lowest feasible loss of one problem; NaN where no solver has one."""
    return min((outcome.loss for outcome in outcomes if outcome.feasible), default=math.nan)


def judge(outcome: Outcome, best: float, close: float = CLOSE) -> Outcome:
    """Mark an outcome as solved where it is feasible and its loss is close to the best one."""
    return replace(outcome, solved=outcome.feasible and outcome.loss <= best + close * max(1.0, abs(best)))


def reason(outcome: Outcome, best: float) -> str:
    """Why an outcome does not count as solved."""
    if math.isnan(outcome.loss) or math.isnan(outcome.violation):
        return outcome.message
    if not outcome.feasible:
        return f"violation {outcome.violation:.1e}: {outcome.message}"
    return f"loss {outcome.loss:.8g}, best {best:.8g}: {outcome.message}"


def score_table(outcomes: Sequence[Outcome]) -> str:
    """Problems solved and evaluations spent by each solver."""
    body = []
    for solver in SOLVERS:
        own = [outcome for outcome in outcomes if outcome.solver == solver]
        total = [sum(getattr(outcome, name) for outcome in own) for name in ("losses", "gradients", "seconds")]
        body.append([solver, sum(outcome.solved for outcome in own), len(own), *total])
    return tabulate(body, ["solver", "solved", "of", "losses", "gradients", "seconds"], floatfmt=".1f")


def failure_table(outcomes: Sequence[Outcome], best: dict[str, float]) -> str:
    """One line a failure, with its reason."""
    body = [[o.solver, o.problem, reason(o, best[o.problem])] for o in outcomes if not o.solved]
    return tabulate(sorted(body), ["solver", "problem", "reason"], maxcolwidths=[None, None, 90])


def compare(problems: Sequence[LinearProblem], iterations: int) -> tuple[list[Outcome], dict[str, float]]:
    """Every solver on every problem, judged, and the best loss of each problem."""
    outcomes, best = [], {}
    for problem in problems:
        runs = [attempt(problem, name, run, iterations, _SECONDS.value) for name, run in SOLVERS.items()]
        best[problem.name] = best_loss(runs)
        outcomes += [judge(run, best[problem.name]) for run in runs]
    return outcomes, best


def compare_histories(problems: Sequence[LinearProblem], best: dict[str, float], iterations: int) -> list[list[float]]:
    """A row each noise and history: problems solved, to ten times the noise, losses and gradients spent on all."""
    body = []
    for noise in NOISES:
        for history in HISTORIES:
            solver, close = general_solvers.sqp(history), max(CLOSE, 10 * noise)
            runs = [attempt(p, "sqp", solver, iterations, _SECONDS.value, noise) for p in problems]
            solved = sum(judge(run, best[run.problem], close).solved for run in runs)
            spent = [sum(run.losses for run in runs), sum(run.gradients for run in runs)]
            body.append([noise, history, solved, len(runs), *spent])
    return body


def main(argv: list[str]) -> None:
    """Run every solver on every problem, print the tables, write the JSON."""
    del argv
    size, iterations = (2, 50) if _SMOKE.value else (_SIZE.value, _ITERATIONS.value)
    problems = [load(name) for name in select(ROWS, size)]
    outcomes, best = compare(problems, iterations)
    print(score_table(outcomes), failure_table(outcomes, best), sep="\n\n", end="\n\n", flush=True)
    headers = ["noise", "history", "solved", "of", "losses", "gradients"]
    histories = compare_histories([p for p in problems if p.start.size <= NOISE_SIZE], best, iterations)
    print(tabulate(histories, headers, floatfmt=("g",)))
    if _OUTPUT.value:
        written = {
            "outcomes": [asdict(outcome) for outcome in outcomes],
            "histories": [dict(zip(headers, row, strict=True)) for row in histories],
        }
        Path(_OUTPUT.value).write_text(json.dumps(written, indent=1), encoding="utf-8")


if __name__ == "__main__":
    logging.set_verbosity(logging.ERROR)  # a fallback of the QP solver shows in the seconds
    run_with_flags("s2mpj", main, sys.argv, stopped="nothing is kept")
