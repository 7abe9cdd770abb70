"""A solve as a user sees it: answers recorded, iterations in the log and, with an output folder, in TensorBoard."""

import math

import keras
import numpy as np
from absl import logging

from cobla_tf.config import Config
from cobla_tf.events import EventFile, scalars
from cobla_tf.journal import Journal
from cobla_tf.plan import Plan
from cobla_tf.recorded import recorded_objective
from cobla_tf.report_parts import IterationRecord
from cobla_tf.shared_journal import SharedJournal
from cobla_tf.solution import WarmStart
from cobla_tf.solve import Solver


def make_solver(
    model: keras.Model, plan: Plan, config: Config, journal: Journal | SharedJournal, warm: WarmStart | None = None
) -> Solver:
    """Make ready to optimise the masks of a model.

    Args:
        model: the original; it is not changed.
        plan: all that is known of the problem.
        config: the user's choices.
        journal: answers of an earlier attempt; takes those of this one.
        warm: what another solve left; None starts from a heuristic.

    Raises:
        OutputError: the scalars cannot be written.
    """
    objective = recorded_objective(model, plan, config, journal, plan.precision)
    events = EventFile(config.output_dir) if config.output_dir is not None else None
    budgeted = np.isfinite(plan.limits)

    def on_record(record: IterationRecord) -> None:
        log_iteration(record)
        objective.tally.stage = f"{record.phase}, {record.iteration} iterations done"
        if events is not None:
            events.add(scalars(record, plan.sites.names))

    return Solver(
        objective=objective,
        examples=plan.train_set,
        sigmas=plan.sites.sigmas,
        costs=plan.costs.take(budgeted),
        limits=plan.limits[budgeted],
        macs=plan.costs.take(np.array(plan.costs.resources) == "macs"),
        config=config.solve,
        qp_solver=plan.qp_solver,
        rng=np.random.default_rng(config.seed),
        on_record=on_record,
        warm=warm,
        clock=journal.clock,
    )


def log_iteration(record: IterationRecord) -> None:
    """One line of progress."""
    judged = f" (unseen images {record.judged:.4f})" if math.isfinite(record.judged) else ""
    use = ", ".join(f"{name} {100 * share:.1f} %" for name, share in record.budget_use.items())
    logging.info(
        "%s, iteration %d: loss %.4f%s, predicted decrease %.1e, step %.2g, budgets used: %s; %.1f s",
        record.phase, record.iteration, record.loss, judged, record.predicted_decrease, record.step, use,
        record.seconds,
    )  # fmt: skip
