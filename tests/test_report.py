import dataclasses
import json
import math
import re
import sys
from html import unescape
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

from cobla_tf.errors import OutputError
from cobla_tf.notes import doubtful
from cobla_tf.page import html_page
from cobla_tf.plots import convergence_figure, sites_figure
from cobla_tf.provenance import command
from cobla_tf.report import Report
from cobla_tf.report_files import NAMES, markdown, write_report
from cobla_tf.report_parts import (
    BudgetReport,
    CertificateRecord,
    Evaluation,
    IterationRecord,
    RoundingRecord,
    SiteReport,
    SkippedLayer,
)
from cobla_tf.texts import counted, short_text


def make_site(index, whole=False):
    after = 1_000_000 if whole else 250_000
    costs = {"macs": 1_000_000, "params": 2_000}, {"macs": after, "params": 2_000 if whole else 900}
    return SiteReport(f"conv{index}", "spatial", (3, 3, 4, 8), None if whole else 5, 12, *costs, "too small" * whole)


def with_latency(report, limit=2.0):
    before = [site.before | {"latency": 1.5} for site in report.sites]
    after = [site.after | {"latency": 0.375} for site in report.sites]
    sites = [
        dataclasses.replace(site, before=b, after=a) for site, b, a in zip(report.sites, before, after, strict=True)
    ]
    budgets = (*report.budgets, BudgetReport("latency", 4.5, limit, 1.125))
    return dataclasses.replace(report, sites=tuple(sites), budgets=budgets)


def make_record(index, phase="solve", loss=0.5, use=None):
    use = {"macs": 0.99, "params": 0.5} if use is None else use
    return IterationRecord(phase, index, loss, loss + 0.1, -0.01, 1.0, use, 0.5, index, 2 * index, 100 * index, 1e-9)


def make_report(count=3, **changes):
    report = Report(
        model="tiny",
        scheme="spatial",
        budgets=(BudgetReport("macs", 3_000_000, 1_600_000, 1_512_345), BudgetReport("params", 6_000, None, 3_800)),
        sites=tuple(make_site(i, whole=i == 1) for i in range(count)),
        skipped=(SkippedLayer("bn|1", "BatchNormalization", "has no\nkernel"),),
        iterations=tuple(make_record(i) for i in range(1, 4)),
        qp_solver="structured",
        status="converged",
        evaluations={"original": Evaluation(0.5, 0.9, 100), "compressed": Evaluation(0.75, 0.875, 100)},
        evaluated_on="100 test images",
        seed=7,
        config={"solve": {"memory": 30}},
        versions={"keras": "3.15"},
        seconds={"masks": 12.5},
        notes=("a note",),
        files={"keras": "out/compressed.keras"},
        command="cobla --seed=7",
    )
    return dataclasses.replace(report, **changes)


def refuse_constant(name):
    raise AssertionError(f"{name} is not JSON")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -np.inf, np.float32("nan"), np.array(np.nan)])
def test_json_turns_what_is_not_finite_into_null(value):
    report = make_report(iterations=(make_record(1, loss=value),), config={"x": [value, (1, value)]})
    data = json.loads(report.to_json(), parse_constant=refuse_constant)
    assert data["iterations"][0]["loss"] is None
    assert data["config"]["x"] == [None, [1, None]]


def test_json_keeps_every_field_and_value(tmp_path):
    config = {"dir": tmp_path, "n": np.int64(3), "x": np.float32(0.5), "flags": (True, None), "v": np.arange(2)}
    data = json.loads(make_report(config=config).to_json())
    assert list(data) == [field.name for field in dataclasses.fields(Report)]
    assert data["config"] == {"dir": str(tmp_path), "n": 3, "x": 0.5, "flags": [True, None], "v": [0, 1]}
    assert data["sites"][1]["rank"] is None
    assert list(data["evaluations"]) == ["original", "compressed"]


def test_site_table_has_a_line_for_each_site_and_adds_them_up():
    lines = make_report().site_table().splitlines()
    rows = {line.split()[0]: line for line in lines}
    assert "5 of 12" in rows["conv0"]
    assert "25.0 %" in rows["conv0"]
    assert "whole" in rows["conv1"]
    assert all(text in rows["total"] for text in ("3.0 M", "1.5 M", "50.0 %", "6.0 k", "3.8 k", "63.3 %"))


