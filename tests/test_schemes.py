import itertools
from dataclasses import replace

import numpy as np
import pytest
from networks import images_and_labels, small_cnn
from test_baselines import limits_of, spectra
from test_costs import table_of

import cobla_tf
from cobla_tf.baselines.pos_cvx import log_shares, optimum
from cobla_tf.config import SCHEMES, Config, SolveConfig
from cobla_tf.errors import ConfigError
from cobla_tf.schemes import best_schemes

LAYERS = [(8, 3, 4, 6), (8, 1, 6, 5), (4, 5, 5, 4), (8, 3, 4, 8)]


def mixed(tables, picks):
    rows = {row: np.choose(picks, [getattr(t, row) for t in tables]) for row in ("original", "per_rank", "base")}
    return replace(tables[0], full_ranks=np.choose(picks, [table.full_ranks for table in tables]), **rows)


def value(tables, sigmas, picks, limits):
    costs = mixed(tables, np.array(picks))
    if not costs.fits(costs.cheapest(limits), limits):
        return -np.inf
    return optimum([sigmas[pick][i] for i, pick in enumerate(picks)], costs, limits).value


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("eta", [0.1, 0.3, 0.6])
@pytest.mark.parametrize("multiple", [1, 2])
def test_no_other_choice_of_schemes_has_a_better_optimum(seed, eta, multiple):
    tables = [replace(table_of(*LAYERS, scheme=scheme), multiple=multiple) for scheme in SCHEMES]
    sigmas = [spectra(table, seed, decay) for table, decay in zip(tables, (0.8, 0.7), strict=True)]
    sigmas[1][1] = sigmas[0][1]  # of a 1 x 1 kernel, both schemes are one
    sigmas = [[sigma / np.linalg.norm(sigma) for sigma in each] for each in sigmas]
    limits = limits_of(tables[0], eta)
    picks = best_schemes([[log_shares(sigma) for sigma in each] for each in sigmas], tables, limits)
    everything = [value(tables, sigmas, each, limits) for each in itertools.product([0, 1], repeat=len(LAYERS))]
    assert value(tables, sigmas, picks, limits) == pytest.approx(max(everything), abs=1e-11)


@pytest.mark.parametrize("method", ["pos_cvx", "uniform"])
def test_auto_meets_budgets_and_tells_each_sites_scheme(method):
    options = {"macs": 0.4, "params": 0.5, "method": method}
    report = cobla_tf.compress(small_cnn(), images_and_labels(60), scheme="auto", **options).report
    assert {site.scheme for site in report.sites} <= set(SCHEMES)
    assert all(budget.reached <= budget.limit for budget in report.budgets)
    for site in report.sites:
        assert site.rank is None or f"{site.name} {site.scheme}" in " ".join(report.site_table().split())


def test_auto_needs_budgets_on_what_is_counted():
    quick = {"config": Config(solve=SolveConfig(iterations=1)), "scheme": "auto"}
    with pytest.raises(ConfigError, match="r_vbmf takes none; choose spatial or channel"):
        cobla_tf.compress(small_cnn(), images_and_labels(60), method="r_vbmf", **quick)
    names = ("conv1", "shared", "block/conv")
    latency = cobla_tf.Resource("latency", dict.fromkeys(names, 1.0), dict.fromkeys(names, 0.1))
    with pytest.raises(ConfigError, match="other resources; choose one scheme"):
        cobla_tf.compress(small_cnn(), images_and_labels(60), macs=0.5, resources=[latency], **quick)
