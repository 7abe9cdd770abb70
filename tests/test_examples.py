import keras
import numpy as np
import pytest
import tensorflow as tf

from cobla_tf import examples, reading
from cobla_tf.elements import form_of
from cobla_tf.errors import DataError
from cobla_tf.examples import Sample, Stream
from cobla_tf.reading import as_examples


def numbered(count=10):
    return np.arange(count, dtype="float32")[:, None, None, None], np.arange(count)


def test_arrays_and_batches_give_the_same_examples():
    images, labels = numbered()
    dataset = tf.data.Dataset.from_tensor_slices((images, labels)).batch(4)
    for given in ((images, labels), dataset):
        sample = as_examples(given)
        np.testing.assert_array_equal(sample.images, images)
        np.testing.assert_array_equal(sample.labels, labels)
    assert [len(x) for x, _ in sample.batches(4)] == [4, 4, 2]


def test_a_drawn_sample_has_no_repetition_and_keeps_pairs_together():
    drawn = Sample(*numbered(100)).draw(30, np.random.default_rng(0))
    assert len(set(drawn.labels)) == 30
    np.testing.assert_array_equal(drawn.images[:, 0, 0, 0], drawn.labels)


@pytest.mark.parametrize(("share", "count"), [(0.01, 1), (0.5, 2), (0.99, 3)])
def test_a_split_leaves_something_on_both_sides(share, count):
    rest, held = Sample(*numbered(4)).split(share, np.random.default_rng(0))
    assert (rest.size, held.size) == (4 - count, count)


def test_a_split_shares_nothing_and_loses_nothing():
    rest, held = Sample(*numbered(50)).split(0.1, np.random.default_rng(0))
    assert held.size == 5
    assert set(rest.labels) | set(held.labels) == set(range(50))
    assert rest.size == 45


def test_a_set_above_the_memory_limit_is_streamed(monkeypatch):
    monkeypatch.setattr(reading, "IN_MEMORY_LIMIT", 20)
    stream = as_examples(tf.data.Dataset.from_tensor_slices(numbered(20)).batch(3))
    assert isinstance(stream, Stream)
    assert stream.size == 20
    rng = np.random.default_rng(0)
    first, second = stream.draw(8, rng), stream.draw(8, rng)
    assert not set(first.labels) & set(second.labels)
    assert sum(len(x) for x, _ in stream.batches(3)) == 20
    assert stream.probe().size == 20
    monkeypatch.setattr(examples, "SAMPLE_LIMIT", 8 * 4)
    stream.check_draw(8)
    with pytest.raises(DataError, match=r"set sample_fraction to 0\.4 or less"):
        stream.check_draw(9)


def test_batches_of_several_shapes_are_refused():
    sides = tf.data.Dataset.from_generator(
        lambda: ((np.zeros((2, side, side, 1)), np.zeros(2)) for side in (4, 5)),
        output_signature=(tf.TensorSpec((None, None, None, 1)), tf.TensorSpec((None,))),
    )
    with pytest.raises(DataError, match=r"one shape in all batches, got \([45], [45], 1\) and"):
        as_examples(sides)


def test_a_set_whose_size_is_known_is_not_read_to_count_it(monkeypatch):
    def never(place):
        raise AssertionError(place)

    unread = tf.data.Dataset.range(20).map(
        lambda place: (tf.ensure_shape(tf.py_function(never, [place], tf.float32), (4, 4, 1)), place)
    )
    monkeypatch.setattr(reading, "IN_MEMORY_LIMIT", 20)
    assert as_examples(unread.batch(8, drop_remainder=True)).size == 16


@pytest.mark.parametrize("own_order", [True, False])
def test_epochs_go_on_at_any_of_them_in_the_same_order(own_order):
    def stream():
        data = tf.data.Dataset.range(10)
        if own_order:
            return Stream(data.shuffle(10, seed=1).map(lambda place: (place, place)).batch(3), 10)
        shuffle = tf.random.experimental.stateless_shuffle
        pairs = tf.data.Dataset.zip(data, data)
        return Stream(
            pairs.batch(3), 10, lambda order: pairs.batch(10).map(lambda *both: (shuffle(both[0], order),) * 2)
        )

    def labels(first, steps):
        return [batch.tolist() for _, batch in stream().epochs(4, 5, first).take(steps).as_numpy_iterator()]

    whole = labels(0, 9)
    epochs = [[*first, *second, *last] for first, second, last in (whole[:3], whole[3:6], whole[6:])]
    assert [len(batch) for batch in whole] == [4, 4, 2] * 3
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert labels(2, 3) == whole[6:]


@pytest.mark.parametrize(
    ("dataset", "sentence"),
    [
        ((np.zeros((0, 4, 4, 1)), np.zeros(0)), "is empty"),
        ((np.zeros((3, 4, 4, 1)), np.zeros(2)), "as many labels"),
        (np.zeros((3, 4, 4, 1)), "pair of arrays"),
        (tf.data.Dataset.from_tensor_slices(np.zeros((3, 4))).batch(2), "batches of"),
        (tf.data.Dataset.from_tensor_slices(numbered()).batch(2).repeat(), "without end"),
        (tf.data.Dataset.from_tensor_slices(numbered()), "batch it"),
        (tf.data.Dataset.from_tensor_slices(numbered()).batch(2).take(0), "is empty"),
    ],
)
def test_bad_datasets(dataset, sentence):
    with pytest.raises(DataError, match=sentence):
        as_examples(dataset)


def test_single_images_with_masks_are_to_be_batched():
    images = keras.Input((6, 6, 3))
    form = form_of(keras.Model(images, keras.layers.Conv2D(1, 1)(images)), "mse")
    pairs = tf.data.Dataset.from_tensor_slices((np.zeros((4, 6, 6, 3)), np.zeros((4, 6, 6, 1))))
    with pytest.raises(DataError, match=r"dataset: expected batches, got single images of shape \(6, 6, 3\); batch it"):
        as_examples(pairs, form=form)
    assert as_examples(pairs.batch(3), form=form).size == 4


def test_what_is_reserved_is_in_random_order_and_the_rest_is_drawn_from_what_is_left():
    sample, rng = Sample(*numbered(50)), np.random.default_rng(0)
    rest, held = sample.reserve(20, rng)
    assert held.size == 20
    assert rest.size == 30
    assert (np.diff(held.labels) < 0).any()
    np.testing.assert_array_equal(held.images[:, 0, 0, 0], held.labels)
    everything = rest.draw(99, rng)
    assert set(everything.labels) | set(held.labels) == set(range(50))
    assert everything.size == 30
    some = rest.draw(7, rng)
    assert len(set(some.labels)) == 7
    assert set(some.labels) < set(everything.labels)
    np.testing.assert_array_equal(some.images[:, 0, 0, 0], some.labels)
