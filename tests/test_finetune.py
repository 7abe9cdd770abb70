import keras
import numpy as np
import pytest
from cobla_tf.experiments.benchmarks.optimizers import Trained, compare, table

from cobla_tf.config import FineTuneConfig
from cobla_tf.errors import ConfigError
from cobla_tf.finetune import BestWeights, train
from cobla_tf.losses import resolve_loss
from cobla_tf.optimizers import CLIP_NORM, LEARNING_RATE, clip_limits, make_optimizer, scheduled_optimizer
from cobla_tf.reading import as_examples
from cobla_tf.yellowfin import YellowFin
from tests.networks import images_and_labels, small_cnn


class Breaks(keras.optimizers.SGD):
    """Plain SGD until a step, and then not a number."""

    last = 0

    def update_step(self, gradient, variable, learning_rate):
        gradient = keras.ops.where(self.iterations >= self.last, np.nan, gradient)
        super().update_step(gradient, variable, learning_rate)


def trained(model, config):
    examples = as_examples(images_and_labels(40))
    loss = resolve_loss(None, model, examples.probe())
    return train(model, examples, loss, config, batch_size=10)


@pytest.mark.parametrize("name", ["yellowfin", "YellowFin", "Adam", "ADAMW", "lamb"])
def test_names_are_known_in_any_case(name):
    assert type(make_optimizer(FineTuneConfig(optimizer=name))).__name__.lower() == name.lower()


OWN_SCHEDULE = keras.optimizers.schedules.ExponentialDecay(0.2, 10, 0.5)


@pytest.mark.parametrize("given", ["yellowfin", YellowFin(learning_rate=0.25, window=5)])
def test_yellowfin_needs_no_learning_rate_and_learns(given):
    model = small_cnn()
    history = trained(model, FineTuneConfig(epochs=2, optimizer=given))
    expected = YellowFin() if isinstance(given, str) else given
    assert model.optimizer is not expected
    assert model.optimizer.window == expected.window
    assert history[1]["loss"] < history[0]["loss"]


@pytest.mark.parametrize(
    ("optimizer", "given", "first"),
    [
        ("adam", None, LEARNING_RATE), ("sgd", 0.1, 0.1),
        (keras.optimizers.SGD(0.3), None, 0.3), (keras.optimizers.SGD(0.3), 0.1, 0.1),
        (keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.3)), None, 0.3),
        (keras.optimizers.SGD(OWN_SCHEDULE), 0.1, 0.1), ("sgd", 1, 1.0),
    ],
)  # fmt: skip
def test_learning_rate_falls_to_zero_along_a_cosine(optimizer, given, first):
    model = small_cnn()
    trained(model, FineTuneConfig(epochs=1, optimizer=optimizer, learning_rate=given))
    schedule = getattr(model.optimizer, "inner_optimizer", model.optimizer)._learning_rate
    np.testing.assert_allclose([schedule(step) for step in (0, 2, 4)], [first, first / 2, 0], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("given", "factor"),
    [("yellowfin", 1.0), (YellowFin(0.25), 0.25), (keras.optimizers.LossScaleOptimizer(YellowFin(0.5)), 0.5)],
)
@pytest.mark.parametrize(("steps", "constant"), [(1, 0), (9, 4), (40, 20)])
def test_what_yellowfin_finds_is_taken_whole_for_half_of_the_steps(given, factor, steps, constant):
    optimizer = scheduled_optimizer(FineTuneConfig(epochs=1, optimizer=given, learning_rate=1e-4), steps)
    schedule = getattr(optimizer, "inner_optimizer", optimizer)._learning_rate
    share = np.clip((np.arange(steps + 1) - constant) / (steps - constant), 0, 1)
    rates = [schedule(step) for step in range(steps + 1)]
    np.testing.assert_allclose(rates, factor * 0.5 * (1 + np.cos(np.pi * share)), rtol=1e-5, atol=1e-6)


def test_a_schedule_of_the_optimisers_own_stays():
    model = small_cnn()
    trained(model, FineTuneConfig(epochs=1, optimizer=keras.optimizers.SGD(OWN_SCHEDULE)))
    assert model.optimizer._learning_rate.get_config() == OWN_SCHEDULE.get_config()


def test_gradients_are_clipped_except_for_yellowfin():
    assert make_optimizer(FineTuneConfig(optimizer="adamw")).global_clipnorm == CLIP_NORM
    scaled = make_optimizer(FineTuneConfig(optimizer=keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD())))
    assert (scaled.global_clipnorm, scaled.inner_optimizer.global_clipnorm) == (None, CLIP_NORM)
    for given in ("yellowfin", keras.optimizers.LossScaleOptimizer(YellowFin())):
        assert make_optimizer(FineTuneConfig(optimizer=given)).global_clipnorm is None