@pytest.mark.parametrize("limit", [2.0, None])
def test_a_resource_of_the_users_own_stands_in_every_form_of_the_report(limit):
    report = with_latency(make_report(), limit)
    site, total = report.site_table().splitlines()[2].split(), report.site_table().splitlines()[-1].split()
    assert site[-2:] == total[-2:] == ["25.0", "%"]
    shares = ["25.0", "%", *(["56.2", "%"] if limit else ["-"])]
    row = ["latency", "4.5", "2" if limit else "none", "1.125", *shares]
    assert report.budget_table().splitlines()[-1].split() == row
    assert "latency kept" in markdown(report)
    data = json.loads(report.to_json())
    assert data["budgets"][-1] == {"resource": "latency", "original": 4.5, "limit": limit, "reached": 1.125}
    assert data["sites"][0]["after"] == {"macs": 250_000, "params": 900, "latency": 0.375}


@pytest.mark.parametrize("name", ["1e5", "12", "True", "0x10"])
def test_a_name_that_looks_like_a_number_stays_as_it_is(name):
    report = make_report(sites=(dataclasses.replace(make_site(0), name=name),))
    assert report.site_table().splitlines()[2].split()[0] == name


def test_summary_tells_sites_totals_accuracies_and_files():
    text = str(make_report())
    assert text == make_report().summary()
    for part in (
        "conv0",
        "conv1",
        "too small",
        "1,512,345",
        "1,600,000",
        "none",
        "90.00 %",
        "-2.50",
        "out/compressed.keras",
    ):
        assert part in text
    assert text.index("conv0") < text.index("1,512,345") < text.index("90.00 %") < text.index("out/compressed.keras")


def make_certificate(number, price):
    return CertificateRecord(f"solve {number}", 0.03, 2e-9, 4e-4, {"macs": 0.9996}, {"macs": price})


def test_the_certificate_stands_in_every_report_and_its_last_prices_in_a_sentence():
    certificates = make_certificate(1, 0.5), make_certificate(2, 0.0012)
    report = make_report(certificates=certificates, rounding=RoundingRecord(0.5, 0.625))
    rows = [line.split() for line in report.certificate_table().splitlines()[2:]]
    assert rows == [
        ["solve", "1", "3.0e-02", "2.0e-09", "4.0e-04", "99.96", "%", "5.0e-01"],
        ["solve", "2", "3.0e-02", "2.0e-09", "4.0e-04", "99.96", "%", "1.2e-03"],
    ]
    assert "macs 1.2e-03" in report.summary()
    for text in (markdown(report), html_page(report)):
        assert "price of 1 % MACs" in text
        assert "Rounding took the loss from 0.5000 to 0.6250" in text
        assert "optimality conditions" in text


def test_a_budget_that_does_not_bind_has_no_price():
    report = make_report(certificates=(make_certificate(1, 1e-12),))
    assert "macs nothing" in report.prices()
    assert report.certificate_table().splitlines()[-1].endswith("nothing")


def test_without_a_solve_there_is_no_certificate():
    report = make_report()
    assert report.prices() == report.certificate_table() == ""
    assert "Certificate" not in markdown(report)
    rounded = dataclasses.replace(report, rounding=RoundingRecord(0.5, 0.625))
    for text in (markdown(rounded), html_page(rounded)):
        assert "Rounding took the loss from 0.5000 to 0.6250" in text
        assert "optimality conditions" not in text


@pytest.mark.parametrize("accuracy", [None, 0.0])
def test_a_missing_accuracy_is_not_zero(accuracy):
    line = make_report(evaluations={"original": Evaluation(1.0, accuracy, 9)}).evaluation_table().splitlines()[2]
    assert line.split()[1] == ("-" if accuracy is None else "0.00")


def test_a_report_of_nothing_still_prints_and_draws(tmp_path):
    empty = make_report(count=0, budgets=(), skipped=(), iterations=(), evaluations={}, notes=(), files={}, versions={})
    assert empty.model in empty.summary()
    assert all(path.is_file() for path in write_report(empty, tmp_path).values())


