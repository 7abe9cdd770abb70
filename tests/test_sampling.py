import numpy as np
import pytest
import tensorflow as tf

from cobla_tf import examples
from cobla_tf.examples import Sample, Stream
from cobla_tf.sampling import CURVATURE_IMAGES, GROUPS, JUDGES, SampledLoss


class Seen:
    """An objective that remembers which images it was shown."""

    def __init__(self):
        self.samples = []

    def keep(self, kept, whole):
        return "keep"

    def __getattr__(self, name):
        def evaluate(x, sample, *rest):
            self.samples.append((name, set(sample.labels.tolist()), *rest))
            return name

        return evaluate


def numbered(count):
    return Sample(np.zeros((count, 1, 1, 1), "float32"), np.arange(count))


def sampled(examples, count, renew_every=5, growing=True, seed=0):
    return SampledLoss(Seen(), examples, count, renew_every, growing, np.random.default_rng(seed))


def sizes(loss, iterations=25):
    found = [loss.sample.size]
    for iteration in range(2, iterations + 1):
        before = loss.sample
        assert loss.renew(iteration) == (loss.sample is not before)
        found.append(loss.sample.size)
    return found


@pytest.mark.parametrize("growing", [False, True])
@pytest.mark.parametrize(("size", "count"), [(100, 99), (100, 40), (3000, 1000), (2, 1)])
def test_judges_are_in_no_sample(growing, size, count):
    loss = sampled(numbered(size), count, renew_every=1, growing=growing)
    judges = set(loss.judges.labels)
    assert len(judges) == loss.judges.size
    assert 1 <= len(judges) <= min(JUDGES, count / 2 + 1, size / 10 + 1)
    drawn = set()
    for iteration in range(1, 30):
        assert len(set(loss.sample.labels)) == loss.sample.size <= count
        drawn |= set(loss.sample.labels)
        loss.renew(iteration)
    assert not drawn & judges
    assert drawn | judges <= set(range(size))


@pytest.mark.parametrize(("share", "count"), [(1.0, 40), (0.5, 80), (0.01, 160)])
def test_samples_of_the_kept_terms_grow_on_to_the_cost_of_those_of_all(share, count):
    loss = sampled(numbered(400), 40)
    for _ in range(2):
        loss.renew(6)
    alone = loss.keep(np.ones(1, bool), np.zeros(1, bool), share)
    assert alone.objective == "keep"
    assert sizes(alone, 15)[-1] == alone.count == count
    assert (loss.sample.size, loss.count) == (40, 40)


@pytest.mark.parametrize("options", [{"growing": False}, {"renew_every": 0}])
def test_samples_that_do_not_grow_stay_as_they_are_for_the_kept_terms(options):
    alone = sampled(numbered(400), 40, **options).keep(np.ones(1, bool), np.zeros(1, bool), 0.1)
    assert set(sizes(alone, 15)) == {40}


def test_samples_of_the_kept_terms_are_as_large_as_there_is_room_for(monkeypatch):
    few = sampled(numbered(100), 60)
    few = few.keep(np.ones(1, bool), np.zeros(1, bool), 0.1)
    assert few.count == few.examples.size == 90
    exact = sampled(numbered(100), 100)
    exact = exact.keep(np.ones(1, bool), np.zeros(1, bool), 0.1)
    assert (exact.count, exact.sample.size) == (100, 100)
    stream = Stream(tf.data.Dataset.from_tensor_slices((np.zeros((100, 2), "float32"), np.arange(100))).batch(7), 100)
    monkeypatch.setattr(examples, "SAMPLE_LIMIT", 8 * 50)
    large = sampled(stream, 40)
    large = large.keep(np.ones(1, bool), np.zeros(1, bool), 0.1)
    assert large.count == 50


def test_samples_grow_from_a_quarter_and_last_their_iterations():
    assert sizes(sampled(numbered(400), 40)) == [10] * 5 + [20] * 5 + [40] * 15
    assert sizes(sampled(numbered(400), 40, growing=False)) == [40] * 25


@pytest.mark.parametrize("growing", [True, False])
def test_a_sample_that_has_not_grown_yet_can_be_half_filled(growing):
    loss = sampled(numbered(400), 40, growing=growing)
    before = loss.sample
    assert loss.fill() == growing
    assert loss.sample.size == (20 if growing else 40)
    assert (loss.sample is before) == (not growing)
    assert not set(loss.sample.labels) & set(loss.judges.labels)


