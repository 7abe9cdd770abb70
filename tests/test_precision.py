import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import images_and_labels, relative_error

from cobla_tf import precision
from cobla_tf.examples import Sample
from cobla_tf.losses import resolve_loss
from cobla_tf.objective import Objective, evaluate
from cobla_tf.sites import find_sites
from cobla_tf.surgery import mask_model

BFLOAT16 = 2.0**-8
native = pytest.mark.skipif(
    precision.resolve_precision("bfloat16") != "bfloat16", reason="this processor does not multiply in bfloat16"
)


def wide_cnn():
    keras.utils.set_random_seed(0)
    images = keras.Input((16, 16, 2))
    x = keras.layers.Conv2D(32, 3, padding="same", activation="relu")(images)
    x = keras.layers.Conv2D(64, 3, padding="same", activation="relu")(x)
    return keras.Model(images, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x)))


def objective_in(name):
    model, sample = wide_cnn(), Sample(*images_and_labels(32, (16, 16, 2)))
    sites = find_sites(model, "spatial")
    loss = resolve_loss(None, model, sample)
    return Objective(mask_model(model, sites), loss, 16, sample, name), np.full(sites.layout.size, 0.8), sample


def option():
    return bool(tf.config.optimizer.get_experimental_options().get(precision._OPTION, False))


@pytest.mark.parametrize("before", [False, True])
def test_the_users_own_option_is_restored_whatever_happens(before):
    tf.config.optimizer.set_experimental_options({precision._OPTION: before})
    try:
        with pytest.raises(ZeroDivisionError), precision.products_in("float32" if before else "bfloat16"):
            assert option() is not before
            raise ZeroDivisionError
        assert option() is before
    finally:
        tf.config.optimizer.set_experimental_options({precision._OPTION: False})


@pytest.mark.parametrize("wanted", ["bfloat16", "float32"])
def test_a_gpu_that_shortens_float32_is_found_and_said(monkeypatch, caplog, wanted):
    monkeypatch.setattr(precision, "_rounds", lambda name: name == precision.TENSOR_FLOAT)
    with caplog.at_level("INFO", "absl"):
        assert precision.resolve_precision(wanted) == precision.TENSOR_FLOAT
    assert {"bfloat16": "tensorfloat32 is used", "float32": "NVIDIA_TF32_OVERRIDE=0"}[wanted] in caplog.text


def test_a_machine_without_bfloat16_is_found_by_trial_and_said(monkeypatch, caplog):
    monkeypatch.setattr(precision, "_OPTION", "debug_stripper")  # an option that rounds nothing
    with caplog.at_level("INFO", "absl"):
        assert precision.resolve_precision("bfloat16") == "float32"
    assert "float32 is used" in caplog.text


def test_a_processor_has_all_of_float32(caplog):
    with caplog.at_level("INFO", "absl"):
        assert precision.resolve_precision("float32") == "float32"
    assert not caplog.text


@native
def test_loss_and_gradient_are_those_of_float32_to_the_precision_of_bfloat16():
    (exact, masks, sample), (rounded, _, _) = objective_in("float32"), objective_in("bfloat16")
    (loss, gradient), (near, near_gradient) = exact.gradient(masks, sample), rounded.gradient(masks, sample)
    assert loss != near
    assert near == pytest.approx(loss, rel=BFLOAT16)
    assert relative_error(near_gradient, gradient) < 8 * BFLOAT16
    assert rounded.value(masks, sample) == pytest.approx(near, rel=BFLOAT16)


@native
def test_accuracies_are_measured_in_the_networks_own_precision():
    objective, masks, sample = objective_in("bfloat16")
    assert objective.value(masks, sample) != objective.evaluate(masks, sample).loss
    exact = objective_in("float32")[0]
    assert objective.evaluate(masks, sample) == exact.evaluate(masks, sample)
    model = wide_cnn()
    loss = resolve_loss(None, model, sample)
    assert evaluate(model, sample, loss, 16).loss == pytest.approx(exact.value(np.ones(len(masks)), sample), rel=1e-6)
