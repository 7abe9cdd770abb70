import pickle
from importlib.util import find_spec
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from cobla_tf import export_check, runtimes
from cobla_tf.config import DEFAULT_EXPORTS, EXPORTS
from cobla_tf.errors import ConfigError, ExportError, ModelError
from cobla_tf.export import PACKAGES, FailedExportError, export_model
from cobla_tf.export_check import own_classes, run_elsewhere
from cobla_tf.export_comparison import compare
from cobla_tf.export_formats import FILE_NAMES, WRITERS

SINGLE = {"rtol": 1e-5, "atol": 1e-6}
INSTALLED = [name for name in EXPORTS if all(find_spec(package) for package in PACKAGES.get(name, ()))]


@keras.saving.register_keras_serializable(package="tests")
class Twice(keras.layers.Layer):
    def call(self, inputs):
        return 2 * inputs


class HomeMade(keras.optimizers.SGD):
    pass


def tiny_cnn():
    keras.utils.set_random_seed(3)
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, (3, 1), strides=(2, 1), padding="same", use_bias=False)(inputs)
    x = keras.layers.Conv2D(6, (1, 3), strides=(1, 2), padding="same", activation="relu")(x)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Dropout(0.5)(keras.layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, keras.layers.Dense(5)(x))


@pytest.fixture(scope="module")
def batch():
    return np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def trained(batch):
    model = tiny_cnn()
    model.compile(HomeMade(0.1), "mse")
    model.fit(batch, np.ones((4, 5), np.float32), epochs=2, verbose=0)
    return model


@pytest.fixture(scope="module")
def exported(trained, batch, tmp_path_factory):
    return export_model(trained, tmp_path_factory.mktemp("out"), INSTALLED, images=batch, batch=3)


@pytest.fixture
def unchecked(monkeypatch):
    """Exports without the check, whose process takes seconds to start."""
    monkeypatch.setitem(export_model.__globals__, "check_files", lambda *given: ((), {}))


def test_every_file_predicts_the_same_in_a_process_of_its_own(exported, batch):
    checks = {check.name: check for check in exported.checks}
    assert set(checks) == {*exported.files, "savedmodel_batch"}
    for name, check in checks.items():
        assert check.passed
        assert check.images == (3 if name == "savedmodel_batch" else len(batch))
        assert check.size > 1000
        assert check.difference < (1e-2 if "float16" in name else 0.25 if "int8" in name else 1e-5)
    assert checks["litert_float16"].difference > 1e-6  # weights were rounded
    assert checks["litert_int8"].difference > 1e-4


def test_a_saved_model_does_not_augment(tmp_path, batch, unchecked):
    layers = [keras.layers.RandomFlip(), keras.layers.Conv2D(4, 3), keras.layers.Flatten()]
    model = keras.Sequential([keras.Input((8, 8, 3)), *layers])
    path = export_model(model, tmp_path, ("savedmodel",), images=batch).files["savedmodel"]
    np.testing.assert_allclose(runtimes.load("savedmodel", path)(batch), model(batch, training=False), **SINGLE)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_networks_of_reduced_precision_compute_in_float32_in_litert_and_onnx(policy, tmp_path, batch, unchecked):
    images = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, padding="same", dtype=policy)(images)
    x = keras.layers.TimeDistributed(keras.layers.Dense(3, dtype=policy), dtype=policy)(x)
    model = keras.Model(images, keras.layers.Flatten(dtype=policy)(x))
    formats = [name for name in ("litert", "onnx") if name in INSTALLED]
    files = export_model(model, tmp_path, formats, images=batch).files
    for name, path in files.items():
        outputs = runtimes.load(name, path)(batch)
        assert outputs.dtype == np.float32
        np.testing.assert_allclose(outputs, np.asarray(model(batch), np.float32), rtol=0, atol=0.05)
    assert model.layers[1].compute_dtype == policy.removeprefix("mixed_")


def test_a_recurrent_network_in_litert_takes_one_image_at_a_time(tmp_path, batch, unchecked):
    layers = [keras.layers.Conv2D(4, 3), keras.layers.Reshape((6, 24)), keras.layers.GRU(3)]
    model = keras.Sequential([keras.Input((8, 8, 3)), *layers])
    with pytest.raises(FailedExportError, match="LiteRT cannot do TensorListReserve") as raised:
        export_model(model, tmp_path, ("litert", "litert_int8"), images=batch)
    exports = raised.value.exports
    np.testing.assert_allclose(runtimes.load("litert", exports.files["litert"])(batch), model(batch), **SINGLE)
    assert "one image at a time" in exports.notes["litert"]
    assert set(exports.failures) == {"litert_int8"}


