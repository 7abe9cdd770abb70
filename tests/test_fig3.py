import csv
import json
import os
import subprocess
import sys
from dataclasses import replace

import keras
import pytest
from cobla_tf.experiments.comparison import EXACT, KEYS, METHODS, Cell, Comparison
from cobla_tf.experiments.comparison_figure import COLOURS, TITLES, Chart
from cobla_tf.experiments.result_file import ResultFile
from cobla_tf.experiments.smoke import trained_network
from cobla_tf.experiments.subject import Subject

from cobla_tf.config import SolveConfig
from cobla_tf.errors import BudgetError, ConfigError
from cobla_tf.plots import save_png

SOLVE = SolveConfig(sample_fraction=0.3, iterations=1, draws=1, refine_iterations=0)


@pytest.fixture(scope="module")
def comparison():
    return Comparison(Subject(*trained_network(), (), SOLVE, batch_size=64), exact_images=40)


def record(scheme, eta, method, seed, accuracy, images=300):
    return {
        "scheme": scheme, "eta": eta, "method": method, "seed": seed, "images": images, "accuracy": accuracy,
        "original_accuracy": 0.9,
    }  # fmt: skip


def results(folder, comparison):
    return ResultFile(folder, "fig3", comparison.subject.configuration(), KEYS)


def test_each_seed_is_a_run_of_its_own(comparison):
    first, again, other = (comparison.result(Cell("spatial", 0.4, "cobla", seed, 300)) for seed in (0, 0, 1))
    assert first["loss"] == again["loss"] != other["loss"]


def test_a_loss_is_asked_for_once_for_all_budgets_and_the_ranks_are_those_of_a_run_alone(comparison, monkeypatch):
    from cobla_tf.objective import Objective

    asked = []
    value = Objective.value
    monkeypatch.setattr(Objective, "value", lambda self, *args: asked.append(1) or value(self, *args))
    both = Comparison(comparison.subject)
    first, second = (both.result(Cell("spatial", eta, "greedy_accuracy", 0, 300)) for eta in (0.4, 0.6))
    once = len(asked)
    alone = Comparison(comparison.subject).result(Cell("spatial", 0.6, "greedy_accuracy", 0, 300))
    assert len(asked) == 2 * once > 0
    assert alone["ranks"] == second["ranks"] != first["ranks"] and alone["loss"] == second["loss"]


