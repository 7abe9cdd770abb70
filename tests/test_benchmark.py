import dataclasses
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from cobla_tf.experiments.benchmarks import latency as runner
from cobla_tf.experiments.benchmarks.narrow import narrow

import cobla_tf
from cobla_tf import speed
from cobla_tf.calls import record_calls
from cobla_tf.errors import ConfigError, DataError, ModelError
from cobla_tf.layer_times import compare_sites, measure_latency, time_models
from cobla_tf.resources import add_resources, read_resources, write_resources
from cobla_tf.sites import find_sites
from cobla_tf.stopwatch import LEAST_ROUNDS, interleave
from cobla_tf.surgery import rebuild
from cobla_tf.texts import json_text
from cobla_tf.timings import Benchmark, SiteTiming, Spread, Timing
from tests.networks import small_cnn


def at_rank(model, rank, scheme="spatial"):
    sites = find_sites(model, scheme)
    ranks = np.minimum(rank, sites.layout.full_ranks)
    leading = sites.layout.leading(ranks)
    return rebuild(model, sites, leading > 0, leading, np.zeros(len(ranks), dtype=bool))


def one_site(channels=64, size=24):
    keras.utils.set_random_seed(0)
    images = keras.Input((size, size, channels))
    return keras.Model(images, keras.layers.Conv2D(channels, 3, padding="same", name="conv")(images))


def test_runs_are_taken_in_turn_to_and_fro():
    order = []
    times = interleave([lambda: order.append("a"), lambda: order.append("b")], 0.0)
    assert times.shape == (LEAST_ROUNDS, 2)
    assert (times >= 0).all()
    assert "".join(order[:8]) == "ab" + "ab" + "ba" + "ab"
    assert interleave([], 1.0).size == 0


def test_figures_of_a_timing():
    timing = Timing.of("litert", 1, 8, [4.0, 2.0, 8.0], [1.0, 1.0, 2.0])
    assert timing.original == Spread(4.0, 3.0, 6.0, 2.0, 3)
    assert timing.ratio == 0.25  # the median of 1/4, 1/2, 1/4: not that of the medians
    assert timing.fastest_ratio == 0.5


def test_tables_hold_the_total_and_read_as_json():
    timing = Timing.of("litert", 1, 8, [4e-3] * 3, [1e-3] * 3)
    sites = (SiteTiming("a", (100, 50), 1e-3, 8e-4), SiteTiming("b", None, 3e-3, 2e-4))
    result = Benchmark((timing,), sites, 2, ("keras: left out",))
    text = str(result)
    assert "25.0 %" in text
    total = next(line for line in text.splitlines() if line.startswith("total"))
    assert "25.0 %" in total
    assert text.endswith("note: keras: left out")
    assert json.loads(json_text(dataclasses.asdict(result)))["sites"][0]["macs"] == [100, 50]