@pytest.mark.skipif("onnx" not in INSTALLED, reason="tf2onnx is not installed")
def test_constants_are_no_inputs_of_an_onnx_file(tmp_path, batch, unchecked):
    images = keras.Input((8, 8, 3), name="images")
    prepared = keras.layers.Normalization(mean=[1.0, 2.0, 3.0], variance=[4.0, 4.0, 4.0])(images) - tf.constant(0.5)
    model = keras.Model(images, keras.layers.Conv2D(4, 3)(keras.layers.RandomFlip()(prepared)))
    path = export_model(model, tmp_path, ("onnx",), images=batch).files["onnx"]
    np.testing.assert_allclose(runtimes.load("onnx", path)(batch), model(batch, training=False), **SINGLE)


def test_that_process_imports_nothing_of_this_package():
    lines = Path(runtimes.__file__).read_text(encoding="utf-8").splitlines()
    assert not [line for line in lines if line.strip().startswith(("import cobla", "from cobla"))]


def test_the_fixed_batch_is_an_endpoint_beside_the_one_for_any(exported, batch):
    loaded = tf.saved_model.load(str(exported.files["savedmodel"]))
    expected = loaded.serve(batch[:3]).numpy()
    np.testing.assert_allclose(loaded.serve_batch_3(batch[:3]).numpy(), expected, **SINGLE)
    (default,) = loaded.signatures["serving_default"](tf.constant(batch)).values()
    assert default.shape == (len(batch), 5)
    assert loaded.serve_batch_3.input_signature[0].shape == (3, 8, 8, 3)


@pytest.mark.parametrize("size", [1, 4])
def test_litert_predicts_the_same_at_any_batch_size(size, trained, exported, batch):
    run = runtimes.load("litert", exported.files["litert"], threads=1)
    np.testing.assert_allclose(run(batch), np.asarray(trained(batch)), **SINGLE)
    np.testing.assert_allclose(run(batch[:size]), np.asarray(trained(batch[:size])), **SINGLE)


def test_all_formats_are_written_keras_first_and_nothing_else_stays(exported):
    assert exported.failures == {}
    assert list(exported.files) == [name for name in EXPORTS if name in exported.files]
    folder = exported.files["keras"].parent
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILE_NAMES[name] for name in exported.files)


def test_int8_weights_take_a_quarter_of_the_room(tmp_path, unchecked):
    wide = keras.Sequential([keras.Input((8,)), keras.layers.Dense(64), keras.layers.Dense(512)])
    images = np.ones((4, 8), np.float32)
    files = export_model(wide, tmp_path, ["litert", "litert_float16", "litert_int8"], images=images).files
    single, half, quarter = (files[name].stat().st_size for name in ("litert", "litert_float16", "litert_int8"))
    assert half < 0.6 * single
    assert quarter < 0.4 * single


