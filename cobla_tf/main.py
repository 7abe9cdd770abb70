"""Command line: python -m cobla_tf.main --flagfile=NAME.flags; turns the flags into one Job.

Without --model, --dataset and --flagfile it compresses a small network for scikit-learn's digits (digits.flags).
"""

import dataclasses
import sys
from typing import Any

from absl import flags

from cobla_tf.cluster import own_config, this_task
from cobla_tf.config import (
    AUTO,
    CURVATURES,
    DEFAULT_EXPORTS,
    EXPORTS,
    GRADIENTS,
    LAYERS,
    PRECISIONS,
    QP_SOLVERS,
    RANK_METHODS,
    ROUNDINGS,
    SCHEMES,
    STARTS,
    STRATEGIES,
    Config,
    FineTuneConfig,
    SolveConfig,
)
from cobla_tf.flagfiles import OPTIONS
from cobla_tf.job import Job
from cobla_tf.terminal import HELP, given, run_with_flags, timed_log

DEFAULT_FLAGFILE = "digits.flags"

flags.DEFINE_string(
    "model", None, "What to compress: digits_cnn, nin_cifar10, squeezenet_v1.0, squeezenet_v1.1, vgg16, or the path of "
    "a .keras or .h5 file.",
)  # fmt: skip
flags.DEFINE_string("weights", None, "Path of the weights of a model named above.")
flags.DEFINE_string(
    "dataset", None, "digits, the name of a prepared tensorflow-datasets set (cifar10), or the path of a folder "
    "SPLIT/CLASS/IMAGE.",
)  # fmt: skip
flags.DEFINE_string("data_dir", None, "Where tensorflow-datasets keeps its sets; its own default if unset.")
flags.DEFINE_string("preprocessing", "none", "Of the images: none, scale, caffe, tf or torch.")
flags.DEFINE_string(
    "macs", None, "Budget on the multiply-accumulates of the convolutions that are decomposed: a fraction up to 1 of "
    "the original, an absolute number above 1, or none.",
)  # fmt: skip
flags.DEFINE_string("params", None, "Budget on their kernel weights, in the same form.")
flags.DEFINE_string(
    "resources", None, "CSV file of what the sites cost beside MACs and params, with the columns site, resource, "
    "original, per_rank and, if wanted, base.",
)  # fmt: skip
flags.DEFINE_list(
    "budgets", [], "Budgets on resources of the CSV file, in the form of --macs and in the file's units: "
    "latency=0.6,energy=2500.",
)  # fmt: skip
flags.DEFINE_list(
    "sweep", [], "Several budgets, each on MACs and params alike and in place of --macs and --params, for the curve of "
    "accuracy against cost: 0.7,0.5,0.3.",
)  # fmt: skip
flags.DEFINE_list(
    "method", RANK_METHODS[0], f"What selects the ranks, one of {', '.join(RANK_METHODS)}; several with --sweep. "
    "r_vbmf and both kinds of signal_recovery set their own cost and take no budgets.",
)  # fmt: skip
flags.DEFINE_enum(
    "scheme",
    "spatial",
    (*SCHEMES, AUTO),
    "kh x 1 then 1 x kw (spatial), kh x kw then 1 x 1 (channel), or for each site what keeps most.",
)
flags.DEFINE_list("layers", list(LAYERS[:1]), f"Kinds of layers to decompose: any of {','.join(LAYERS)}, or all.")
flags.DEFINE_list("exclude", [], "Patterns of layer names to leave alone, e.g. whitening,block1_*.")
flags.DEFINE_string("loss", None, "Any Keras loss by name; cross-entropy over classes if unset.")
flags.DEFINE_float(
    "sample_fraction", None, "Share of the training images behind a gradient; 1 is the exact gradient. If unset, 0.05, "
    "but 1,000 images at the least.", 0, 1,
)  # fmt: skip
flags.DEFINE_integer("renew_every", SolveConfig.renew_every, "Iterations a sample lasts; 0: all of them.", 0)
flags.DEFINE_bool("growing", SolveConfig.growing, "Begin with a quarter of a sample; double it each time.")
flags.DEFINE_integer("iterations", SolveConfig.iterations, "Most SQP iterations in a phase.", 1)
flags.DEFINE_enum(
    "gradient", "folded", GRADIENTS, "folded costs what the original network costs; factored is the paper's reading."
)
flags.DEFINE_enum("start", SolveConfig.start, STARTS, "Heuristic whose ranks the solver starts from.")
flags.DEFINE_enum(
    "curvature", SolveConfig.curvature, CURVATURES, "First Hessian: its diagonal measured, or guessed as all the same."
)
flags.DEFINE_bool(
    "continuation",
    SolveConfig.continuation,
    "Come down from looser budgets where the start is near chance, or breaks the budgets; let what rounding drops fade "
    "out where it would lose much.",
)
flags.DEFINE_bool(
    "stop_at_original",
    SolveConfig.stop_at_original,
    "Ask for no less loss than the original's: below it is where overfitting is.",
)
flags.DEFINE_enum(
    "rounding", SolveConfig.rounding, ROUNDINGS, "By an integer program on a model of the loss too, or by draws alone."
)
flags.DEFINE_bool("band", SolveConfig.band, "Free only the masks on which the heuristics disagree.")
flags.DEFINE_integer(
    "rank_multiple", SolveConfig.rank_multiple, "Every rank is a multiple of it, e.g. 8, or the layer stays whole.", 1
)
flags.DEFINE_integer("draws", SolveConfig.draws, "Feasible draws of the randomised rounding, best kept.", 1)
flags.DEFINE_integer(
    "refine_iterations",
    SolveConfig.refine_iterations,
    "Iterations that fit scale and biases to fixed ranks.",
    0,
)
flags.DEFINE_enum(
    "precision", SolveConfig.precision, PRECISIONS, "Of products in gradients and fine-tuning, never of accuracies."
)
flags.DEFINE_enum("qp_solver", "auto", QP_SOLVERS, "auto takes MOSEK where its licence answers.")
flags.DEFINE_integer("seed", 0, "Fixes every choice by chance.", 0)
flags.DEFINE_integer("pretrain_epochs", 0, "Epochs of training before anything else.", 0)
flags.DEFINE_integer("epochs", 0, "Epochs of fine-tuning after compression.", 0)
flags.DEFINE_string("optimizer", "adam", "yellowfin, or any Keras optimiser by name.")
flags.DEFINE_float(
    "learning_rate", None, "Of the first step of training and fine-tuning, falls to 0 along a cosine: 0.001 if unset. "
    "yellowfin finds its own.", 0,
)  # fmt: skip
flags.DEFINE_float(
    "distillation", FineTuneConfig.distillation, "Share of the original's outputs in what fine-tuning learns; the rest "
    "are labels.", 0, 1,
)  # fmt: skip
flags.DEFINE_float(
    "validation_share", FineTuneConfig.validation_share, "Share of the training images that fine-tuning sets apart; "
    "the weights after the epoch that is best on them are kept.", 0, 1,
)  # fmt: skip
flags.DEFINE_integer(
    "patience", FineTuneConfig.patience, "Epochs without a better one on these after which fine-tuning stops; 0: "
    "never.", 0,
)  # fmt: skip
flags.DEFINE_integer("batch_size", 128, "Images a step.", 1)
flags.DEFINE_integer(
    "batch_norm_images", Config.batch_norm_images,
    "Training images on which the statistics of BatchNorm layers are re-estimated after compression; 0 keeps them.", 0
)  # fmt: skip
flags.DEFINE_enum(
    "strategy", Config.strategy, STRATEGIES, "What shares the work: one device, all of this machine, or all processes "
    "that TF_CONFIG names.",
)  # fmt: skip
flags.DEFINE_string("output_dir", "cobla_out", "Where models and report go.")
flags.DEFINE_list("exports", list(DEFAULT_EXPORTS), f"Any of {','.join(EXPORTS)}.")
flags.DEFINE_integer(
    "export_batch", None, "Gives the SavedModel a second endpoint, serve_batch_N, for batches of just this size.", 1
)
flags.DEFINE_bool(
    "benchmark", False, "Time the compressed network beside the original; minutes. With --sweep, the original and all "
    "points in turn, for the curve of accuracy against time.",
)  # fmt: skip