def test_smoke_from_the_command_line(tmp_path):
    flags = ["--smoke", "--methods=greedy_accuracy,pos_cvx", "--schemes=channel", f"--output={tmp_path}"]
    command = [sys.executable, "-m", "cobla_tf.experiments.fig3", *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=900)
    assert done.returncode == 0, done.stderr
    head, *records = map(json.loads, (tmp_path / "fig3.jsonl").read_text().splitlines())
    assert head["configuration"]["model"] == "smoke_cnn"
    assert [tuple(found[key] for key in KEYS) for found in records] == [
        ("channel", 0.4, method, seed, images)
        for method, seed, images in (("greedy_accuracy", 0, 300), ("greedy_accuracy", 1, 300), ("pos_cvx", None, 300))
    ]
    assert all(max(found["macs"], found["params"]) <= 0.4 for found in records)
    assert (tmp_path / "fig3.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "fig3.md").read_text()
    assert page.strip() in done.stdout
    assert f"{100 * records[2]['accuracy']:.2f}" in page and "91.9" in page
    comment, *lines = (tmp_path / "fig3.csv").read_text().splitlines()
    assert json.loads(comment.removeprefix("# ")) == head["configuration"]
    rows = list(csv.DictReader(lines))
    assert [row["accuracy"] for row in rows] == [str(found["accuracy"]) for found in records]


def test_a_stopped_run_goes_on_and_works_through_every_cell_once(comparison, tmp_path, monkeypatch):
    cells = comparison.cells(["spatial"], [0.5], ["cptv", "greedy_accuracy"], [0, 3])
    assert [cell.seed for cell in cells] == [None, 0, 3]
    done = []

    def result(self, cell):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(cell)
        return {**vars(cell), "accuracy": 0.5}

    monkeypatch.setattr(Comparison, "result", result)
    with pytest.raises(KeyboardInterrupt):
        comparison.run(cells, results(tmp_path, comparison))
    with (tmp_path / "fig3.jsonl").open("a") as file:
        file.write('{"scheme": "spa')  # stopped in the middle of a line
    done.clear()
    found = comparison.run(cells, results(tmp_path, comparison))
    assert done == cells[2:]
    assert [tuple(row[key] for key in KEYS) for row in found] == [tuple(vars(cell).values()) for cell in cells]
    assert len((tmp_path / "fig3.csv").read_text().splitlines()) == 5
    assert comparison.run(cells[:1], results(tmp_path, comparison)) == found[:1]


def test_results_of_another_configuration_are_refused_and_stay(comparison, tmp_path):
    results(tmp_path, comparison).add(record("spatial", 0.5, "cptv", None, 0.5))
    before = (tmp_path / "fig3.jsonl").read_bytes()
    other = Comparison(replace(comparison.subject, solve=SolveConfig(iterations=9)))
    with pytest.raises(ConfigError, match=r"another configuration.*sample_fraction 0.3 there and None here.*9 here"):
        results(tmp_path, other)
    retrained = Comparison(replace(comparison.subject, model=keras.models.clone_model(comparison.subject.model)))
    with pytest.raises(ConfigError, match="weights"):
        results(tmp_path, retrained)
    shaped = keras.models.clone_model(
        comparison.subject.model,
        clone_function=lambda layer: type(layer).from_config(layer.get_config() | _other_activation(layer)),
    )
    shaped.set_weights(comparison.subject.model.get_weights())
    with pytest.raises(ConfigError, match=r"another configuration \(measured.loss on the first images"):
        results(tmp_path, Comparison(replace(comparison.subject, model=shaped)))
    assert (tmp_path / "fig3.jsonl").read_bytes() == before
    for text in ("not json\n", '{"other": 1}\n', "[]\n", f'{before.decode().splitlines()[0]}\n{{"scheme": 1}}\n'):
        (tmp_path / "fig3.jsonl").write_text(text)
        with pytest.raises(ConfigError, match="no results of this experiment"):
            results(tmp_path, comparison)


def _other_activation(layer):
    return {"activation": "elu"} if layer.name == "conv1" else {}


@pytest.mark.parametrize("left", ["", '{"configuration": {"mod'])
def test_a_run_that_was_stopped_before_its_first_line_begins_anew(comparison, tmp_path, left):
    (tmp_path / "fig3.jsonl").write_text(left)
    file = results(tmp_path, comparison)
    assert file.records() == []
    file.add(record("spatial", 0.5, "cptv", None, 0.5))
    assert len(results(tmp_path, comparison).records()) == 1


def test_of_two_results_of_one_cell_the_first_counts_and_cells_keep_their_order(comparison, tmp_path):
    file = results(tmp_path, comparison)
    for row in (("pos_cvx", 0.7), ("cptv", 0.5), ("cptv", 0.6)):
        file.add(record("spatial", 0.5, row[0], None, row[1]))
    cells = comparison.cells(["spatial"], [0.5], ["cptv", "pos_cvx"], [0])
    assert [found["accuracy"] for found in comparison.run(cells, file)] == [0.5, 0.7]


APPENDING = """
import sys
from pathlib import Path
from cobla_tf.experiments.result_file import ResultFile
for number in range(30):
    ResultFile(Path(sys.argv[1]), "some", {"a": 1}, ("who", "number")).add(
        {"who": sys.argv[2], "number": number, "much": "x" * 5000}
    )
"""


def test_processes_that_begin_and_write_at_once_lose_nothing(tmp_path):
    writers = [subprocess.Popen([sys.executable, "-c", APPENDING, tmp_path, str(who)]) for who in range(3)]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0, 0]
    records = ResultFile(tmp_path, "some", {"a": 1}, ("who", "number")).records()
    assert sorted((record["who"], record["number"]) for record in records) == [
        (str(who), number) for who in range(3) for number in range(30)
    ]
    assert (tmp_path / "some.jsonl").read_text().count("configuration") == 1


