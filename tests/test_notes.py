import math

import keras
import pytest

from cobla_tf.notes import doubtful
from cobla_tf.report_parts import Evaluation

LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.mark.parametrize(
    ("loss", "accuracy", "said"),
    [
        (0.3, 0.9, None),
        (2.29, 0.9, None),
        (math.nan, 0.9, None),
        (21.93, 0.91, "loss, 21.93, is above that of guessing (2.303), although 91.0 % of its answers are right"),
        (21.93, 0.1, "accuracy, 10.0 % on 500 held-out images, cannot be told from chance (10.0 %)"),
        (21.93, None, None),
    ],
)
def test_a_network_worse_than_guessing_is_named(loss, accuracy, said):
    notes = doubtful(Evaluation(loss, accuracy, 500), 10, LOGITS)
    assert len(notes) == (said is not None)
    assert said is None or said in notes[0]


@pytest.mark.parametrize("loss", [None, keras.losses.MeanSquaredError(), keras.losses.BinaryCrossentropy()])
def test_other_losses_have_scales_of_their_own(loss):
    assert doubtful(Evaluation(21.93, 0.91, 500), 10, loss) == []


@pytest.mark.parametrize(("reduction", "count"), [("sum", 0), ("sum_over_batch_size", 1)])
def test_a_sum_over_pixels_says_nothing_of_guessing(reduction, count):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)
    assert len(doubtful(Evaluation(21.93, 0.91, 500, of_places=True), 10, loss)) == count
