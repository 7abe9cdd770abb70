import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import images_and_labels, small_cnn
from test_compress import trained

import cobla_tf
from cobla_tf.config import Config, FineTuneConfig, SolveConfig
from cobla_tf.distillation import HINGES, check_distillation, softened, tells_accuracy
from cobla_tf.errors import ConfigError, DataError
from cobla_tf.examples import Sample, Stream
from cobla_tf.finetune import train
from cobla_tf.loss import Loss, MeanOf
from cobla_tf.losses import resolve_loss
from cobla_tf.notes import chosen_epoch, unused_options, worse_for_training
from cobla_tf.report_parts import Evaluation
from cobla_tf.yellowfin import YellowFin

IMAGES, LABELS = images_and_labels(50)
OF_OTHER_LABELS = {"circle", "ctc", "categorical_generalized_cross_entropy", "sparse_categorical_crossentropy"}
OF_WHOLE_BATCHES = {"dice", "tversky"}  # linear only where all targets have one sum
NAMES = {name for name, loss in vars(keras.losses).items() if inspect.isfunction(loss) and name == loss.__name__}
NAMES -= {"deserialize", "get", "serialize", *OF_OTHER_LABELS, *OF_WHOLE_BATCHES}
QUICK = SolveConfig(iterations=2, draws=1, refine_iterations=0)


def soft(share, labels=LABELS, probabilities=False, stream=False):
    model = small_cnn()
    if probabilities:
        model = keras.Sequential([model, keras.layers.Softmax()])
    sample = Sample(IMAGES, labels)
    loss = resolve_loss(None, model, sample)
    data = tf.data.Dataset.from_tensor_slices((IMAGES, labels)).batch(20)
    mixed, chosen = softened(model, Stream(data, 50) if stream else sample, loss, share, 16)
    targets = np.concatenate([part for _, part in mixed.batches(50)])
    return np.asarray(model(IMAGES)), targets, chosen, loss


@pytest.mark.parametrize("one_hot", [False, True])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("probabilities", [False, True])
def test_targets_are_labels_mixed_with_the_networks_probabilities(one_hot, stream, probabilities):
    labels = np.eye(3, dtype="float32")[LABELS] if one_hot else LABELS
    outputs, targets, _, _ = soft(0.25, labels, probabilities, stream)
    own = outputs if probabilities else np.asarray(keras.ops.softmax(outputs))
    np.testing.assert_allclose(targets, 0.75 * np.eye(3)[LABELS] + 0.25 * own, atol=1e-6)


def test_the_loss_of_mixed_targets_is_the_mixture_of_the_losses():
    outputs, targets, chosen, loss = soft(0.25)
    learnt = float(chosen.total(targets, outputs))
    own = keras.losses.categorical_crossentropy(keras.ops.softmax(outputs), outputs, from_logits=True)
    expected = 0.75 * float(loss.total(LABELS, outputs)) + 0.25 * float(keras.ops.sum(own))
    assert learnt == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("axis", [True, False])
def test_targets_of_every_pixel_are_mixed_too(axis):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input(IMAGES.shape[1:]), keras.layers.Conv2D(3, 3, padding="same")])
    masks = np.random.default_rng(0).integers(0, 3, IMAGES.shape[:3])
    sample = Sample(IMAGES, masks[..., None] if axis else masks)
    loss = resolve_loss(None, model, sample)
    check_distillation(loss, sample, model.output_shape[1:], 0.5)
    mixed, chosen = softened(model, sample, loss, 0.25, 16)
    expected = 0.75 * np.eye(3)[masks] + 0.25 * np.asarray(keras.ops.softmax(model(IMAGES)))
    np.testing.assert_allclose(mixed.labels, expected, atol=1e-6)
    assert chosen.labels == "one-hot"


