"""The structured QP solver against Clarabel on the convex lifting, at the size of VGG-16.

python -m cobla_tf.experiments.benchmarks.qp solves every random problem with the structured solver and a few, spread
evenly over them, with Clarabel right after; it prints what was reached and exits with 1 where a criterion is missed.
"""

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from absl import flags
from cobla_tf.experiments.benchmarks.qp_problems import FAMILIES, random_program
from tabulate import tabulate

from cobla_tf.errors import SolverError
from cobla_tf.qp import KKT_TOLERANCE, QuadraticProgram, solve
from cobla_tf.terminal import run_with_flags

RATIO = 20.0
"""Clarabel's time over the structured solver's, the least median."""

_PROBLEMS = flags.DEFINE_integer("problems", 200, "Random problems, the families in turn.", 1)
_SIZE = flags.DEFINE_integer("size", 11_145, "Variables; 11,145 are VGG-16's spatial masks.", 1)
_PAIRS = flags.DEFINE_integer("pairs", 30, "BFGS pairs, two columns each.", 0)
_CLARABEL_PROBLEMS = flags.DEFINE_integer("clarabel_problems", 5, "Problems that Clarabel solves as well.", 0)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the random numbers.", 0)
_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write; none by default.")
_SMOKE = flags.DEFINE_bool("smoke", False, "26 problems in 200 variables with 4 pairs.")


@dataclass(frozen=True)
class Run:
    """One solve.

    Attributes:
        number: of the problem, from 0.
        family: its kind.
        asked, answered: back ends; they differ after a fallback, and the second is empty after an error.
        residual: scaled KKT residual on the problem as given; infinite after an error.
        seconds: processor time of `qp.solve`, its checks and presolve included; a busy machine decides nothing.
        message: the error's sentence.
    """

    number: int
    family: str
    asked: str
    answered: str
    residual: float
    seconds: float
    message: str = ""

    @property
    def good(self) -> bool:
        """Whether the back end that was asked met the tolerance."""
        return self.answered == self.asked and self.residual <= KKT_TOLERANCE


def timed(number: int, family: str, program: QuadraticProgram, solver: str) -> Run:
    """Solve once; an error becomes a run that is not good."""
    began = time.process_time()
    try:
        solution = solve(program, solver)
    except SolverError as error:
        return Run(number, family, solver, "", float("inf"), time.process_time() - began, str(error))
    return Run(number, family, solver, solution.solver, solution.residual, time.process_time() - began)


def run_all(problems: int, size: int, pairs: int, clarabel_problems: int, seed: int) -> list[Run]:
    """Every problem by the structured solver, evenly spread ones by Clarabel too, interleaved."""
    chosen = set(np.linspace(0, problems - 1, clarabel_problems).round().astype(int).tolist())
    families, runs = list(FAMILIES.items()), []
    for number in range(problems):
        family, change = families[number % len(families)]
        program = change(random_program(size, pairs, np.random.default_rng([seed, number])))
        runs += [timed(number, family, program, s) for s in ("structured", *["clarabel"] * (number in chosen))]
    return runs


def ratios(runs: list[Run]) -> dict[int, float]:
    """Clarabel's time over the structured solver's, for each problem that both solved."""
    seconds = {(run.number, run.asked): run.seconds for run in runs if run.good}
    clarabel = [number for number, asked in seconds if asked == "clarabel" and (number, "structured") in seconds]
    return {number: seconds[number, "clarabel"] / seconds[number, "structured"] for number in clarabel}


def table(runs: list[Run]) -> str:
    """One line a family."""
    body, ratio = [], ratios(runs)
    for family in FAMILIES:
        own = [run for run in runs if run.family == family and run.asked == "structured"]
        if own:
            seconds = [run.seconds for run in own]
            both = [f"{ratio[run.number]:.1f}" for run in own if run.number in ratio]
            missed = sum(not run.good for run in own)
            worst = max(run.residual for run in own)
            body.append([family, len(own), missed, worst, np.median(seconds), max(seconds), " ".join(both)])
    headers = ["family", "problems", "missed", "worst KKT", "median s", "longest s", "Clarabel / structured"]
    return tabulate(body, headers, floatfmt=("", "", "", ".1e", ".3f", ".3f", ""))


def verdict(runs: list[Run]) -> tuple[str, bool]:
    """The criteria in one paragraph, and whether all are met; Clarabel's is left out where it was not asked."""
    own = [run for run in runs if run.asked == "structured"]
    missed, speed = sum(not run.good for run in own), list(ratios(runs).values())
    median = float(np.median(speed)) if speed else float("nan")
    text = (
        f"structured: {len(own) - missed} of {len(own)} within KKT {KKT_TOLERANCE:.0e} without fallback (all wanted), "
        f"median {np.median([run.seconds for run in own]):.3f} s\n"
        f"Clarabel over structured: median {median:.1f} on {len(speed)} problems (at least {RATIO:.0f} wanted)"
    )
    return text, not missed and not median < RATIO


def main(argv: list[str]) -> int:
    """Run, print, write; 1 where a criterion is missed (a smoke run is too small to tell)."""
    del argv
    size = (26, 200, 4) if _SMOKE.value else (_PROBLEMS.value, _SIZE.value, _PAIRS.value)
    runs = run_all(*size, _CLARABEL_PROBLEMS.value, _SEED.value)
    text, met = verdict(runs)
    print(table(runs), text, *[f"{run.family}: {run.message}" for run in runs if run.message], sep="\n\n")
    if _OUTPUT.value:
        Path(_OUTPUT.value).write_text(json.dumps([asdict(run) for run in runs], indent=1), encoding="utf-8")
    return int(not met and not _SMOKE.value)


if __name__ == "__main__":
    run_with_flags("qp", main, sys.argv, stopped="nothing is kept")
