"""Run by test_strategy.py in processes of their own: devices and workers must be told before TensorFlow starts."""

import json
import os
import signal
import sys

import keras
import numpy as np
import tensorflow as tf
from networks import images_and_labels, small_cnn

from cobla_tf import Config, FineTuneConfig, SolveConfig, compress, find_devices
from cobla_tf.errors import WorkerError
from cobla_tf.examples import Sample
from cobla_tf.finetune import train
from cobla_tf.losses import resolve_loss
from cobla_tf.objective import Objective, evaluate
from cobla_tf.sites import find_sites
from cobla_tf.surgery import mask_model

SIZE = 37
"""Images; no multiple of any batch."""


def settings(folder, strategy):
    return Config(
        solve=SolveConfig(sample_fraction=1.0, iterations=4, refine_iterations=1, precision="float32"),
        fine_tune=FineTuneConfig(2, "yellowfin", validation_share=0.2),
        batch_size=8,
        output_dir=folder,
        exports=(),
        strategy=strategy,
    )


def whole(folder, strategy):
    data = images_and_labels(SIZE)
    return compress(small_cnn(), data, macs=0.5, params=0.5, validation=data, config=settings(folder, strategy))


def pieces(devices):
    """Everything that is shared, on the same images."""
    model, sample = small_cnn(), Sample(*images_and_labels(SIZE))
    loss, sites = resolve_loss(None, model, sample.probe()), find_sites(model, "spatial", (), (10, 10, 2))
    masks = np.random.default_rng(0).random(sites.layout.size)
    with devices.scope():
        masked = mask_model(model, sites)
    objective = Objective(masked, loss, 16, sample, devices=devices)
    keras.utils.set_random_seed(0)
    history = []
    for optimizer, rate in (("yellowfin", None), ("sgd", 1.0)):  # the second is clipped
        config = FineTuneConfig(2, optimizer, rate, validation_share=0.2)
        history += train(model, sample, loss, config, 8, devices=devices)
    judged = evaluate(devices.copied(model), sample, loss, 16, devices)
    return {
        "value": objective.value(masks, sample),
        "values": objective.values(masks, sample, 5).tolist(),
        "gradient": np.append(*objective.gradient(masks, sample)).tolist(),
        "fisher": objective.fisher(masks, sample).tolist(),
        "constant": objective.constant_loss(masks, sample),
        "seen": objective.tally.images,
        "history": [sorted(epoch.items()) for epoch in history],
        "weights": np.concatenate([weight.ravel() for weight in model.get_weights()]).tolist(),
        "evaluation": [judged.loss, judged.accuracy, judged.examples],
    }


def logical_devices(count, folder):
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * int(count))
    print(json.dumps(pieces(find_devices("mirrored"))))
    whole(folder, "mirrored")


def worker(folder, *kill):
    find_devices("multi_worker")
    if kill:
        _kill_at(kill[0], int(kill[1]))
    try:
        whole(folder, "multi_worker")
    except WorkerError as error:
        print(error, file=sys.stderr)
        sys.exit(3)


def _kill_at(what, number):
    """Kill this process in its gradient, or batch of training, of some number."""
    owner, name = {"gradient": (Objective, "gradient"), "batch": (keras.callbacks.TerminateOnNaN, "on_batch_end")}[what]
    original, left = getattr(owner, name), [number]

    def call(*arguments, **options):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)

    setattr(owner, name, call)


if __name__ == "__main__":
    {"logical_devices": logical_devices, "worker": worker}[sys.argv[1]](*sys.argv[2:])