def test_label_smoothing_stays():
    model, labels = small_cnn(), np.eye(3, dtype="float32")[LABELS]
    smooth = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.3)
    sample = Sample(IMAGES, labels)
    mixed, chosen = softened(model, sample, resolve_loss(smooth, model, sample), 0.25, 16)
    outputs = model(IMAGES)
    assert float(chosen.total(mixed.labels, outputs)) == pytest.approx(50 * float(smooth(mixed.labels, outputs)))


def test_squared_error_learns_the_outputs_themselves():
    model, labels = small_cnn(), np.eye(3, dtype="float32")[LABELS]
    loss = resolve_loss("mse", model, Sample(IMAGES, labels))
    mixed, chosen = softened(model, Sample(IMAGES, labels), loss, 1.0, 16)
    np.testing.assert_allclose(mixed.labels, model(IMAGES), rtol=1e-5, atol=1e-6)
    assert chosen.function is loss.function and (loss.labels, chosen.labels) == ("one-hot", "other")
    assert softened(model, Sample(IMAGES, labels), loss, 0.5, 16)[1] == loss


def test_no_labels_are_needed_where_only_outputs_are_learnt():
    teacher, student = trained(), small_cnn(seed=5)
    sample = Sample(IMAGES, np.zeros(50, int))
    loss = resolve_loss(None, teacher, sample)
    examples, chosen = softened(teacher, sample, loss, 1.0, 16)
    before = float(chosen.total(examples.labels, student(IMAGES)))
    train(student, examples, chosen, FineTuneConfig(epochs=15, learning_rate=3e-3), 10)
    agreement = np.mean(np.argmax(student(IMAGES), -1) == np.argmax(teacher(IMAGES), -1))
    assert float(chosen.total(examples.labels, student(IMAGES))) < before and agreement > 0.7


def test_losses_that_cannot_be_mixed_are_refused():
    model = small_cnn()
    sample = Sample(IMAGES, np.eye(3, dtype="float32")[LABELS])
    loss = resolve_loss(keras.losses.BinaryCrossentropy(from_logits=True), model, sample)
    with pytest.raises(ConfigError, match="distillation takes"):
        check_distillation(loss, sample, (3,), 0.5)
    signs = Sample(IMAGES, np.arange(len(IMAGES)) % 2)
    for name in ("hinge", keras.losses.SquaredHinge(), keras.losses.categorical_hinge):
        loss = resolve_loss(
            name,
            keras.Sequential([keras.Input(IMAGES.shape[1:]), keras.layers.Flatten(), keras.layers.Dense(1)]),
            signs,
        )
        with pytest.raises(ConfigError, match=r"got .*hinge"):
            check_distillation(loss, signs, (1,), 0.5)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_labels_are_mixed_with_outputs_for_losses_that_weigh_the_two_alike(name):
    """What is not linear in its targets has a gap that depends on the outputs; the parameters are far apart."""
    rng = np.random.default_rng(0)
    rows, *outputs = (keras.ops.softmax(3 * rng.normal(size=(50, 3))) for _ in range(4))
    labels = np.where(np.eye(3)[LABELS] > 0, 4.0, 0.0) if name == "huber" else np.eye(3)[LABELS]

    def total(targets, output):
        return float(keras.ops.sum(keras.losses.get(name)(keras.ops.cast(targets, "float64"), output)))

    gaps = [
        total(0.6 * labels + 0.4 * rows, one) - 0.6 * total(labels, one) - 0.4 * total(rows, one) for one in outputs
    ]
    linear = np.ptp(gaps) < 1e-3
    loss = Loss(MeanOf(keras.losses.get(name), "float32"), "other", f"{name}, as given", 3)
    sample = Sample(IMAGES, labels)
    if name in HINGES or not linear:
        with pytest.raises(ConfigError, match=f"{name}, as given"):
            check_distillation(loss, sample, (3,), 0.4)
    else:
        check_distillation(loss, sample, (3,), 0.4)
    if name not in HINGES:
        check_distillation(loss, sample, (3,), 1.0)


