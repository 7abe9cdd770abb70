"""Products in fewer bits where the machine has instructions for them: on such a CPU a gradient takes half the time."""

from collections.abc import Iterator
from contextlib import contextmanager

import tensorflow as tf
from absl import logging

TENSOR_FLOAT = "tensorfloat32"
"""float32 whose factors are rounded to 10 bits: what recent GPUs offer, and TensorFlow takes unless told otherwise."""
_OPTION = "auto_mixed_precision_onednn_bfloat16"
_BITS = {"bfloat16": 7, TENSOR_FLOAT: 10}
"""Of the fraction."""


@contextmanager
def products_in(precision: str) -> Iterator[None]:
    """Inside, graphs multiply in 'bfloat16', 'tensorfloat32' or 'float32'; variables, sums and losses stay float32.

    TensorFlow rewrites the graphs for bfloat16; models and their dtypes are not touched.
    """
    before = bool(tf.config.optimizer.get_experimental_options().get(_OPTION, False))
    rounding = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.optimizer.set_experimental_options({_OPTION: precision == "bfloat16"})
    tf.config.experimental.enable_tensor_float_32_execution(precision == TENSOR_FLOAT)
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({_OPTION: before})
        tf.config.experimental.enable_tensor_float_32_execution(rounding)


def resolve_precision(wanted: str) -> str:
    """`wanted`; for 'bfloat16' the shortest that this machine multiplies in."""
    if wanted == "float32" or _multiplies_in(wanted):
        return wanted
    found = TENSOR_FLOAT if _multiplies_in(TENSOR_FLOAT) else "float32"
    logging.info("this machine does not multiply in bfloat16; %s is used", found)
    return found


def _multiplies_in(precision: str) -> bool:
    """By trial: 1 and a bit that is one too many has no neighbour nearer than 1, and float32 keeps it."""
    size = 256  # tiny products are left alone
    matrix = tf.TensorSpec((None, size), tf.float32)
    product = tf.function(tf.matmul, input_signature=[matrix, matrix]).get_concrete_function()
    with products_in(precision):
        entries = product(tf.fill((size, size), 1 + 2.0 ** -(_BITS[precision] + 2)), tf.eye(size))
    return bool(tf.reduce_all(entries == 1.0))