def test_a_file_that_does_something_else_is_an_error_and_kept_apart(trained, batch, tmp_path, monkeypatch):
    outcomes = {"keras": np.zeros((4, 5)), "savedmodel": np.asarray(trained(batch)), "litert": "Error: no such op"}
    monkeypatch.setattr(export_check, "run_elsewhere", lambda jobs, images: {job: outcomes[job] for job in jobs})
    with pytest.raises(ExportError, match=r"export keras failed: .*1\.0e-04 .*1\.0e\+00.*rejected") as raised:
        export_model(trained, tmp_path, ("keras", "savedmodel", "litert"), images=batch)
    exports = raised.value.exports
    assert set(exports.failures) == {"keras", "litert"}
    assert "could not be run: Error: no such op" in exports.failures["litert"]
    assert set(exports.files) == {"savedmodel"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rejected", "saved_model"]
    assert sorted(path.name for path in (tmp_path / "rejected").iterdir()) == ["compressed.keras", "compressed.tflite"]


def test_a_file_that_cannot_be_run_says_why(tmp_path, monkeypatch):
    (tmp_path / "broken").write_text("no model")
    outcomes = run_elsewhere({"onnx": ("no such form", str(tmp_path / "broken"), None, ((), ()))}, np.ones((1, 2)))
    assert outcomes == {"onnx": "KeyError: 'no such form'"}
    (tmp_path / "child.py").write_text("import sys; sys.exit('out of memory')")
    monkeypatch.setattr(runtimes, "__file__", str(tmp_path / "child.py"))
    outcomes = run_elsewhere({"onnx": ("onnx", "x", None, ((), ()))}, np.ones((1, 2)))
    assert outcomes == {"onnx": "the process that loaded it ended with 1: out of memory"}


def test_a_model_with_layers_of_the_users_own_is_read_again_in_this_process(tmp_path, caplog):
    model = keras.Sequential([keras.Input((3,)), Twice(), keras.layers.Dense(2)])
    assert own_classes(model) == ["tests>Twice"]
    exports = export_model(model, tmp_path, ("keras",), images=np.ones((2, 3), np.float32))
    assert exports.checks[0].difference == 0


def test_a_module_whose_name_begins_like_keras_is_not_keras_own(monkeypatch):
    monkeypatch.setattr(Twice, "__module__", "keras_layers_of_mine")
    assert own_classes(keras.Sequential([keras.Input((3,)), Twice()])) == ["tests>Twice"]


def test_differences_are_judged():
    expected = np.array([[3.0, 4.0], [0.0, 0.0]])
    exact = compare("keras", "keras", 1, expected, expected, 0.0)
    assert (exact.difference, exact.agreement, exact.passed) == (0.0, 1.0, True)
    near = expected + np.array([[0.0, 0.5], [0.0, 0.0]])
    off = compare("keras", "keras", 1, near, expected, 0.0)
    assert off.difference == pytest.approx(0.1)
    assert not off.passed
    assert compare("keras", "keras", 1, near, expected, 2**-7).passed
    assert not compare("litert_int8", "litert_int8", 1, np.full((2, 2), np.nan), expected, 0.0).passed
    assert not compare("keras", "keras", 1, expected[:1], expected, 0.0).passed
    assert compare("keras", "keras", 1, expected[1:], expected[1:], 0.0).difference == 0


def test_a_missing_package_is_named_before_any_work(trained, batch, tmp_path, monkeypatch):
    monkeypatch.setitem(PACKAGES, "onnx", ("no_such_package",))
    with pytest.raises(ExportError, match=r"no_such_package.*pip install 'cobla-tf\[onnx\]'"):
        export_model(trained, tmp_path / "out", ("keras", "onnx"), images=batch)
    assert not (tmp_path / "out").exists()


def test_the_model_stays_what_it_was(batch, tmp_path, unchecked):
    model = tiny_cnn()
    model.compile("adam", "mse")
    model.fit(batch, np.ones((4, 5), np.float32), verbose=0)
    before, attributes, moments = np.asarray(model(batch)), set(vars(model)), len(model.optimizer.variables)
    export_model(model, tmp_path, DEFAULT_EXPORTS, images=batch)
    assert set(vars(model)) == attributes
    assert model.compiled
    assert len(model.optimizer.variables) == moments
    np.testing.assert_array_equal(np.asarray(model(batch)), before)
    np.testing.assert_allclose(np.asarray(pickle.loads(pickle.dumps(model))(batch)), before, **SINGLE)
    model.fit(batch, np.ones((4, 5), np.float32), verbose=0)
    model.save(tmp_path / "again.keras")


def test_the_keras_file_carries_no_optimiser(exported, trained):
    loaded = keras.models.load_model(exported.files["keras"])
    assert not loaded.compiled
    assert [w.shape for w in loaded.weights] == [w.shape for w in trained.weights]


def test_the_training_state_is_no_part_of_the_file(tmp_path, unchecked):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile("adam", loss=lambda labels, outputs: keras.ops.mean(outputs))
    model.fit(np.ones((4, 3)), np.ones((4, 2)), verbose=0)
    exports = export_model(model, tmp_path, DEFAULT_EXPORTS, images=np.ones((4, 3)))
    assert not keras.models.load_model(exports.files["keras"]).compiled
    assert model.compiled


@pytest.mark.parametrize("failing", DEFAULT_EXPORTS)
def test_one_failing_format_costs_no_other(failing, trained, batch, tmp_path, monkeypatch, unchecked):
    written = []
    for name in DEFAULT_EXPORTS:
        monkeypatch.setitem(WRITERS, name, writer(name, failing, written))
    with pytest.raises(FailedExportError, match=failing) as raised:
        export_model(trained, tmp_path, DEFAULT_EXPORTS, images=batch)
    result = raised.value.exports
    assert list(result.failures) == [failing]
    assert "no such op x x" in result.failures[failing]
    assert len(result.failures[failing]) < 400
    assert written == [name for name in DEFAULT_EXPORTS if name != failing]
    again = pickle.loads(pickle.dumps(raised.value))  # as another process hands it over
    assert str(again) == str(raised.value)
    assert again.exports == result
    assert {path.name for path in tmp_path.iterdir()} == {FILE_NAMES[name] for name in written}


def writer(name, failing, written):
    def write(source, path):
        path.write_text("half")
        if name == failing:
            raise RuntimeError("no such op\n" + 9999 * "x ")
        written.append(name)

    return write


def test_converters_write_nothing_to_the_terminal(trained, batch, tmp_path, capfd, unchecked):
    export_model(trained, tmp_path, ("savedmodel", "litert_int8"), images=batch)
    assert capfd.readouterr() == ("", "")


def test_a_model_that_is_no_graph_is_refused_before_any_work(batch, tmp_path):
    class Own(keras.Model):
        def call(self, images):
            return images

    with pytest.raises(ModelError, match="subclass"):
        export_model(Own(), tmp_path / "out", ("keras",), images=batch)
    assert not (tmp_path / "out").exists()


def test_an_unknown_format_is_refused_before_any_work(trained, batch, tmp_path):
    with pytest.raises(ConfigError, match="coreml"):
        export_model(trained, tmp_path / "out", ("keras", "coreml"), images=batch)
    assert not (tmp_path / "out").exists()