def run(argv: list[str] | None = None) -> None:
    """Entry point: parse, compress, print.

    Exits with 0, 1 (an export or a point of a sweep failed), 2 (bad input), 3 (another worker is gone), 130 or 143
    (stopped).
    """
    run_with_flags("cobla_tf", main, _complete(sys.argv if argv is None else argv))


def main(argv: list[str]) -> int:
    """Run what the flags say."""
    timed_log()
    solve, fine_tune = SolveConfig(**_chosen(SolveConfig)), FineTuneConfig(**_chosen(FineTuneConfig))
    config = own_config(Config(solve=solve, fine_tune=fine_tune, **_chosen(Config)))
    outcome = Job(**_chosen(Job), config=config).run()
    if not this_task(config.strategy).is_chief:
        return 0
    print(f"\n{outcome}")
    return 1 if outcome.failures else 0


def _complete(argv: list[str]) -> list[str]:
    """Without a model, data set or flagfile of the user's, digits.flags comes first and the other flags override it."""
    if {"model", "dataset", "flagfile", *HELP} & given(argv):
        return argv
    return [argv[0], f"{OPTIONS[0]}={DEFAULT_FLAGFILE}", *argv[1:]]


def _chosen(kind: type) -> dict[str, Any]:
    """Values of the flags that are named like fields of a dataclass, lists as tuples."""
    names = [field.name for field in dataclasses.fields(kind) if field.name in flags.FLAGS]
    values = {name: flags.FLAGS[name].value for name in names}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


if __name__ == "__main__":
    run()
