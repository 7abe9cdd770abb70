from fractions import Fraction

import keras
import numpy as np
import pytest
from networks import images_and_labels, small_cnn
from qp_programs import random_program
from test_baselines import spectra
from test_costs import random_table, table_of

import cobla_tf
from cobla_tf.budgets import resolve_limits
from cobla_tf.config import Config, SolveConfig
from cobla_tf.costs import Allocation
from cobla_tf.errors import BudgetError, CoblaError, ConfigError
from cobla_tf.layout import Layout
from cobla_tf.qp import solve as solve_qp
from cobla_tf.resources import Resource, add_resources, check_resources, read_resources
from cobla_tf.rounding import round_masks

SITES = ("conv1", "conv2")
HEAD = "site,resource,original,per_rank\n"


def table():
    return table_of((8, 3, 4, 6), (8, 1, 6, 5))


def resource(name="latency", original=(0.1, 0.2), per_rank=(0.01, 0.03), base=(0, 0)):
    columns = (dict(zip(SITES, part, strict=True)) for part in (original, per_rank, base))
    return Resource(name, *columns)


def one(*costs):
    return add_resources(table(), SITES, [resource(original=costs, per_rank=costs)])


def exact(costs, units):
    return Fraction(int(units)) / Fraction(10) ** int(costs.decimals[-1])


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1.0, 1e9, 1e25])
def test_measured_costs_are_rounded_up_by_less_than_a_unit(scale):
    rng = np.random.default_rng(0)
    measured = [resource(original=rng.random(2) * scale, per_rank=rng.random(2) * scale, base=rng.random(2) * scale)]
    costs = add_resources(table(), SITES, measured)
    assert costs.resources == ("macs", "params", "latency")
    assert costs.original.dtype == costs.per_rank.dtype == costs.base.dtype == np.int64
    unit = exact(costs, 1)
    for part in ("original", "per_rank", "base"):
        for given, units in zip(getattr(measured[0], part).values(), getattr(costs, part)[-1], strict=True):
            assert 0 <= exact(costs, units) - Fraction(float(given)) < unit + Fraction(float(given)) / 2**52
    dearest = costs.used(Allocation(costs.full_ranks, np.zeros(2, dtype=bool)))[-1]
    assert dearest < 2**53
    assert max(dearest, costs.totals()[-1]) >= 10**14
    np.testing.assert_array_equal(costs.original[:2], table().original)
    np.testing.assert_array_equal(costs.decimals[:2], 0)


def test_decimals_stay_what_they_are():
    assert 0.1 + 0.2 > 0.3
    costs = one(0.1, 0.2)
    assert costs.own_units(costs.totals())[-1] == 0.3
    assert costs.own_units(costs.original[:, 0]) == [*table().original[:, 0], 0.1]
    assert resolve_limits(costs, {"latency": 1.0})[-1] == costs.totals()[-1]
    thousand = one(1000.1, 2000.2)
    assert resolve_limits(thousand, {"latency": 3000.3})[-1] == thousand.totals()[-1]


def test_an_absolute_budget_is_in_the_users_units_and_a_fraction_of_the_total():
    costs = add_resources(table(), SITES, [resource(original=(30, 50.5), per_rank=(1, 2))])
    for budget, limit in ((40.25, 40.25), (0.5, 40.25), (1, 80.5)):
        assert costs.own_units(resolve_limits(costs, {"latency": budget}))[-1] == limit


def test_a_limit_out_of_reach_is_told_in_the_users_units():
    costs = add_resources(table(), SITES, [resource(original=(30, 50), per_rank=(4 / 3, 2))])
    with pytest.raises(BudgetError, match=r"latency budget is 2, but .* is 3\.33334 \(0\.0417 of the sites' 80\)"):
        resolve_limits(costs, {"latency": 2})
    assert costs.own_units(resolve_limits(costs, {"latency": 3.33334}))[-1] == 3.33334