def test_write_report_leaves_whole_files_and_nothing_else(tmp_path):
    folder = tmp_path / "deep" / "out"
    paths = write_report(make_report(), folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "convergence.png",
        "report.html",
        "report.json",
        "report.md",
        "sites.png",
    ]
    assert all(paths[what].read_bytes().startswith(b"\x89PNG") for what in ("convergence", "sites"))
    files = json.loads(paths["report data"].read_text(encoding="utf-8"))["files"]
    assert files == {"keras": "out/compressed.keras"} | {what: str(path) for what, path in paths.items()}


def test_a_failing_report_leaves_the_earlier_one(tmp_path, monkeypatch):
    paths = write_report(make_report(), tmp_path)
    before = paths["report"].read_bytes()
    monkeypatch.setattr("cobla_tf.report_files.markdown", lambda report: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(make_report(seed=8), tmp_path)
    assert paths["report"].read_bytes() == before
    assert len(list(tmp_path.iterdir())) == len(paths)


@pytest.mark.parametrize("name", ["report.md", "report.html", "sites.png"])
def test_a_full_disk_leaves_every_file_of_the_earlier_report_or_the_new_one(name, tmp_path, full_disk):
    def content(seed=None):
        if seed:
            write_report(make_report(seed=seed), tmp_path)
        return {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    new, old = content(8), content(7)
    room = len(new[name]) - 1
    refused = next(file for file in NAMES.values() if len(new[file]) > room)  # they are written in this order
    with full_disk(room), pytest.raises(OutputError, match=rf"{refused} cannot be written \(File too large\)"):
        content(8)
    left = content()
    assert left[refused] == old[refused]
    assert {file: left[file] in (old[file], new[file]) for file in left} == dict.fromkeys(old, True)


def test_an_unwritable_folder_is_told_by_name(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="file"):
        write_report(make_report(), tmp_path / "file" / "out")


def test_markdown_keeps_cells_whole_and_tells_how_to_repeat():
    text = markdown(make_report(fine_tuning=({"loss": 0.5}, {"loss": 0.25, "accuracy": 1.0})))
    row = next(line for line in text.splitlines() if "bn\\|1" in line)
    assert row.replace("\\|", "").count("|") == 4
    assert "has no kernel" in row
    assert "cobla --seed=7" in text
    assert "Seed 7" in text
    heads = [line for line in text.splitlines() if line.startswith("## ")]
    assert len(heads) == len(set(heads)) == 10


@pytest.mark.parametrize(
    ("command", "config", "said"),
    [
        ("", {}, "Called from Python: cobla_tf.compress() on"),
        ("", {"warm": "12ab"}, "cobla_tf.compress() on .* began at that of another compression, given as `warm`"),
        ("", {"sweep": {}}, "one point of cobla_tf.pareto\\(\\) on the same model and data, .* page.$"),
        ("", {"sweep": {}, "warm": "12ab"}, "cobla_tf.pareto.* of another point, with half of the iterations"),
        ("cobla", {"sweep": {}}, "^This is one point of the sweep that the command makes.$"),
        ("cobla", {"strategy": "multi_worker"}, "^Every worker was started so, each with a TF_CONFIG of its own.$"),
        ("cobla", {"strategy": "mirrored"}, "^$"),
    ],
)
def test_how_to_repeat_tells_what_the_command_does_not(command, config, said):
    report = make_report(command=command, config=config)
    assert re.search(said.replace("()", r"\(\)"), report.how_to_repeat())
    assert report.how_to_repeat() in markdown(report) and report.how_to_repeat() in unescape(html_page(report))


@pytest.mark.parametrize(
    ("module", "argv", "expected"),
    [
        ("cobla_tf.main", ["x.py", "--macs=0.5", "--output_dir=a b"], "cobla_tf.main --macs=0.5 '--output_dir=a b'"),
        ("cobla_tf.experiments.fig2", ["fig2.py", "--smoke"], "cobla_tf.experiments.fig2 --smoke"),
        (None, ["anywhere/cobla_tf/main.py"], "cobla_tf.main"),
        (None, ["notebook.py"], ""),
        ("pytest.__main__", ["pytest", "tests"], ""),
    ],
)
def test_the_command_is_that_of_this_package_or_none(monkeypatch, module, argv, expected):
    spec = SimpleNamespace(name=module) if module else None
    monkeypatch.setitem(sys.modules, "__main__", SimpleNamespace(__spec__=spec))
    monkeypatch.setattr(sys, "argv", argv)
    assert command() == (f"python -m {expected}" if expected else "")


@pytest.mark.parametrize("sites", [1, 7, 60])
def test_bars_follow_network_order_and_do_not_overlap(sites):
    figure = sites_figure(make_report(sites))
    figure.canvas.draw()
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [f"conv{i}" for i in range(sites)]
    np.testing.assert_allclose(
        [bar.get_width() for bar in axes.patches], [1.0 if i == 1 else 0.25 for i in range(sites)]
    )
    boxes = [text.get_window_extent() for text in axes.texts]
    assert all(upper.y0 >= lower.y1 for upper, lower in pairwise(boxes))
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)


def test_dollars_in_names_begin_no_formula():
    sites = (make_site(0), dataclasses.replace(make_site(1), name="a$^$b"))
    report = make_report(model="$\\frac$", sites=sites, iterations=(make_record(1, use={"$_$": 0.5}),))
    drawn, solve = sites_figure(report), convergence_figure(report)
    for figure in (drawn, solve):
        figure.canvas.draw()
    assert [label.get_text() for label in drawn.axes[0].get_yticklabels()] == ["conv0", r"a\$^\$b"]
    assert drawn.get_suptitle().startswith(r"\$\frac\$: ")
    assert r"\$_\$" in [text.get_text() for text in solve.axes[1].get_legend().get_texts()]


def test_one_is_no_plural():
    assert [counted(count, "image") for count in (0, 1, 1000)] == ["0 images", "1 image", "1,000 images"]
    assert [counted(count, "loss", "losses") for count in (1, 2)] == ["1 loss", "2 losses"]
    record = dataclasses.replace(make_record(1), gradients=1, values=1)
    assert make_report(iterations=(record,)).effort().startswith("1 SQP iteration, 1 gradient, 1 loss, ")
    (note,) = doubtful(Evaluation(1.0, 0.0, 1), 10)
    assert "on 1 held-out image, " in note


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0, "0"), (0.0312, "0.0312"), (999, "999"), (999.96, "1000"), (1000, "1.0 k"), (15.34e9, "15.3 G")],
)
def test_counts_have_a_prefix_and_small_costs_their_digits(amount, text):
    assert short_text(amount) == text


