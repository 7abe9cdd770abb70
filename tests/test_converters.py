import subprocess
import sys

import h5py
import keras
import numpy as np
import pytest
from absl import flags, logging
from absl.testing import flagsaver
from cobla_tf.third_party import convert_weights
from cobla_tf.third_party import squeezenet as converter
from cobla_tf.third_party.arrays import AS_IN_KERAS, OUT_H_W_IN, OUT_IN_H_W
from cobla_tf.third_party.check import Check, read_check
from cobla_tf.third_party.convert_weights import convert
from cobla_tf.third_party.nin import LAYERS as NIN_LAYERS
from cobla_tf.third_party.squeezenet import RELEASES
from cobla_tf.third_party.whitening import whitening_kernel

from cobla_tf.errors import CoblaError, ConfigError, ModelError
from cobla_tf.models import ZOO, load_model
from cobla_tf.squeezenet import Geometry, squeezenet

SIZE = 67  # of the images for SqueezeNet here: its pools meet odd and even sizes
GLUON, CAFFE2, TORCHVISION, TFLITE = RELEASES


@pytest.fixture
def log(monkeypatch):
    lines = []
    for level in ("info", "warning"):
        monkeypatch.setattr(logging, level, lambda line, *values: lines.append(line % values))
    return lines


def randomised(model, seed=0):
    """Biases too, so that a bias in the wrong place is seen; scaled so that neither grows from layer to layer."""
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        shapes = [weight.shape for weight in layer.weights]
        scales = [np.sqrt(2 / np.prod(shape[:-1])) if len(shape) > 1 else 0.1 for shape in shapes]
        layer.set_weights([rng.normal(0, scale, shape) for scale, shape in zip(scales, shapes, strict=True)])
    return model


def images(model, count=2):
    return np.random.default_rng(1).normal(size=(count, *model.inputs[0].shape[1:])).astype(np.float32)


def published(model, names, axes):
    arrays = {}
    for layer, (kernel, bias) in names.items():
        weights = model.get_layer(layer).get_weights()
        arrays[kernel] = weights[0].transpose(np.argsort(axes)) if weights[0].ndim == 4 else weights[0]
        arrays[bias] = weights[1]
    return arrays


def write_npy(folder, arrays):
    folder.mkdir()
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return folder


def write_hdf5(path, arrays):
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return path


def softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def assert_same(got, expected):
    np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())


# --- the names of the published files, as these have them


@pytest.mark.parametrize(
    ("release", "version", "layer", "kernel", "bias"),
    [
        (GLUON, "v1.1", "conv1", "squeezenet0_conv0_weight", "squeezenet0_conv0_bias"),
        (GLUON, "v1.1", "fire3_expand1x1", "squeezenet0_conv5_weight", "squeezenet0_conv5_bias"),
        (GLUON, "v1.1", "conv10", "squeezenet0_conv25_weight", "squeezenet0_conv25_bias"),
        (CAFFE2, "v1.1", "fire2_squeeze1x1", "fire2_squeeze1x1_w_0", "fire2_squeeze1x1_b_0"),
        (TORCHVISION, "v1.0", "conv1", "features.0.weight", "features.0.bias"),
        (TORCHVISION, "v1.0", "fire9_expand3x3", "features.12.expand3x3.weight", "features.12.expand3x3.bias"),
        (TORCHVISION, "v1.1", "fire5_squeeze1x1", "features.7.squeeze.weight", "features.7.squeeze.bias"),
        (TORCHVISION, "v1.1", "conv10", "classifier.1.weight", "classifier.1.bias"),
        (TFLITE, "v1.0", "fire4_squeeze1x1", "fire4_squeeze_kernel", "fire4_squeeze_Conv2D_bias"),
        (TFLITE, "v1.0", "fire4_expand3x3", "fire4_e3x3_kernel", "fire4_e3x3_Conv2D_bias"),
    ],
)
def test_names_of_squeezenet_releases(release, version, layer, kernel, bias):
    assert release.names(version)[layer] == (kernel, bias)


# --- SqueezeNet