def test_layers_left_alone_do_not_count():
    measured = Resource("latency", *({"conv1": 1, "conv2": 2, "stem": 9} for _ in range(2)), {"stem": 9})
    costs = add_resources(table(), SITES, [measured], ["stem"])
    assert costs.own_units(costs.totals())[-1] == 3


@pytest.mark.parametrize("cost", [-1, float("nan"), float("inf"), "1", None, True])
@pytest.mark.parametrize("part", ["original", "per_rank", "base"])
def test_a_cost_that_is_none(part, cost):
    with pytest.raises(ConfigError, match=f"latency, site conv2: {part} must be a number, at least 0"):
        resource(**{part: (0, cost)})


@pytest.mark.parametrize("name", ["", " ", "a=b", "a,b", None, "macs", "Params"])
def test_a_name_that_is_none(name):
    with pytest.raises(ConfigError, match="name"):
        resource(name)


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: Resource("latency", [1, 2], {}), "original must map names of sites"),
        (lambda: Resource("latency", {"conv1": 1}, {"conv2": 1}), "got one for conv1, conv2"),
        (lambda: check_resources([resource(), resource()]), "two resources of the name latency"),
        (lambda: check_resources([{"name": "latency"}]), "sequence of cobla_tf.Resource"),
        (lambda: check_resources(resource()), "sequence of cobla_tf.Resource"),
        (lambda: add_resources(table(), ("conv1", "other"), [resource()]), "every site, got none for other"),
        (lambda: add_resources(table(), ("conv1",), [resource()]), r"conv2 .*is no site.*sites are: conv1"),
        (lambda: one(0, 0), "0 at every site"),
    ],
)
def test_resources_that_do_not_fit(build, sentence):
    with pytest.raises(ConfigError, match=sentence):
        build()


def test_a_csv_file_is_read_whatever_the_order_of_its_columns(tmp_path):
    path = tmp_path / "costs.csv"
    path.write_text(
        "\ufeffresource,site,base,original,per_rank\nlatency,conv1,0.5,1.5,2e-2\n\nenergy,block/conv,0,7,1\n"
        "latency,block/conv,0.25,3,0.125\n",
        encoding="utf-8",
    )
    latency, energy = read_resources(path)
    assert latency.original == {"conv1": 1.5, "block/conv": 3}
    assert latency.per_rank == {"conv1": 0.02, "block/conv": 0.125}
    assert latency.base == {"conv1": 0.5, "block/conv": 0.25}
    assert energy.original == {"block/conv": 7.0}
    path.write_text(HEAD + "conv1,latency,1,2\n")
    assert read_resources(str(path)) == (Resource("latency", {"conv1": 1.0}, {"conv1": 2.0}),)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "line 1: expected the columns site,resource,original,per_rank.*an empty file"),
        ("site,resource,original\n", "line 1: expected the columns"),
        (HEAD.replace("\n", ",cost\n"), "line 1: expected the columns"),
        (HEAD, "expected a row"),
        (HEAD + "conv1,latency,1\n", "line 2: expected one value for each column"),
        (HEAD + "conv1,latency,1,2,3\n", "line 2: expected one value for each column"),
        (HEAD + "conv1,latency,1,2\nconv2,latency,1,fast\n", "line 3: per_rank must be a number.*'fast'"),
        (HEAD + "conv1,latency,-1,2\n", "line 2: original must be"),
        (HEAD + "conv1,latency,1,nan\n", "line 2: per_rank must be"),
        (HEAD + "conv1,macs,1,1\n", "line 2: macs is counted"),
        (HEAD + "conv1,latency,1,2\nconv1,latency,1,2\n", "line 3: a second row for resource latency, site conv1"),
        (HEAD + "conv1,\xff", "UnicodeDecodeError"),
        (HEAD + '"conv1', "cannot read"),
        (None, r"\(No such file"),
    ],
)
def test_a_csv_file_that_cannot_be_used_is_told_by_name_and_line(text, sentence, tmp_path):
    path = tmp_path / "costs.csv"
    if text is not None:
        path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=f"costs.csv.*{sentence}|{sentence}.*costs.csv"):
        read_resources(path)


