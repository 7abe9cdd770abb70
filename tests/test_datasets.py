import os

import keras
import numpy as np
import pytest
import tensorflow as tf

from cobla_tf import datasets
from cobla_tf.datasets import load_dataset
from cobla_tf.errors import ConfigError, DataError
from cobla_tf.preprocessing import PREPROCESSINGS, preprocess
from cobla_tf.reading import batches_of

SIDE = 6


def _load(name, shape=(SIDE, SIDE, 3), data_dir=None, preprocessing="none", seed=0):
    return load_dataset(str(name), data_dir=data_dir, image_shape=shape, preprocessing=preprocessing, seed=seed)


def _write(path, pixels):
    from keras.utils import save_img

    path.parent.mkdir(parents=True, exist_ok=True)
    save_img(path, pixels, scale=False)


def _pixels(seed, height=SIDE, width=SIDE):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Two classes, three training images and one test image each; image i of the whole is _pixels(i)."""
    seed = 0
    for split, count in (("train", 3), ("val", 1)):
        for name in ("zebra", "ant"):
            for _ in range(count):
                _write(tmp_path / "set" / split / name / f"{seed}.png", _pixels(seed))
                seed += 1
    return tmp_path / "set"


@pytest.fixture(scope="module")
def tiny_dir(tmp_path_factory):
    """A prepared tensorflow-datasets set of ten 6x6 images whose test split has no labels."""
    import tensorflow_datasets as tfds

    class CoblaTiny(tfds.core.GeneratorBasedBuilder):
        """Ten images."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(SIDE, SIDE, 3), encoding_format="png"),
                "label": tfds.features.ClassLabel(num_classes=3),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features), supervised_keys=("image", "label")
            )

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in ("train", "validation", "test")}

        def _generate_examples(self, split):
            for index in range(10):
                yield index, {"image": _pixels(index), "label": -1 if split == "test" else index % 3}

    class CoblaTrainOnly(CoblaTiny):
        """The same without a test split."""

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples("train")}

    path = tmp_path_factory.mktemp("tfds")
    for builder in (CoblaTiny, CoblaTrainOnly):
        builder(data_dir=path).download_and_prepare(file_format="tfrecord")
    return str(path)


def test_digits_are_split_by_class_and_by_seed():
    first, again, other = (_load("digits", (8, 8, 1), seed=seed) for seed in (0, 0, 1))
    assert first.train[0].shape == (1297, 8, 8, 1) and first.test[0].shape == (500, 8, 8, 1)
    assert first.train[0].dtype == np.float32 and first.train[0].min() == 0 and first.train[0].max() == 16
    assert np.ptp(np.bincount(first.test[1], minlength=first.classes)) <= 3
    np.testing.assert_array_equal(first.test[1], again.test[1])
    assert (first.test[1] != other.test[1]).any()