def test_outputs_of_open_size_are_learnt_too():
    maps = Sample(IMAGES, np.zeros((*IMAGES.shape[:3], 2), "float32"))
    loss = Loss(keras.losses.MeanSquaredError(), "other", "mse", 2)
    check_distillation(loss, maps, (None, None, 2), 0.5)
    with pytest.raises(ConfigError, match="got mse"):
        check_distillation(loss, maps, (None, None, 3), 0.5)


def test_a_loss_that_does_not_tell_logits_from_probabilities_or_leaves_a_class_out_is_refused():
    model, rows = small_cnn(), Sample(IMAGES, np.eye(3, dtype="float32")[LABELS])
    own = resolve_loss(lambda t, p: keras.losses.categorical_crossentropy(t, p, from_logits=True), model, rows)
    with pytest.raises(ConfigError, match="cannot tell whether lambda, as given takes logits"):
        check_distillation(own, rows, (3,), 0.5)
    without = resolve_loss(
        keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=0), model, Sample(IMAGES, LABELS)
    )
    with pytest.raises(ConfigError, match="no loss with an ignore_class"):
        check_distillation(without, Sample(IMAGES, LABELS), (3,), 0.5)
    check_distillation(resolve_loss("mse", model, rows), rows, (3,), 0.5)


@pytest.mark.parametrize(("share", "labels"), [(0.5, "one-hot"), (0.6, "other")])
def test_agreement_with_the_original_is_not_called_accuracy(share, labels):
    sample = Sample(IMAGES, LABELS)
    _, chosen = softened(small_cnn(), sample, resolve_loss(None, small_cnn(), sample), share, 16)
    assert chosen.labels == labels


def test_compress_fine_tunes_on_outputs_and_keeps_the_best_epoch():
    fine_tune = FineTuneConfig(epochs=6, distillation=0.5, validation_share=0.25, patience=1, learning_rate=0.005)
    config = Config(solve=QUICK, fine_tune=fine_tune, batch_size=25)
    report = cobla_tf.compress(trained(), (IMAGES, LABELS), macs=0.5, validation=(IMAGES, LABELS), config=config).report
    losses = [epoch["val_loss"] for epoch in report.fine_tuning]
    best = int(np.argmin(losses))
    before = len(losses) == 1 and any("no epoch of fine-tuning was better" in note for note in report.notes)
    assert before or len(losses) == min(6, best + 2)
    assert before or any(f"after epoch {best + 1} of {len(losses)}" in note for note in report.notes)


def test_the_weights_after_the_best_epoch_are_those_of_the_model():
    model, seen = small_cnn(), []
    sample = Sample(IMAGES, LABELS)
    spy = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(model.get_weights()))
    config = FineTuneConfig(epochs=5, learning_rate=0.3, validation_share=0.2, callbacks=(spy,))
    history = train(model, sample, resolve_loss(None, model, sample), config, 10)
    best = int(np.argmin([epoch["val_loss"] for epoch in history]))
    assert best < 4, "the setting is to overshoot, so that the last epoch is not the best"
    for kept, expected in zip(model.get_weights(), seen[best], strict=True):
        np.testing.assert_array_equal(kept, expected)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"patience": 2}, "set validation_share"),
        ({"distillation": 1.5}, "distillation must be in"),
        ({"validation_share": 1.0}, "validation_share must be in"),
        ({"patience": -1}, "patience must be a whole number"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        FineTuneConfig(epochs=1, **settings)


@pytest.mark.parametrize(
    ("losses", "best", "said"),
    [
        ([2.0, np.nan, 1.0, 3.0], 3, "after epoch 3 of 4"),
        ([np.nan, np.inf], 0, "those from before it"),
        ([2.0, 3.0], 0, "no epoch of fine-tuning was better than none"),
    ],
)
def test_the_epoch_that_weights_are_from_is_told(losses, best, said):
    (note,) = chosen_epoch([{"loss": 1.0, "val_loss": loss} for loss in losses], best)
    assert said in note
    assert chosen_epoch([{"loss": 1.0}], best) == []


@pytest.mark.parametrize(
    ("before", "after", "worse"),
    [
        ((0.5, 0.9), (0.6, 0.8), True),
        ((0.5, 0.9), (0.4, 0.8), False),
        ((0.5, 0.9), (0.6, 0.9), False),
        ((0.5, None), (0.6, None), True),
        ((0.5, 0.9), (np.nan, 0.1), True),
    ],
)
def test_a_network_that_training_made_worse_is_told_of(before, after, worse):
    evaluations = Evaluation(*before, 100), Evaluation(*after, 100)
    for kept in (True, False):
        notes = worse_for_training(*evaluations, kept)
        assert bool(notes) is worse
        assert all(("before_fine_tuning.keras" in note) is kept for note in notes)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.6])