@pytest.fixture(scope="module", autouse=True)
def one_core():
    """Each number of threads is a process, and those take seconds to start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speed, "cores", lambda: 1)
        yield


@pytest.fixture(scope="module")
def measured():
    original = small_cnn()
    compressed = at_rank(original, 2)
    return original, compressed, cobla_tf.benchmark(original, compressed, batch=3, seconds=0)


def test_both_networks_are_timed_in_every_runtime(measured):
    _, _, result = measured
    assert result.notes == ()
    expected = {(name, 1, size) for name in ("keras", "savedmodel", "litert") for size in (1, 3)}
    assert {(timing.runtime, timing.threads, timing.batch) for timing in result.timings} == expected
    for timing in result.timings:
        assert timing.original.runs == timing.compressed.runs == LEAST_ROUNDS
        assert 0 < timing.original.fastest <= timing.original.low <= timing.original.median <= timing.original.high
        assert timing.ratio > 0


def test_sites_are_timed_with_their_macs_over_all_uses(measured):
    original, compressed, result = measured
    assert [site.name for site in result.sites] == ["conv1", "shared", "block/conv"]
    shared = result.sites[1]
    assert shared.macs == (2 * 100 * 9 * 8 * 8, 2 * 100 * 2 * (3 * 8 + 3 * 8))
    assert all(site.original > 0 and site.compressed > 0 for site in result.sites)
    assert {call.path for call in record_calls(compressed)} >= {"conv1_g", "shared_h", "block/conv_g"}
    assert compare_sites(original, original, (10, 10, 2), 0) == ()


def test_a_factor_is_not_taken_for_a_layer_that_had_its_name():
    conv = keras.layers.Conv2D(8, 3, padding="same", name="conv")
    images = keras.Input((6, 6, 4))
    original = keras.Model(images, keras.layers.Conv2D(2, 1, name="conv_g")(conv(images)))
    sites = find_sites(original, "channel", exclude=["conv_g"])
    masks = sites.layout.leading(np.array([2]))
    compressed = rebuild(original, sites, masks > 0, masks, np.array([False]))
    (site,) = compare_sites(original, compressed, (6, 6, 4), 0)
    assert (site.name, site.macs) == ("conv", (36 * 9 * 4 * 8, 36 * 2 * (9 * 4 + 8)))


def test_bad_input_is_refused(measured):
    original, compressed, _ = measured
    with pytest.raises(ConfigError, match="runtimes"):
        cobla_tf.benchmark(original, compressed, runtimes=["tflite"])
    for wrong in ({"batch": 0}, {"batch": 2.5}, {"batch": "8"}, {"seconds": "3"}, {"seconds": float("nan")}):
        with pytest.raises(ConfigError, match="a batch of at least 1 and seconds"):
            cobla_tf.benchmark(original, compressed, **wrong)
    with pytest.raises(ConfigError, match="runtimes must be some of"):
        cobla_tf.benchmark(original, compressed, runtimes=None)
    with pytest.raises(ConfigError, match="a number of threads of at least 1"):
        measure_latency(original, threads="2")
    images = keras.Input((None, None, 3))
    open_size = keras.Model(images, keras.layers.Conv2D(2, 3)(images), name="open")
    with pytest.raises(ConfigError, match=r"open.*images="):
        cobla_tf.benchmark(open_size, open_size)


def test_layers_that_litert_does_not_run_alone_cost_only_their_own_times():
    keras.utils.set_random_seed(0)
    images = keras.Input((6, 6, 4))
    double = keras.Model(images, keras.layers.Conv2D(8, 3, name="conv", dtype="float64")(images))
    report = cobla_tf.benchmark(double, at_rank(double, 2), runtimes=["litert"], seconds=0)
    assert report.sites == ()
    assert any(note.startswith("layers alone: ") for note in report.notes)
    with pytest.raises(ModelError, match="compute in float64"):
        measure_latency(double, seconds=0)


def test_layers_of_reduced_precision_are_timed_in_float32():
    images = keras.Input((6, 6, 4))
    half = keras.Model(images, keras.layers.Conv2D(8, 3, name="conv", dtype="mixed_float16")(images))
    assert measure_latency(half, seconds=0).original["conv"] > 0


@pytest.mark.parametrize(
    ("images", "named"),
    [
        (np.zeros((4, 9, 9, 2)), r"shape \(10, 10, 2\)"),
        (np.zeros((10, 10, 2)), r"shape \(10, 10, 2\)"),
        (np.zeros((0, 10, 10, 2)), "at least one image"),
        (np.array(["a"]), "arrays of numbers"),
    ],
)
def test_images_that_do_not_fit_are_refused_before_any_work(images, named, tmp_path):
    model = small_cnn()
    with pytest.raises(DataError, match=named):
        cobla_tf.benchmark(model, model, images=images)
    with pytest.raises(DataError, match=named):
        cobla_tf.export_model(model, tmp_path / "out", ["keras"], images=images)
    assert not (tmp_path / "out").exists()


def test_equal_layers_are_timed_once_and_a_larger_one_takes_longer():
    times = time_models([one_site(), one_site(), one_site(size=96)], 1, 0.2)
    assert times[0] == times[1]
    assert times[2] > 4 * times[0]


def test_a_latency_table_grows_with_the_rank_and_makes_a_budget(tmp_path):
    model = one_site()
    table = measure_latency(model, seconds=1.0)
    assert list(table.original) == ["conv"]
    assert table.per_rank["conv"] > 0
    assert table.base["conv"] >= 0
    full = table.base["conv"] + 96 * table.per_rank["conv"]  # as many MACs as the layer has
    assert 0.2 < full / table.original["conv"] < 10
    write_resources([table], tmp_path / "costs.csv")
    assert read_resources(tmp_path / "costs.csv") == (table,)
    sites = find_sites(model, "spatial")
    costs = add_resources(sites.costs, sites.names, [table])
    assert costs.resources == ("macs", "params", "latency")


def test_the_runner_compares_a_budget_on_macs_with_one_on_time(tmp_path, capsys):
    conv = one_site()
    pooled = keras.layers.GlobalAveragePooling2D()(conv.output)
    keras.Model(conv.input, keras.layers.Dense(4)(pooled)).save(tmp_path / "net.keras")
    runner.main([f"--models={tmp_path}/net.keras", "--schemes=channel", "--seconds=0", "--budget=0.6", "--sites"])
    out = capsys.readouterr().out
    rows = [line.split(" | ") for line in out.splitlines() if line.startswith(str(tmp_path))]
    assert [row[2] for row in rows] == ["macs", "latency", "latency"]
    assert float(rows[0][3]) <= 0.6
    assert float(rows[1][4]) <= 0.6
    assert float(rows[2][4]) <= float(rows[0][4])
    assert "MACs kept" in out


def test_the_narrow_network_comes_with_its_digits():
    model, train, test = narrow(epochs=1, images=64)
    assert train[0].shape == (64, *model.inputs[0].shape[1:])
    assert len(test[1]) == 500
    sites = find_sites(model, "channel")
    assert [site.original[0] for site in sites.found[1:4]] == [32 * 32 * 9 * 16 * 16] * 3


def table_by_command(folder, *flags):
    command = [sys.executable, "-m", "cobla_tf.latency", *flags]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_the_command_writes_a_table_for_another_run(tmp_path):
    conv = one_site(8, 8)
    outputs = keras.layers.Dense(9, name="logits")(keras.layers.GlobalMaxPooling2D()(conv.output))
    keras.Model(conv.input, outputs).save(tmp_path / "net.keras")
    done = table_by_command(tmp_path, "--model=net.keras", "--seconds=0", "--scheme=channel", "--layers=conv2d,dense")
    assert done.returncode == 0, done.stderr
    assert "--resources=costs.csv" in done.stdout
    (table,) = read_resources(tmp_path / "costs.csv")
    assert list(table.original) == ["conv", "logits"]


@pytest.mark.parametrize(("flags", "named"), [([], "expected --model"), (["--model=x", "--output=."], "is a folder")])
def test_the_command_refuses_what_it_cannot_use(tmp_path, flags, named):
    done = table_by_command(tmp_path, *flags)
    assert done.returncode == 2
    assert done.stderr.startswith("latency: error: ")
    assert named in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("seconds", "text"), [(1.2e-4, "0.12"), (0.0123, "12.3"), (0.9996, "1,000"), (12.5, "12,500")])
def test_milliseconds_have_no_exponent(seconds, text):
    assert str(Spread.of([seconds])) == f"{text} ({text} to {text})"


@pytest.mark.parametrize("batch", [0, -1, 2.5, "4", True])
def test_a_batch_that_is_none_is_refused_before_any_work(batch, tmp_path):
    with pytest.raises(ConfigError, match="batch must be a whole number"):
        cobla_tf.export_model(small_cnn(), tmp_path / "out", images=np.zeros((4, 10, 10, 2)), batch=batch)
    assert not (tmp_path / "out").exists()
