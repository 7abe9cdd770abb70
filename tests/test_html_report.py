import dataclasses
import re
import shutil
import subprocess
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from test_report import make_record, make_report, make_site, with_latency

from cobla_tf.errors import ConfigError
from cobla_tf.export_comparison import ExportCheck
from cobla_tf.page import brief_html, headlines, html_page
from cobla_tf.page.charts import BOTTOM, HEIGHT, LEFT, MOST_POINTS, RIGHT, TOP, WIDTH, interval_bars, line_chart
from cobla_tf.page.network import network_rows, strands
from cobla_tf.page.terms import MOST_COLUMNS, terms_chart
from cobla_tf.report import Report
from cobla_tf.report_parts import Evaluation, LayerCall
from cobla_tf.result import Result
from cobla_tf.timings import Benchmark, SiteTiming, Timing

VOID = {"meta", "br", "hr", "img", "input", "link"}
NAN = float("nan")


class Page(HTMLParser):
    """Elements, attributes and texts; an element that is not closed in order is an error."""

    def __init__(self, html):
        super().__init__()
        self.open, self.elements, self.attributes, self.texts = [], Counter(), [], []
        self.feed(html)
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attrs):
        self.elements[tag] += 1
        self.attributes += [(tag, *attr) for attr in attrs]
        assert len(attrs) == len(dict(attrs))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.texts.append(data)

    def paths(self):
        return [value for tag, name, value in self.attributes if (tag, name) == ("path", "d")]


def with_terms(site, terms=12, seed=0):
    rng = np.random.default_rng(seed)
    sigma = np.sort(rng.random(terms))[::-1]
    kept = np.arange(terms) < (terms if site.rank is None else site.rank)
    values = {"singular_values": sigma, "masks": rng.random(terms), "scales": np.where(kept, 0.5 + rng.random(), 0)}
    return dataclasses.replace(site, full_rank=terms, **{name: tuple(v.tolist()) for name, v in values.items()})


def full_report(count=3, terms=12, **changes):
    sites = tuple(with_terms(make_site(i, whole=i == 1), terms, i) for i in range(count))
    calls = [LayerCall(site.name, "Conv2D", (i - 1,)) for i, site in enumerate(sites)]
    records = tuple(dataclasses.replace(make_record(i), prices={"macs": 0.1 / i}) for i in range(1, 4))
    given = {"sites": sites, "network": (*calls, LayerCall("bn|1", "BatchNormalization", (count - 1,)))}
    given |= {"iterations": records, "failures": {"litert": "no converter"}, "model_params": (6_100, 3_900)}
    timing = Timing.of("LiteRT", 2, 1, [0.004, 0.004], [0.003, 0.003])
    given |= {"benchmark": Benchmark((timing,), (SiteTiming("conv0", None, 0.002, 0.001),), 2, ("keras: left out",))}
    given |= {"export_checks": (ExportCheck("onnx", 12_345, 1e-6, 1e-4, 16, 1.0),)}
    given |= {"fine_tuning": ({"loss": 0.5, "accuracy": 0.75}, {"loss": 0.25, "accuracy": 1.0})}
    return with_latency(make_report(count, **(given | changes)))


def test_every_figure_of_the_report_is_on_the_page():
    report = full_report()
    page = Page(html_page(report))
    for text in (
        *(site.name for site in report.sites),
        *(line for line in headlines(report)),
        *("5 of 12", "whole", "too small", "bn|1", "BatchNormalization", "has no kernel"),
        *("3,000,000", "1,600,000", "1,512,345", "50.4 %", "94.5 %", "latency", "1.125"),
        *("90.00 %", "87.50 %", "-2.50", "100 test images", "82.56 % to 94.48 %"),
        *("75.0 %", "LiteRT", "50.0 %", "2 processor cores", "Keras: left out.", "onnx", "12.3 kB", "1.0e-06"),
        *("solve", "Converged.", "structured", "0.25", "no converter", "a note"),
        *("cobla --seed=7", "Seed 7", "keras 3.15", "solve.memory", "30", "masks", "12.5", "out/compressed.keras"),
    ):
        assert text in page.text
    assert page.elements["tr"] == 1 + 2 + 1 + 3 + 1 + 3 + 1 + 2 + 1 + 3 + 1 + 2 + 1 + 1 + 1 + 1 + (1 + 1) + (1 + 2) + (
        1 + 1
    )


def test_no_line_breaks_before_a_per_cent_sign():
    report = full_report()
    shares = [line.replace(" %", "\N{NO-BREAK SPACE}%") for line in headlines(report) if "%" in line]
    assert shares and set(shares) <= set(Page(html_page(report)).texts)


