"""Command line: python -m cobla_tf.main --flagfile=NAME.flags; the only file that reads flags.

Without --model, --dataset and --flagfile it compresses a small network for scikit-learn's digits (digits.flags).
"""

import logging as python_logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import app, flags, logging

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
    check_layers,
)
from cobla_tf.errors import CoblaError, ConfigError, WorkerError
from cobla_tf.flagfiles import OPTIONS, resolve_flagfiles
from cobla_tf.quiet import quiet

if TYPE_CHECKING:
    import keras

    from cobla_tf.curve import Curve
    from cobla_tf.plan import Plan
    from cobla_tf.resources import Resource
    from cobla_tf.result import Result
    from cobla_tf.unfinished import Unfinished

DEFAULT_FLAGFILE = "digits.flags"
HELP = {"help", "helpfull", "helpshort", "helpxml", "h", "?"}

_MODEL = flags.DEFINE_string(
    "model", None, "What to compress: digits_cnn, nin_cifar10, squeezenet_v1.0, squeezenet_v1.1, vgg16, or the path of "
    "a .keras or .h5 file.",
)  # fmt: skip
_WEIGHTS = flags.DEFINE_string("weights", None, "Path of the weights of a model named above.")
_DATASET = flags.DEFINE_string(
    "dataset", None, "digits, the name of a prepared tensorflow-datasets set (cifar10), or the path of a folder "
    "SPLIT/CLASS/IMAGE.",
)  # fmt: skip
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where tensorflow-datasets keeps its sets; its own default if unset.")
_PREPROCESSING = flags.DEFINE_string("preprocessing", "none", "Of the images: none, scale, caffe, tf or torch.")
_MACS = flags.DEFINE_string(
    "macs", None, "Budget on the multiply-accumulates of the convolutions that are decomposed: a fraction up to 1 of "
    "the original, an absolute number above 1, or none.",
)  # fmt: skip
_PARAMS = flags.DEFINE_string("params", None, "Budget on their kernel weights, in the same form.")
_RESOURCES = flags.DEFINE_string(
    "resources", None, "CSV file of what the sites cost beside MACs and params, with the columns site, resource, "
    "original, per_rank and, if wanted, base.",
)  # fmt: skip
_BUDGETS = flags.DEFINE_list(
    "budgets", [], "Budgets on resources of the CSV file, in the form of --macs and in the file's units: "
    "latency=0.6,energy=2500.",
)  # fmt: skip
_SWEEP = flags.DEFINE_list(
    "sweep", [], "Several budgets, each on MACs and params alike and in place of --macs and --params, for the curve of "
    "accuracy against cost: 0.7,0.5,0.3.",
)  # fmt: skip
_METHOD = flags.DEFINE_list(
    "method", RANK_METHODS[0], f"What selects the ranks, one of {', '.join(RANK_METHODS)}; several with --sweep. "
    "r_vbmf and both kinds of signal_recovery set their own cost and take no budgets.",
)  # fmt: skip
_SCHEME = flags.DEFINE_enum(
    "scheme",
    "spatial",
    (*SCHEMES, AUTO),
    "kh x 1 then 1 x kw (spatial), kh x kw then 1 x 1 (channel), or for each site what keeps most.",
)
_LAYERS = flags.DEFINE_list(
    "layers", list(LAYERS[:1]), f"Kinds of layers to decompose: any of {','.join(LAYERS)}, or all."
)
_EXCLUDE = flags.DEFINE_list("exclude", [], "Patterns of layer names to leave alone, e.g. whitening,block1_*.")
_LOSS = flags.DEFINE_string("loss", None, "Any Keras loss by name; cross-entropy over classes if unset.")
_SAMPLE = flags.DEFINE_float(
    "sample_fraction", None, "Share of the training images behind a gradient; 1 is the exact gradient. If unset, 0.05, "
    "but 1,000 images at the least.", 0, 1,
)  # fmt: skip
_RENEW = flags.DEFINE_integer("renew_every", SolveConfig.renew_every, "Iterations a sample lasts; 0: all of them.", 0)
_GROWING = flags.DEFINE_bool("growing", SolveConfig.growing, "Begin with a quarter of a sample; double it each time.")
_ITERATIONS = flags.DEFINE_integer("iterations", SolveConfig.iterations, "Most SQP iterations in a phase.", 1)
_GRADIENT = flags.DEFINE_enum(
    "gradient", "folded", GRADIENTS, "folded costs what the original network costs; factored is the paper's reading."
)
_START = flags.DEFINE_enum("start", SolveConfig.start, STARTS, "Heuristic whose ranks the solver starts from.")
_CURVATURE = flags.DEFINE_enum(
    "curvature", SolveConfig.curvature, CURVATURES, "First Hessian: its diagonal measured, or guessed as all the same."
)
_CONTINUATION = flags.DEFINE_bool(
    "continuation",
    SolveConfig.continuation,
    "Come down from looser budgets where the start is near chance, or breaks the budgets.",
)
_ROUNDING = flags.DEFINE_enum(
    "rounding", SolveConfig.rounding, ROUNDINGS, "By an integer program on a model of the loss too, or by draws alone."
)
_BAND = flags.DEFINE_bool("band", SolveConfig.band, "Free only the masks on which the heuristics disagree.")
_MULTIPLE = flags.DEFINE_integer(
    "rank_multiple", SolveConfig.rank_multiple, "Every rank is a multiple of it, e.g. 8, or the layer stays whole.", 1
)
_DRAWS = flags.DEFINE_integer("draws", SolveConfig.draws, "Feasible draws of the randomised rounding, best kept.", 1)
_REFINE = flags.DEFINE_integer(
    "refine_iterations", SolveConfig.refine_iterations, "Iterations that re-scale the kept terms, ranks fixed.", 0
)
_PRECISION = flags.DEFINE_enum(
    "precision", SolveConfig.precision, PRECISIONS, "Of products in gradients and fine-tuning, never of accuracies."
)
_QP_SOLVER = flags.DEFINE_enum("qp_solver", "auto", QP_SOLVERS, "auto takes MOSEK where its licence answers.")
_SEED = flags.DEFINE_integer("seed", 0, "Fixes every choice by chance.", 0)
_PRETRAIN = flags.DEFINE_integer("pretrain_epochs", 0, "Epochs of training before anything else.", 0)
_EPOCHS = flags.DEFINE_integer("epochs", 0, "Epochs of fine-tuning after compression.", 0)
_OPTIMIZER = flags.DEFINE_string("optimizer", "adam", "yellowfin, or any Keras optimiser by name.")
_LEARNING_RATE = flags.DEFINE_float(
    "learning_rate", None, "Of the first step of training and fine-tuning, falls to 0 along a cosine: 0.001 if unset; "
    "for yellowfin a factor on its own rate.", 0,
)  # fmt: skip
_DISTILLATION = flags.DEFINE_float(
    "distillation", FineTuneConfig.distillation, "Share of the original's outputs in what fine-tuning learns; the rest "
    "are labels.", 0, 1,
)  # fmt: skip
_VALIDATION = flags.DEFINE_float(
    "validation_share", FineTuneConfig.validation_share, "Share of the training images that fine-tuning sets apart; "
    "the weights after the epoch that is best on them are kept.", 0, 1,
)  # fmt: skip
_PATIENCE = flags.DEFINE_integer(
    "patience", FineTuneConfig.patience, "Epochs without a better one on these after which fine-tuning stops; 0: "
    "never.", 0,
)  # fmt: skip
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Images a step.", 1)
_BATCH_NORM = flags.DEFINE_integer(
    "batch_norm_images", Config.batch_norm_images,
    "Training images on which the statistics of BatchNorm layers are re-estimated after compression; 0 keeps them.", 0
)  # fmt: skip
_STRATEGY = flags.DEFINE_enum(
    "strategy", Config.strategy, STRATEGIES, "What shares the work: one device, all of this machine, or all processes "
    "that TF_CONFIG names.",
)  # fmt: skip
_OUTPUT_DIR = flags.DEFINE_string("output_dir", "cobla_out", "Where models and report go.")
_EXPORTS = flags.DEFINE_list("exports", list(DEFAULT_EXPORTS), f"Any of {','.join(EXPORTS)}.")
_EXPORT_BATCH = flags.DEFINE_integer(
    "export_batch", None, "Gives the SavedModel a second endpoint, serve_batch_N, for batches of just this size.", 1
)
_BENCHMARK = flags.DEFINE_bool("benchmark", False, "Time the compressed network beside the original; minutes.")