@pytest.mark.parametrize("limit", ["clipnorm", "global_clipnorm", "clipvalue"])
def test_an_optimisers_own_limit_on_gradients_stays(limit):
    optimizer = make_optimizer(FineTuneConfig(optimizer=keras.optimizers.SGD(**{limit: 0.25})))
    assert clip_limits(optimizer) == {limit: 0.25}


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("adamm", "adam"), ("yelowfin", "yellowfin"), ("RMSPropp", "rmsprop"), ("", "sgd|adam|"), (5, "'"), (None, "'")],
)
def test_unknown_optimizer_gives_the_nearest_names(name, nearest):
    with pytest.raises(ConfigError, match=f"got {name!r}; the nearest are .*({nearest})"):
        make_optimizer(FineTuneConfig(optimizer=name))


class OwnSchedule(keras.optimizers.schedules.LearningRateSchedule):
    def __call__(self, step):
        return 0.1


@pytest.mark.parametrize("rate", [OwnSchedule(), lambda: 0.1])
def test_an_optimiser_that_cannot_be_copied_is_refused(rate):
    with pytest.raises(ConfigError, match="the optimizer SGD cannot be copied"):
        make_optimizer(FineTuneConfig(optimizer=keras.optimizers.SGD(rate)))


@pytest.mark.parametrize("read", [lambda config: config["what it never held"], lambda config: config.momentum])
def test_an_optimiser_whose_own_copying_fails_is_refused(read):
    class Own(keras.optimizers.SGD):
        @classmethod
        def from_config(cls, config, custom_objects=None):
            return read(config)

    with pytest.raises(ConfigError, match=r"the optimizer Own cannot be copied \((Key|Attribute)Error: "):
        make_optimizer(FineTuneConfig(optimizer=Own(0.1)))


def test_what_is_excluded_from_weight_decay_stays_so():
    given, model = keras.optimizers.AdamW(), small_cnn()
    given.exclude_from_weight_decay(var_names=["bias", "gamma"])
    copy = make_optimizer(FineTuneConfig(optimizer=given))
    kernel, bias = model.layers[-1].weights
    assert (copy._use_weight_decay(kernel), copy._use_weight_decay(bias)) == (True, False)
    given.exclude_from_weight_decay(var_list=[bias])
    with pytest.raises(ConfigError, match="give var_names"):
        make_optimizer(FineTuneConfig(optimizer=given))


def test_weights_are_averaged_or_those_of_the_best_epoch():
    averaging = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(use_ema=True))
    make_optimizer(FineTuneConfig(optimizer=averaging))
    with pytest.raises(ConfigError, match="leave out one of the two"):
        make_optimizer(FineTuneConfig(optimizer=averaging, validation_share=0.1))


def test_the_loss_of_a_batch_is_its_mean_whatever_the_reduction():
    images, targets = images_and_labels(40)[0], np.random.default_rng(0).normal(size=(40, 3)).astype("float32")
    ended = []
    for reduction in ("sum_over_batch_size", "sum", "none"):
        model, examples = small_cnn(), as_examples((images, targets))
        # of an output [n, 3], Keras' sum is over images alone: its own mean over the 3 comes before
        loss = resolve_loss(keras.losses.MeanSquaredError(reduction=reduction), model, examples.probe())
        config = FineTuneConfig(epochs=1, optimizer=keras.optimizers.SGD(1e-2, global_clipnorm=1e9))
        (epoch,) = train(model, examples, loss, config, batch_size=8)
        ended.append([epoch["loss"], *np.concatenate([weight.ravel() for weight in model.get_weights()])])
    np.testing.assert_allclose(ended[1:], [ended[0]] * 2, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rate", [0, -1.0, float("nan"), float("inf")])
def test_learning_rate_must_be_positive(rate):
    with pytest.raises(ConfigError, match="learning_rate must be a positive number"):
        FineTuneConfig(learning_rate=rate)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"learning_rate": "1e-3"}, "learning_rate must be a positive number"),
        ({"distillation": "0.5"}, "distillation must be in"),
        ({"validation_share": None}, "validation_share must be in"),
        ({"callbacks": keras.callbacks.TerminateOnNaN()}, "callbacks must be a tuple of Keras callbacks"),
        ({"callbacks": (keras.callbacks.EarlyStopping,)}, "callbacks must be .*such as EarlyStopping"),
        ({"callbacks": (5,)}, "callbacks must be a tuple of Keras callbacks"),
        ({"callbacks": (keras.callbacks.EarlyStopping(),)}, "EarlyStopping watches val_loss, .*set validation_share"),
        ({"callbacks": (keras.callbacks.ReduceLROnPlateau(),)}, "ReduceLROnPlateau, but the learning rate falls"),
        ({"callbacks": [keras.callbacks.LearningRateScheduler(abs)]}, "LearningRateScheduler, but the learning rate"),
    ],
)
def test_settings_that_cannot_be_used_are_refused_before_any_work(settings, said):
    with pytest.raises(ConfigError, match=said):
        FineTuneConfig(**settings)