def test_a_folder_is_read_in_the_order_of_its_names(folder):
    splits = _load(folder)
    images, labels = splits.train
    assert splits.classes == 2 and images.dtype == np.uint8
    np.testing.assert_array_equal(labels, [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(images, [_pixels(seed) for seed in (3, 4, 5, 0, 1, 2)])
    np.testing.assert_array_equal(splits.test[0], [_pixels(seed) for seed in (7, 6)])


def test_resizing_keeps_the_centre_and_the_proportions(tmp_path):
    wide = np.zeros((64, 128, 3), np.uint8)
    wide[:, 32:96] = 200  # the centre square
    for split in ("train", "test"):
        _write(tmp_path / split / "only" / "wide.png", wide)
    (image,), _ = _load(tmp_path, (32, 32, 3)).train
    assert image.shape == (32, 32, 3)
    np.testing.assert_array_equal(image, 200)


def _epochs(stream, first, count, batch_size=4):
    """The images of some epochs, a list of batches each."""
    batches, steps = stream.epochs(batch_size, seed=0, first=first).as_numpy_iterator(), -(-stream.size // batch_size)
    return [[next(batches)[0] for _ in range(steps)] for _ in range(count)]


def test_a_large_set_comes_as_shuffled_batches_of_the_same_images(folder, monkeypatch):
    arrays = _load(folder, preprocessing="caffe")
    monkeypatch.setattr(datasets, "MEMORY_LIMIT", 0)
    monkeypatch.setattr(datasets, "BATCH", 4)
    batched, again = _load(folder, preprocessing="caffe"), _load(folder, preprocessing="caffe")
    assert (batched.train.size, batched.test.size) == (6, 2)
    passes = [np.concatenate(images) for images in _epochs(batched.train, 0, 2)]
    assert passes[0].dtype == np.float32
    for images in passes:
        assert {x.tobytes() for x in images} == {x.tobytes() for x in arrays.train[0]}
    np.testing.assert_array_equal(passes[1], np.concatenate(_epochs(again.train, 1, 1)[0]))
    assert (passes[0] != passes[1]).any()
    np.testing.assert_array_equal(next(batched.test.batches(4))[0], arrays.test[0])


@pytest.mark.parametrize("limit", [0, datasets.MEMORY_LIMIT])
def test_prepared_records_are_read_and_an_unlabelled_split_is_passed_over(tiny_dir, monkeypatch, limit):
    monkeypatch.setattr(datasets, "MEMORY_LIMIT", limit)
    splits = _load("cobla_tiny", data_dir=tiny_dir)
    images, labels = splits.test if limit else next(splits.test.batches(10))
    assert splits.classes == 3 and sorted(labels) == sorted(index % 3 for index in range(10))
    assert {x.tobytes() for x in images} == {_pixels(index).tobytes() for index in range(10)}


def test_epochs_of_prepared_records_follow_from_their_number(tiny_dir, monkeypatch):
    monkeypatch.setattr(datasets, "MEMORY_LIMIT", 0)
    keras.utils.set_random_seed(0)
    first, second, third = _epochs(_load("cobla_tiny", data_dir=tiny_dir).train, 0, 3)
    (again,) = _epochs(_load("cobla_tiny", data_dir=tiny_dir).train, 2, 1)
    np.testing.assert_array_equal(np.concatenate(third), np.concatenate(again))
    orders = [[image.tobytes() for image in np.concatenate(images)] for images in (first, second, third)]
    assert orders[0] != orders[1] != orders[2]
    assert {frozenset(order) for order in orders} == {frozenset(_pixels(index).tobytes() for index in range(10))}


def test_records_of_another_size_are_resized_as_a_whole(tiny_dir):
    images, _ = _load("cobla_tiny", (3, 3, 3), data_dir=tiny_dir).train
    assert images.shape == (10, 3, 3, 3)
    means = sorted(_pixels(index).mean() for index in range(10))
    np.testing.assert_allclose(sorted(images.mean(axis=(1, 2, 3))), means, atol=20)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cobla_tyny", "cobla_tiny"),
        ("mnist", "tfds build mnist --data_dir="),
        ("imagenet2012", "by hand"),
        ("mnist:9.9.9", "9.9.9"),
        ("mnist/a=b", "cannot be read by tensorflow-datasets"),
        ("cobla_train_only", "validation"),
        ("huggingface:mnist", "network"),
        ("not a name", "nor known"),
        ("./nowhere", "does not exist"),
    ],
)
def test_what_cannot_be_read_is_one_sentence_with_a_way_out(tiny_dir, name, expected):
    with pytest.raises(DataError, match=expected):
        _load(name, data_dir=tiny_dir)


@pytest.mark.parametrize("place", ["", "inner/"])
def test_a_folder_of_nearly_that_name_is_the_first_guess(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    (tmp_path / place / "photos").mkdir(parents=True)
    with pytest.raises(DataError, match=f"the nearest names are the folder {place}photos"):
        _load(f"{place}photo")
    with pytest.raises(DataError, match=rf"or png; did you mean '{place}photos'\?"):
        load_dataset(f"./{place}photo/", data_dir=None, image_shape=(6, 6, 3), preprocessing="none", seed=0)
    with pytest.raises(DataError, match=r"or png\."):
        _load("./nowhere/photo" if place else "./other")


@pytest.mark.parametrize(("channels", "grey"), [(3, [77] * 3), (1, [77])])
def test_images_are_turned_to_the_channels_of_the_model(tmp_path, channels, grey):
    transparent = np.dstack([np.full((40, 60, 3), 77, np.uint8), np.zeros((40, 60), np.uint8)])
    for split in ("train", "validation"):
        for number, pixels in enumerate((transparent[..., :1], transparent[..., :3], transparent)):
            _write(tmp_path / split / "only" / f"{number}.png", pixels)
    images, _ = _load(tmp_path, (16, 16, channels)).train
    assert images.shape == (3, 16, 16, channels)
    np.testing.assert_array_equal(images, np.broadcast_to(grey, images.shape))


def test_a_folder_must_have_splits_classes_and_images(folder):
    (folder / "val" / "bee").mkdir()
    with pytest.raises(DataError, match="bee"):
        _load(folder)
    (folder / "train" / "bee").mkdir()
    with pytest.raises(DataError, match=r"bee.*no jpg or png"):
        _load(folder)
    (folder / "val").rename(folder / "other")
    with pytest.raises(DataError, match="train"):
        _load(folder)


def test_a_file_that_is_no_image_is_named(folder):
    (folder / "train" / "ant" / "4.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"4\.png.*: Unknown image file format.*\w\.$"):
        _load(folder)
    whole = (folder / "train" / "ant" / "3.png").read_bytes()
    (folder / "train" / "ant" / "4.png").write_bytes(whole[:60])
    with pytest.raises(DataError, match=r"^image folder set cannot be read at [^\n]*4\.png, [^\n]*data[^\n]*\w\.$"):
        _load(folder)


def test_files_of_other_kinds_are_passed_over_aloud_and_names_may_be_no_text(folder, caplog):
    ant = folder / "train" / "ant"
    (ant / "more.jpg").mkdir()
    (ant / "5.webp").write_bytes(b"another kind")
    (ant / "._4.png").write_bytes(b"what a Mac leaves beside an image")
    odd = os.fsdecode(b"4\xe9.png")
    (ant / "4.png").rename(ant / odd)
    assert _load(folder).train[0].shape[0] == 6
    assert "1 file that is no jpg or png is passed over" in caplog.text
    assert "5.webp" in caplog.text
    (ant / odd).write_bytes(b"no image")
    with pytest.raises(DataError, match=r"4\\xe9\.png"):
        _load(folder)


def test_a_file_of_a_large_set_that_is_no_image_is_named_when_it_comes_up(folder, monkeypatch):
    monkeypatch.setattr(datasets, "MEMORY_LIMIT", 0)
    (folder / "train" / "zebra" / "1.png").write_bytes(b"no image")
    splits = _load(folder)
    with pytest.raises(DataError, match=r"1\.png"), splits.named():
        list(splits.train.batches(2))
    with pytest.raises(DataError, match=r"1\.png"), splits.named(), batches_of("dataset"):  # as compress() does
        list(splits.train.batches(2))
    with pytest.raises(DataError, match="of another kind"), splits.named():
        raise DataError("of another kind")


def test_what_else_stops_tensorflow_is_not_laid_on_the_images(folder, monkeypatch):
    monkeypatch.setattr(datasets, "MEMORY_LIMIT", 0)
    with pytest.raises(tf.errors.InvalidArgumentError, match="else"), _load(folder).named():
        raise tf.errors.InvalidArgumentError(None, None, "something else")


@pytest.mark.parametrize("shape", [(8, 8), (None, None, 3), (8, 8, 4), (9, 8, 1)])
def test_an_input_that_images_cannot_have_is_refused(folder, shape):
    with pytest.raises(DataError):
        _load("digits" if shape == (9, 8, 1) else folder, shape)


@pytest.mark.parametrize(("name", "channels"), [("unheard", 3), ("caffe", 1), ("torch", 1)])
def test_preprocessing_must_be_known_and_suit_the_channels(name, channels):
    with pytest.raises(ConfigError, match=name):
        _load("digits", (8, 8, channels), preprocessing=name)


@pytest.mark.parametrize("name", PREPROCESSINGS)
def test_preprocessing_is_the_same_on_arrays_and_tensors_and_keeps_its_input(name):
    import tensorflow as tf

    images = np.stack([_pixels(0), _pixels(1)]).astype(np.float32)
    before = images.copy()
    scaled = preprocess(images, name)
    np.testing.assert_array_equal(images, before)
    np.testing.assert_allclose(scaled, preprocess(tf.constant(images), name), rtol=1e-5, atol=1e-4)
    expected = {
        "none": images,
        "scale": images / 255,
        "caffe": images[..., ::-1] - np.array([103.939, 116.779, 123.68]),
        "tf": images / 127.5 - 1,
        "torch": (images / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225]),
    }
    np.testing.assert_allclose(scaled, expected[name], rtol=1e-5, atol=1e-4)
