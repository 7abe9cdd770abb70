import keras
import numpy as np
from networks import small_cnn

from cobla_tf.calls import record_calls, record_operations
from cobla_tf.report_parts import MODEL_INPUT
from cobla_tf.sites import find_sites


def edges(model):
    """Pairs (name, names of what it reads from) of all calls."""
    calls = record_operations(model)
    names = {MODEL_INPUT: "input"} | {i: call.path for i, call in enumerate(calls)}
    return [(call.path, {names[i] for i in call.inputs}) for call in calls]


def conv(filters, name):
    return keras.layers.Conv2D(filters, 3, padding="same", name=name)


def test_branches_skips_and_plain_operations_are_joined():
    images = keras.Input((6, 6, 2))
    stem = conv(4, "stem")(images)
    left = keras.layers.ReLU(name="relu")(conv(4, "left")(stem))
    total = keras.layers.Add(name="add")([left, stem])
    scaled = keras.ops.multiply(total, 2.0)
    outputs = conv(3, "last")(keras.layers.Concatenate(name="join")([scaled, left, conv(4, "other")(images)]))
    got = dict(edges(keras.Model(images, outputs)))
    (operation,) = set(got) - {"stem", "left", "relu", "add", "other", "join", "last"}
    assert got == {
        "stem": {"input"},
        "other": {"input"},
        "left": {"stem"},
        "relu": {"left"},
        "add": {"relu", "stem"},
        operation: {"add"},
        "join": {operation, "relu", "other"},
        "last": {"join"},
    }


def test_a_skip_from_the_input_is_an_edge():
    images = keras.Input((6, 6, 2))
    noise = conv(2, "noise")(images)
    model = keras.Model(images, keras.layers.Subtract(name="clean")([images, noise]))
    assert edges(model) == [("noise", {"input"}), ("clean", {"input", "noise"})]


def test_edges_lead_into_nested_models_and_out_of_them():
    inner_input = keras.Input((6, 6, 4))
    first = conv(4, "first")(inner_input)
    inner = keras.Model(inner_input, keras.layers.Add(name="add")([first, inner_input]), name="inner")
    outer = keras.Sequential([keras.Input((6, 6, 4)), inner, conv(4, "second")], name="outer")
    images = keras.Input((6, 6, 2))
    got = edges(keras.Model(images, conv(3, "last")(outer(conv(4, "stem")(images)))))
    assert got == [
        ("stem", {"input"}),
        ("outer/inner/first", {"stem"}),
        ("outer/inner/add", {"outer/inner/first", "stem"}),
        ("outer/second", {"outer/inner/add"}),
        ("last", {"outer/second"}),
    ]


def test_several_inputs_and_outputs_of_a_nested_model_stay_apart():
    a, b = keras.Input((6, 6, 2)), keras.Input((6, 6, 2))
    inner = keras.Model([a, b], [conv(2, "of_a")(a), conv(2, "of_b")(b)], name="inner")
    images = keras.Input((6, 6, 2))
    one, other = inner([conv(2, "one")(images), images])
    got = dict(edges(keras.Model(images, keras.layers.Add(name="add")([one, conv(2, "after_b")(other)]))))
    assert (got["inner/of_a"], got["inner/of_b"], got["after_b"]) == ({"one"}, {"input"}, {"inner/of_b"})
    assert got["add"] == {"inner/of_a", "after_b"}


def test_a_shared_layer_has_its_sites_name_at_every_use():
    model = small_cnn()
    sites = find_sites(model, "spatial")
    assert [call.name for call in sites.network].count("shared") == 2
    assert set(sites.names) < {call.name for call in sites.network}
    second = [i for i, call in enumerate(sites.network) if call.name == "shared"][1]
    assert [sites.network[i].name for i in sites.network[second].inputs] == ["shared"]


def test_calls_of_layers_are_the_operations_that_are_layers():
    images = keras.Input((6, 6, 2))
    model = keras.Model(images, conv(3, "last")(keras.ops.abs(images)))
    assert [call.path for call in record_calls(model)] == ["last"]
    assert len(record_operations(model)) == 2
    assert np.isfinite(model(np.zeros((1, 6, 6, 2)))).all()
