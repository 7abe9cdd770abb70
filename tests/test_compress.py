import json
from functools import cache
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import images_and_labels, small_cnn

import cobla_tf
from cobla_tf.config import SCHEMES, Config, FineTuneConfig, SolveConfig
from cobla_tf.errors import BudgetError, CoblaError, ConfigError, DataError, ModelError, OutputError, SolverError
from cobla_tf.replicated import check_replicated
from cobla_tf.surgery import count_convolutions

QUICK = Config(solve=SolveConfig(iterations=4, draws=3, refine_iterations=2), batch_size=32)


@cache
def trained():
    """The same object every time; no test changes it."""
    model = small_cnn()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(*images_and_labels(200), epochs=3, verbose=0)
    return model


@pytest.fixture(scope="module")
def model():
    return trained()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("budgets", [{"macs": 0.5, "params": 0.5}, {"macs": 0.4}, {"params": 700}])
def test_the_compressed_network_is_plain_and_within_its_budgets(model, scheme, budgets):
    result = cobla_tf.compress(model, images_and_labels(200), **budgets, scheme=scheme, config=QUICK)
    counted = dict(
        zip(("macs", "params"), np.sum(list(count_convolutions(result.model).values()), axis=0), strict=True)
    )
    for budget in result.report.budgets:
        assert budget.reached == counted[budget.resource]
        assert budget.limit is None or budget.reached <= budget.limit
        assert (budget.limit is None) == (budget.resource not in budgets)
    for layer in result.model.layers:
        assert type(layer).__module__.startswith("keras.")
    for record in result.report.iterations:
        assert record.phase in ("fade", "refine") or set(record.prices) == set(budgets)
        assert all(price >= 0 for price in record.prices.values())
    assert result.report.certificates
    for record in result.report.certificates:
        assert record.qp_residual <= 1e-6
        assert set(record.prices) == set(record.budget_use) == set(budgets)
        assert max(record.budget_use.values()) <= 1 + 1e-9
    for site in result.report.sites:
        assert len(site.singular_values) == len(site.masks) == len(site.scales) == site.full_rank
        assert np.count_nonzero(site.scales) == (site.rank or site.full_rank)
        assert np.diff(site.singular_values).max(initial=0) <= 0 <= min(site.masks) <= max(site.masks) <= 1 + 1e-6
    assert {site.name for site in result.report.sites} < {call.name for call in result.report.network}
    assert {"original", "heuristic start", "relaxed", "compressed"} == set(result.report.evaluations)
    assert [(layer.name, layer.reason) for layer in result.report.skipped] == [
        ("logits", "layers of the kind dense were not asked for")
    ]


def test_one_seed_fixes_the_result(model):
    results = [cobla_tf.compress(model, images_and_labels(200), macs=0.5, config=QUICK) for _ in range(2)]
    ranks = [[site.rank for site in result.report.sites] for result in results]
    assert ranks[0] == ranks[1]
    for one, other in zip(results[0].model.get_weights(), results[1].model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_original_is_not_changed_and_a_budget_of_one_gives_it_back(model):
    before = [weight.copy() for weight in model.get_weights()]
    result = cobla_tf.compress(model, images_and_labels(100), macs=1.0, params=1.0, config=QUICK)
    for weight, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, old)
    assert all(site.rank is None for site in result.report.sites)
    evaluations = result.report.evaluations
    assert evaluations["compressed"].loss == pytest.approx(evaluations["original"].loss, rel=1e-5)


def test_paths_of_the_gradient_and_starts_agree_on_the_budget(model):
    for solve in (SolveConfig(gradient="factored"), SolveConfig(start="ones"), SolveConfig(start="cptv", band=False)):
        quick = Config(solve=SolveConfig(**{**vars(solve), "iterations": 3, "refine_iterations": 0}))
        result = cobla_tf.compress(model, images_and_labels(100), macs=0.5, params=0.5, config=quick)
        for budget in result.report.budgets:
            assert budget.reached <= budget.limit