def test_exact_gradients_are_of_all_of_the_stated_images(comparison):
    found = comparison.result(Cell("channel", 0.6, EXACT, 1, 40))
    assert found["gradient_images"] >= 40 * found["gradients"] > 0  # and those of the measured curvature
    assert max(found["macs"], found["params"]) <= 0.6
    assert set(found["ranks"]) == {"conv1", "conv2", "conv3"}


@pytest.mark.parametrize(
    ("grid", "error", "sentence"),
    [
        ((["diagonal"], [0.5], ["cptv"], [0]), ConfigError, "a scheme among spatial, channel, got diagonal"),
        ((["spatial"], [0.5], ["magic"], [0]), ConfigError, "a method among cobla, cobla_exact, .*got magic"),
        ((["spatial"], [0.5], ["cptv", "r_vbmf"], [0]), BudgetError, "r_vbmf sets its own ranks and takes no budget"),
        ((["spatial"], [0.5, 1e-3], ["cptv"], [0]), BudgetError, "smallest reachable"),
        ((["spatial"], [0.5], ["cobla"], [-1]), ConfigError, "seed must be"),
        ((["spatial"], [], ["cptv"], [0]), ConfigError, "nothing to compare"),
    ],
)
def test_bad_grids(comparison, grid, error, sentence):
    with pytest.raises(error, match=sentence):
        comparison.cells(*grid)


def test_the_chart_tells_who_is_ahead(tmp_path):
    rows = [record("spatial", 0.2, "cobla", seed, accuracy) for seed, accuracy in enumerate((0.80, 0.81, 0.82))]
    rows += [record("spatial", 0.2, "pos_cvx", None, 0.77), record("spatial", 0.2, "cptv", None, 0.5)]
    rows += [record("spatial", 0.2, EXACT, 0, 0.83, images=50), record("spatial", 0.1, "cobla", 0, 0.4)]
    rows += [record("spatial", 0.1, "greedy_accuracy", seed, accuracy) for seed, accuracy in enumerate((0.38, 0.41))]
    chart = Chart(rows)
    assert chart.verdicts() == [
        "spatial, 0.1: COBLA 40.00, NOT ahead of every other method with one seed, so that no spread is known; nearest "
        "greedy accuracy (AIMET) 39.50 ± 2.12 (+0.50)",
        "spatial, 0.2: COBLA 81.00 ± 1.00, ahead of every other method by more than the spread; nearest POS-CVX 77.00 "
        "(+4.00)",
        "spatial, 0.2: COBLA 81.00 ± 1.00, NOT within 1 point of COBLA, exact gradient on 50 images, 83.00 (-2.00)",
    ]
    lines = chart.table({"original": "91.9"}).splitlines()
    assert [cell.strip() for cell in lines[2].split("|")[1:-1]] == ["original", "90.00", "90.00", "91.9"]
    assert "81.00 ± 1.00" in lines[3] and lines[4].split("|")[2].strip() == "-"
    save_png(chart.figure("a title"), tmp_path / "chart.png")
    assert (tmp_path / "chart.png").stat().st_size > 1000


def test_a_rival_of_wide_spread_is_as_near_as_one_of_higher_mean():
    rows = [record("channel", 0.2, "cobla", seed, accuracy) for seed, accuracy in enumerate((0.80, 0.81, 0.82))]
    rows += [record("channel", 0.2, "pos_cvx", None, 0.79)]
    rows += [record("channel", 0.2, "greedy_accuracy", seed, accuracy) for seed, accuracy in enumerate((0.76, 0.81))]
    assert Chart(rows).verdicts() == [
        "channel, 0.2: COBLA 81.00 ± 1.00, NOT ahead of every other method by more than the spread; nearest greedy "
        "accuracy (AIMET) 78.50 ± 3.54 (+2.50)"
    ]


def test_every_method_has_a_title_and_a_colour():
    assert set(METHODS) == set(COLOURS) == {*TITLES, EXACT}
