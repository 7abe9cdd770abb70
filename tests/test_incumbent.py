import numpy as np
import pytest

from cobla_tf.sqp.incumbent import Incumbent


def offered(first, *others):
    """An incumbent that saw iterates 0, 1, 2, ... in this order."""
    incumbent = Incumbent(np.zeros(2), np.array(first, dtype=float), np.zeros(2))
    for number, losses in enumerate(others, start=1):
        incumbent.offer(np.full(2, float(number)), np.array(losses, dtype=float), np.full(2, number / 10))
    return incumbent


def noise(seed, groups=10):
    """Of mean 0, and of standard error 1 over its groups."""
    values = np.random.default_rng(seed).normal(size=groups)
    values -= values.mean()
    return values / (values.std(ddof=1) / np.sqrt(groups))


def test_the_lowest_mean_is_kept():
    incumbent = offered([1, 3], [0, 2], [3, 0], [2, 2])
    np.testing.assert_array_equal(incumbent.x, 1)
    np.testing.assert_array_equal(incumbent.gradient, 0.1)
    assert incumbent.loss == 1
    np.testing.assert_array_equal(incumbent.losses, [0, 2])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_loss_that_is_not_finite_loses_and_is_no_progress(bad):
    incumbent = offered([1, 1], [0, bad], [bad, 0])
    np.testing.assert_array_equal(incumbent.x, 0)
    assert incumbent.loss == 1
    assert incumbent.stale == 2


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_first_loss_that_is_not_finite_gives_way(bad):
    incumbent = offered([bad, 1], [bad, 1], [9, 9])
    np.testing.assert_array_equal(incumbent.x, 2)
    np.testing.assert_array_equal(incumbent.gradient, 0.2)
    assert incumbent.stale == 0
    incumbent.offer(np.full(2, 3.0), np.array([8.0, 8.0]), np.zeros(2))
    assert incumbent.loss == 8
    assert incumbent.stale == 0


def test_an_exact_loss_has_no_doubt():
    incumbent = offered([1.0], [1.0 - 1e-12])
    assert incumbent.stale == 0
    incumbent.offer(np.full(2, 2.0), incumbent.losses, np.zeros(2))
    assert incumbent.stale == 1


@pytest.mark.parametrize(("gain", "stale"), [(1.01, 0), (0.99, 1), (0.0, 1), (-3.0, 1)])
def test_progress_is_a_gain_above_the_standard_error_of_the_differences(gain, stale):
    """What is common to both iterates, however large, says nothing."""
    common = 1e3 * noise(1)
    incumbent = offered(common, common + noise(0) - gain)
    assert incumbent.stale == stale
    np.testing.assert_array_equal(incumbent.x, 1.0 if gain > 0 else 0.0)


@pytest.mark.parametrize("seed", range(4))
def test_a_slow_steady_gain_is_not_stale_and_noise_is(seed):
    def most(gain):
        incumbent = Incumbent(np.zeros(2), noise(seed), np.zeros(2))
        stale = []
        for step in range(1, 40):
            incumbent.offer(np.full(2, float(step)), noise(100 * seed + step + 100) - gain * step, np.zeros(2))
            stale.append(incumbent.stale)
        return max(stale)

    assert most(0.5) < 5
    assert most(0.0) == 39