def watching(monitor, **options):
    callbacks = keras.callbacks.EarlyStopping(monitor, mode="min"), keras.callbacks.EarlyStopping("loss")
    return Config(solve=QUICK.solve, fine_tune=FineTuneConfig(2, callbacks=callbacks, **options))


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (watching("acc"), "accuracy and loss"),
        (watching("accuracy", distillation=0.8), "loss"),
        (watching("val_accuracy", distillation=0.8, validation_share=0.2), "loss"),
    ],
)
def test_a_callback_that_waits_for_what_is_never_told(model, config, told):
    with pytest.raises(ConfigError, match=f"EarlyStopping watches .*, and this training tells {told}:"):
        cobla_tf.compress(model, images_and_labels(40), macs=0.5, config=config)


class TellsMore(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs):
        logs["f1"] = 0.5


def test_callbacks_that_wait_for_nothing_or_for_each_other(model, tmp_path):
    every = keras.callbacks.ModelCheckpoint(str(tmp_path / "{epoch}.keras"))  # its monitor is val_loss, unused
    stop = keras.callbacks.EarlyStopping("f1", mode="max", patience=1)
    tuned = FineTuneConfig(3, callbacks=(TellsMore(), every, stop))
    config = Config(solve=QUICK.solve, fine_tune=tuned)
    data = images_and_labels(40)
    report = cobla_tf.compress(model, data, macs=0.5, method="uniform", config=config).report
    assert [epoch["f1"] for epoch in report.fine_tuning] == [0.5, 0.5]
    assert len(list(tmp_path.glob("*.keras"))) == 2


def test_nothing_to_fine_tune():
    model = keras.models.clone_model(trained())
    model.trainable = False
    tuned = Config(solve=QUICK.solve, fine_tune=FineTuneConfig(1))
    with pytest.raises(ConfigError, match="all weights of the model are frozen"):
        cobla_tf.compress(model, images_and_labels(40), macs=0.5, config=tuned)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"optimizer": keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)}, "gradient_accumulation_steps"),
        ({"callbacks": (keras.callbacks.ModelCheckpoint("best.keras", "loss"),)}, "ModelCheckpoint writes the network"),
    ],
)
def test_what_training_on_several_devices_cannot_do(options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        check_replicated(FineTuneConfig(1, **options))
    check_replicated(FineTuneConfig(1, keras.optimizers.SGD(0.1), callbacks=(keras.callbacks.EarlyStopping("loss"),)))


def test_files_of_an_earlier_run_are_named_and_the_loss_is_in_the_report(model, tmp_path):
    for name in ("curve.csv", "tensorboard/events.out.tfevents.solve"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("from before")
    config = Config(output_dir=tmp_path, exports=())
    report = cobla_tf.compress(model, images_and_labels(90), macs=0.5, method="uniform", config=config).report
    for name in ("curve.csv", "tensorboard/events.out.tfevents.solve"):
        assert f"{name} is of an earlier run in the same folder" in report.notes
    assert "SparseCategoricalCrossentropy" in report.config["loss"]


def test_a_solve_without_iterations_leaves_no_file_of_an_earlier_run(model, tmp_path):
    config = Config(solve=QUICK.solve, output_dir=tmp_path, exports=())
    report = cobla_tf.compress(model, images_and_labels(90), macs=1.0, config=config).report
    assert not report.iterations and (tmp_path / "tensorboard" / "events.out.tfevents.solve").exists()
    assert not any("earlier run" in note for note in report.notes)


def test_one_held_out_image_is_no_plural(model, caplog):
    with caplog.at_level("INFO", "absl"):
        report = cobla_tf.compress(model, images_and_labels(10), macs=0.5, method="uniform").report
    assert report.evaluated_on == "1 image set apart from the 10 given, never optimised on"
    assert "on 1 held-out image\n" in caplog.text and "on 1 held-out image, cannot" in caplog.text


def test_images_that_lack_but_the_channels_axis_are_told_how_to_get_it(model):
    hint = r"got \(8, 8\); a last axis of one channel is made by images\[\.\.\., None\]"
    images, labels = images_and_labels(40)
    with pytest.raises(DataError, match=r"got \(\d+, \d+\)\."):  # of three channels
        cobla_tf.compress(model, (images[..., 0], labels), macs=0.5)
    gray = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(4, 3), keras.layers.GlobalMaxPooling2D()])
    with pytest.raises(DataError, match=hint):
        cobla_tf.compress(gray, (np.zeros((40, 8, 8)), np.zeros(40, int)), macs=0.5)
    with pytest.raises(DataError, match=r"got \(9, 8\)\."):
        cobla_tf.compress(gray, (np.zeros((40, 9, 8)), np.zeros(40, int)), macs=0.5)