@pytest.fixture(scope="module")
def squeeze():
    """A network in no release's own geometry, and the vectors that tell."""
    model = randomised(squeezenet("v1.1", Geometry(SIZE, conv10_padding=1)))
    return model, Check(images(model), softmax(np.asarray(model(images(model)))))


@pytest.mark.parametrize("release", [GLUON, CAFFE2, TORCHVISION], ids=lambda release: release.title)
def test_squeezenet_in_every_channels_first_form(tmp_path, squeeze, log, release):
    model, check = squeeze
    source = write_npy(tmp_path / "arrays", published(model, release.names("v1.1"), OUT_IN_H_W))
    _, preprocessing = convert("squeezenet_v1.1", source, tmp_path / "s.keras", check=check)
    assert preprocessing == release.preprocessing
    assert_same(load_model(str(tmp_path / "s.keras"))(check.images), model(check.images))
    assert f"names of {release.title}" in log and any(
        "conv1 valid, pooling ceil, conv10 padded by 1" in line for line in log
    )


def test_squeezenet_in_tflites_form_loses_its_background_class(tmp_path, log):
    model = randomised(squeezenet("v1.0", Geometry(SIZE, 1001, "same", "valid")))
    check = Check(images(model), np.asarray(model(images(model))))
    source = write_npy(tmp_path / "arrays", published(model, TFLITE.names("v1.0"), OUT_H_W_IN))
    converted, preprocessing = convert("squeezenet_v1.0", source, tmp_path / "s.keras", check=check)
    assert preprocessing == "tf" and any("class 0 of 1001" in line for line in log)
    assert_same(converted(check.images), check.outputs[:, 1:])


def test_without_vectors_the_graph_of_the_release_is_taken_and_said(tmp_path, log):
    model = randomised(squeezenet("v1.0", TFLITE.geometry))
    source = write_npy(tmp_path / "arrays", published(model, TFLITE.names("v1.0"), OUT_H_W_IN))
    converted, _ = convert("squeezenet_v1.0", source, tmp_path / "s.keras")
    assert any(line.startswith("not checked") and "conv1 same, pooling valid" in line for line in log)
    assert_same(converted(images(model, 1)), np.asarray(model(images(model, 1)))[:, 1:])


def test_every_known_geometry_computes_something_else(squeeze):
    model, check = squeeze
    logits = np.asarray(model(check.images))
    for other in (Geometry(SIZE), Geometry(SIZE, 1000, "valid", "valid", 1), Geometry(SIZE, 1000, "same", "ceil", 1)):
        network = squeezenet("v1.1", other)
        network.set_weights(model.get_weights())
        assert Check(check.images, logits).deviation(network) > 1e-2


def test_outputs_of_other_weights_are_not_reproduced(tmp_path, squeeze, monkeypatch):
    model, check = squeeze
    monkeypatch.setattr(converter, "product", lambda *modes: [("valid", "ceil", 1)])  # two geometries instead of 12
    source = write_npy(tmp_path / "arrays", published(model, GLUON.names("v1.1"), OUT_IN_H_W))
    with pytest.raises(ModelError, match=r"No known padding and pooling .* nearest is conv1 \w+, .* deviation of"):
        convert("squeezenet_v1.1", source, tmp_path / "s.keras", check=Check(check.images, check.outputs[:, ::-1]))
    assert not (tmp_path / "s.keras").exists()


@pytest.mark.parametrize(
    ("size", "sentence"), [(8, "Images of 8 x 8 are too small"), (20, "No known padding and pooling")]
)
def test_vectors_too_small_for_the_network_are_one_sentence(tmp_path, squeeze, size, sentence):
    small = Check(np.zeros((1, size, size, 3), np.float32), np.zeros((1, 1000), np.float32))
    source = write_npy(tmp_path / "arrays", published(squeeze[0], GLUON.names("v1.1"), OUT_IN_H_W))
    with pytest.raises(ModelError, match=sentence):
        convert("squeezenet_v1.1", source, tmp_path / "s.keras", check=small)