def test_what_is_copied_from_the_page_is_as_it_was_given():
    odd = "run 50 % & <b>.keras"
    command, path = f"python -m cobla_tf.main '--model={odd}'", f"out/{odd}"
    texts = Page(html_page(full_report(command=command, config={odd: odd}, files={"keras": path}))).texts
    assert {command, path} <= set(texts)
    assert texts.count(odd) == 2


def test_labels_of_small_values_have_no_exponent():
    labels = [tick.text for tick in line_chart("", {"a": [0, 1.3e-4]}).y_ticks]
    assert labels == ["0", "0.00003", "0.00006", "0.00009", "0.00012"]


def test_the_page_needs_nothing_from_outside():
    html = html_page(full_report())
    names = {name for _, name, _ in Page(html).attributes}
    assert names.isdisjoint({"src", "href", "srcset", "xlink:href", "data", "action"})
    assert not any(text in html for text in ("://", "url(", "@import", "fetch(", "import("))
    assert "default-src 'none'" in html


def a_hundred_sites():
    """The page of a solve of 40 iterations and a refining of 20; measurements.md says how long it takes to open."""
    phases = [(i, "solve 1" if i <= 40 else "refining") for i in range(1, 61)]
    records = (make_record(i, phase, loss=2 / i) for i, phase in phases)
    prices = {"macs": 0.1, "params": 0.2}
    return html_page(full_report(100, 1024, iterations=tuple(dataclasses.replace(r, prices=prices) for r in records)))


@pytest.fixture(scope="module")
def of_a_hundred_sites():
    return a_hundred_sites()


def test_a_hundred_sites_stay_small_and_readable(of_a_hundred_sites):
    page = Page(of_a_hundred_sites)
    assert len(of_a_hundred_sites.encode()) < 1_000_000
    assert all(f"conv{i} " in page.text for i in range(100))
    assert page.elements["path"] < 1000


