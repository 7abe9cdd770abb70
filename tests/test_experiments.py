import dataclasses
import json
import math
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from cobla_tf.experiments import fig2, fig3, fig5, section52, table2, table3
from cobla_tf.experiments.command import COMMON
from cobla_tf.experiments.comparison import KEYS, Comparison
from cobla_tf.experiments.experiment import SMOKE, Settings
from cobla_tf.experiments.result_file import ResultFile
from cobla_tf.experiments.same_costs import Row, SameCosts, given_ranks
from cobla_tf.experiments.smoke import trained_network
from cobla_tf.experiments.subject import Subject

from cobla_tf.baselines import RIVALS
from cobla_tf.baselines.method import Method
from cobla_tf.config import FineTuneConfig, SolveConfig
from cobla_tf.errors import BudgetError, ConfigError
from cobla_tf.flagfiles import packaged_flagfiles
from cobla_tf.selection import check_method

RUNNERS = {module.EXPERIMENT.name: module.EXPERIMENT for module in (fig2, fig3, fig5, section52, table2, table3)}
SOLVE = SolveConfig(sample_fraction=0.3, iterations=1, draws=1, refine_iterations=0)


@pytest.fixture(scope="module")
def subject():
    return Subject(*trained_network(), (), SOLVE, batch_size=64, top=2)


@pytest.fixture
def no_work(monkeypatch):
    """Stands for compress(): what it was asked for is in the record."""

    def compress(self, method, scheme, budgets, seed, **_):
        own = method == "cobla"
        site = {"scheme": scheme, "kernel_shape": [3, 3, 2, 8], "rank": 2, "full_rank": 6, "before": {"macs": 100}}
        return {
            "accuracy": 0.625 if own else 0.5, "top_accuracy": 0.875 if own else 0.75, "macs": 0.25, "params": 0.2,
            "accuracy_before_fine_tuning": 0.375, "original_accuracy": 0.9, "original_top_accuracy": 0.95,
            "test_images": 100, "ranks": {"conv1": 2, "conv2": None}, "asked": budgets,
            "sites": [site | {"name": name, "after": {"macs": 70 if own else 60}} for name in ("conv1", "conv2")],
        }  # fmt: skip

    monkeypatch.setattr(Subject, "compress", compress)


def page(name, subject, folder, **settings):
    experiment = RUNNERS[name]
    chosen = {**SMOKE, **experiment.smoke, **settings}
    experiment.run(subject, dataclasses.replace(experiment.settings, **chosen), folder)
    return (folder / f"{name}.md").read_text()


def line(text, *parts):
    """The cells of the one table row that begins with these."""
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in text.splitlines() if row.startswith("|")]
    (found,) = [row for row in rows if row[: len(parts)] == list(parts)]
    return found[len(parts) :]


def run(name, *flags, cwd):
    command = [sys.executable, "-m", f"cobla_tf.experiments.{name}", *flags]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)


