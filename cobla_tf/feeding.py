"""What model.fit is given: batches in an order that follows from seed and epoch, for one device or several."""

from typing import Any

import keras
import tensorflow as tf

from cobla_tf.devices import Devices
from cobla_tf.elements import cast, packed
from cobla_tf.examples import Examples, Sample


def training_batches(
    model: keras.Model, examples: Examples, batch_size: int, seed: int, first: int, devices: Devices
) -> tf.data.Dataset:
    """The batches of all epochs from number `first` on, without end: Keras warns of others that they end too early."""
    if isinstance(examples, Sample):
        return _epochs(_arranged(model, examples), batch_size, seed, first, devices)
    batches = examples.epochs(batch_size, seed, first)
    batches = batches.map(lambda images, labels: (_structured(model, images), labels))
    return batches if devices.count == 1 else batches.map(devices.lent)


def validation_batches(model: keras.Model, sample: Sample, batch_size: int, devices: Devices) -> dict[str, Any]:
    """Images set apart, as arguments of fit."""
    arrays = _arranged(model, sample)
    if devices.count == 1:
        return {"validation_data": arrays, "validation_batch_size": batch_size}
    return {"validation_data": tf.data.Dataset.from_tensor_slices(arrays).batch(batch_size).map(devices.lent)}


def _arranged(model: keras.Model, sample: Sample) -> tuple[Any, Any]:
    """Images and labels as fit takes them."""
    return _structured(model, cast(model, sample.images)), sample.labels


def _structured(model: keras.Model, images: Any) -> Any:
    """A tuple is as good as a list, which tf.data does not know."""
    named = not isinstance(model, keras.Sequential) and isinstance(model.input, dict)
    return packed(model, images) if named else images


def _epochs(arrays: tuple[Any, Any], batch_size: int, seed: int, first: int, devices: Devices) -> tf.data.Dataset:
    """Batches of all epochs from `first` on, each in an order that follows from seed and epoch alone."""
    size = len(tf.nest.flatten(arrays[1])[0])

    def order(epoch: tf.Tensor) -> tf.data.Dataset:
        places = tf.random.experimental.stateless_shuffle(tf.range(size), seed=[seed, epoch])
        return tf.data.Dataset.from_tensor_slices(places).batch(batch_size)

    def gather(places: tf.Tensor, whole: Any) -> Any:
        return tf.nest.map_structure(lambda part: tf.gather(part, places), whole)

    def gather_own(places: tf.Tensor, whole: Any) -> Any:
        own, owned = devices.lent(places)
        return *gather(own, whole), owned

    places = tf.data.Dataset.range(first, tf.int64.max).flat_map(order)
    whole = tf.data.Dataset.from_tensors(arrays).repeat()  # not a constant of the graph, which may have 2 GiB
    batches = tf.data.Dataset.zip((places, whole)).map(
        gather if devices.count == 1 else gather_own, tf.data.AUTOTUNE, deterministic=True
    )
    return batches.prefetch(tf.data.AUTOTUNE)
