import numpy as np
import pytest
from test_continuation import CONSTANT, IMPORTANT, Loss, N, loop_of, trap

from cobla_tf.costs import Allocation
from cobla_tf.fading import fade
from cobla_tf.layout import Layout
from cobla_tf.refinement import LARGEST_SCALE
from cobla_tf.rounding import LEAST_SCALE, Rounded

LAYOUT = Layout(np.array([8, 4]))
MASKS = np.where(IMPORTANT > 1, 0.9, 0.5)


def rounded_to(kept, whole=(False, False)):
    kept = np.array(kept, bool) | LAYOUT.spread(np.array(whole))
    scale = np.where(LAYOUT.spread(np.array(whole)), 1.0, np.where(kept, MASKS, 0.0))
    return Rounded(kept, scale, Allocation(LAYOUT.sums(kept).astype(int), np.array(whole)))


IMPORTANT_ONES = rounded_to(IMPORTANT > 1)


def faded(loss, rounded=IMPORTANT_ONES, constant=CONSTANT, masks=MASKS):
    loop, steps = loop_of(loss)
    found, sentence = fade(loop, masks, rounded, LAYOUT, constant)
    return found, sentence, steps, loop


def test_what_is_kept_takes_the_place_of_what_fades_out():
    loss = Loss(IMPORTANT, trap)
    found, sentence, steps, _ = faded(loss)
    assert " taken, 0 refused" in sentence
    np.testing.assert_array_equal(found.kept, IMPORTANT_ONES.kept)
    np.testing.assert_array_equal(found.scale > 0, found.kept)
    np.testing.assert_allclose(found.scale[found.kept], 1.0, atol=0.02)
    assert loss.value(found.scale) < 0.3 * loss.value(IMPORTANT_ONES.scale)
    sums = [step.x[~found.kept].sum() for step in steps]
    assert (np.diff(sums) <= 1e-9).all()
    assert sums[-1] == pytest.approx(0, abs=1e-9)


def test_bounds_are_those_of_refining_and_whole_sites_stay_whole():
    rounded = rounded_to(IMPORTANT > 1, (False, True))
    found, _, _, loop = faded(Loss(), rounded)
    np.testing.assert_array_equal(found.scale[8:], 1.0)
    kept = rounded.kept[:8]
    np.testing.assert_array_equal(loop.constraints.lower[:8], np.where(kept, LEAST_SCALE, 0.0))
    np.testing.assert_array_equal(loop.constraints.upper[:8], np.where(kept, LARGEST_SCALE, 1.0))


def test_a_loss_that_leaps_drops_the_rest_at_once():
    leaping = Loss(shape=lambda x, q: (q / 100 + (x[1] < 0.4), 0.01))
    found, sentence, _, _ = faded(leaping, constant=1.0)
    assert sentence.endswith("the rest in one step")
    np.testing.assert_array_equal(found.scale > 0, found.kept)


def test_where_the_loop_is_there_already_no_gradient_is_taken_again():
    loop, _ = loop_of(Loss())
    taken = loop.evaluations.gradients
    loop.return_to(loop.at.x.copy())
    assert loop.evaluations.gradients == taken
    loop.return_to(np.full(N, 0.3))
    assert loop.evaluations.gradients == taken + 1


def test_binary_masks_have_nothing_to_fade():
    found, sentence, steps, loop = faded(Loss(), masks=np.where(IMPORTANT_ONES.kept, 1.0, 0.0))
    assert found is IMPORTANT_ONES
    assert sentence == "nothing to fade"
    assert not steps
    assert loop.evaluations.gradients == 1  # of the start, before the fade
