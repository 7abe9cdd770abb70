"""The devices that share the work on images, by tf.distribute: one, all of this machine, or those of several.

Only what is summed over images is shared: losses, gradients, training steps. All else is done by every worker alike, in
lockstep: it is short, and the same program on the same numbers. These are the same because every answer that comes out
of a sum is the chief's on all workers.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from cobla_tf.cluster import Task
from cobla_tf.elements import each, parts_of
from cobla_tf.errors import ConfigError
from cobla_tf.rewrite import transform

Array = np.ndarray
Total = Callable[[Any, Any], Any]


class Devices:
    """Replicas of a network that share each batch of images.

    Args:
        strategy: of tf.distribute; the default one is one device.
        task: this process among those of the run.

    Attributes:
        count: of replicas, over all workers.
        workers: processes.
        local: replicas of this worker.
        index: of this worker.
        is_chief: whether this worker's files and decisions are everybody's.
    """

    def __init__(self, strategy: tf.distribute.Strategy, task: Task) -> None:
        """Wrap a strategy."""
        self.strategy = strategy
        self.count, self.workers = strategy.num_replicas_in_sync, task.count
        self.local, self.is_chief, self.index = self.count // task.count, task.is_chief, task.index

    def check_batch(self, batch_size: int) -> None:
        """Refuse batches that leave a replica without an image.

        Raises:
            ConfigError: fewer images than replicas.
        """
        if batch_size < self.count:
            raise ConfigError(
                f"batch_size counts the images of all {self.count} replicas together and must be at least that, got "
                f"{batch_size}."
            )

    def scope(self) -> AbstractContextManager[Any]:
        """Inside, variables are made on every replica; for one device, as ever."""
        return nullcontext() if self.count == 1 else self.strategy.scope()

    def copied(self, model: keras.Model) -> keras.Model:
        """The model itself for one device, else a copy of it on every replica."""
        if self.count == 1:
            return model
        with self.scope():
            return transform(model, lambda layer: None)[0]

    def sums(self, like: list[Any]) -> list[tf.Variable]:
        """Variables of zeros to add to, of which every replica has its own; `parts` gives them one by one."""
        kind = {"synchronization": tf.VariableSynchronization.ON_READ, "aggregation": tf.VariableAggregation.SUM}
        with self.scope():
            return [tf.Variable(tf.zeros(v.shape, v.dtype), trainable=False, **kind) for v in like]

    def parts(self, value: Any) -> tuple[Any, ...]:
        """A value of each of this worker's replicas."""
        return self.strategy.experimental_local_results(value)

    def own(self, batch: tuple[Any, Any]) -> tuple[Any, Any] | None:
        """What of a batch (NumPy) falls to this worker; None is nothing."""
        if self.workers == 1:
            return batch
        begin, end, any_ = bounds(len(parts_of(batch[0])[0]), self.index, self.workers)
        return tuple(each(lambda part: part[begin:end], one) for one in batch) if any_ else None

    def lent(self, *batch: Any) -> tuple[Any, ...]:
        """What of a batch (tensors) falls to this worker, and 1.0; or an image that is not its own, and 0.0.

        For steps that no worker can leave out.
        """
        begin, end, any_ = bounds(tf.shape(tf.nest.flatten(batch)[0])[0], self.index, self.workers)
        return *tf.nest.map_structure(lambda part: part[begin:end], batch), tf.cast(any_, tf.float32)

    def of_own_part(self, total: Total) -> Total:
        """`total`, a sum over a worker's batch, as the sum over the part of it that falls to the calling replica."""
        if self.local == 1:
            return total

        def partial(images: Any, labels: Any) -> Any:
            here = tf.distribute.get_replica_context().replica_id_in_sync_group % self.local
            with tf.device("CPU:0"):  # or each device is sent the whole batch
                begin, end, any_ = bounds(tf.shape(tf.nest.flatten(images)[0])[0], here, self.local)
                own = tf.nest.map_structure(lambda part: part[begin:end], (images, labels))
            return tf.nest.map_structure(lambda value: value * tf.cast(any_, value.dtype), total(*own))

        return partial

    def traced(self, step: Total, signature: list[Any]) -> Callable[[Any, Any], Any]:
        """One graph for batches of any size, in which all of this worker's replicas take a step."""

        def all_replicas(images: Any, labels: Any) -> Any:
            return self.strategy.run(step, args=(images, labels))

        whole = step if self.count == 1 else all_replicas
        return tf.function(whole, input_signature=signature).get_concrete_function()

    def total(self, values: Array) -> Array:
        """Sum over the workers, float64 of any shape, the same on all of them to the last bit."""
        return values if self.workers == 1 else self.agreed(self._reduced(np.asarray(values, np.float64)))

    def agreed(self, values: Array) -> Array:
        """The chief's values, on all workers; others give an array of the same shape."""
        values = np.asarray(values)
        if self.workers == 1:
            return values
        wide = values.astype(np.float64)
        return self._reduced(wide if self.is_chief else np.zeros_like(wide)).astype(values.dtype)

    def share_weights(self, variables: list[Any]) -> None:
        """Give all workers the chief's values of some variables."""
        if self.workers > 1:
            for variable in variables:
                variable.assign(self.agreed(np.asarray(variable)))

    def meet(self) -> None:
        """Wait for all workers: one that is done must not leave while others need it."""
        self.agreed(np.zeros(1))

    def _reduced(self, values: Array) -> Array:
        """Sum over the workers; of a worker's replicas the first has all, the others nothing."""

        def of_replica(context: Any) -> tf.Tensor:
            first = context.replica_id_in_sync_group % self.local == 0
            return tf.constant(values if first else np.zeros_like(values))

        spread = self.strategy.experimental_distribute_values_from_function(of_replica)
        return self.strategy.reduce(tf.distribute.ReduceOp.SUM, spread, axis=None).numpy()


def bounds(size: Any, place: Any, parts: int) -> tuple[Any, Any, Any]:
    """(begin, end, whether any is its own) of one of `parts` nearly equal parts of `size` things.

    A part without any is lent one thing, so that no network ever sees an empty batch.

    Args:
        size, place: ints or int32 scalar tensors, size > 0.
        parts: how many parts there are, place is one of.
    """
    begin, end = size * place // parts, size * (place + 1) // parts
    larger = tf.maximum if tf.is_tensor(size) else max
    return begin, larger(end, begin + 1), end > begin


ONE_DEVICE = Devices(tf.distribute.get_strategy(), Task())
"""TensorFlow's default: the first GPU, or the processor."""