@pytest.fixture
def opened(tmp_path):
    """Opens a page in a real browser; the page as its scripts leave it, and what they and the browser complain of."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("there is no chromium and no google-chrome to open a page in")

    def open_page(html):
        (tmp_path / "page.html").write_text(html, encoding="utf-8")
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
        command = [browser, *flags, f"--user-data-dir={tmp_path / 'profile'}", (tmp_path / "page.html").as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        return Page(done.stdout), [line for line in done.stderr.splitlines() if "CONSOLE" in line]

    return open_page


def test_a_real_browser_opens_sorts_and_has_nothing_to_complain_of(of_a_hundred_sites, opened):
    page, complaints = opened(of_a_hundred_sites)
    assert complaints == []
    assert page.elements["tr"] == Page(of_a_hundred_sites).elements["tr"] > 160
    assert page.elements["button"] > 5 and "1 conv0 3" in page.text
    clicks = '<script>for (const _ of "12") document.querySelector("table.sortable th button").click()</script></body>'
    page, complaints = opened(of_a_hundred_sites.replace("</body>", clicks))
    assert complaints == [] and page.text.index("100 conv99 3") < page.text.index("1 conv0 3")


def test_what_a_real_browser_complains_of_is_seen(opened):
    _, complaints = opened("<!DOCTYPE html><html><body><script>missing();</script></body></html>")
    assert "missing is not defined" in complaints[0]
    blocked = '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'"><img src="x.png">'
    assert "Content Security Policy" in opened(blocked)[1][0]


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "a\"b'c", "&lt;b&gt;", "</style><b>", "{{ report }}"])
def test_odd_names_are_shown_as_they_are(name):
    site = dataclasses.replace(make_site(0), name=name, reason=name, rank=None)
    plain = Page(html_page(make_report(1)))
    texts = {"model": name, "notes": (name,), "command": name, "status": name, "config": {name: name}}
    odd = make_report(sites=(with_terms(site),), network=(LayerCall(name, name, ()),), **texts)
    odd = dataclasses.replace(odd, skipped=(dataclasses.replace(odd.skipped[0], name=name),))
    page = Page(html_page(odd))
    assert page.elements["script"] == page.elements["style"] == plain.elements["script"] == 1
    assert page.text.count(name) >= 9
    assert page.elements["b"] == plain.elements["b"] + 1  # of the terms
    assert name in Page(brief_html(odd)).text


EMPTY = {"budgets": (), "skipped": (), "iterations": (), "evaluations": {}, "notes": (), "files": {}, "versions": {}}


@pytest.mark.parametrize(
    "report",
    [
        make_report(count=0, seconds={}, config={}, command="", **EMPTY),
        full_report(iterations=()),
        full_report(evaluations={"original": Evaluation(1.0, None, 9), "compressed": Evaluation(1.5, None, 9)}),
        full_report(evaluations={"compressed": Evaluation(NAN, NAN, 0)}),
        full_report(iterations=(make_record(1, loss=NAN), make_record(2, loss=float("inf"))) * 2),
        full_report(iterations=(make_record(1, loss=NAN, use={"macs": NAN}),)),
        full_report(fine_tuning=({"loss": NAN}, {"loss": 1.0, "lr": 0.1})),
        full_report(sites=(dataclasses.replace(with_terms(make_site(0)), masks=()),)),
        full_report(sites=(dataclasses.replace(make_site(0), singular_values=(NAN, NAN), scales=(1.0, 0.0)),)),
    ],
    ids=["nothing", "rival", "no accuracy", "no number", "nan and inf", "all nan", "diverged", "no masks", "nan sigma"],
)
def test_what_is_missing_or_not_finite_breaks_nothing(report):
    page = Page(html_page(report))
    for path in page.paths():
        assert re.fullmatch(r"([MLHVQhv](-?[\d.]+(e-?\d+)? ?)*)*", path)
    assert not re.search(r"\b(nan|inf|None|Undefined)\b", page.text)
    assert len(headlines(report)) == 5
    assert report.model in Page(brief_html(report)).text


@pytest.mark.parametrize(
    ("correct", "examples", "low", "high"), [(0, 10, 0.0, 0.2775), (8, 10, 0.4902, 0.9433), (81, 263, 0.2553, 0.3662)]
)
def test_intervals_are_wilsons_as_published(correct, examples, low, high):
    assert Evaluation(1.0, correct / examples, examples).interval() == pytest.approx((low, high), abs=6e-5)


def test_places_of_images_have_no_interval():
    original, compressed = Evaluation(0.1, 0.9, 10, of_places=True), Evaluation(0.2, 0.85, 10, of_places=True)
    assert original.interval() is None and Evaluation(0.1, 0.9, 10).interval() is not None
    evaluations = {"original": original, "compressed": compressed}
    page = Page(html_page(full_report(evaluations=evaluations)))
    assert interval_bars(evaluations) == {}
    assert "share of correct places" in page.text and "-5.00" in page.text
    assert "95 % interval" not in page.text and "Wilson" not in page.text
    of_images = Page(html_page(full_report())).text
    assert "share of correct places" not in of_images and "95 % interval" in of_images


def test_interval_bars_share_one_scale():
    bars = interval_bars({"a": Evaluation(1, 0.5, 100), "b": Evaluation(1, 0.9, 100), "c": Evaluation(1, None, 100)})
    assert set(bars) == {"a", "b"}
    assert all(low < middle < high for low, middle, high in bars.values())
    assert bars["a"][2] < bars["b"][0]


def random_network(rng, size):
    calls = [LayerCall("n0", "Conv2D", (-1,))]
    for i in range(1, size):
        sources = sorted(rng.choice(i, size=min(i, int(rng.choice([1, 1, 1, 2, 4]))), replace=False).tolist())
        calls.append(LayerCall(f"n{i}", rng.choice(["ReLU", "Add"]), tuple(sources)))
    return tuple(calls)


@pytest.mark.parametrize("seed", range(20))
def test_strands_join_from_row_to_row_and_no_layer_is_lost(seed):
    rng = np.random.default_rng(seed)
    calls = random_network(rng, int(rng.integers(1, 60)))
    named = rng.choice(len(calls), size=len(calls) // 3, replace=False)
    sites = tuple(dataclasses.replace(make_site(0), name=f"n{i}") for i in named)
    rows = network_rows(make_report(sites=sites, network=calls))
    assert 1 + len(calls) == sum(1 + len(row.then) for row in rows)
    assert {row.name for row in rows if row.site} == {site.name for site in sites}
    assert all(source < number for number, row in enumerate(rows) for source in row.inputs)
    drawn, width = strands(rows)
    below = set()
    for row, strand in zip(rows, drawn, strict=True):
        starts = re.findall(r"M([\d.]+) 0(?:V|Q)", strand.path)
        assert set(starts) == below
        joined = re.findall(rf"Q[\d.]+ [\d.]+ {strand.dot:g} {row.height / 2:g}", strand.path)
        assert len(joined) == len(set(row.inputs))
        below = set(re.findall(rf"M([\d.]+) [\d.]+V{row.height}(?!\d)", strand.path))
        assert all(0 < float(x) < width for x in below | set(starts))
    assert below == set()


def test_what_joins_the_input_with_a_layer_is_a_row_of_its_own():
    calls = (LayerCall("conv0", "Conv2D", (-1,)), LayerCall("clean", "Subtract", (-1, 0)))
    rows = network_rows(make_report(1, network=calls))
    assert [(row.name, row.inputs) for row in rows] == [("input", ()), ("conv0", (0,)), ("clean", (0, 1))]


def test_a_scheme_for_each_site_has_its_column():
    pages = [html_page(full_report(scheme=scheme)) for scheme in ("auto", "spatial")]
    assert [page.count("<th>scheme</th>") for page in pages] == [1, 0]
    assert "spatial" in Page(pages[0]).texts


def test_only_what_alone_reads_a_layer_stands_behind_it():
    calls = (
        LayerCall("conv0", "Conv2D", (-1,)),
        LayerCall("norm", "BatchNormalization", (0,)),
        LayerCall("relu", "ReLU", (1,)),
        LayerCall("add", "Add", (2, 1)),
        LayerCall("bn|1", "Dense", (3,)),
    )
    rows = network_rows(make_report(1, network=calls))
    got = [(row.name, row.then, row.inputs) for row in rows]
    assert got == [
        ("input", (), ()),
        ("conv0", ("BatchNormalization",), (0,)),
        ("relu", (), (1,)),
        ("add", (), (2, 1)),
        ("bn|1", (), (3,)),
    ]


def test_a_line_has_gaps_stays_in_its_box_and_is_thinned():
    chart = line_chart("t", {"a": [1.0, 2.0, NAN, 3.0], "b": [NAN] * 4}, ["p", "p", "q", "q"], limit=9.0)
    assert chart.lines["a"].count("M") == 2
    assert chart.lines["a"].endswith("h0")
    assert chart.lines["b"] == ""
    assert [span.name for span in chart.spans] == ["p", "q"]
    assert sum(span.width for span in chart.spans) == pytest.approx(WIDTH - LEFT - RIGHT, abs=0.2)
    assert TOP <= chart.limit <= HEIGHT - BOTTOM
    many = line_chart("t", {"a": np.geomspace(1e-6, 1e6, 10_000)})
    points = np.array([point.split() for point in many.lines["a"][1:].split("L")], dtype=float)
    assert len(points) == MOST_POINTS
    assert points[:, 0].min() >= LEFT
    assert points[:, 0].max() <= WIDTH - RIGHT
    assert points[:, 1].min() >= TOP
    assert points[:, 1].max() <= HEIGHT - BOTTOM
    np.testing.assert_allclose(np.diff(points[:, 1]), np.diff(points[:, 1]).mean(), atol=0.11)  # logarithmic
    assert line_chart("t", {}) is line_chart("t", {"a": [NAN]}) is None


@pytest.mark.parametrize("terms", [1, 7, 100, 1537])
def test_terms_are_drawn_to_the_number_that_can_be_seen(terms):
    site = with_terms(dataclasses.replace(make_site(0), rank=(terms + 1) // 2), terms)
    chart = terms_chart(site)
    assert max(path.count("M") for path in (chart.values, chart.kept, chart.scales)) <= min(terms, MOST_COLUMNS)
    squares = np.square(site.singular_values)
    assert chart.energy == pytest.approx(squares[: site.rank].sum() / squares.sum())
    assert terms_chart(make_site(0)) is None


def test_a_result_shows_and_draws_itself(tmp_path):
    result = Result(None, full_report())
    assert repr(result).splitlines() == ["tiny, compressed", *headlines(result.report)]
    page = Page(result._repr_html_())
    assert all(text in page.text for text in (*headlines(result.report), "conv0", "5 of 12", "-2.50"))
    assert page.elements["script"] == page.elements["style"] == 0
    for what in ("sites", "convergence"):
        figure = result.plot(what)
        assert figure._repr_png_().startswith(b"\x89PNG")
        assert figure.axes
    with pytest.raises(ConfigError, match="sites, convergence"):
        result.plot("loss")


def test_each_field_of_the_report_has_its_place_in_the_template():
    folder = Path(html_page.__code__.co_filename).parent
    source = (folder / "page.py").read_text(encoding="utf-8") + (folder / "network.py").read_text(encoding="utf-8")
    source += (folder / "templates" / "report.html").read_text(encoding="utf-8")
    fields = {field.name for field in dataclasses.fields(Report)}
    by_methods = {"model_params", "precision", "qp_solver", "rounding"}  # of Report
    assert {name for name in fields if f"report.{name}" not in source} == by_methods


@pytest.mark.parametrize("values", [[2.30001, 2.30002, 2.30003], [0.5, 0.6], [1e-3, 3.0], [0.0, 0.0], [1e300, 1e-300]])
def test_labels_of_an_axis_can_be_told_apart(values):
    texts = [tick.text for tick in line_chart("loss", {"loss": values}).y_ticks]
    assert len(set(texts)) == len(texts)