def test_convergence_marks_phases_and_follows_each_budget():
    records = [make_record(i, phase) for phase, count in (("solve", 3), ("refine", 2)) for i in range(1, count + 1)]
    records[3] = make_record(4, "refine", use={"macs": 0.5})
    upper, lower = convergence_figure(make_report(iterations=tuple(records))).axes
    assert [text.get_text() for text in upper.texts] == ["solve", "refine"]
    lines = {line.get_label(): line.get_ydata() for line in lower.lines}
    np.testing.assert_allclose(lines["macs"], [0.99, 0.99, 0.99, 0.5, 0.99])
    np.testing.assert_allclose(lines["params"], [0.5, 0.5, 0.5, np.nan, 0.5])
    np.testing.assert_allclose(upper.lines[0].get_xdata(), [1, 2, 3, 4, 5])


@pytest.mark.parametrize(
    ("judged", "said"), [(0.25, "loss 0.5000 (unseen images 0.2500),"), (math.nan, "loss 0.5000,")]
)
def test_the_log_has_no_number_where_nothing_was_measured(judged, said, caplog):
    from cobla_tf.watched_solve import log_iteration

    with caplog.at_level("INFO", "absl"):
        log_iteration(dataclasses.replace(make_record(3), judged=judged))
    assert said in caplog.text and "nan" not in caplog.text
    assert "budgets used: macs 99.0 %, params 50.0 %" in caplog.text
