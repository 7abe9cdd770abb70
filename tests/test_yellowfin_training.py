import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np

from cobla_tf import YellowFin

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def classes_to_learn(count=1500):
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(count, 20)).astype("float32")
    scores = inputs @ rng.normal(size=(20, 5)) + 0.5 * np.sin(3 * inputs) @ rng.normal(size=(20, 5))
    return inputs, scores.argmax(axis=1)


def network(optimizer, **options):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(64, activation="relu"), keras.layers.Dense(64, activation="relu")]
    model = keras.Sequential([keras.Input((20,)), *layers, keras.layers.Dense(5)])
    model.compile(optimizer, LOSS, **options)
    return model


def test_network_needs_no_tuning():
    inputs, labels = classes_to_learn()

    def last_loss(optimizer):
        return network(optimizer).fit(inputs, labels, batch_size=32, epochs=5, verbose=0).history["loss"][-1]

    grid = [last_loss(keras.optimizers.SGD(rate, momentum=0.9)) for rate in (1e-4, 1e-2, 1.0)]
    tuned = last_loss(YellowFin())
    assert tuned < 1.2 * min(grid)
    assert tuned < 0.5 * max(grid)


def test_saved_and_loaded_it_goes_on_the_same(tmp_path):
    inputs, labels = classes_to_learn(200)
    model = network(YellowFin(learning_rate=0.5, beta=0.99, window=7, weight_decay=1e-3))
    model.fit(inputs, labels, epochs=2, shuffle=False, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    for one in (model, loaded):
        one.fit(inputs, labels, epochs=2, shuffle=False, verbose=0)
    assert int(loaded.optimizer.iterations) == 4 * 7
    pairs = zip(model.weights + model.optimizer.variables, loaded.weights + loaded.optimizer.variables, strict=True)
    for expected, got in pairs:
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-7)


def test_compiled_eager_and_graph_agree():
    inputs, labels = classes_to_learn(160)
    weights = []
    for options in ({"jit_compile": True}, {"jit_compile": False}, {"run_eagerly": True}):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(5)])
        model.compile(YellowFin(), LOSS, **options)
        model.fit(inputs, labels, epochs=2, shuffle=False, verbose=0)
        weights.append(model.get_weights())
    for compiled, graph, eager in zip(*weights, strict=True):
        np.testing.assert_allclose(compiled, graph, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(eager, graph, rtol=1e-3, atol=1e-5)


REPLICAS = """
import contextlib, json
import keras, numpy as np, tensorflow as tf
from cobla_tf.yellowfin import YellowFin

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
inputs = np.random.default_rng(0).normal(size=(320, 6)).astype("float32")

def state(scope):
    keras.utils.set_random_seed(0)
    with scope:
        model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(3)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(YellowFin(weight_decay=1e-2), loss)
    model.fit(inputs, inputs[:, :3].argmax(1), batch_size=32, epochs=2, shuffle=False, verbose=0)
    return [v.numpy().tolist() for v in model.weights + model.optimizer.variables]

one = state(contextlib.nullcontext())
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
print(json.dumps([strategy.num_replicas_in_sync, one, state(strategy.scope())]))
"""


def test_two_replicas_equal_one_device():
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root)}  # logical devices: before TensorFlow starts, so not here
    done = subprocess.run(
        [sys.executable, "-c", REPLICAS], env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    replicas, one, two = json.loads(done.stdout)
    assert replicas == 2
    for expected, got in zip(one, two, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)
