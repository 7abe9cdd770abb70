import keras
import pytest

from cobla_tf.loss import Loss
from cobla_tf.notes import doubtful
from cobla_tf.report_parts import Evaluation

LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.mark.parametrize(
    ("loss", "accuracy", "said"),
    [
        (0.3, 0.9, None),
        (2.29, 0.9, None),
        (21.93, 0.91, "loss, 21.93, is above that of guessing (2.303), although 91.0 % of its answers are right"),
        (21.93, 0.1, "accuracy, 10.0 % on 500 held-out images, cannot be told from chance (10.0 %)"),
        (21.93, None, None),
    ],
)
def test_a_network_worse_than_guessing_is_named(loss, accuracy, said):
    notes = doubtful(Evaluation(loss, accuracy, 500), Loss(LOGITS, "sparse", "a loss", 10))
    assert len(notes) == (said is not None)
    assert said is None or said in notes[0]


def test_other_losses_have_scales_of_their_own():
    squares = Loss(keras.losses.MeanSquaredError(), "one-hot", "a loss", 10)
    assert doubtful(Evaluation(21.93, 0.91, 500), squares) == []
