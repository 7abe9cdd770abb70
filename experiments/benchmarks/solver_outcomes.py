"""What each method reached: judged, as a table, a verdict, curves and files."""

import csv
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from absl import logging
from cobla_tf.experiments.benchmarks.solver_methods import METHODS, OURS, START, Method, project
from cobla_tf.experiments.benchmarks.solver_problems import BudgetSpentError, Meter, Problem, Settings, Visit
from tabulate import tabulate

from cobla_tf.errors import CoblaError, first_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Point:
    """The best feasible point by the judge's loss once `spent` gradients are gone, and what it is worth."""

    spent: float
    sample_loss: float
    judge_loss: float
    held_out_loss: float


@dataclass(frozen=True)
class Outcome:
    """What one method made of one problem.

    Attributes:
        budget: of MACs and params alike.
        method: its name.
        variables: n.
        allowed, spent: gradients.
        seconds: processor time of the method itself, without the loss.
        ended: why.
        curve: one point for every new best; empty where the method was left out or failed at once.
    """

    budget: float
    method: str
    variables: int
    allowed: float
    spent: float
    seconds: float
    ended: str
    curve: tuple[Point, ...]

    @property
    def sample_loss(self) -> float:
        """Of the answer; infinite without one."""
        return self.curve[-1].sample_loss if self.curve else math.inf

    @property
    def held_out_loss(self) -> float:
        """Of the answer; infinite without one."""
        return self.curve[-1].held_out_loss if self.curve else math.inf


def attempt(problem: Problem, name: str, method: Method, gradients: float) -> Outcome:
    """Run one method on one problem and judge it; whatever it raises ends it, and what it found until then counts."""
    meter, began, ended = Meter(problem, gradients), time.process_time(), "by itself"
    try:
        method(problem, meter)
    except BudgetSpentError:
        ended = "all gradients spent"
    except CoblaError as error:
        ended = str(error)
    except Exception as error:  # the comparison goes on without it
        ended = first_line(error)
    seconds = time.process_time() - began - meter.seconds
    curve = judge(problem, meter.visits)
    return Outcome(problem.budget, name, problem.start.size, gradients, meter.spent, seconds, ended, curve)


def judge(problem: Problem, visits: Sequence[Visit]) -> tuple[Point, ...]:
    """The running best on the images set apart; what evaluations this takes costs the method nothing.

    Infeasible points are projected and evaluated again.
    """
    curve, best, limits = [], math.inf, problem.constraints
    for visit in visits:
        x, loss = visit.x, visit.loss
        if not np.isfinite(x).all():
            continue
        if limits.violated(x) or (x != limits.clip(x)).any():
            x = project(limits, x)
            loss = problem.value(x)
        judged = problem.judge(x)
        if judged < best:
            best = judged
            curve.append(Point(visit.spent, loss, judged, problem.held_out(x)))
    return tuple(curve)


def compare(problem: Problem, gradients: int, theirs: int) -> list[Outcome]:
    """Every method on one problem: ours with `gradients`, the others with `theirs`."""
    outcomes = []
    for name, method in METHODS.items():
        outcomes.append(attempt(problem, name, method, gradients if name == OURS else theirs))
        logging.info("%g, %s: held-out loss %.4f", problem.budget, name, outcomes[-1].held_out_loss)
    return outcomes


def table(outcomes: Sequence[Outcome]) -> str:
    """One line a method and budget; the last ratio is above 1 where ours is lower."""
    body = []
    for outcome in outcomes:
        reference = next(o for o in outcomes if o.method == OURS and o.budget == outcome.budget)
        over = outcome.held_out_loss / reference.held_out_loss
        losses = [f"{outcome.sample_loss:.4f}", f"{outcome.held_out_loss:.4f}", f"{over:.3f}"]
        cells = losses if outcome.curve else ["-"] * 3
        spent, seconds = f"{outcome.spent:.1f}", f"{outcome.seconds:.1f}"
        body.append([f"{outcome.budget:g}", outcome.method, spent, *cells, seconds, outcome.ended])
    headers = ["budget", "method", "gradients", "sample loss", "held-out loss", "over ours", "own s", "ended"]
    return tabulate(body, headers, disable_numparse=True)


def verdict(outcomes: Sequence[Outcome]) -> tuple[str, bool]:
    """A sentence a budget, and whether ours is below every other method at all of them."""
    sentences, met = [], True
    for mine in (outcome for outcome in outcomes if outcome.method == OURS):
        others = [o for o in outcomes if o.budget == mine.budget and o.method != OURS]
        ahead = [o for o in others if o.held_out_loss <= mine.held_out_loss]
        named = ", ".join(f"{o.method} {o.held_out_loss:.4f} after {o.spent:.1f}" for o in ahead or others if o.curve)
        relation = "is beaten by" if ahead else "is below"
        sentences.append(
            f"{mine.budget:g}: {mine.method}, held-out loss {mine.held_out_loss:.4f} after {mine.spent:.1f} gradients, "
            f"{relation} {named}"
        )
        met = met and not ahead
    return "\n".join(sentences), met


def figure(outcomes: Sequence[Outcome]) -> "Figure":
    """Held-out loss of the best point so far against gradients spent, one panel a budget."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    budgets = list(dict.fromkeys(outcome.budget for outcome in outcomes))
    drawn = Figure(figsize=(5.0 * len(budgets), 4.0), layout="constrained")
    FigureCanvasAgg(drawn)
    for axes, budget in zip(drawn.subplots(1, len(budgets), squeeze=False)[0], budgets, strict=True):
        for outcome in (o for o in outcomes if o.budget == budget and o.curve):
            if outcome.method == START:
                axes.axhline(outcome.held_out_loss, color="#666666", linestyle=":", label=START)
                continue
            spent = [point.spent for point in outcome.curve] + [outcome.spent]
            losses = [point.held_out_loss for point in outcome.curve] + [outcome.held_out_loss]
            width = 2.2 if outcome.method == OURS else 1.2
            axes.plot(spent, losses, drawstyle="steps-post", label=outcome.method, linewidth=width)
        axes.set(title=f"budget {budget:g}", xlabel="gradients spent", ylabel="held-out loss")
        axes.spines[["top", "right"]].set_visible(False)
    drawn.legend(*drawn.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return drawn


def write(stem: str, settings: Settings, outcomes: Sequence[Outcome]) -> None:
    """STEM.csv with the curves, STEM.json with everything, STEM.png."""
    from cobla_tf.plots import save_png

    with Path(f"{stem}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["budget", "method", *(part.name for part in fields(Point))])
        writer.writerows([o.budget, o.method, *asdict(point).values()] for o in outcomes for point in o.curve)
    written = {"settings": asdict(settings), "outcomes": [asdict(outcome) for outcome in outcomes]}
    Path(f"{stem}.json").write_text(json.dumps(written, indent=1), encoding="utf-8")
    save_png(figure(outcomes), Path(f"{stem}.png"))