@pytest.mark.parametrize(
    ("budgets", "idle"),
    [({"macs": 1, "params": 0.5}, ["macs"]), ({"macs": 1e9, "params": 1.0}, ["macs", "params"]), ({"macs": 0.9}, [])],
)
def test_a_budget_that_asks_for_nothing_is_told(model, caplog, budgets, idle):
    report = cobla_tf.compress(model, images_and_labels(90), **budgets, method="uniform").report
    notes = [f"the budget on {name} is no less than the original cost and asks for nothing" for name in idle]
    assert [note for note in report.notes if "asks for nothing" in note] == notes
    assert all(note in caplog.text for note in notes)


def test_files_fine_tuning_and_a_tf_dataset(model, tmp_path):
    dataset = tf.data.Dataset.from_tensor_slices(images_and_labels(200)).batch(50)
    log = keras.callbacks.CSVLogger(str(tmp_path / "epochs.csv"))  # it holds an open file in training
    tuning = FineTuneConfig(epochs=2, optimizer=keras.optimizers.SGD(momentum=0.9), callbacks=(log,))
    config = Config(solve=QUICK.solve, fine_tune=tuning, output_dir=str(tmp_path / "out"))
    result = cobla_tf.compress(
        model, dataset, macs=0.5, validation=images_and_labels(60, seed=1), exclude=["block/*"], config=config
    )
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["evaluations"]["fine-tuned"]["examples"] == 60
    assert len(report["fine_tuning"]) == 2 == len((tmp_path / "epochs.csv").read_text().splitlines()) - 1
    shown = report["config"]["fine_tune"]
    assert shown["callbacks"] == ["CSVLogger"]
    assert (shown["optimizer"]["class"], shown["optimizer"]["momentum"]) == ("SGD", 0.9)
    assert {"name": "block/conv", "kind": "Conv2D", "reason": "excluded by 'block/*'"} in report["skipped"]
    assert not result.report.failures
    for path in result.report.files.values():
        assert (tmp_path / "out") in Path(path).parents
    images = images_and_labels(5)[0]
    assert not result.model.compiled
    reloaded = keras.models.load_model(tmp_path / "out" / "compressed.keras")
    np.testing.assert_allclose(reloaded(images), result.model(images), rtol=1e-5, atol=1e-6)


def with_nan(data):
    images, labels = data
    images[80, 0, 0, 0] = np.nan
    return images, labels


def targets(count, bad=None):
    """Images with three numbers each, one of which is not finite."""
    numbers = np.zeros((count, 3), "float32")
    if bad is not None:
        numbers[bad, 1] = np.inf
    return images_and_labels(count)[0], numbers