@pytest.mark.parametrize("growing", [True, False])
def test_a_sample_of_all_that_the_judges_leave_is_half_filled(growing):
    loss = sampled(numbered(100), 95, growing=growing)
    assert loss.fill() == growing
    assert loss.sample.size == (45 if growing else 90)
    assert not loss.fill()


@pytest.mark.parametrize(("size", "count"), [(1010, 900), (1440, 900), (9000, 3000), (120, 100)])
def test_judges_divide_into_groups_of_one_size(size, count):
    judges = sampled(numbered(size), count).judges.size
    assert judges % GROUPS == 0
    assert 0 <= min(JUDGES, size // 10) - judges < GROUPS


def test_every_renewal_is_another_sample():
    loss = sampled(numbered(400), 40, renew_every=2, growing=False)
    first = set(loss.sample.labels)
    assert not loss.renew(2)
    assert set(loss.sample.labels) == first
    assert loss.renew(3)
    assert set(loss.sample.labels) != first


@pytest.mark.parametrize("growing", [False, True])
def test_a_sample_that_is_kept_is_a_whole_one(growing):
    assert sizes(sampled(numbered(400), 40, renew_every=0, growing=growing)) == [40] * 25


@pytest.mark.parametrize("growing", [False, True])
def test_an_exact_gradient_is_one_and_has_no_judges(growing):
    examples = numbered(50)
    loss = sampled(examples, 50, renew_every=1, growing=growing)
    assert loss.judges is None
    assert sizes(loss) == [50] * 25
    assert loss.sample is examples


def test_an_overfitted_sample_is_renewed_at_once_and_grows_until_it_is_whole():
    loss = sampled(numbered(400), 40)
    assert not loss.renew(2, overfitted=False)
    assert [(loss.renew(2, overfitted=True), loss.sample.size) for _ in range(3)] == [
        (True, 20),
        (True, 40),
        (True, 40),
    ]
    assert not sampled(numbered(400), 40, renew_every=0).renew(2, overfitted=True)


def test_a_sample_that_is_all_but_the_judges_is_not_renewed():
    loss = sampled(numbered(100), 99, renew_every=1, growing=False)
    assert loss.sample.size == 100 - loss.judges.size
    assert not loss.renew(2)


def test_each_question_is_put_to_its_own_images():
    loss = sampled(numbered(4000), 400, growing=False)
    x, sample, judges = np.ones(3), set(loss.sample.labels.tolist()), set(loss.judges.labels.tolist())
    for ask in (loss.gradient, loss.value, loss.constant_loss, loss.judge, loss.curvature):
        ask(x)
    names, images, *_ = zip(*(seen[:2] for seen in loss.objective.samples), strict=True)
    assert names == ("gradient", "value", "constant_loss", "values", "fisher")
    assert images[:4] == (sample, sample, sample, judges)
    assert len(images[4]) == CURVATURE_IMAGES
    assert images[4] < sample
    assert loss.objective.samples[3][2] == GROUPS


def test_one_seed_fixes_judges_and_samples():
    def labels(seed):
        loss = sampled(numbered(400), 40, renew_every=1, seed=seed)
        found = [loss.judges.labels, loss.sample.labels]
        for iteration in range(2, 6):
            loss.renew(iteration)
            found.append(loss.sample.labels)
        return np.concatenate(found).tolist()

    assert labels(0) == labels(0)
    assert labels(0) != labels(1)


def test_what_is_left_by_the_judges_is_not_copied():
    examples = numbered(400)
    assert sampled(examples, 40).examples.sample is examples


def test_a_stream_is_sampled_and_its_judges_do_not_come_again_within_a_pass():
    images, labels = np.zeros((400, 1, 1, 1), "float32"), np.arange(400)
    stream = Stream(tf.data.Dataset.from_tensor_slices((images, labels)).batch(7), 400)
    loss = sampled(stream, 40)
    drawn = list(loss.sample.labels)
    assert loss.sample.size == 10
    for iteration in (6, 11, 16):
        assert loss.renew(iteration)
        drawn += list(loss.sample.labels)
    assert len(drawn) == len(set(drawn)) == 10 + 20 + 40 + 40
    assert not set(drawn) & set(loss.judges.labels)
    assert len(set(loss.judges.labels)) == loss.judges.size == 20
