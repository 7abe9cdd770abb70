"""What a command line asks for: a network and data by name, made ready for compress() or pareto()."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from absl import logging

from cobla_tf.config import MULTI_WORKER, Config, FineTuneConfig, check_layers
from cobla_tf.errors import ConfigError, DataError
from cobla_tf.quiet import import_tensorflow, quiet

if TYPE_CHECKING:
    import keras

    from cobla_tf.curve import Curve
    from cobla_tf.datasets import DataSplits
    from cobla_tf.devices import Devices
    from cobla_tf.report import Report
    from cobla_tf.resources import Resource
    from cobla_tf.unfinished import Unfinished


@dataclass(frozen=True)
class Job:
    """Values of the flags of the same names, and what the others add up to."""

    model: str | None
    weights: str | None
    dataset: str | None
    data_dir: str | None
    preprocessing: str
    macs: str | None
    params: str | None
    resources: str | None
    budgets: Sequence[str]
    sweep: Sequence[str]
    method: Sequence[str]
    scheme: str
    layers: Sequence[str]
    exclude: Sequence[str]
    loss: str | None
    pretrain_epochs: int
    config: Config

    def run(self) -> "Report | Curve":
        """Do it, with the output folder held; what needs no TensorFlow is checked first.

        Raises:
            CoblaError: bad input.
        """
        from cobla_tf.unfinished import held

        if self.config.strategy == MULTI_WORKER:  # what ends one worker before it has joined the others, they wait for
            self._devices()
        with held(self.config.output_dir):
            self._check_names()
            from cobla_tf.resources import read_resources

            resources = read_resources(self.resources) if self.resources else ()
            asked = self._sweep() if self.sweep else self._budgets(resources)
            return self._run(asked, {"resources": resources, "layers": check_layers(self.layers)})

    def _check_names(self) -> None:
        missing = [f"--{name}" for name in ("model", "dataset") if getattr(self, name) is None]
        if missing:
            raise ConfigError(
                f"expected {' and '.join(missing)}: model and data set are both needed, from a flagfile or the command "
                "line; --help tells their forms."
            )

    def _budgets(self, resources: Sequence["Resource"]) -> dict[str, Any]:
        """The arguments budgets and method of compress(), checked as far as is possible without the model."""
        from cobla_tf.budgets import merge_budgets, parse_budget, parse_budgets
        from cobla_tf.selection import check_method

        if len(self.method) != 1:
            raise ConfigError(f"--method must be one name without --sweep, got {','.join(self.method) or 'none'}.")
        macs, params = parse_budget("--macs", self.macs), parse_budget("--params", self.params)
        budgets = merge_budgets(macs, params, parse_budgets("--budgets", self.budgets))
        check_method(self.method[0], budgets, [resource.name for resource in resources])
        return {"budgets": budgets, "method": self.method[0]}

    def _sweep(self) -> dict[str, Any]:
        """The arguments macs, params and methods of pareto(), checked likewise."""
        from cobla_tf.budgets import parse_budget
        from cobla_tf.sweep import check_sweep

        if self.budgets:
            raise ConfigError("--budgets cannot go with --sweep, which sets MACs and params; pareto() takes any.")
        budgets = [parse_budget("--sweep", text, "numbers separated by commas") for text in self.sweep]
        check_sweep(self.method, [{"macs": budget, "params": budget} for budget in budgets], ())
        return {"macs": budgets, "params": budgets, "methods": self.method}

    def _devices(self) -> "Devices":
        import_tensorflow()
        from cobla_tf.strategy import find_devices

        return find_devices(self.config.strategy)

    def _run(self, asked: dict[str, Any], checked: dict[str, Any]) -> "Report | Curve":
        devices = self._devices()
        devices.check_batch(self.config.batch_size)
        logging.info("devices: %s", ", ".join(_device_names()))
        from cobla_tf.pipeline import compress
        from cobla_tf.provenance import told_beside
        from cobla_tf.sweep import pareto
        from cobla_tf.unfinished import Unfinished

        model, data = self._load()
        arguments = {
            "dataset": data.train,
            "validation": data.test,
            "scheme": self.scheme,
            "exclude": self.exclude,
            "loss": self.loss,
            "config": self.config,
            **checked,
        }
        unfinished = Unfinished(self.config.output_dir)
        with data.named(), told_beside(input=self._input()):
            if self.pretrain_epochs:
                arguments |= self._pretrained(model, {**arguments, **self._first(asked)}, unfinished, devices)
            outcome = (
                pareto(model, **asked, **arguments) if self.sweep else compress(model, **asked, **arguments).report
            )
        unfinished.end(complete=not outcome.failures)
        return outcome

    def _input(self) -> dict[str, Any]:
        """What no argument of compress() or pareto() tells by name, without what was not asked for."""
        names = ("model", "weights", "dataset", "data_dir", "preprocessing", "resources", "pretrain_epochs")
        return {name: value for name in names if (value := getattr(self, name))}

    def _first(self, asked: dict[str, Any]) -> dict[str, Any]:
        """What is asked of one compression; of a sweep the loosest one, fractions before amounts."""
        from cobla_tf.selection import COBLA

        if not self.sweep:
            return asked
        loosest = {name: max(asked[name], key=lambda value: (value <= 1, value)) for name in ("macs", "params")}
        methods = asked["methods"]
        return {"budgets": loosest, "method": COBLA if COBLA in methods else methods[0]}

    def _load(self) -> tuple["keras.Model", "DataSplits"]:
        import keras

        from cobla_tf.datasets import load_dataset
        from cobla_tf.export import check_exports
        from cobla_tf.graph import check_model
        from cobla_tf.models import INPUT_PREPROCESSING, load_model

        check_exports(self.config.exports)
        keras.utils.set_random_seed(self.config.seed)
        model = load_model(self.model, self.weights, will_train=self.pretrain_epochs > 0)
        check_model(model)
        shape = tuple(model.inputs[0].shape[1:])
        choice = {"data_dir": self.data_dir, "preprocessing": self.preprocessing, "seed": self.config.seed}
        published = INPUT_PREPROCESSING.get(self.model, self.preprocessing)
        if self.weights and self.preprocessing != published:
            logging.warning(
                "published weights of %s take images prepared by --preprocessing=%s, got %s",
                self.model, published, self.preprocessing,
            )  # fmt: skip
        data = load_dataset(self.dataset, image_shape=shape, **choice)
        logging.info("%s", data.description)
        self._check_classes(model, data)
        return model, data

    def _check_classes(self, model: "keras.Model", data: "DataSplits") -> None:
        """Refuse a data set whose class numbers cannot be those of the model's outputs."""
        from cobla_tf.texts import counted

        shape = model.outputs[0].shape
        if len(model.outputs) > 1 or len(shape) != 2 or shape[1] is None:
            return
        outputs = max(shape[1], 2)  # one output tells two classes apart
        if shape[1] == 1 and self.loss is not None and "binary" not in self.loss.lower():
            return  # a number, of which any can be one
        if data.classes > outputs or (self.loss is None and data.classes < outputs):
            raise DataError(
                f"{self.dataset} has {data.classes} classes, and the model has {counted(shape[1], 'output')}: expected "
                "as many, for classes are numbered in the order of their names. Give it all classes of the model, or "
                "call compress() from Python with labels of your own."
            )

    def _pretrained(
        self, model: "keras.Model", arguments: dict[str, Any], unfinished: "Unfinished", devices: "Devices"
    ) -> dict[str, Any]:
        """Train the model in place, after all checks of compress(); the data as they were read, for no second pass."""
        from cobla_tf.export_formats import plain
        from cobla_tf.files import replace_with
        from cobla_tf.finetune import train, training_backup
        from cobla_tf.plan import make_plan
        from cobla_tf.strategy import watched
        from cobla_tf.texts import counted

        config, tuned = self.config, self.config.fine_tune
        plan = make_plan(model, **arguments)
        read = {"dataset": plan.train_set, "validation": plan.held_out}
        schedule = FineTuneConfig(self.pretrain_epochs, tuned.optimizer, tuned.learning_rate)
        logging.info("training %s for %s", model.name, counted(self.pretrain_epochs, "epoch"))
        training = (model, plan.train_set, plan.loss, schedule, config.batch_size)
        backup = training_backup(unfinished, "pretraining", *training, config.seed)
        with watched(devices):
            train(*training, config.seed, backup, devices)
        if config.output_dir is None:
            return read
        path = replace_with(config.output_dir / "pretrained.keras", plain(model).save)
        logging.info("the trained network lies in %s", path)
        return read


def _device_names() -> list[str]:
    with quiet():
        import tensorflow as tf

        return [device.name for device in tf.config.list_logical_devices()]
