import numpy as np
import pytest

from cobla_tf.contest import Contest
from cobla_tf.costs import Allocation
from cobla_tf.rounding import Rounded

MASKS, CONSTANT = np.full(4, 0.5), 2.0


def rounding_at(*scale):
    scale = np.array(scale, float)
    return Rounded(scale > 0, scale, Allocation(np.array([2]), np.array([False])))


A, B = rounding_at(1, 1, 0, 0), rounding_at(0, 0, 1, 1)


def winner(value, constant=CONSTANT):
    return Contest(MASKS, value, constant).winner({"a": A, "b": B})


@pytest.mark.parametrize(("gain", "best"), [(0.1, "a"), (-0.1, "b")])
@pytest.mark.parametrize(("level", "lost"), [(0.3, False), (0.6, True)])
def test_the_least_loss_wins_and_may_have_lost_much(gain, best, level, lost):
    def value(masks):
        return 0.0 if (masks == MASKS).all() else level - gain * masks[0]

    assert winner(value) == (best, lost)


def test_where_all_are_near_a_constant_output_they_are_compared_on_their_way():
    def value(masks):
        way = abs(masks[0] - 0.5) / 0.5
        return 1.9 - 0.1 * masks[2] if way == 1 else way * (1 - 0.5 * masks[0])

    assert winner(value) == ("a", True)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_loses(bad):
    assert winner(lambda masks: bad if masks[0] == 1 else 0.1) == ("b", False)


def test_a_relaxed_loss_above_that_of_a_constant_output_leaves_no_room():
    assert winner(lambda masks: 3.0 if (masks == MASKS).all() else 2.5) == ("a", False)
