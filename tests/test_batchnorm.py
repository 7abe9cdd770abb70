import keras
import numpy as np
import pytest
from keras import layers
from networks import images_and_labels

import cobla_tf
from cobla_tf.batchnorm import batch_norms, reestimate
from cobla_tf.config import Config
from cobla_tf.errors import ConfigError
from cobla_tf.examples import Sample

SIZE = (8, 8, 2)


def network(frozen=False):
    """A plain, a nested and, if asked for, a frozen BatchNorm, and a Dropout with its seed."""
    keras.utils.set_random_seed(0)
    inner = keras.Sequential(
        [keras.Input((8, 8, 6)), layers.BatchNormalization(name="nested", momentum=0.9), layers.Conv2D(6, 3)],
        name="inner",
    )
    images = keras.Input(SIZE)
    x = layers.BatchNormalization(name="plain")(layers.Conv2D(6, 3, padding="same", use_bias=False)(images))
    x = layers.Dropout(0.5, seed=1)(inner(layers.ReLU()(x)))
    x = layers.BatchNormalization(name="last", trainable=not frozen)(x)
    return keras.Model(images, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))


@pytest.mark.parametrize("batch", [1, 20])
def test_statistics_are_those_of_all_images_and_nothing_else_changes(batch):
    model = network()
    sample = Sample(*images_and_labels(50, SIZE))
    plain = model.get_layer("plain")
    model.get_layer("plain").moving_mean.assign(np.full(6, 99.0))  # must be forgotten
    before = [variable.numpy() for variable in model.variables]
    momenta = [norm.momentum for norm in batch_norms(model).open]
    reestimate(model, sample, batch_size=batch)
    inputs = np.asarray(model.layers[1](sample.images))
    for statistic, got in (("mean", plain.moving_mean), ("var", plain.moving_variance)):
        np.testing.assert_allclose(np.asarray(got), getattr(inputs, statistic)(axis=(0, 1, 2)), rtol=1e-4, atol=1e-6)
    assert [norm.momentum for norm in batch_norms(model).open] == momenta
    changed = {
        variable.path.split("/")[-2] + "/" + variable.name
        for variable, old in zip(model.variables, before, strict=True)
        if not np.array_equal(variable, old)
    }
    assert changed == {f"{norm}/moving_{what}" for norm in ("plain", "nested", "last") for what in ("mean", "variance")}


def test_frozen_layers_keep_their_statistics():
    model = network(frozen=True)
    norms = batch_norms(model)
    assert [norm.name for norm in norms.frozen] == ["last"]
    assert [norm.name for norm in norms.open] == ["plain", "nested"]
    reestimate(model, Sample(*images_and_labels(20, SIZE)), 8)
    np.testing.assert_array_equal(model.get_layer("last").moving_mean, np.zeros(6))


def compressed(model, images, budget=0.4):
    config = Config(batch_norm_images=images, batch_size=32)
    return cobla_tf.compress(model, images_and_labels(80, SIZE), macs=budget, method="pos_cvx", config=config)


def test_the_report_has_the_network_before_and_after():
    model = network(frozen=True)
    reestimate(model, Sample(*images_and_labels(60, SIZE)), 20)
    for images, stages in ((64, ["original", "rebuilt", "compressed"]), (0, ["original", "compressed"])):
        report = compressed(model, images).report
        assert list(report.evaluations) == stages
        notes = [note for note in report.notes if "re-estimated" in note]
        assert len(notes) == bool(images)
        assert notes in (
            [],
            ["statistics of 2 BatchNorm layers re-estimated on 64 training images; 1 frozen one keeps its own"],
        )
        if images:
            assert report.evaluations["rebuilt"].loss != report.evaluations["compressed"].loss


def test_a_network_whose_statistics_all_stay_says_so():
    images = keras.Input(SIZE)
    x = layers.BatchNormalization(trainable=False)(layers.Conv2D(6, 3, padding="same")(images))
    x = layers.TimeDistributed(layers.BatchNormalization())(x)
    model = keras.Model(images, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    note = "no statistics of BatchNorm were re-estimated; 1 frozen one keeps its own; 1 inside a wrapper keeps its own"
    assert [text for text in compressed(model, 64).report.notes if "no statistics" in text] == [note]
    assert not [text for text in compressed(model, 0).report.notes if "no statistics" in text]


def test_a_network_that_stays_as_it_is_keeps_its_statistics():
    model = network()
    result = compressed(model, 64, budget=1.0)
    assert list(result.report.evaluations) == ["original", "compressed"]
    for weight, old in zip(result.model.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, old)


def test_a_bad_number_of_images():
    with pytest.raises(ConfigError, match="batch_norm_images must be a whole number"):
        Config(batch_norm_images=-1)


def test_a_kernel_that_is_normalised_in_training_stays_as_trained():
    keras.utils.set_random_seed(0)
    images = keras.Input(SIZE)
    x = layers.BatchNormalization()(layers.SpectralNormalization(layers.Conv2D(4, 3))(images))
    model = keras.Model(images, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    before = [weight.numpy() for weight in model.trainable_variables]
    reestimate(model, Sample(*images_and_labels(20, SIZE)), batch_size=10)
    for weight, value in zip(model.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)


def test_one_image_a_batch_with_one_value_a_channel():
    images = keras.Input(SIZE)
    frames = layers.TimeDistributed(layers.BatchNormalization(name="inner"), name="wrapped")(images)
    x = layers.BatchNormalization(name="pooled")(layers.GlobalAveragePooling2D()(images))
    model, sample = keras.Model(images, [x, frames]), Sample(*images_and_labels(50, SIZE))
    norms = batch_norms(model)
    assert [[norm.name for norm in kind] for kind in (norms.open, norms.wrapped)] == [["pooled"], ["inner"]]
    reestimate(model, sample, batch_size=1)
    assert (np.asarray(norms.wrapped[0].moving_variance) == 1).all()
    pooled = sample.images.mean(axis=(1, 2))
    np.testing.assert_allclose(norms.open[0].moving_variance, pooled.var(axis=0), rtol=1e-3)