@pytest.mark.parametrize("resources", [1, 3, 4])
@pytest.mark.parametrize("seed", range(8))
def test_rounding_keeps_any_number_of_budgets(resources, seed):
    costs = random_table(seed, resources, sites=6)
    rng = np.random.default_rng(seed)
    cheapest = costs.cheapest(costs.totals() * 2.0)
    masks = rng.random(costs.full_ranks.sum())
    sums = Layout(costs.full_ranks).sums(masks)
    for share in (0.0, 0.3, 1.0):
        relaxed = costs.of_sites(Allocation(np.maximum(sums * share, 1), cheapest.whole)).sum(axis=1)
        limits = np.ceil(np.maximum(relaxed, costs.used(cheapest))).clip(1)
        rounded = round_masks(masks * share, cheapest.whole, spectra(costs), costs, limits, rng)
        assert costs.fits(rounded.allocation, limits)


@pytest.mark.parametrize("resources", [1, 3, 4, 6])
@pytest.mark.parametrize("solver", ["structured", "clarabel"])
def test_quadratic_programs_take_any_number_of_rows(resources, solver):
    for seed in range(3):
        program = random_program(p=resources, seed=seed)
        solution = solve_qp(program, solver)
        assert solution.residual <= 1e-6


def measured(model, base):
    """A latency that has nothing to do with MACs, an energy that is 0 at one site, and bytes that nobody limits."""
    names = ["conv1", "shared", "block/conv"]
    return [
        Resource("latency", dict.fromkeys(names, 1.5), dict.fromkeys(names, 0.07), dict.fromkeys(names, base)),
        Resource("energy", {"conv1": 0, "shared": 20.0, "block/conv": 7.5}, dict.fromkeys(names, 0.625)),
        Resource("bytes", dict.fromkeys(names, 1000), dict.fromkeys(names, 100)),
    ]


@pytest.mark.parametrize("base", [0.0, 0.35])
def test_compress_keeps_every_budget_and_reports_every_resource(base):
    model = small_cnn()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    resources = measured(model, base)
    budgets = {"params": 0.7, "latency": 0.65, "energy": 15.0}
    config = Config(solve=SolveConfig(iterations=3, draws=3, refine_iterations=1), batch_size=32)
    result = cobla_tf.compress(
        model, images_and_labels(100), macs=0.6, budgets=budgets, resources=resources, config=config
    )
    report = result.report
    assert [budget.resource for budget in report.budgets] == ["macs", "params", "latency", "energy", "bytes"]
    assert report.budgets[3].limit == 15.0
    assert report.budgets[4].limit is None
    for budget in report.budgets[2:]:
        given = next(r for r in resources if r.name == budget.resource)
        used = sum(
            given.original[site.name] if site.rank is None
            else given.base.get(site.name, 0) + site.rank * given.per_rank[site.name]
            for site in report.sites
        )  # fmt: skip
        assert budget.reached == pytest.approx(used, rel=1e-12)
        assert budget.original == pytest.approx(sum(given.original.values()), rel=1e-12)
        assert sum(site.after[budget.resource] for site in report.sites) == pytest.approx(used, rel=1e-12)
    assert all(budget.limit is None or budget.reached <= budget.limit for budget in report.budgets)
    assert set(report.iterations[0].budget_use) == {"macs", "params", "latency", "energy"}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"budgets": {"latence": 0.5}}, "did you mean latency"),
        ({"macs": 0.5, "budgets": {"macs": 0.4}}, "macs has two budgets"),
        ({"budgets": {"latency": 0.5}, "resources": [resource()]}, "latency.*none for shared, block/conv"),
        ({"budgets": {"bytes": 2}}, "smallest reachable one is"),
        ({"macs": 0.5, "resources": None}, "sequence of cobla_tf.Resource"),
    ],
)
def test_bad_resources_and_budgets_are_one_sentence_before_any_work(options, sentence):
    model = small_cnn()
    options = {"resources": measured(model, 0.1), **options}
    with pytest.raises(CoblaError, match=sentence):
        cobla_tf.compress(model, images_and_labels(40), **options)