def test_the_other_version_and_arrays_of_no_form(tmp_path, squeeze):
    model, _ = squeeze
    source = write_npy(tmp_path / "arrays", published(model, CAFFE2.names("v1.1"), OUT_IN_H_W))
    with pytest.raises(ModelError, match=r"conv1_w_0 expected \[96, 3, 7, 7\], found \[64, 3, 3, 3\]"):
        convert("squeezenet_v1.0", source, tmp_path / "s.keras")
    strange = write_npy(tmp_path / "strange", {"weights": np.zeros(3)})
    with pytest.raises(ModelError, match=r"has arrays weights; expected .*conv1_kernel.npy \(TFLite\)"):
        convert("squeezenet_v1.0", strange, tmp_path / "s.keras")


# --- NIN


@pytest.fixture(scope="module")
def nin():
    """The network, its snapshot's arrays and a file to take the whitening from."""
    model = randomised(ZOO["nin_cifar10"]())
    names = {layer: (f"data/{layer}/0", f"data/{layer}/1") for layer in NIN_LAYERS}
    return model, published(model, names, OUT_IN_H_W)


def test_nin_with_the_whitening_of_another_file(tmp_path, nin):
    model, arrays = nin
    model.save(tmp_path / "given.keras")
    source = write_hdf5(tmp_path / "nin.h5", arrays)
    inputs = 50 * images(model)
    check = Check(inputs, np.asarray(model(inputs)))
    _, preprocessing = convert("nin_cifar10", source, tmp_path / "n.keras", str(tmp_path / "given.keras"), check)
    assert preprocessing == "none"
    converted = load_model(str(tmp_path / "n.keras"))
    assert_same(converted(inputs), check.outputs)
    assert not converted.get_layer("whitening").trainable


def test_whitening_of_white_noise_is_what_theory_says():
    """Contrast-normalised noise of 72 values has no variance along the mean, and 72 / 71 across."""
    noise = np.random.default_rng(0).normal(size=(20_000, 6, 6, 2))
    along, across = 0.1**-0.5, (72 / 71 + 0.1) ** -0.5
    expected = np.full((3, 3, 2, 2), (along - across) / 72)
    expected[1, 1] += np.eye(2) * across
    np.testing.assert_allclose(whitening_kernel(noise, size=3), expected, atol=5e-3)


def test_whitening_takes_neighbours_and_channels_apart():
    noise = np.random.default_rng(0).normal(size=(4000, 11, 11, 2))
    smooth = noise[:, 1:, :, :] + noise[:, :-1, :, :]
    smooth[..., 1] += smooth[..., 0]
    smooth = smooth[:, :, :10]
    kernel = whitening_kernel(smooth, size=9, bias=0.01)
    smooth -= smooth.mean(axis=(1, 2, 3), keepdims=True)
    smooth /= smooth.std(axis=(1, 2, 3), keepdims=True)
    white = np.asarray(keras.ops.conv(smooth.astype("float32"), kernel, padding="same"))[:, 4:6, 4:6]

    def correlations(x):
        pairs = ((x[:, 0, 0, 0], x[:, 1, 0, 0]), (x[:, 0, 0, 0], x[:, 0, 0, 1]))
        return [abs(np.corrcoef(*pair)[0, 1]) for pair in pairs]

    assert min(correlations(smooth[:, 4:6, 4:6])) > 0.4 and max(correlations(white)) < 0.25


@pytest.mark.parametrize(
    ("whitening", "expected"),
    [
        (None, "holds no whitening: give --whitening"),
        ("digits.keras", r"must have a layer whitening with one kernel \[9, 9, 3, 3\], found None"),
        ("few.npy", r"at least 3,072 images \[32, 32, 3\], got \[5, 32, 32, 3\]"),
        ("absent.npy", "must be a .npy file"),
        ("absent.keras", "does not exist"),
        ("nin_cifar10", "does not exist"),
    ],
)
def test_nin_without_a_whitening_that_fits(tmp_path, nin, whitening, expected):
    source = write_hdf5(tmp_path / "nin.h5", nin[1])
    ZOO["digits_cnn"]().save(tmp_path / "digits.keras")
    np.save(tmp_path / "few.npy", np.zeros((5, 32, 32, 3), np.uint8))
    with pytest.raises(ModelError, match=expected):
        convert("nin_cifar10", source, tmp_path / "n.keras", whitening and str(tmp_path / whitening))