def run(argv: list[str] | None = None) -> None:
    """Entry point: parse, compress, print.

    Exits with 0, 1 (export failed), 2 (bad input), 3 (another worker is gone), 130 or 143 (stopped).
    """
    argv = sys.argv if argv is None else argv
    try:
        app.run(main, argv=_complete(argv), flags_parser=_parse)
    except CoblaError as error:
        sys.exit(_fail(error))
    except SystemExit:
        if HELP & _names(argv):  # absl takes a wish for help for a failure
            sys.exit(0)
        raise


def main(argv: list[str]) -> int:
    """Run what the flags say."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.get_absl_handler().setFormatter(python_logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        if argv[1:]:
            raise ConfigError(f"expected flags only, got {argv[1:]}; --help lists them.")
        config = own_config(_config())
        from cobla_tf.unfinished import held

        with held(config.output_dir):
            result = _compress(config)
    except CoblaError as error:
        return _fail(error)
    except KeyboardInterrupt as stop:
        print("cobla_tf: stopped; the same command goes on where it was", file=sys.stderr)
        return 128 + (stop.args or (signal.SIGINT,))[0]
    if not this_task(config.strategy).is_chief:
        return 0
    reports = [point.report for point in result.points if point.report] if _SWEEP.value else [result.report]
    print(f"\n{result if _SWEEP.value else result.report}")
    return 1 if any(report.failures for report in reports) else 0


def _complete(argv: list[str]) -> list[str]:
    """Without a model, data set or flagfile of the user's, digits.flags comes first and the other flags override it."""
    if not ({"model", "dataset", "flagfile"} | HELP) & _names(argv):
        argv = [argv[0], f"{OPTIONS[0]}={DEFAULT_FLAGFILE}", *argv[1:]]
    return resolve_flagfiles(argv)


