import numpy as np
import pytest

from cobla_tf.contest import Contest, Verdict
from cobla_tf.costs import Allocation
from cobla_tf.rounding import Rounded

MASKS, CONSTANT = np.full(4, 0.5), 2.0


def rounding_at(*scale):
    scale = np.array(scale, float)
    return Rounded(scale > 0, scale, Allocation(np.array([2]), np.array([False])))


A, B = rounding_at(1, 1, 0, 0), rounding_at(0, 0, 1, 1)


def verdict(value, constant=CONSTANT, may_fade=True):
    return Contest(MASKS, value, lambda: constant).verdict({"a": A, "b": B}, may_fade)


@pytest.mark.parametrize(("gain", "best"), [(0.1, "a"), (-0.1, "b")])
@pytest.mark.parametrize(("level", "lost"), [(0.3, False), (0.6, True)])
@pytest.mark.parametrize("may_fade", [True, False])
def test_the_least_loss_wins_and_fades_where_it_has_lost_much(gain, best, level, lost, may_fade):
    def value(masks):
        return 0.0 if (masks == MASKS).all() else level - gain * masks[0]

    found = verdict(value, may_fade=may_fade)
    assert (found.best, found.fading) == (best, best if lost and may_fade else None)
    assert found.loss == value((A if best == "a" else B).scale)


def on_the_way(masks):
    """Near chance at the ends, where b is better; half way, where a is, not."""
    way = abs(masks[0] - 0.5) / 0.5
    return 1.9 - 0.1 * masks[2] if way == 1 else way * (1 - 0.5 * masks[0])


def test_where_all_are_near_a_constant_output_they_are_compared_on_their_way():
    assert verdict(on_the_way) == Verdict("b", on_the_way(B.scale), 0.0, "a")
    assert verdict(on_the_way, may_fade=False) == Verdict("b", on_the_way(B.scale), 0.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("rest", [0.1, 1.9])
def test_a_loss_that_is_not_finite_loses(bad, rest):
    found = verdict(lambda masks: bad if masks[0] == 1 else rest if masks[0] == 0 else masks[0] / 2)
    assert (found.best, found.loss) == ("b", rest)
    assert found.fading in (None, "b")


def test_where_none_is_finite_one_is_faded_all_the_same():
    assert verdict(lambda masks: np.nan if set(masks) == {0, 1} else 0.1).fading in ("a", "b")


@pytest.mark.parametrize("constant", [2.0, np.nan])
def test_a_relaxed_loss_that_is_not_below_that_of_a_constant_output_leaves_nothing_to_save(constant):
    assert verdict(lambda masks: 3.0 if (masks == MASKS).all() else 4.0, constant).fading is None