def test_wrong_and_missing_arrays_are_all_named(tmp_path, nin):
    arrays = dict(nin[1])
    del arrays["data/cccp3/1"]
    arrays["data/conv2/0"] = arrays["data/conv2/0"][:, :, :3]
    arrays["data/conv1/1"] = arrays["data/conv1/1"] * np.nan
    arrays["data/cccp6/1"] = np.arange(10)
    with pytest.raises(ModelError) as error:
        convert("nin_cifar10", write_hdf5(tmp_path / "nin.h5", arrays), tmp_path / "n.keras", "unused.keras")
    for problem in (
        "data/cccp3/1 expected [192], is missing",
        "data/conv2/0 expected [192, 96, 5, 5], found [192, 96, 3, 5]",
        "data/conv1/1 expected [192], found some values that are not finite",
        "data/cccp6/1 expected [10] of floats, found int64",
    ):
        assert problem in str(error.value)
    assert not (tmp_path / "n.keras").exists()


def test_extra_arrays_are_named(tmp_path, nin, log):
    nin[0].save(tmp_path / "given.keras")
    source = write_hdf5(tmp_path / "nin.h5", {**nin[1], "data/cccp7/0": np.zeros(3), "diff/conv1/0": np.zeros(3)})
    convert("nin_cifar10", source, tmp_path / "n.keras", str(tmp_path / "given.keras"))
    assert "nin_cifar10 has no place for data/cccp7/0, diff/conv1/0: left out." in log


# --- VGG-16


def test_vgg16_gives_the_logits_of_the_softmax_network(tmp_path, monkeypatch):
    """At a fiftieth of its size: the names are those of the published file."""
    small = {"weights": None, "input_shape": (32, 32, 3), "classes": 7}
    monkeypatch.setitem(ZOO, "vgg16", lambda: keras.applications.VGG16(classifier_activation=None, **small))
    original = keras.applications.VGG16(**small)
    names = {layer.name: (f"{layer.name}/{layer.name}_W_1:0", f"{layer.name}/{layer.name}_b_1:0")
             for layer in original.layers if layer.weights}  # fmt: skip
    source = write_hdf5(tmp_path / "vgg16.h5", published(original, names, AS_IN_KERAS))
    check = Check(images(original), np.asarray(original(images(original))))
    converted, preprocessing = convert("vgg16", source, tmp_path / "v.keras", check=check)
    assert preprocessing == "caffe"
    assert_same(softmax(np.asarray(converted(check.images))), check.outputs)


# --- given vectors, files and the command line


def test_a_check_that_fails_says_by_how_much():
    model = randomised(ZOO["digits_cnn"]())
    inputs = images(model)
    outputs = np.asarray(model(inputs))
    assert Check(inputs, outputs).require(model) < 1e-6
    assert Check(inputs, softmax(outputs)).require(model) < 1e-6
    with pytest.raises(ModelError, match="does not reproduce the given outputs, its deviation is"):
        Check(inputs, outputs[:, ::-1]).require(model)
    with pytest.raises(ModelError, match=r"gives 10 outputs, but the vectors are \[2, 8, 8, 1\] and \[2, 9\]"):
        Check(inputs, outputs[:, :9]).require(model)


