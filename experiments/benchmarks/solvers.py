"""COBLA's SQP against general solvers on the masks of a network: held-out loss against gradients spent.

python -m cobla_tf.experiments.benchmarks.solvers trains the digits network and compares on it; --model, --dataset and
--data_dir take what the command line of the package takes. All methods see one loss on one fixed sample, one start
(POS-CVX, its whole sites fixed whole) and the same budget rows. A loss without gradient counts as LOSS_PRICE of a
gradient for all of them, ours included, and as nothing where the gradient at the same point follows. Every point that
a method evaluates may be its answer: infeasible ones are projected first, and the best on images set apart is taken, as
in a solve of the package (half the sample, 500 at most). What it is worth is its loss on further training images. Exits
with 1 where a method reaches a held-out loss as low as ours (a smoke run is too small to tell).
"""

import sys
from dataclasses import replace

from absl import flags, logging
from cobla_tf.experiments.benchmarks.solver_outcomes import Outcome, compare, table, verdict, write
from cobla_tf.experiments.benchmarks.solver_problems import Settings, load_problems

from cobla_tf.budgets import parse_budget
from cobla_tf.config import PRECISIONS, SCHEMES
from cobla_tf.terminal import run_with_flags

SMOKE = {
    "model": "digits_cnn",
    "dataset": "digits",
    "pretrain_epochs": 2,
    "sample": 100,
    "held_out": 100,
    "ours": 3,
    "theirs": 6,
}


def define_flags() -> dict[str, flags.FlagHolder]:
    """Settings' fields, --output and --smoke; not at import, for tests share a process with other programs' flags."""
    default = Settings()
    return {
        "model": flags.DEFINE_string("model", default.model, "A name in the zoo, which is trained, or a model file."),
        "dataset": flags.DEFINE_string("dataset", default.dataset, "digits, a tensorflow-datasets name or a folder."),
        "data_dir": flags.DEFINE_string("data_dir", None, "Where tensorflow-datasets keeps its sets."),
        "preprocessing": flags.DEFINE_string("preprocessing", default.preprocessing, "Of the images."),
        "exclude": flags.DEFINE_list("exclude", [], "Patterns of layer names to leave alone."),
        "scheme": flags.DEFINE_enum("scheme", default.scheme, SCHEMES, "Decomposition scheme."),
        "budgets": flags.DEFINE_list("budgets", ["0.3", "0.2"], "Of MACs and params alike."),
        "sample": flags.DEFINE_integer("sample", default.sample, "Images behind a gradient, the same for all.", 1),
        "held_out": flags.DEFINE_integer("held_out", default.held_out, "Others, for the loss that counts.", 1),
        "pretrain_epochs": flags.DEFINE_integer("pretrain_epochs", default.pretrain_epochs, "Of a zoo model.", 0),
        "batch_size": flags.DEFINE_integer("batch_size", default.batch_size, "Images a step.", 1),
        "precision": flags.DEFINE_enum("precision", default.precision, PRECISIONS, "As in cobla_tf.main."),
        "seed": flags.DEFINE_integer("seed", default.seed, "Fixes every choice by chance.", 0),
        "ours": flags.DEFINE_integer("ours", default.ours, "Gradients for COBLA's SQP.", 1),
        "theirs": flags.DEFINE_integer("theirs", default.theirs, "Gradients for each other method.", 1),
        "output": flags.DEFINE_string("output", None, "Path without suffix of a CSV, a JSON and a PNG file."),
        "smoke": flags.DEFINE_bool("smoke", False, "The digits with few images, epochs and gradients."),
    }


def run(settings: Settings, output: str | None) -> bool:
    """Compare at every budget, print, write; returns whether ours is lowest at all of them."""
    outcomes: list[Outcome] = []
    for problem in load_problems(settings):
        outcomes += compare(problem, settings.ours, settings.theirs)
    text, met = verdict(outcomes)
    print(table(outcomes), text, sep="\n\n")
    if output:
        write(output, settings, outcomes)
    return met


def main(chosen: dict[str, flags.FlagHolder]) -> int:
    """What the flags say; 1 where a criterion is missed."""
    values = {name: holder.value for name, holder in chosen.items()}
    output, smoke = values.pop("output"), values.pop("smoke")
    budgets = tuple(parse_budget("--budgets", text) for text in values["budgets"])
    settings = Settings(**{**values, "budgets": budgets, "exclude": tuple(values["exclude"])})
    met = run(replace(settings, **SMOKE) if smoke else settings, output)
    return int(not met and not smoke)


if __name__ == "__main__":
    logging.set_verbosity(logging.INFO)
    holders = define_flags()
    run_with_flags("solvers", lambda _: main(holders), sys.argv, stopped="nothing is kept")
