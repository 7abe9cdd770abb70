"""Products in bfloat16 where the processor has instructions for them: on such a CPU a gradient takes half the time."""

from collections.abc import Iterator
from contextlib import contextmanager

import tensorflow as tf
from absl import logging

TENSOR_FLOAT = "tensorfloat32"
"""float32 whose products round their factors to 10 bits of fraction: TensorFlow's default on GPUs that have it."""
FRACTION_BITS = {"bfloat16": 7, TENSOR_FLOAT: 10}
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
    """One of PRECISIONS as this machine has it: 'bfloat16', 'float32', or TENSOR_FLOAT for the float32 of some GPUs."""
    if wanted == "bfloat16" and _rounds(wanted):
        return wanted
    found = TENSOR_FLOAT if _rounds(TENSOR_FLOAT) else "float32"
    if wanted == "bfloat16":
        logging.info("this machine does not multiply in bfloat16; %s is used", found)
    elif found != "float32":
        logging.info(
            "this machine multiplies float32 in TensorFloat-32, as TensorFlow has it do; NVIDIA_TF32_OVERRIDE=0 in the "
            "environment keeps all bits, at more time"
        )
    return found


def _rounds(precision: str) -> bool:
    """By trial: 1 and a quarter of its last bit has no neighbour nearer than 1, and full float32 keeps it."""
    size = 256  # tiny products are left alone
    matrix = tf.TensorSpec((None, size), tf.float32)
    product = tf.function(tf.matmul, input_signature=[matrix, matrix]).get_concrete_function()
    with products_in(precision):
        entries = product(tf.fill((size, size), 1 + 2.0 ** -(FRACTION_BITS[precision] + 2)), tf.eye(size))
    return bool(tf.reduce_all(entries == 1.0))
