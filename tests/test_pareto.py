import csv
import dataclasses
import math
from functools import partial
from html import unescape
from io import BytesIO

import keras
import numpy as np
import pytest
from cobla_tf.experiments.benchmarks.sweeps import compare
from networks import images_and_labels
from test_compress import trained

import cobla_tf
from cobla_tf import runtimes
from cobla_tf.baselines import RIVALS
from cobla_tf.compression import Compression
from cobla_tf.config import Config, SolveConfig
from cobla_tf.curve import Curve, Point
from cobla_tf.curve_figure import curve_figure
from cobla_tf.datasets import DataSplits
from cobla_tf.errors import BudgetError, ConfigError, SolverError
from cobla_tf.export_formats import WRITERS
from cobla_tf.objective import Objective
from cobla_tf.report import Report
from cobla_tf.report_parts import BudgetReport, Evaluation
from cobla_tf.speed import time_together
from cobla_tf.stopwatch import LEAST_ROUNDS
from cobla_tf.timings import Timing

QUICK = Config(solve=SolveConfig(iterations=4, draws=1, refine_iterations=2), batch_size=64, exports=("keras",))
DATA, TEST = images_and_labels(200), images_and_labels(60, seed=1)


@pytest.fixture(scope="module")
def model():
    return trained()


def in_this_process(jobs, images):
    """A process of its own takes seconds to start for each point; test_export.py has such ones."""
    return {name: runtimes.load(*job[:2])(images) for name, job in jobs.items()}


