"""The output folder of a compression: exported models and the report."""

import dataclasses

import keras
import numpy as np
from absl import logging

from cobla_tf.account import Account
from cobla_tf.config import Config
from cobla_tf.curve import FILES as CURVE_FILES
from cobla_tf.events import FILE as EVENTS
from cobla_tf.export import Exports, FailedExportError, export_model
from cobla_tf.export_formats import FILE_NAMES
from cobla_tf.notes import left_from_before, limited, to_try_again
from cobla_tf.plan import Plan
from cobla_tf.report import Report
from cobla_tf.report_files import write_report
from cobla_tf.selection import COBLA

BEFORE_FINE_TUNING = "before_fine_tuning.keras"
CALIBRATION = 100
"""Training images that 8-bit exports take their ranges from."""


def write_output(model: keras.Model, plan: Plan, report: Report, account: Account, config: Config) -> Report:
    """Export the compressed model and write the report; what failed is in the report, and stops nothing.

    Args:
        model: the compressed one.
        plan: training images to calibrate on, held-out ones to compare files on.
        report: complete but for the files.
        account: of the run; takes the time and the files.
        config: with an output folder.

    Returns:
        the report with what became of the exports, and all files.

    Raises:
        OutputError: the folder cannot be written.
    """
    if config.exports:
        logging.info("writing %s, and running each again in a process of its own", ", ".join(config.exports))
    with account.clock("export"):
        exports = _export(model, plan, config)
    account.add_files(exports.files)
    names = [BEFORE_FINE_TUNING, *FILE_NAMES.values(), *CURVE_FILES.values()]
    names += [] if plan.method == COBLA else [str(EVENTS)]  # a solve, even one without iterations, begins its own
    stale = left_from_before(config.output_dir, names, account.files)
    report = dataclasses.replace(
        report,
        files=account.files,
        failures=exports.failures,
        export_checks=exports.checks,
        notes=(*report.notes, *limited(exports.notes), *stale, *to_try_again(exports.failures)),
    )
    account.add_files(write_report(report, config.output_dir))
    return dataclasses.replace(report, files=account.files)


def _export(model: keras.Model, plan: Plan, config: Config) -> Exports:
    calibration = plan.train_set.draw(CALIBRATION, np.random.default_rng(config.seed))
    images = {"images": plan.held_out.probe().images, "calibration": calibration.images}
    try:
        return export_model(model, config.output_dir, config.exports, batch=config.export_batch, **images)
    except FailedExportError as error:  # the run has its result, and the report says what is missing
        return error.exports