def bad_output(tmp_path):
    (tmp_path / "file").write_text("")
    return tmp_path / "file" / "out"


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"macs": 0}, BudgetError, "must be a fraction"),
        ({"macs": float("nan")}, BudgetError, "must be a fraction"),
        ({"macs": 1e-9}, BudgetError, "smallest reachable"),
        ({}, BudgetError, "at least one"),
        ({"macs": 0.5, "exclude": ["nothing*"]}, ConfigError, "matches no layer"),
        ({"macs": 0.5, "exclude": ["*"]}, ModelError, "no layer left"),
        ({"macs": 0.5, "exclude": "conv"}, ConfigError, "write \\['conv'\\]"),
        ({"macs": 0.5, "exclude": 3}, ConfigError, "must be a sequence of patterns, got 3"),
        ({"macs": 0.5, "exclude": [3]}, ConfigError, r"must be a sequence of patterns, got \[3\]"),
        ({"macs": 0.5, "layers": 3}, ConfigError, "layers must be among conv2d, .*, got 3"),
        ({"macs": 0.5, "warm": 3}, ConfigError, "the attribute warm of a result, .*, got int"),
        ({"macs": 0.5, "scheme": "diagonal"}, ConfigError, "scheme must be one of spatial, channel, auto"),
        ({"macs": 0.5, "scheme": "chanel"}, ConfigError, r"got 'chanel'; did you mean channel\?"),
        ({"macs": 0.5, "scheme": None}, ConfigError, "got None"),
        ({"macs": 0.5, "config": {"seed": 1}}, ConfigError, "config must be a cobla_tf.Config, got dict"),
        ({"macs": 0.5, "dataset": (np.zeros((0, 10, 10, 2)), np.zeros(0))}, DataError, "empty"),
        ({"macs": 0.5, "dataset": images_and_labels(9, (8, 8, 2))}, DataError, "shape"),
        ({"macs": 0.5, "dataset": images_and_labels(90, classes=7)}, DataError, r"labels in 0\.\.2"),
        ({"macs": 0.5, "validation": images_and_labels(90, classes=7)}, DataError, r"labels in 0\.\.2"),
        ({"macs": 0.5, "loss": "no_such_loss"}, ConfigError, "no_such_loss"),
        ({"macs": 0.5, "loss": "LossFunctionWrapper"}, ConfigError, "'LossFunctionWrapper' is none of Keras'"),
        (
            {"macs": 0.5, "dataset": with_nan(images_and_labels(90))},
            DataError,
            "NaN or infinity in 1 image, first at index 80",
        ),
        (
            {"macs": 0.5, "validation": with_nan(images_and_labels(90))},
            DataError,
            "validation: NaN or infinity in 1 image",
        ),
        (
            {"macs": 0.5, "loss": "mse", "dataset": targets(90, bad=80)},
            DataError,
            "^dataset: NaN or infinity in the labels of 1 image, first at index 80; leave",
        ),
        (
            {"macs": 0.5, "loss": keras.losses.Huber(), "dataset": targets(90), "validation": targets(90, bad=80)},
            DataError,
            "^validation: NaN or infinity in the labels of 1 image, first at index 80; leave",
        ),
        (
            {"macs": 0.5, "validation": (images_and_labels(9)[0], np.eye(3)[:1].repeat(9, 0))},
            DataError,
            "labels of shape",
        ),
        ({"macs": 0.5, "dataset": (np.zeros((9, 10)), np.zeros(9))}, DataError, "images of shape"),
    ],
)
def test_bad_input_gets_one_sentence(model, options, error, sentence):
    options = {"dataset": images_and_labels(40), "config": QUICK, **options}
    with pytest.raises(error, match=sentence) as caught:
        cobla_tf.compress(model, options.pop("dataset"), **options)
    assert isinstance(caught.value, CoblaError)


def test_an_unwritable_folder_is_found_out_before_the_work(tmp_path):
    config = Config(output_dir=bad_output(tmp_path))
    with pytest.raises(OutputError):
        cobla_tf.compress("not even a model", None, macs=0.5, config=config)


def test_mosek_without_a_licence_is_one_sentence(model):
    from cobla_tf.qp.mosek_solver import licence_answers

    if licence_answers():
        pytest.skip("a MOSEK licence answers here")
    with pytest.raises(SolverError, match="license/request"):
        config = Config(solve=SolveConfig(qp_solver="mosek"))
        cobla_tf.compress(model, images_and_labels(40), macs=0.5, config=config)


@pytest.mark.parametrize(
    "bad",
    [{"sample_fraction": 0}, {"sample_fraction": 1.5}, {"iterations": 0}, {"gradient": "x"}, {"start": "x"},
     {"sample_fraction": "0.5"}, {"growing": "no"}, {"band": 1}, {"band": True, "start": "ones"},
     {"qp_solver": "x"}, {"draws": 0}, {"memory": 0}, {"renew_every": -1}, {"refine_iterations": -1}],
)  # fmt: skip
def test_bad_options(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        SolveConfig(**bad)


@pytest.mark.parametrize(
    "bad",
    [{"exports": None}, {"exports": [["keras"]]}, {"output_dir": 5}, {"solve": {"iterations": 3}}, {"fine_tune": None},
     {"benchmark": "no"}, {"export_batch": 4, "exports": ("keras",), "output_dir": "out"}],
)  # fmt: skip
def test_bad_settings(bad):
    with pytest.raises(ConfigError, match=f"{next(iter(bad))} must be"):
        Config(**bad)


def test_epochs_beyond_what_a_step_counter_holds_are_refused():
    with pytest.raises(ConfigError, match="epochs must be"):
        FineTuneConfig(epochs=10**19)