@pytest.mark.parametrize(
    ("last", "epochs_before", "said"), [(0, 0, "from before it"), (5, 1, "after epoch 1"), (11, 2, "after epoch 2")]
)
def test_nan_keeps_the_best_weights_and_says_so(caplog, monkeypatch, last, epochs_before, said):
    """Four steps an epoch; the weights break in step `last`, the loss in the one after, be it of the next epoch."""
    monkeypatch.setattr(Breaks, "last", last)
    model, untouched = small_cnn(), small_cnn()
    history = trained(model, FineTuneConfig(epochs=5, optimizer=Breaks()))
    assert len(history) == epochs_before + 1
    assert np.isnan(history[-1]["loss"])
    assert all(np.isfinite(epoch["loss"]) for epoch in history[:-1])
    assert all(np.isfinite(weight).all() for weight in model.get_weights())
    assert said in caplog.text
    same = [np.array_equal(*pair) for pair in zip(model.get_weights(), untouched.get_weights(), strict=True)]
    assert all(same) == (epochs_before == 0)


def test_best_weights_are_of_the_least_loss_not_of_the_last_epoch():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    best = BestWeights()
    best.set_model(model)
    best.on_train_begin()
    for epoch, loss in enumerate([1.0, 0.5, 0.9, np.nan]):
        model.set_weights([np.full((1, 1), epoch + 1.0)])
        best.on_epoch_end(epoch, {"loss": loss})
    assert best.diverged_in == 4
    assert "epoch 4; the weights after epoch 2, the best (loss 0.5), are kept" in best.restore()
    assert model.get_weights()[0] == 2.0


@pytest.mark.parametrize(
    ("series", "kept"),
    [
        ([0.9, 0.8, 0.85, 0.8], 2),  # an epoch as good as the best is no better one
        ([0.9, np.nan, 0.8, np.nan, 0.9], 3),
        ([0.9, 0.95, 0.85, 0.9, np.nan], 3),
        ([1.0, 2.0], 0),  # none better than the weights from before
    ],
)
def test_patience_ends_training_so_many_epochs_after_the_best_one(series, kept):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    best, stopped = BestWeights(patience=2), []
    best.set_model(model)
    best.begin(model, 1.0)
    model.stop_training = False
    for epoch, loss in enumerate(series):
        best.on_epoch_end(epoch, {"loss": 0.1, "val_loss": loss})
        stopped.append(model.stop_training)
    assert stopped == [False] * (len(series) - 1) + [True]
    assert (best.epoch, best.diverged_in) == (kept, None)


def test_what_a_callback_puts_into_the_record_is_kept_where_it_is_a_number():
    class Adds(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs |= {"rate": np.float32(0.5), "step": keras.ops.convert_to_tensor(3), "note": "12", "list": [1, 2]}
            logs |= {"array": np.ones(3), "none": None, "object": object()}

    (epoch,) = trained(small_cnn(), FineTuneConfig(epochs=1, callbacks=(Adds(),)))
    assert set(epoch) == {"loss", "accuracy", "rate", "step"}
    assert (epoch["rate"], epoch["step"]) == (0.5, 3.0)


def test_the_benchmark_compares_optimisers_from_the_same_weights():
    model = small_cnn()
    data = tuple(as_examples(images_and_labels(count, seed=count)) for count in (60, 40))
    before, rates = model.get_weights(), {"first": 0.01, "same": 0.01, "slow": 1e-4}
    first, same, slow = compare(
        model, data, {name: (keras.optimizers.SGD(), rate) for name, rate in rates.items()}, 2, 32
    )
    assert len(first.losses) == 2
    assert (first.losses, first.loss, first.accuracy) == (same.losses, same.loss, same.accuracy)
    assert first.loss != slow.loss
    assert all(map(np.array_equal, before, model.get_weights()))
    (other,) = compare(model, data, {"first": (keras.optimizers.SGD(), 0.01)}, 2, 32, seed=1)
    assert other.losses != first.losses


def test_the_benchmark_of_optimisers_tells_means_over_seeds():
    runs = [
        Trained(name, seed, [1.0, loss], 0.5, accuracy)
        for name, seed, loss, accuracy in (
            ("yellowfin", 0, 0.1, 0.80), ("sgd", 0, 0.3, 0.81), ("yellowfin", 1, 0.3, 0.82), ("sgd", 1, 0.3, 0.81),
        )
    ]  # fmt: skip
    ours, sgd = (line.split() for line in table(runs).splitlines()[2:])
    assert ours == ["yellowfin", "0.2000", "0.5000", "81.00", "-", "-"]
    assert sgd == ["sgd", "0.3000", "0.5000", "81.00", "+0.00", "1.00"]
    assert table(runs[:2]).split()[-3:] == ["81.00", "+1.00", "-"]