def _stop(number: int, frame: Any) -> None:
    """Python comes to this between two batches: what it waits for in TensorFlow is finished first."""
    raise KeyboardInterrupt(number)


def _names(argv: list[str]) -> set[str]:
    return {argument.split("=")[0].lstrip("-") for argument in argv[1:] if argument.startswith("-")}


def _parse(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        raise ConfigError(f"{error}; --help lists all flags.") from error


def _fail(error: CoblaError) -> int:
    print(f"cobla_tf: error: {error}", file=sys.stderr)
    return 3 if isinstance(error, WorkerError) else 2


def _config() -> Config:
    return Config(
        solve=SolveConfig(
            sample_fraction=_SAMPLE.value,
            renew_every=_RENEW.value,
            iterations=_ITERATIONS.value,
            gradient=_GRADIENT.value,
            start=_START.value,
            growing=_GROWING.value,
            curvature=_CURVATURE.value,
            continuation=_CONTINUATION.value,
            rounding=_ROUNDING.value,
            band=_BAND.value,
            precision=_PRECISION.value,
            qp_solver=_QP_SOLVER.value,
            rank_multiple=_MULTIPLE.value,
            draws=_DRAWS.value,
            refine_iterations=_REFINE.value,
        ),
        fine_tune=FineTuneConfig(
            epochs=_EPOCHS.value,
            optimizer=_OPTIMIZER.value,
            learning_rate=_LEARNING_RATE.value,
            distillation=_DISTILLATION.value,
            validation_share=_VALIDATION.value,
            patience=_PATIENCE.value,
        ),
        batch_size=_BATCH_SIZE.value,
        batch_norm_images=_BATCH_NORM.value,
        seed=_SEED.value,
        strategy=_STRATEGY.value,
        output_dir=Path(_OUTPUT_DIR.value),
        exports=tuple(_EXPORTS.value),
        benchmark=_BENCHMARK.value,
        export_batch=_EXPORT_BATCH.value,
    )


def _compress(config: Config) -> "Result | Curve":
    missing = [flag.name for flag in (_MODEL, _DATASET) if flag.value is None]
    if missing:
        raise ConfigError(
            f"expected --{' and --'.join(missing)}: model and data set are both needed, from a flagfile or the command "
            "line; --help tells their forms."
        )
    from cobla_tf.resources import read_resources

    resources = read_resources(_RESOURCES.value) if _RESOURCES.value else ()
    asked = _sweep() if _SWEEP.value else _budgets(resources)
    layers = check_layers(_LAYERS.value)
    with quiet():
        from cobla_tf.strategy import find_devices, watched
    devices = find_devices(config.strategy)
    logging.info("devices: %s", ", ".join(_devices()))
    import keras

    from cobla_tf.datasets import load_dataset
    from cobla_tf.export import check_exports
    from cobla_tf.graph import check_model
    from cobla_tf.models import load_model
    from cobla_tf.pipeline import compress
    from cobla_tf.plan import make_plan
    from cobla_tf.sweep import pareto
    from cobla_tf.unfinished import Unfinished

    check_exports(config.exports)
    keras.utils.set_random_seed(config.seed)
    model = load_model(_MODEL.value, _WEIGHTS.value, will_train=_PRETRAIN.value > 0)
    check_model(model)
    with _warnings_only():
        data = load_dataset(
            _DATASET.value,
            data_dir=_DATA_DIR.value,
            image_shape=tuple(model.inputs[0].shape[1:]),
            preprocessing=_PREPROCESSING.value,
            seed=config.seed,
        )
    logging.info("%s", data.description)
    shared = {
        "resources": resources,
        "scheme": _SCHEME.value,
        "exclude": _EXCLUDE.value,
        "layers": layers,
        "validation": data.test,
        "loss": _LOSS.value,
        "config": config,
    }
    train_set, unfinished = data.train, Unfinished(config.output_dir)
    if _PRETRAIN.value:
        loosest = {"budgets": {name: max(asked[name]) for name in ("macs", "params")}} if _SWEEP.value else asked
        plan = make_plan(model, train_set, **loosest, **shared)
        train_set, shared["validation"] = plan.train_set, plan.held_out  # as they were read: no second pass
        with watched(devices):
            _pretrain(model, plan, config, unfinished)
    result = (pareto if _SWEEP.value else compress)(model, train_set, **asked, **shared)
    unfinished.remove()
    return result


def _budgets(resources: Sequence["Resource"]) -> dict[str, Any]:
    """The arguments budgets and method of compress(), checked as far as is possible without the model."""
    from cobla_tf.budgets import merge_budgets, parse_budget, parse_budgets
    from cobla_tf.selection import check_method

    if len(_METHOD.value) != 1:
        raise ConfigError(f"--method must be one name without --sweep, got {','.join(_METHOD.value) or 'none'}.")
    macs, params = parse_budget("--macs", _MACS.value), parse_budget("--params", _PARAMS.value)
    budgets = merge_budgets(macs, params, parse_budgets("--budgets", _BUDGETS.value))
    check_method(_METHOD.value[0], budgets, [resource.name for resource in resources])
    return {"budgets": budgets, "method": _METHOD.value[0]}


def _sweep() -> dict[str, Any]:
    """The arguments macs, params and methods of pareto(), checked likewise."""
    from cobla_tf.budgets import parse_budget
    from cobla_tf.sweep import check_sweep

    if _BUDGETS.value:
        raise ConfigError("--budgets cannot go with --sweep, which sets MACs and params; pareto() takes any.")
    budgets = [parse_budget("--sweep", text) for text in _SWEEP.value]
    check_sweep(_METHOD.value, [{"macs": budget, "params": budget} for budget in budgets], ())
    return {"macs": budgets, "params": budgets, "methods": _METHOD.value}


def _devices() -> list[str]:
    with quiet():
        import tensorflow as tf

        return [device.name for device in tf.config.list_logical_devices()]


@contextmanager
def _warnings_only() -> Iterator[None]:
    """tensorflow-datasets tells every step of reading through the same logger."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(min(verbosity, logging.WARNING))
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _pretrain(model: "keras.Model", plan: "Plan", config: Config, unfinished: "Unfinished") -> None:
    from cobla_tf.export import replace_with
    from cobla_tf.finetune import train, training_backup
    from cobla_tf.strategy import find_devices

    schedule = FineTuneConfig(_PRETRAIN.value, config.fine_tune.optimizer, config.fine_tune.learning_rate)
    logging.info("training %s for %d epochs", model.name, _PRETRAIN.value)
    training = (model, plan.train_set, plan.loss, schedule, config.batch_size)
    backup = training_backup(unfinished, "pretraining", *training, config.seed)
    train(*training, sys.stderr.isatty(), config.seed, backup, find_devices(config.strategy))
    if config.output_dir is None:
        return
    path = replace_with(config.output_dir / "pretrained.keras", model.save)
    logging.info("the trained network lies in %s", path)


if __name__ == "__main__":
    run()