@pytest.mark.parametrize("labels", ["sparse", "binary", "other"])
def test_accuracy_is_promised_where_it_is_told(share, labels):
    outputs = 1 if labels == "binary" else 3
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(outputs, "softmax" if labels == "sparse" else "sigmoid")]
    )
    targets = {"sparse": np.arange(30) % 3, "binary": np.arange(30)[:, None] % 2, "other": np.ones((30, 3))}[labels]
    sample = Sample(np.ones((30, 4), np.float32), targets)
    name = {"sparse": "sparse_categorical_crossentropy", "binary": "binary_crossentropy", "other": "mse"}[labels]
    loss = resolve_loss(name, model, sample)
    assert loss.labels == labels
    promised = tells_accuracy(loss, share)
    if share:
        sample, loss = softened(model, sample, loss, share, 10)
    (epoch,) = train(model, sample, loss, FineTuneConfig(epochs=1), 10)
    assert ("accuracy" in epoch) is promised


def test_what_is_worse_than_before_after_every_epoch_is_not_kept():
    model, sample = trained(), Sample(IMAGES, LABELS)
    before = [weight.copy() for weight in model.get_weights()]
    config = FineTuneConfig(epochs=2, validation_share=0.2, optimizer=keras.optimizers.SGD(1e3))
    history = train(model, sample, resolve_loss(None, model, sample), config, 10)
    assert len(history) >= 1
    for got, expected in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(got, expected)


def test_a_single_training_image_is_not_set_apart():
    config = Config(solve=QUICK, fine_tune=FineTuneConfig(epochs=1, validation_share=0.1))
    with pytest.raises(DataError, match="at least 1 of 2 training images"):
        cobla_tf.compress(small_cnn(), (IMAGES[:2], LABELS[:2]), macs=0.5, config=config)


def test_streamed_images_are_not_set_apart(monkeypatch):
    monkeypatch.setattr("cobla_tf.reading.IN_MEMORY_LIMIT", 100)
    data = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(20)
    config = Config(solve=QUICK, fine_tune=FineTuneConfig(epochs=1, validation_share=0.1))
    with pytest.raises(DataError, match="leave it at 0"):
        cobla_tf.compress(small_cnn(), data, macs=0.5, validation=(IMAGES, LABELS), config=config)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({}, None),
        ({"epochs": 2, "learning_rate": 1e-3, "distillation": 0.5}, None),
        ({"epochs": 2, "optimizer": "yellowfin"}, None),
        ({"callbacks": []}, None),
        ({"optimizer": "yellowfin", "learning_rate": 1e-3}, "learning_rate 0.001 was not used"),
        ({"learning_rate": 1e-3, "optimizer": "sgd"}, None),  # a training before the compression has them too
        ({"distillation": 0.5, "validation_share": 0.1, "patience": 2}, "distillation, validation_share, patience"),
        ({"epochs": 2, "optimizer": "yellowfin", "learning_rate": 1e-3}, "learning_rate 0.001 was not used"),
        ({"epochs": 2, "optimizer": YellowFin(0.5), "learning_rate": 1e-3}, "learning_rate 0.001 was not used"),
    ],
)
def test_options_without_effect_are_named(options, named):
    notes = unused_options(FineTuneConfig(**options))
    assert len(notes) == (named is not None)
    assert all(named in note for note in notes)
