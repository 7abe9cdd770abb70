import json
import re

import numpy as np
import pytest
from networks import images_and_labels, small_cnn
from test_compress import trained

import cobla_tf
from cobla_tf.baselines import RIVALS
from cobla_tf.baselines.pos_cvx import optimum
from cobla_tf.config import RANK_METHODS, SCHEMES, Config, FineTuneConfig, SolveConfig
from cobla_tf.errors import BudgetError, ConfigError
from cobla_tf.kernels import KernelForm
from cobla_tf.sites import find_sites
from cobla_tf.surgery import count_convolutions

QUICK = Config(solve=SolveConfig(iterations=2, draws=1, refine_iterations=0), batch_size=64)
BUDGETED = [name for name, rival in RIVALS.items() if rival.budgeted]
DATA = images_and_labels(200)


@pytest.fixture(scope="module")
def model():
    return trained()


def compress(model, **options):
    return cobla_tf.compress(model, DATA, **{"validation": images_and_labels(60, seed=1), "config": QUICK, **options})


def counted(result):
    return np.sum(list(count_convolutions(result.model).values()), axis=0).tolist()


def test_every_method_has_a_name_on_the_command_line():
    assert list(RANK_METHODS) == ["cobla", *RIVALS]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("method", BUDGETED)
def test_every_method_meets_its_budgets_and_reports_as_cobla_does(model, method, scheme):
    result = compress(model, method=method, scheme=scheme, macs=0.5, params=0.6)
    report = result.report
    assert [budget.reached for budget in report.budgets] == counted(result)
    assert all(budget.reached <= budget.limit for budget in report.budgets)
    assert {"original", "compressed"} == set(report.evaluations)
    assert report.status.startswith(f"ranks by {method} ({RIVALS[method].source})")
    assert report.iterations == () and report.qp_solver == "none" and report.config["method"] == method
    assert any(site.rank is not None for site in report.sites)


@pytest.mark.parametrize("method", sorted(set(RIVALS) - set(BUDGETED)))
def test_methods_that_set_their_own_cost_take_no_budget(model, method):
    result = compress(model, method=method)
    assert [budget.reached for budget in result.report.budgets] == counted(result)
    assert all(budget.limit is None for budget in result.report.budgets)
    for budgets in ({"macs": 0.5}, {"budgets": {"params": 0.5}}):
        with pytest.raises(BudgetError, match=f"{method} sets its own ranks and takes no budget"):
            cobla_tf.compress("not even a model", None, method=method, **budgets)


def test_the_ranks_are_the_methods_own_and_of_the_leading_terms_at_their_own_scale(model):
    result = compress(model, method="pos_cvx", macs=0.4)
    sites, reports = find_sites(model, "spatial"), result.report.sites
    best = optimum(sites.sigmas, sites.costs, np.array([result.report.budgets[0].limit, np.inf]))
    assert "proved optimal, gap 0" in result.report.status
    expected = np.where(best.allocation.whole, None, best.allocation.ranks).tolist()
    assert [site.rank for site in reports] == expected
    i, rank = next((i, site.rank) for i, site in enumerate(reports) if site.rank is not None)
    G, H = (result.model.get_layer(f"{reports[i].name}_{part}").kernel.numpy() for part in "gh")
    kernel = np.einsum("yzcr,zxrf->yxcf", G, H)
    found = np.linalg.svd(KernelForm("spatial", kernel.shape).matrices(kernel)[0], compute_uv=False)
    np.testing.assert_allclose(found[:rank], sites.sigmas[i][:rank], rtol=1e-4)


def test_greedy_accuracy_sees_training_images_only(model, monkeypatch):
    from cobla_tf.objective import Objective

    seen = []
    value = Objective.value
    monkeypatch.setattr(Objective, "value", lambda self, m, sample: seen.append(sample) or value(self, m, sample))
    solve = SolveConfig(sample_fraction=0.25)
    report = compress(model, method="greedy_accuracy", macs=0.5, config=Config(solve=solve)).report
    assert "losses on 50 training images" in report.status
    assert len(seen) >= len(report.sites)
    training = {image.tobytes() for image in DATA[0]}
    assert all(sample is seen[0] for sample in seen)
    assert {image.tobytes() for image in seen[0].images} <= training


def test_fine_tuning_and_files_of_a_rival(model, tmp_path):
    config = Config(fine_tune=FineTuneConfig(epochs=1), output_dir=tmp_path, exports=("keras",))
    result = compress(model, method="uniform", params=0.5, config=config)
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["status"] == result.report.status
    assert "fine-tuned" in written["evaluations"] and (tmp_path / "compressed.keras").is_file()


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"method": "magic", "macs": 0.5}, ConfigError, "one of " + ", ".join(RANK_METHODS)),
        ({"method": None, "macs": 0.5}, ConfigError, "method must be"),
        ({"method": "alds"}, BudgetError, "at least one"),
        ({"method": "cptv", "macs": 1e-9}, BudgetError, "smallest reachable"),
        ({"method": "pos_greedy", "params": 0.0}, BudgetError, "must be a fraction"),
    ],
)
def test_bad_methods_and_budgets(model, options, error, sentence):
    with pytest.raises(error, match=re.escape(sentence)):
        compress(model, **options)


def test_a_rival_does_not_ask_for_a_licence_it_has_no_use_for(model):
    config = Config(solve=SolveConfig(qp_solver="mosek"))
    assert compress(model, method="energy", macs=0.5, config=config).report.qp_solver == "none"


@pytest.mark.parametrize("has_weights", [True, False])
def test_accuracies_of_a_network_without_trained_weights_are_called_meaningless(model, has_weights):
    notes = compress(model if has_weights else small_cnn(), method="cptv", macs=0.5).report.notes
    assert any("accuracies mean nothing" in note for note in notes) != has_weights


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--method=magic"], "greedy_accuracy"),
        (["--method=r_vbmf"], "r_vbmf sets its own ranks and takes no budget, got one on macs, params"),
    ],
)
def test_the_command_line_refuses_before_any_work(flags, sentence, command):
    code, _, err = command(*flags)
    assert code == 2
    assert sentence in err


def test_the_command_line_runs_a_rival(command):
    budgets, quick = ("--macs=none", "--params=none"), ("--pretrain_epochs=1", "--epochs=0", "--exports=")
    code, out, err = command("--method=signal_recovery", *budgets, *quick)
    assert code == 0, err
    assert "ranks by signal_recovery (" in out
