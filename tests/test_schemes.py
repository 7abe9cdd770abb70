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
from cobla_tf.costs import CostTable, kernel_costs
from cobla_tf.errors import ConfigError
from cobla_tf.kernels import KernelForm
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


def strided_tables(rng, multiple):
    """Of layers whose least ranks are dearer than the layer in one resource or scheme and cheaper in another."""
    layers = [[int(rng.choice(of)) for of in ((1, 3, 5, 7), range(2, 20), range(2, 20), range(1, 8), (1, 2, 4))]
              for _ in range(4)]  # fmt: skip
    for scheme in SCHEMES:
        forms = [KernelForm(scheme, (k, k, c, f)) for k, c, f, _, _ in layers]
        sizes = [((out * stride,) * 2, (out,) * 2) for *_, out, stride in layers]
        costs = [kernel_costs(form, [size]) for form, size in zip(forms, sizes, strict=True)]
        original, per_rank = (np.stack(part, axis=1) for part in zip(*costs, strict=True))
        full_ranks = np.array([min(k * f, k * c) if scheme == "spatial" else min(f, k * k * c)
                               for k, c, f, _, _ in layers])  # fmt: skip
        yield CostTable(("macs", "params"), original, per_rank, full_ranks, multiple=multiple)


@pytest.mark.parametrize("multiple", [1, 2, 4, 8])
def test_limits_that_any_mixture_meets_are_met(multiple):
    rng = np.random.default_rng(multiple)
    for _ in range(15):
        tables = list(strided_tables(rng, multiple))
        forms = np.stack([*(table.least_costs for table in tables), tables[0].original])  # whole comes last
        mixtures = itertools.product(range(3), repeat=4)
        uses = np.array([forms[list(picks), :, range(4)].sum(axis=0) for picks in mixtures])
        limits = uses[rng.integers(len(uses))]
        within = uses[(uses <= limits).all(axis=1)]
        limits = within[np.argmin((within / tables[0].totals()).sum(axis=1))].astype(float)  # none is below it
        values = [[np.append(np.sort(-rng.random(n - 1)), 0.0) for n in table.full_ranks] for table in tables]
        found = mixed(tables, best_schemes(values, tables, limits))
        assert found.fits(found.cheapest(limits), limits)


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