def test_cobla_has_exactly_the_costs_of_the_baseline(subject):
    same_costs = SameCosts(subject, {"given_ranks": given_ranks((3, 8, 8), "a list")}, ["channel"])
    rows = same_costs.rows([1.0, 0.9], [0])
    assert rows[:2] == [
        Row("channel", "given_ranks", "given_ranks", 1.0, 0),
        Row("channel", "given_ranks", "cobla", 1, 0),
    ]
    given, own = map(same_costs.result, rows[:2])
    assert given["ranks"] == {"conv1": 3, "conv2": 8, "conv3": 8} and given["status"] == "ranks by a list"
    totals = dict(zip(("macs", "params"), subject.sites("channel").costs.totals(), strict=True))
    for name, total in totals.items():
        assert given[name] == same_costs.budgets("channel", "given_ranks", 1.0)[name] / total
        assert given[name] - 0.2 < own[name] <= given[name]
        used = same_costs.budgets("channel", "given_ranks", 1.0)[name]
        shares = [same_costs.budgets("channel", "given_ranks", percent / 100)[name] for percent in range(50, 100)]
        assert shares == [percent * used // 100 for percent in range(50, 100)]
    assert own["ranks"] != given["ranks"]


def test_a_baseline_sees_the_shapes_of_the_matrices_in_both_places(subject):
    seen = []

    def select(sigmas, costs, limits, shapes):
        seen.append(shapes)
        return costs.settle(np.array([3, 8, 8]), np.zeros(3, dtype=bool))

    same_costs = SameCosts(subject, {"looks": Method(select, "a test", ("shapes",), budgeted=False)}, ["channel"])
    same_costs.result(same_costs.rows([1.0], [0])[0])
    same_costs.budgets("channel", "looks", 1.0)
    expected = [
        (site.kernel.shape[-1], math.prod(site.kernel.shape[:-1]))
        for site in subject.model.layers
        if isinstance(site, keras.layers.Conv2D)
    ]
    assert seen == [expected, expected]


@pytest.mark.parametrize(
    ("ranks", "share", "error", "sentence"),
    [
        ((3, 8), 1.0, ConfigError, "a rank for each of the network's 3 layers, at most 6, 24, 36, got 3, 8; .*--ranks"),
        ((3, 8, 99), 1.0, ConfigError, "got 3, 8, 99"),
        ((3, 8, 8), 0.01, BudgetError, "smallest reachable"),
    ],
)
def test_bad_ranks_and_shares_are_refused_before_any_work(subject, no_work, ranks, share, error, sentence):
    with pytest.raises(error, match=sentence):
        SameCosts(subject, {"given_ranks": given_ranks(ranks, "a list")}, ["spatial"]).rows([share], [0])


def test_a_method_of_ones_own_refuses_budgets_by_its_source():
    with pytest.raises(BudgetError, match="a list of ranks sets its own ranks and takes no budget"):
        check_method(given_ranks((1,), "a list of ranks"), {"macs": 0.5})


def test_the_second_accuracy_is_of_the_likeliest_classes(subject):
    images, labels = subject.data.test
    order = np.argsort(-subject.model.predict(images, verbose=0), axis=1)
    right = [label in likeliest for label, likeliest in zip(labels, order[:, :2], strict=True)]
    assert subject.original_top == pytest.approx(np.mean(right))
    with pytest.raises(ConfigError, match="--top must be from 1 to 2, got 3"):
        dataclasses.replace(subject, top=3)


def test_fine_tuned_results_have_a_configuration_of_their_own(subject, tmp_path):
    plain = dataclasses.replace(subject, top=None)
    assert not {"fine_tune", "top"} & set(plain.configuration())
    assert Comparison(plain).cells(["spatial"], [0.5], ["cptv"], [0, 1])[0].seed is None
    ResultFile(tmp_path, "some", plain.configuration(), KEYS)
    tuned = dataclasses.replace(plain, fine_tune=FineTuneConfig(3, "sgd"))
    assert [cell.seed for cell in Comparison(tuned).cells(["spatial"], [0.5], ["cptv"], [0, 1])] == [0, 1]
    with pytest.raises(ConfigError, match=r"another configuration \(fine_tune.epochs None there and 3 here"):
        ResultFile(tmp_path, "some", tuned.configuration(), KEYS)


def test_accuracies_are_those_after_fine_tuning(subject):
    plain = dataclasses.replace(subject, top=None)
    before, after = (
        dataclasses.replace(plain, fine_tune=FineTuneConfig(epochs, "adam")).compress(
            "cptv", "spatial", {"macs": 0.2}, 0
        )
        for epochs in (0, 3)
    )
    assert after["accuracy_before_fine_tuning"] == before["accuracy_before_fine_tuning"] == before["accuracy"]
    assert after["accuracy"] > before["accuracy"] and after["loss"] < before["loss"]


def test_figure_2_shows_both_accuracies_of_all_methods(subject, no_work, tmp_path):
    text = page("fig2", subject, tmp_path)
    top1, top2 = text.split("top-2:")
    assert line(top1, "original") == ["90.00", "90.00", "57.2"] and line(top2, "original") == ["95.00", "95.00", "-"]
    assert line(top2, "POS-CVX") == ["75.00", "75.00", "-"] and "ahead of every other method with one seed" in top2
    assert (tmp_path / "fig2.png").read_bytes().startswith(b"\x89PNG")


def test_table_2_has_the_papers_numbers_beside_ours(subject, no_work, tmp_path):
    text = page("table2", subject, tmp_path, etas=(0.4, 0.6))
    assert line(text, "0.6 N_C,O", "0.6 N_M,O", "channel") == [
        "62.50", "54.3", "-12.50", "-3.8", "87.50", "77.9", "-12.50", "-2.7",
    ]  # fmt: skip
    assert line(text, "0.4 N_C,O", "0.4 N_M,O", "spatial")[1] == "-"
    assert text.index("0.6 N_C,O") < text.index("0.4 N_C,O")


def test_section_52_compares_under_the_same_costs(subject, no_work, tmp_path):
    text = page("section52", subject, tmp_path, schemes=("spatial", "channel"))
    assert (
        line(text, "spatial", "R-VBMF", "R-VBMF", "0", "0.250", "0.25", "0.200", "0.19", "37.50", "50.00")[0]
        == "chance"
    )
    assert line(text, "spatial", "R-VBMF", "COBLA")[-3:] == ["15.9", "87.50", "36.2"]
    assert line(text, "channel", "R-VBMF", "COBLA")[-3:] == ["-", "87.50", "-"]
    records = [json.loads(row) for row in (tmp_path / "section52.jsonl").read_text().splitlines()[1:]]
    used = SameCosts(subject, {"r_vbmf": RIVALS["r_vbmf"]}, ["spatial"]).budgets("spatial", "r_vbmf", 1.0)
    assert [record["asked"] for record in records[:2]] == [{}, used]
    with pytest.raises(ConfigError, match=r"a method that sets its own cost among r_vbmf, .*got cptv"):
        page("section52", subject, tmp_path, methods=("cptv",))


def test_table_3_has_a_row_of_the_papers_below_each_of_ours(subject, no_work, tmp_path):
    text = page("table3", subject, tmp_path, shares=(1.0, 0.88))
    assert line(text, "spatial", "COBLA at 0.88", "0")[2:] == ["62.50 (+12.50)", "87.50 (+12.50)", "2, whole"]
    rows = [row for row in text.splitlines() if row.startswith("|")]
    at = next(i for i, row in enumerate(rows) if "COBLA at 0.88" in row)
    assert "paper" in rows[at + 1] and "0.29 N_C,O (-12 %)" in rows[at + 1] and "89.8 (+0.0)" in rows[at + 1]
    assert "89.8" not in rows[at] + rows[at - 1]  # the paper has no row at the full costs
    with pytest.raises(ConfigError, match=r"another configuration \(ranks"):
        page("table3", subject, tmp_path, ranks=(2, 8, 8))


def test_figure_5_shows_what_each_layer_saves(subject, no_work, tmp_path, monkeypatch):
    text = page("fig5", subject, tmp_path, schemes=("spatial", "channel"))
    assert line(text, "conv1", "3x3x2x8") == ["30.0", "30.0", "-"]  # the paper's conv1 is SqueezeNet's
    monkeypatch.setattr(subject.model, "name", "squeezenet_v1_1")
    assert line(page("fig5", subject, tmp_path / "squeezenet"), "conv1", "3x3x2x8") == ["30.0", "28.9"]
    assert {path.name for path in tmp_path.glob("*.png")} == {f"fig5_{s}_0.4_seed0.png" for s in ("spatial", "channel")}


def test_results_from_before_are_read_and_untrained_networks_named(subject, monkeypatch, tmp_path):
    plain = dataclasses.replace(subject, top=None)
    results = ResultFile(tmp_path, "fig3", plain.configuration(), KEYS)
    for cell in Comparison(plain).cells(["spatial"], [0.4], ["cobla", "cptv"], [0]):
        record = {"accuracy": 0.3, "original_accuracy": 0.35, "test_images": 100}
        results.add({**dataclasses.asdict(cell), **record})
    monkeypatch.delattr(Subject, "compress")
    text = page("fig3", plain, tmp_path, schemes=("spatial",), methods=("cobla", "cptv"), seeds=(0,))
    assert line(text, "CPTV") == ["30.00", "-"]
    assert "accuracies mean nothing" in text


@pytest.mark.parametrize("name", [name for name in packaged_flagfiles() if name.split("_")[0].split(".")[0] in RUNNERS])
def test_the_flagfile_of_a_row_holds_flags_of_its_runner(name):
    comment, *flags = packaged_flagfiles()[name].read_text().splitlines()
    experiment = RUNNERS[re.fullmatch(r"# .* For cobla_tf\.experiments\.(\w+)\.", comment)[1]]
    assert name.startswith(experiment.name)
    for flag, values in (re.fullmatch(r"--(\w+)=(.*)", text).groups() for text in flags):
        assert flag in (*COMMON, *experiment.flags)
        kind = Settings.__dataclass_fields__[flag].metadata["kind"]
        assert {kind(value) for value in values.split(",") if value} <= set(getattr(experiment.settings, flag))


def test_a_row_by_its_flagfile_from_the_command_line(tmp_path):
    done = run("table3", "--smoke", "--flagfile=table3_row1.flags", "--epochs=0", "--output=here", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "here" / "table3.md").read_text().strip() in done.stdout
    head, *records = map(json.loads, (tmp_path / "here" / "table3.jsonl").read_text().splitlines())
    assert head["configuration"]["ranks"] == [3, 8, 8] and head["configuration"]["model"] == "smoke_cnn"
    assert [record["method"] for record in records] == ["given_ranks"]


@pytest.mark.parametrize(
    ("name", "flags", "sentence"),
    [
        ("fig2", [], "squeezenet_v1.0 needs trained weights.*--weights.*third_party/README.md"),
        ("table3", ["--weights=none.h5"], "no trained network in 'none.h5'.*third_party/README.md"),
        ("fig3", ["--smoke", "--model=vgg16"], "leave out --model"),
        ("table2", ["--etas=half"], "--etas must be numbers"),
        ("table3", ["--smoke", "--shares=1.0,nan"], "--shares must be positive numbers, .*got nan"),
        ("benchmarks.sweeps", [], "Model file 'cobla_out/pretrained.keras' does not exist"),
        ("fig5", ["--ranks=3"], "ranks.*--help"),
    ],
)
def test_bad_command_lines_end_in_one_sentence(name, flags, sentence, tmp_path):
    done = run(name, *flags, cwd=tmp_path)
    assert done.returncode == 2
    assert re.fullmatch(f"{name.split('.')[-1]}: error: .*{sentence}.*", done.stderr.strip().splitlines()[-1])
    assert "Traceback" not in done.stderr
