"""Products in bfloat16 where the processor has instructions for them: on such a CPU a gradient takes half the time."""

from collections.abc import Iterator
from contextlib import contextmanager

import tensorflow as tf
from absl import logging

_OPTION = "auto_mixed_precision_onednn_bfloat16"


@contextmanager
def products_in(precision: str) -> Iterator[None]:
    """Inside, graphs multiply in 'bfloat16' or 'float32'; variables, sums of products and losses stay float32.

    TensorFlow rewrites the graphs for it; models and their dtypes are not touched.
    """
    before = bool(tf.config.optimizer.get_experimental_options().get(_OPTION, False))
    tf.config.optimizer.set_experimental_options({_OPTION: precision == "bfloat16"})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({_OPTION: before})


def resolve_precision(wanted: str) -> str:
    """`wanted`, or 'float32' where this machine does not multiply in bfloat16."""
    if wanted == "float32" or _multiplies_in_bfloat16():
        return wanted
    logging.info("this machine does not multiply in bfloat16; float32 is used")
    return "float32"


def _multiplies_in_bfloat16() -> bool:
    """By trial: 1 + 2^-10 has no bfloat16 neighbour nearer than 1, and float32 keeps it."""
    size = 64  # TensorFlow leaves tiny products alone
    matrix = tf.TensorSpec((None, size), tf.float32)
    product = tf.function(tf.matmul, input_signature=[matrix, matrix]).get_concrete_function()
    with products_in("bfloat16"):
        entries = product(tf.fill((size, size), 1 + 2.0**-10), tf.eye(size))
    return bool(tf.reduce_all(entries == 1.0))