@pytest.fixture(scope="module")
def sweep(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    config = dataclasses.replace(QUICK, output_dir=folder, benchmark=True)
    options = {"macs": [0.0001, 0.4, 0.7], "params": [0.5, 0.5, 0.8], "methods": ("cobla", "uniform")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cobla_tf.sweep.time_together", partial(time_together, seconds=0))
        patch.setattr("cobla_tf.export_check.run_elsewhere", in_this_process)
        return cobla_tf.pareto(model, DATA, validation=TEST, config=config, **options), folder


def report(accuracy, **kept):
    budgets = tuple(BudgetReport(name, 100, 100, share) for name, share in kept.items())
    evaluations = {"original": Evaluation(0.1, 0.9, 50), "compressed": Evaluation(0.3, accuracy, 50)}
    empty = {"qp_solver": "none", "status": "", "evaluated_on": "", "seed": 0, "config": {}, "versions": {}}
    return Report("net", "spatial", budgets, (), (), (), evaluations=evaluations, seconds={}, notes=(), **empty)


def curve_of(*points):
    return Curve(tuple(Point("cobla", {"macs": 0.5}, entry) for entry in points))


def test_a_point_for_every_budget_and_method_loosest_first(sweep):
    curve, _ = sweep
    asked = [(point.method, point.budgets["macs"]) for point in curve.points]
    assert asked == [(method, macs) for method in ("cobla", "uniform") for macs in (0.7, 0.4, 0.0001)]
    for point in curve.points[:2]:
        assert all(budget.reached <= budget.limit for budget in point.report.budgets)
        assert point.model.count_params() == point.report.model_params[1]


def test_a_budget_that_cannot_be_met_is_marked_and_the_rest_goes_on(sweep):
    curve, folder = sweep
    failed = [point for point in curve.points if point.failure]
    assert [point.budgets["macs"] for point in failed] == [0.0001, 0.0001]
    assert "smallest reachable" in failed[0].failure and failed[0].report is None
    assert not any((folder / point.name).exists() for point in failed)
    assert "cannot be met" in str(curve) and failed[0].failure in str(curve)


def test_what_cannot_be_met_is_told_before_the_first_point_in_all_that_counts(model, monkeypatch, caplog):
    def compress(*arguments, budgets, **options):
        begun.append((budgets["macs"], [record.getMessage() for record in caplog.records if record.levelno >= 30]))
        return cobla_tf.compress(*arguments, budgets=budgets, **options)

    begun, sites = [], [site.name for site in cobla_tf.find_sites(model, "spatial").found]
    flash = cobla_tf.Resource("flash", *(dict.fromkeys(sites, cost) for cost in (9.0, 1.0, 2.0)))
    config = dataclasses.replace(QUICK, solve=dataclasses.replace(QUICK.solve, rank_multiple=2))
    monkeypatch.setattr("cobla_tf.sweep.compress", compress)
    budgets = {"macs": [0.6, 0.5, 0.4], "budgets": {"flash": [None, 0.4, None]}}
    options = {"resources": [flash], "methods": {"uniform": 1, "pos_cvx": 2}.keys(), "config": config}
    curve = cobla_tf.pareto(model, DATA, validation=TEST, **budgets, **options)
    assert [point.outcome for point in curve] == ["met", "cannot be met", "met"] * 2
    assert [macs for macs, _ in begun] == [0.6, 0.4] * 2
    (said,) = begun[0][1]
    assert said.startswith("macs 0.5, flash 0.4: the flash budget is ") and "from 2 to 1" in said


def test_a_scheme_for_each_site_leaves_it_to_each_point_whether_it_can_be_met(model):
    options = {"validation": TEST, "config": QUICK, "methods": ["pos_cvx"], "scheme": "auto"}
    curve = cobla_tf.pareto(model, DATA, macs=[0.5, 0.0001], **options)
    assert [point.outcome for point in curve] == ["met", "cannot be met"]


def test_every_point_says_what_became_of_it(sweep):
    curve, folder = sweep
    outcomes = ["met", "met", "cannot be met"] * 2
    assert [point.outcome for point in curve.points] == outcomes
    assert [row["outcome"] for row in csv.DictReader((folder / "curve.csv").open())] == outcomes


def test_a_curve_is_a_sequence_of_points_that_shows_and_draws_itself(sweep):
    curve, _ = sweep
    assert len(curve) == 6 and list(curve) == list(curve.points)
    assert curve[0] is curve.points[0] and curve[-1] is curve.points[-1] and curve[:2] == curve.points[:2]
    assert repr(curve) == curve.table() and all(len(repr(point)) < 1000 for point in curve)
    page = unescape(curve._repr_html_())
    assert "<table>" in page and f"{curve[0].report.model}, accuracy against cost" in page
    assert all(point.asked in page and point.failure in page for point in curve)
    assert len(curve.plot().axes) == len(curve_figure(curve).axes)


def test_what_a_notebook_shows_of_a_curve_is_escaped():
    curve = Curve((Point("cobla", {"<b>&": 0.1}, failure="too <i>small"),))
    page = curve._repr_html_()
    assert "<b>&" not in page and "<i>" not in page and "too &lt;i&gt;small" in page


def test_later_points_start_from_the_one_before_with_half_of_the_iterations(sweep):
    curve, _ = sweep
    configs = [point.report.config for point in curve.points[:2]]
    assert [config["solve"]["iterations"] for config in configs] == [4, 2]
    assert ["warm" in config for config in configs] == [False, True]
    budgets = [{"macs": 0.7, "params": 0.8}, {"macs": 0.4, "params": 0.5}, {"macs": 0.0001, "params": 0.5}]
    assert configs[0]["sweep"] == configs[1]["sweep"] == {"methods": ["cobla", "uniform"], "budgets": budgets}


def test_files_hold_every_point(sweep):
    curve, folder = sweep
    rows = list(csv.DictReader((folder / "curve.csv").open()))
    assert [float(row["macs_budget"]) for row in rows] == [point.budgets["macs"] for point in curve.points]
    for row, point in zip(rows, curve.points, strict=True):
        assert (row["accuracy"] == "") == (point.report is None)
        assert (folder / point.name / "compressed.keras").exists() == (point.report is not None)
    loaded = keras.models.load_model(folder / curve.points[1].name / "compressed.keras")
    np.testing.assert_allclose(loaded(TEST[0]), curve.points[1].model(TEST[0]), rtol=1e-5, atol=1e-6)
    assert (folder / "curve.png").stat().st_size > 10_000 and "curve.png" in (folder / "curve.md").read_text()


def test_all_networks_are_timed_in_one_run(sweep):
    curve, folder = sweep
    met = [point for point in curve.points if point.report]
    assert len({point.timing.original for point in met}) == 1
    assert {point.timing.compressed.runs for point in met} == {LEAST_ROUNDS}
    assert all(point.timing is None for point in curve.points if point.failure)
    assert all(point.report.benchmark is None for point in met)  # no second figure for the same thing
    rows = list(csv.DictReader((folder / "curve.csv").open()))
    for row, point in zip(rows, curve.points, strict=True):
        assert (row["measured_ms"] == "") == bool(point.failure)
    times = [float(rows[0][f"measured{which}_ms"]) for which in ("_low", "", "_high", "_original")]
    assert 0 < times[0] <= times[1] <= times[2] and times[3] > 0
    assert "time kept" in (folder / "curve.md").read_text()
    assert len(curve_figure(curve).axes) == 3


def test_a_network_that_litert_does_not_take_costs_only_the_times(model, monkeypatch):
    monkeypatch.setitem(WRITERS, "litert", lambda source, path: 1 / 0)
    timings, notes = time_together(model, [model])
    assert timings == () and "ZeroDivisionError" in notes[0]
    curve = cobla_tf.pareto(
        model, DATA, validation=TEST, config=dataclasses.replace(QUICK, benchmark=True), macs=[0.5], methods=["uniform"]
    )
    assert not curve.timed and curve.points[0].report


def test_a_warm_start_is_taken_up(model):
    loose = cobla_tf.compress(model, DATA, macs=0.6, validation=TEST, config=QUICK)
    tight = cobla_tf.compress(model, DATA, macs=0.4, validation=TEST, config=QUICK, warm=loose.warm)
    cold = cobla_tf.compress(model, DATA, macs=0.4, validation=TEST, config=QUICK)
    assert tight.report.iterations[0].loss != cold.report.iterations[0].loss
    assert all(budget.limit is None or budget.reached <= budget.limit for budget in tight.report.budgets)
    assert "sweep" not in tight.report.config
    with pytest.raises(ConfigError, match="expected a warm start of the 2 sites"):
        cobla_tf.compress(model, DATA, macs=0.4, exclude=["conv1"], validation=TEST, config=QUICK, warm=loose.warm)
    with pytest.raises(ConfigError, match="is for the method cobla alone"):
        cobla_tf.compress(model, DATA, macs=0.4, method="uniform", config=QUICK, warm=loose.warm)
    retrained = keras.models.clone_model(model)
    with pytest.raises(ConfigError, match="singular values are others"):
        cobla_tf.compress(
            retrained,
            DATA,
            macs=0.4,
            validation=TEST,
            config=QUICK,
            warm=loose.warm,
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )


def test_an_interrupted_sweep_goes_on_where_it_was(model, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    asked, done, most, gradient = {"macs": [0.6, 0.4]}, [], math.inf, Objective.gradient

    def counted(*arguments):
        if len(done) >= most:
            raise Killed
        done.append(1)
        return gradient(*arguments)

    def run(name):
        done.clear()
        config = dataclasses.replace(QUICK, output_dir=tmp_path / name, exports=())
        return cobla_tf.pareto(model, DATA, validation=TEST, config=config, **asked)

    monkeypatch.setattr(Objective, "gradient", counted)
    whole = run("whole")
    needed = len(done)
    most = needed - 2
    with pytest.raises(Killed):
        run("killed")
    most = math.inf
    resumed = run("killed")
    assert len(done) == 2
    for one, other in zip(whole.points, resumed.points, strict=True):
        assert [site.rank for site in one.report.sites] == [site.rank for site in other.report.sites]
        assert one.result == other.result
    assert not list((tmp_path / "killed").rglob("unfinished"))


def test_a_sweep_with_a_point_that_failed_is_gone_on_with(model, tmp_path, monkeypatch):
    rebuild, gradient, done = Compression._rebuild, Objective.gradient, []

    def failing(compression, solution):
        if compression.asked["budgets"]["macs"] == 0.4:
            raise SolverError("no use")
        return rebuild(compression, solution)

    monkeypatch.setattr(Objective, "gradient", lambda *given: done.append(1) or gradient(*given))
    config = dataclasses.replace(QUICK, output_dir=tmp_path, exports=())
    with monkeypatch.context() as patch:
        patch.setattr(Compression, "_rebuild", failing)
        curve = cobla_tf.pareto(model, DATA, validation=TEST, config=config, macs=[0.6, 0.4])
    assert [point.outcome for point in curve] == ["met", "failed"] and curve.failures == {"cobla_macs0.4": "no use"}
    assert done and len(list(tmp_path.rglob("solve-*.journal"))) == 2
    done.clear()
    again = cobla_tf.pareto(model, DATA, validation=TEST, config=config, macs=[0.6, 0.4])
    assert [point.outcome for point in again] == ["met", "met"] and not again.failures
    assert not done and again[0].result == curve[0].result
    assert not list(tmp_path.rglob("unfinished"))


def test_a_point_that_failed_before_it_had_files_keeps_those_of_others(model, tmp_path, monkeypatch):
    def compress(*arguments, budgets, **options):
        if budgets["macs"] == 0.4:
            raise SolverError("the licence is gone")
        return cobla_tf.compress(*arguments, budgets=budgets, **options)

    monkeypatch.setattr("cobla_tf.sweep.compress", compress)
    config = dataclasses.replace(QUICK, output_dir=tmp_path, exports=())
    cobla_tf.pareto(model, DATA, validation=TEST, config=config, macs=[0.6, 0.4], methods=["uniform"])
    assert [path.parent.parent.name for path in tmp_path.rglob("solve-*.journal")] == ["uniform_macs0.6"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "lists of budgets"),
        ({"macs": []}, "lists of budgets"),
        ({"macs": 0.5}, "lists of budgets"),
        ({"macs": "0.5"}, "lists of budgets"),
        ({"macs": ["0.5"]}, "must be a fraction"),
        ({"macs": [0.5], "budgets": {"macs": [0.3]}}, "two budgets"),
        ({"macs": [0.5], "budgets": [0.3]}, "must map names"),
        ({"macs": [0.5], "resources": None}, "sequence of cobla_tf.Resource"),
        ({"macs": [0.5, None]}, "expected a budget on at least one"),
        ({"macs": [0.5, 0.4], "params": [0.5]}, "lists of budgets of one length"),
        ({"macs": [0.5], "methods": ("r_vbmf",)}, "methods that take budgets"),
        ({"macs": [0.5], "methods": ("magic",)}, "methods that take budgets .*, got magic"),
        ({"macs": [0.5], "methods": [3]}, r"names of methods that take budgets .*, got 3\."),
        ({"macs": [0.5], "methods": ["uniform", RIVALS["alds"]]}, r"got Liebenwein .*; a method of your own goes with"),
        ({"macs": [0.5], "methods": ()}, "methods that take budgets"),
        ({"macs": [0.5], "methods": "pos_cvx"}, r"got the string 'pos_cvx'; write \['pos_cvx'\]"),
        ({"macs": [0.5], "methods": 3}, "methods must be a sequence of names, got 3"),
        ({"macs": [0.5, 0.3, 0.5]}, "cobla_macs0.5 several times"),
        ({"macs": [0.5], "methods": ("cobla", "cobla")}, "cobla_macs0.5 several times"),
    ],
)
def test_bad_input_is_refused_before_work(model, options, words):
    with pytest.raises((ConfigError, BudgetError), match=words):
        cobla_tf.pareto(model, DATA, validation=TEST, config=QUICK, **options)


def test_the_benchmark_compares_a_sweep_with_separate_solves(model):
    runs = compare(model, DataSplits(DATA, TEST, 3, "a test"), [0.6, 0.4], QUICK)
    assert [run.way for run in runs] == ["sweep", "separate"]
    assert runs[0].losses[0] == runs[1].losses[0]
    assert all(len(run.losses) == 2 and run.images > 0 for run in runs)


def test_a_sweep_of_budgets_that_all_cannot_be_met_is_an_error(model):
    with pytest.raises(BudgetError, match="none of the 2 budgets can be met"):
        cobla_tf.pareto(model, DATA, validation=TEST, config=QUICK, macs=[0.001, 0.0001])


def test_a_point_that_no_program_solves_is_marked_and_the_rest_goes_on(model, tmp_path, monkeypatch):
    def compress(*arguments, budgets, **options):
        if budgets["macs"] == 0.5:
            raise SolverError("no use")
        return cobla_tf.compress(*arguments, budgets=budgets, **options)

    monkeypatch.setattr("cobla_tf.sweep.compress", compress)
    (tmp_path / "uniform_macs0.5").mkdir()
    (tmp_path / "uniform_macs0.5" / "report.html").touch()
    (tmp_path / "compressed.keras").touch()
    said = []
    monkeypatch.setattr("cobla_tf.sweep.logging.warning", lambda text, *values: said.append(text % values))
    config = dataclasses.replace(QUICK, output_dir=tmp_path, exports=())
    curve = cobla_tf.pareto(model, DATA, validation=TEST, config=config, macs=[0.6, 0.5, 0.4], methods=("uniform",))
    assert [point.outcome for point in curve.points] == ["met", "failed", "met"]
    assert curve.points[1].failure == "no use; report.html is of an earlier run in the same folder"
    stale, failed = said[1:]
    assert stale.startswith("compressed.keras is of an earlier run in the same folder; those of this sweep lie in the ")
    assert failed == "uniform_macs0.5: the same call tries again, and has the others from what is kept of them"


def test_a_missing_solver_is_told_before_the_first_point(model, monkeypatch):
    def missing(name):
        raise SolverError(f"no {name}")

    monkeypatch.setattr("cobla_tf.sweep.resolve_solver", missing)
    monkeypatch.setattr("cobla_tf.sweep.compress", lambda *_, **__: pytest.fail("work was begun"))
    with pytest.raises(SolverError, match="no auto"):
        cobla_tf.pareto(model, DATA, validation=TEST, config=QUICK, macs=[0.6], methods=("uniform", "cobla"))


def test_names_of_resources_are_neither_formulas_nor_folders():
    point = dataclasses.replace(curve_of(report(0.8, macs=50)).points[0], budgets={"$^$/J": 0.5})
    assert point.name == "cobla_$^$_J0.5"
    named = dataclasses.replace(point, report=report(0.8, **{"$^$/J": 50}))
    curve_figure(Curve((named,))).savefig(BytesIO())


def test_a_point_is_dominated_where_another_is_nowhere_worse_and_somewhere_better():
    best, worse, cheaper = report(0.8, macs=50, params=50), report(0.7, macs=50, params=50), report(0.6, macs=40)
    assert curve_of(best, worse, cheaper).dominated() == [False, True, False]
    assert curve_of(best, best).dominated() == [False, False]
    assert curve_of(None, best).dominated() == [False, False]
    broken = report(None, macs=50, params=50)
    broken.evaluations["compressed"] = dataclasses.replace(broken.evaluations["compressed"], loss=np.nan)
    assert curve_of(best, broken).dominated() == curve_of(broken, broken, best).dominated()[1:][::-1] == [False, True]


def test_what_is_dominated_in_time_is_hollow_in_the_panel_of_time_alone():
    reports = report(0.9, macs=50), report(0.8, macs=40), report(0.7, macs=30), None
    seconds = 2e-3, 1e-3, 3e-3
    timings = [*(Timing.of("litert", 1, 1, [4e-3] * 5, [spent] * 5) for spent in seconds), None]
    points = [dataclasses.replace(curve_of(r).points[0], timing=t) for r, t in zip(reports, timings, strict=True)]
    curve = Curve(tuple(points))
    assert curve.dominated() == [False] * 4
    assert curve.outrun() == [False, False, True, False]
    macs, time = curve_figure(curve).axes
    assert [hollow(axes) for axes in (macs, time)] == [[], [3.0]]
    assert [row.get("measured_dominated") for row in curve.rows()] == [False, False, True, None]
    assert "dominated in time" in curve.table()
    assert curve_of(reports[0]).outrun() == [False]


def hollow(axes):
    return [x for line in axes.lines if line.get_markerfacecolor() == "white" for x in line.get_xdata()]


def test_without_accuracy_the_loss_decides_and_is_drawn():
    reports = [dataclasses.replace(report(None, macs=share)) for share in (30, 50)]
    reports[1].evaluations["compressed"] = Evaluation(0.4, None, 50)
    for entry in reports:
        entry.evaluations["original"] = Evaluation(0.1, None, 50)
    curve = curve_of(*reports)
    assert curve.dominated() == [False, True]
    assert curve_figure(curve).axes[0].get_ylabel() == "loss"
    assert math.isclose(curve.points[0].merit, -0.3)


def test_a_curve_without_points_that_could_be_met_still_prints_and_draws():
    curve = Curve((Point("cobla", {"macs": 0.1}, failure="too small"),))
    assert "too small" in str(curve) and curve.original is None
    assert not curve_figure(curve).axes
