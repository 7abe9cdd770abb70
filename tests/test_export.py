import os
import pickle
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from cobla_tf.config import EXPORTS
from cobla_tf.errors import ConfigError, OutputError
from cobla_tf.export import FILE_NAMES, check_writable, export_model, replace_with

SINGLE = {"rtol": 1e-5, "atol": 1e-6}

LOADERS = {
    "savedmodel": """
import tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
y = next(iter(model.signatures["serving_default"](tf.constant(x)).values())).numpy()
""",
    "keras": """
import keras
y = keras.ops.convert_to_numpy(keras.models.load_model(sys.argv[1])(x))
""",
}


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
def exported(trained, tmp_path_factory):
    return export_model(trained, tmp_path_factory.mktemp("out"), EXPORTS)


def predict_elsewhere(load, path, batch, tmp_path):
    """Output of the file at `path` on `batch` in a process that sees neither this tree nor this module."""
    np.save(tmp_path / "x.npy", batch)
    check = "assert not [name for name in sys.modules if name.startswith(('cobla', 'tests'))]\n"
    lines = f"import sys\nimport numpy as np\nx = np.load('x.npy')\n{load}{check}np.save('y.npy', y)\n"
    quiet = os.environ | {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2"}
    command = [sys.executable, "-I", "-c", lines, str(path)]
    done = subprocess.run(command, cwd=tmp_path, env=quiet, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return np.load(tmp_path / "y.npy")


@pytest.mark.parametrize("name", list(LOADERS))
def test_a_file_predicts_the_same_without_this_package(name, trained, exported, batch, tmp_path):
    there = predict_elsewhere(LOADERS[name], exported.files[name], batch, tmp_path)
    np.testing.assert_allclose(there, np.asarray(trained(batch)), **SINGLE)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("size", [1, 4])
def test_litert_predicts_the_same_at_any_batch_size(size, trained, exported, batch):
    from tensorflow import lite

    interpreter = lite.Interpreter(str(exported.files["litert"]))
    entry, exit_ = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    interpreter.resize_tensor_input(entry["index"], (size, 8, 8, 3))
    interpreter.allocate_tensors()
    interpreter.set_tensor(entry["index"], batch[:size])
    interpreter.invoke()
    np.testing.assert_allclose(interpreter.get_tensor(exit_["index"]), np.asarray(trained(batch[:size])), **SINGLE)


def test_all_formats_are_written_keras_first_and_nothing_else_stays(exported):
    assert exported.failures == {}
    assert list(exported.files) == list(EXPORTS)
    folder = exported.files["keras"].parent
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILE_NAMES.values())


def test_the_model_stays_what_it_was(batch, tmp_path):
    model = tiny_cnn()
    model.compile("adam", "mse")
    model.fit(batch, np.ones((4, 5), np.float32), verbose=0)
    before, attributes, moments = np.asarray(model(batch)), set(vars(model)), len(model.optimizer.variables)
    export_model(model, tmp_path, EXPORTS)
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


def test_the_training_state_is_no_part_of_the_file(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile("adam", loss=lambda labels, outputs: keras.ops.mean(outputs))
    model.fit(np.ones((4, 3)), np.ones((4, 2)), verbose=0)
    exports = export_model(model, tmp_path, EXPORTS)
    assert not exports.failures
    assert not keras.models.load_model(exports.files["keras"]).compiled
    assert model.compiled


@pytest.mark.parametrize("failing", EXPORTS)
def test_one_failing_format_costs_no_other(failing, trained, tmp_path, monkeypatch):
    written = []
    for name in EXPORTS:
        monkeypatch.setitem(export_model.__globals__["_WRITERS"], name, writer(name, failing, written))
    result = export_model(trained, tmp_path, EXPORTS)
    assert list(result.failures) == [failing]
    assert "no such op x x" in result.failures[failing]
    assert len(result.failures[failing]) < 400
    assert written == [name for name in EXPORTS if name != failing]
    assert {path.name for path in tmp_path.iterdir()} == {FILE_NAMES[name] for name in written}


def writer(name, failing, written):
    def write(model, path):
        path.write_text("half")
        if name == failing:
            raise RuntimeError("no such op\n" + 9999 * "x ")
        written.append(name)

    return write


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_an_earlier_run_is_replaced_only_by_a_complete_one(kind, tmp_path):
    target = tmp_path / "result"

    def write(path, text, fail=False):
        inner = path
        if kind == "folder":
            path.mkdir()
            inner = path / "inner"
        inner.write_text(text)
        if fail:
            raise RuntimeError("out of disk")

    content = target / "inner" if kind == "folder" else target
    replace_with(target, lambda path: write(path, "first"))
    with pytest.raises(RuntimeError, match="out of disk"):
        replace_with(target, lambda path: write(path, "half", fail=True))
    assert content.read_text() == "first"
    replace_with(target, lambda path: write(path, "second"))
    assert content.read_text() == "second"
    assert list(tmp_path.iterdir()) == [target]


def test_the_earlier_folder_comes_back_where_the_new_one_cannot_be_moved(tmp_path):
    (tmp_path / "result").mkdir()
    (tmp_path / "result" / "inner").write_text("first")
    with pytest.raises(FileNotFoundError):
        replace_with(tmp_path / "result", lambda path: None)
    assert (tmp_path / "result" / "inner").read_text() == "first"


def test_converters_write_nothing_to_the_terminal(trained, tmp_path, capfd):
    export_model(trained, tmp_path, ("litert",))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("inside", ["", "below", "far/below"])
def test_a_folder_that_cannot_be_written_is_refused(inside, tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(OutputError, match="taken"):
        check_writable(tmp_path / "taken" / inside)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that refuses files even to root")
def test_a_folder_that_takes_no_file_is_refused():
    with pytest.raises(OutputError, match="/proc"):
        check_writable(Path("/proc/self"))


def test_a_writable_folder_is_made_and_left_empty(tmp_path):
    check_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_an_unknown_format_is_refused_before_any_work(trained, tmp_path):
    with pytest.raises(ConfigError, match="onnx"):
        export_model(trained, tmp_path / "out", ("keras", "onnx"))
    assert not (tmp_path / "out").exists()