@pytest.mark.parametrize(
    ("network", "source", "expected"),
    [
        ("nin_cifar10", "absent.h5", "must be an HDF5 file"),
        ("vgg16", "text.h5", "must be an HDF5 file"),
        ("squeezenet_v1.1", "text.h5", "must be a folder with .npy files"),
        ("squeezenet_v1.1", "objects", "must be a .npy file of one plain array"),
        ("squeezenet_v1.1", "archive", "must be a .npy file of one plain array"),
        ("squeezenet_v1.1", "words", "must hold real numbers, found <U4"),
        ("vgg16", "words.h5", r"block1_conv1_W_1:0 expected \[3, 3, 3, 64\], found \[\]"),
    ],
)
def test_sources_that_cannot_be_read(tmp_path, network, source, expected):
    (tmp_path / "text.h5").write_text("no arrays")
    for folder in ("objects", "archive", "words"):
        (tmp_path / folder).mkdir()
    np.save(tmp_path / "objects" / "conv1_w_0.npy", np.array([{}]), allow_pickle=True)
    np.save(tmp_path / "words" / "conv1_w_0.npy", np.array(["text"]))
    with (tmp_path / "archive" / "conv1_w_0.npy").open("wb") as file:
        np.savez(file, np.zeros(3))
    write_hdf5(tmp_path / "words.h5", {"block1_conv1/block1_conv1_W_1:0": "text"})
    with pytest.raises(ModelError, match=expected):
        convert(network, tmp_path / source, tmp_path / "x.keras")


def test_targets_and_flags_that_do_not_go_together(tmp_path):
    with pytest.raises(ConfigError, match=r"must be a file that ends in .keras, got .*x.h5"):
        convert("vgg16", tmp_path, tmp_path / "x.h5")
    with pytest.raises(ConfigError, match="whitening is for nin_cifar10 only, vgg16 has no such layer"):
        convert("vgg16", tmp_path, tmp_path / "x.keras", whitening="given.keras")


def test_vectors_channels_first_and_with_spare_axes(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5))
    np.save(tmp_path / "y.npy", np.zeros((2, 7, 1, 1), np.float32))
    check = read_check(str(tmp_path / "x.npy"), str(tmp_path / "y.npy"), 1e-3)
    assert check.images.shape == (2, 4, 5, 3) and check.outputs.shape == (2, 7) and check.images[0, 0, 0, 1] == 20


@pytest.mark.parametrize(("x", "y"), [((2, 4, 4), (2, 7)), ((2, 4, 4, 1), (2, 7)), ((2, 4, 4, 3), (3, 7)),
                                      ((2, 4, 4, 3), (2, 7, 2)), ((2, 4, 4, 3), (2,)),
                                      ((0, 4, 4, 3), (0, 7))])  # fmt: skip
def test_vectors_of_another_form(tmp_path, x, y):
    np.save(tmp_path / "x.npy", np.zeros(x, np.float32))
    np.save(tmp_path / "y.npy", np.zeros(y, np.float32))
    with pytest.raises(ModelError, match="must hold"):
        read_check(str(tmp_path / "x.npy"), str(tmp_path / "y.npy"), 1e-3)


def test_the_command_line(tmp_path, squeeze, capsys):
    model, check = squeeze
    write_npy(tmp_path / "arrays", published(model, GLUON.names("v1.1"), OUT_IN_H_W))
    np.save(tmp_path / "x.npy", check.images.transpose(0, 3, 1, 2))
    np.save(tmp_path / "y.npy", check.outputs)
    flags.FLAGS.mark_as_parsed()
    given = {"network": "squeezenet_v1.1", "source": str(tmp_path / "arrays"), "target": str(tmp_path / "s.keras")}
    with flagsaver.flagsaver(**given, check_input=str(tmp_path / "x.npy"), check_output=str(tmp_path / "y.npy")):
        convert_weights.main(["convert_weights"])
    assert "s.keras --preprocessing=torch" in capsys.readouterr().out and (tmp_path / "s.keras").is_file()
    for flawed, sentence in (({}, "expected --network, --source, --target"),
                             ({**given, "check_input": "x.npy"}, "expected both --check_input and --check_output"),
                             ({**given, "source": "absent"}, "must be a folder with .npy files")):  # fmt: skip
        with flagsaver.flagsaver(**flawed), pytest.raises(CoblaError, match=sentence):
            convert_weights.main(["convert_weights"])


@pytest.mark.parametrize("argument", ["--network=alexnet", "--netwrok=vgg16", "arrays", "--network=vgg16"])
def test_a_command_line_that_cannot_be_used_is_one_sentence(argument):
    command = [sys.executable, "-m", "cobla_tf.third_party.convert_weights", argument]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert done.stderr.startswith("convert_weights: error: ")
