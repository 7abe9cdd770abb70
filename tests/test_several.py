import subprocess
from collections import OrderedDict
from importlib.util import find_spec
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import cobla_tf
from cobla_tf import export_check, runtimes, speed, stopwatch
from cobla_tf.config import EXPORTS
from cobla_tf.elements import output_names
from cobla_tf.errors import DataError
from cobla_tf.export import PACKAGES, FailedExportError, export_model
from cobla_tf.export_comparison import compare
from cobla_tf.export_formats import signature_names
from cobla_tf.sites import find_sites
from cobla_tf.surgery import rebuild

SIZE = (8, 8, 2)
INSTALLED = [name for name in EXPORTS if all(find_spec(package) for package in PACKAGES.get(name, ()))]
FLOAT32 = [name for name in ("savedmodel", "litert", "onnx") if name in INSTALLED]


def two_inputs():
    zeta, alpha, x = trunk()
    return keras.Model([zeta, alpha], head(x, "kind"))


def two_outputs():
    images = keras.Input(SIZE, name="images")
    x = layers.Conv2D(4, 3, name="conv")(images)
    return keras.Model(images, [head(x, "yes"), head(x, "not")])


def dicts():
    zeta, alpha, x = trunk()
    return keras.Model({"zeta": zeta, "Alpha 1-x": alpha}, {name: head(x, name) for name in ("yes", "not", "m")})


def ordered():
    zeta, alpha, x = trunk()
    inputs = OrderedDict([("zeta", zeta), ("Alpha 1-x", alpha)])
    return keras.Model(inputs, OrderedDict((name, head(x, name)) for name in ("yes", "not")))


def nested():
    zeta, alpha, x = trunk()
    return keras.Model([{"q": zeta}, alpha], [{"u": head(x, "yes"), "b": head(x, "not")}, head(x, "m")])


def trunk():
    """Inputs of one shape, whose names are in no order and no identifiers: a mix-up shows in the outputs."""
    zeta, alpha = keras.Input(SIZE, name="zeta"), keras.Input(SIZE, name="Alpha 1-x")
    block = keras.Sequential([keras.Input(SIZE), layers.Conv2D(4, 3, padding="same", name="conv")], name="block")
    return zeta, alpha, layers.Concatenate()([block(zeta), layers.Conv2D(4, 3, padding="same", name="other")(alpha)])


def head(x, name):
    return layers.Dense(3, name=name)(layers.GlobalAveragePooling2D()(x))


STRUCTURES = [two_inputs, two_outputs, dicts, nested]


def images_for(model, count=4):
    rng = np.random.default_rng(0)
    arrays = tuple(rng.normal(size=(count, *SIZE)).astype("float32") for _ in model.inputs)
    return arrays if len(arrays) > 1 else arrays[0]


@pytest.fixture
def in_this_process(monkeypatch):
    """What another process would do, without the seconds that it takes to start."""

    def run(command, **options):
        runtimes.main(Path(command[-1]))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(export_check.subprocess, "run", run)


@pytest.mark.parametrize("make", STRUCTURES)
def test_every_file_gives_the_networks_outputs(make, tmp_path, in_this_process):
    keras.utils.set_random_seed(0)
    model = make()
    exports = export_model(model, tmp_path, ["keras", *FLOAT32], images=images_for(model), batch=2)
    assert [check.name for check in exports.checks] == ["keras", *FLOAT32, "savedmodel_batch"]
    assert all(check.difference < 1e-5 and check.agreement == 1.0 for check in exports.checks)


def test_keras_mixes_up_an_ordered_dict_in_its_own_file_and_the_others_are_right(tmp_path, in_this_process):
    keras.utils.set_random_seed(0)
    model = ordered()
    with pytest.raises(FailedExportError, match=r"^export keras failed: keras: its outputs .* differ by") as raised:
        export_model(model, tmp_path, ["keras", *FLOAT32], images=images_for(model))
    assert list(raised.value.exports.files) == FLOAT32


def test_also_with_8_bits_and_in_a_process_of_its_own(tmp_path):
    keras.utils.set_random_seed(0)
    model = dicts()
    zeta, alpha = images_for(model)[::-1]  # Keras sorts what is in dicts
    exports = export_model(model, tmp_path, INSTALLED, images={"Alpha 1-x": alpha, "zeta": 9 * zeta})
    assert exports.failures == {}
    assert list(exports.files) == INSTALLED
    loaded = tf.saved_model.load(str(exports.files["savedmodel"]))
    assert set(loaded.serve({"zeta": zeta, "Alpha 1-x": alpha})) == {"yes", "not", "m"}


@pytest.mark.parametrize("make", [two_outputs, dicts])
def test_the_benchmark_runs_all_runtimes_and_sites(make, monkeypatch):
    def run(*arguments):
        stopwatch.main(Path(arguments[-1]))
        return subprocess.CompletedProcess(arguments, 0, "", "")

    keras.utils.set_random_seed(0)
    model = make()
    sites = find_sites(model, "spatial")
    leading = sites.layout.leading(np.ones(len(sites.found), dtype=int))
    half = rebuild(model, sites, leading > 0, leading, np.zeros(len(sites.found), dtype=bool))
    monkeypatch.setattr(speed, "cores", lambda: 1)
    monkeypatch.setattr(stopwatch, "_set_threads", lambda count: None)
    monkeypatch.setattr(speed, "run_python", run)
    result = cobla_tf.benchmark(model, half, batch=2, seconds=0)
    assert result.notes == ()
    assert len(result.timings) == 6
    assert [site.name for site in result.sites] == [site.name for site in sites.found]
    assert all(site.macs[1] < site.macs[0] for site in result.sites)


def test_the_worst_output_is_the_one_that_counts():
    expected = np.array([[3.0, 4.0]]), np.array([[1e-3, 0.0]])
    off = expected[0], np.array([[0.0, 1e-3]])
    check = compare("keras", "keras", 1, off, expected, 0.0)
    assert check.difference == pytest.approx(2**0.5)
    assert check.agreement == 0.0
    assert compare("keras", "keras", 1, expected, expected, 0.0).passed
    assert not compare("keras", "keras", 1, (off[0], np.array([[np.nan, 0.0]])), expected, 0.0).passed


def test_names_that_a_signature_cannot_hold():
    first, second = keras.Input(SIZE, name="an image"), keras.Input(SIZE, name="an_image")
    both = keras.Model([first, second], layers.Add()([first, second]))
    assert signature_names(both) == (["input_0", "input_1"], ["output_0"])
    assert signature_names(keras.Model(first, 2 * first)) == (["an_image"], ["output_0"])


def test_what_is_in_an_ordered_dict_keeps_its_order():
    assert output_names(ordered()) == ("yes", "not")
    assert output_names(dicts()) == ("m", "not", "yes")


def test_images_that_are_missing_are_refused_before_any_work(tmp_path):
    model = two_inputs()
    with pytest.raises(DataError, match=r"one array for each of 'zeta', 'Alpha 1-x', got a ndarray"):
        export_model(model, tmp_path / "out", ["keras"], images=images_for(model)[0])
    with pytest.raises(DataError, match="names 'zeta', 'Alpha 1-x', got 'zeta'"):
        cobla_tf.benchmark(model, model, images={"zeta": images_for(model)[0]})
    assert not (tmp_path / "out").exists()
