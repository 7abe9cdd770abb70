import dataclasses

import keras
import numpy as np
import pytest
from networks import images_and_labels, small_cnn

from cobla_tf import contest, solve, start
from cobla_tf.config import SolveConfig
from cobla_tf.errors import DataError, SolverError
from cobla_tf.examples import Sample
from cobla_tf.losses import resolve_loss
from cobla_tf.objective import Objective
from cobla_tf.sampling import CURVATURE_IMAGES, SampledLoss
from cobla_tf.sites import find_sites
from cobla_tf.surgery import mask_model

QUICK = SolveConfig(iterations=3, draws=2, refine_iterations=2, sample_fraction=0.4, renew_every=2)
SAMPLE = Sample(*images_and_labels(200))
EXCESS = 1e-6


class Counted:
    """An objective that counts what is asked of it."""

    def __init__(self, objective):
        self.objective, self.gradients, self.losses, self.images = objective, 0, 0, 0

    def gradient(self, masks, sample):
        self.gradients, self.images = self.gradients + 1, self.images + sample.size
        return self.objective.gradient(masks, sample)

    def fisher(self, masks, sample):
        self.images += sample.size
        return self.objective.fisher(masks, sample)

    def keep(self, kept, whole):
        self.objective = self.objective.keep(kept, whole)
        return self

    def __getattr__(self, name):
        def evaluate(*arguments):
            self.losses += 1
            return getattr(self.objective, name)(*arguments)

        return evaluate if callable(getattr(self.objective, name)) else getattr(self.objective, name)


def test_a_site_whose_original_does_not_fit_is_not_taken_for_whole(network):
    solver = solver_of(network, 1.0, refine_iterations=0, stop_at_original=False)
    solver.limits = solver.limits - [1, 0]
    solution = solver.run()
    allocation, costs = solution.rounded.allocation, network[0].costs
    assert costs.fits(allocation, solver.limits)
    assert solver.objective.value(solution.rounded.scale, SAMPLE) <= solver.objective.value(solution.start, SAMPLE)
    assert (costs.used(allocation) > 0.8 * costs.totals()).all()


@pytest.mark.parametrize("share", [0.15, 0.3, 0.5])
def test_no_rounding_is_worse_than_the_heuristic_start_on_the_images_of_the_contest(network, share):
    solver = solver_of(network, share, refine_iterations=0, continuation=False)
    solution = solver.run()
    judges = solver.oracle.judges or solver.oracle.sample
    values = [solver.objective.value(masks, judges) for masks in (solution.rounded.scale, solution.start)]
    assert values[0] <= values[1] + 1e-6


@pytest.fixture(scope="module")
def network():
    model = small_cnn()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(SAMPLE.images, SAMPLE.labels, epochs=4, verbose=0)
    sites = find_sites(model, "spatial")
    loss = resolve_loss(None, model, SAMPLE.probe())
    return sites, Objective(mask_model(model, sites), loss, 64, SAMPLE.probe())


def solver_of(network, share, warm=None, record=lambda entry: None, **options):
    sites, objective = network
    return solve.Solver(
        objective=objective,
        examples=SAMPLE,
        sigmas=sites.sigmas,
        costs=sites.costs,
        limits=np.floor(share * sites.costs.totals()),
        macs=sites.costs.take(np.array([True, False])),
        config=dataclasses.replace(QUICK, **options),
        qp_solver="structured",
        rng=np.random.default_rng(0),
        on_record=record,
        warm=warm,
    )


def check_budgets(network, solver, solution):
    costs, limits = network[0].costs, solver.limits
    assert costs.fits(solution.rounded.allocation, limits)
    used = solver.relaxation.region.used(solution.relaxed, solution.rounded.allocation.whole)
    assert (used <= limits * (1 + EXCESS)).all()
    assert (solution.relaxed >= 0).all()
    assert (solution.relaxed <= 1).all()
    np.testing.assert_array_equal(solution.rounded.scale > 0, solution.rounded.kept)


def overspent(solution):
    return [max(record.budget_use.values()) > 1 + EXCESS for record in solution.records]


def gradients_of_relaxation(solution):
    return max(record.gradients for record in solution.records if record.phase.startswith(("continuation", "solve")))


@pytest.mark.parametrize("options", [{}, {"curvature": "identity"}, {"continuation": False}, {"rounding": "random"}])
def test_from_ones_down_to_the_budgets(network, options):
    solver = solver_of(network, 0.4, start="ones", **options)
    solution = solver.run()
    check_budgets(network, solver, solution)
    over = overspent(solution)
    assert over == sorted(over, reverse=True)
    phases = [record.phase for record in solution.records]
    came_down = options.get("continuation", True)
    assert ("continuation" in phases) == came_down == ("continuation: " in solution.status)
    assert all(record.phase == "continuation" for record, above in zip(solution.records, over, strict=True) if above)
    assert all(
        np.isfinite(record.judged) for record in solution.records if record.phase.startswith(("solve", "refine"))
    )
    np.testing.assert_array_equal(solution.start, 1)


@pytest.mark.parametrize("start", ["pos_cvx", "cptv"])
def test_from_within_the_budgets_nothing_is_ever_above_them(network, start):
    solver = solver_of(network, 0.5, start=start)
    solution = solver.run()
    check_budgets(network, solver, solution)
    assert not any(overspent(solution))
    assert "continuation" not in solution.status
    for record in solution.records:
        assert np.isfinite(record.judged)
    refined = [tuple(record.budget_use.values()) for record in solution.records if record.phase == "refine"]
    used = network[0].costs.used(solution.rounded.allocation) / solver.limits
    assert set(refined) == {tuple(used)}


def test_a_start_near_chance_is_taken_at_looser_budgets_and_comes_down(network, monkeypatch):
    monkeypatch.setattr(start, "CHANCE", -np.inf)
    solver = solver_of(network, 0.4)
    solution = solver.run()
    check_budgets(network, solver, solution)
    assert overspent(solution)[0]
    assert not overspent(solution)[-1]
    assert "continuation: " in solution.status
    heuristic = solver.start.allocation
    assert network[0].costs.fits(heuristic, solver.limits)
    used = network[0].costs.used(heuristic)
    np.testing.assert_allclose(used, solver.relaxation.region.used(solution.start, heuristic.whole))


@pytest.mark.parametrize("start", ["pos_cvx", "ones"])
@pytest.mark.parametrize("fraction", [0.4, 1.0])
def test_records_count_every_evaluation(network, start, fraction):
    counted = Counted(network[1])
    seen, found = counted.tally.images, []

    def record(entry):
        found.append((counted.gradients, counted.losses, counted.images))
        assert (entry.gradients, entry.values, entry.images - seen) == found[-1]

    solver = solver_of((network[0], counted), 0.4, record=record, start=start, sample_fraction=fraction)
    solution = solver.run()
    assert len(found) == len(solution.records)
    last = solution.records[-1].phase  # a fade may have reached what refining is asked for
    assert last == "refine" or (last == "fade" and "refining: good enough" in solution.status)
    assert counted.images >= CURVATURE_IMAGES
    assert [entry.iteration for entry in solution.records if entry.phase != "refine"] == list(
        range(1, 1 + sum(entry.phase != "refine" for entry in solution.records))
    )


def test_one_seed_fixes_all(network):
    first, second = (solver_of(network, 0.4, start="ones").run() for _ in range(2))
    np.testing.assert_array_equal(first.rounded.allocation.ranks, second.rounded.allocation.ranks)
    np.testing.assert_array_equal(first.rounded.scale, second.rounded.scale)
    assert first.status == second.status


@pytest.mark.parametrize("fraction", [0.4, 1.0])
@pytest.mark.parametrize(("worse", "stop"), [(0.0, True), (0.5, True), (0.5, False)])
def test_nobody_asks_for_less_loss_than_the_original_has(network, monkeypatch, fraction, worse, stop):
    """An original that is a little worse than it is stands for a budget at which nothing is lost."""
    compared = SampledLoss.compared
    monkeypatch.setattr(SampledLoss, "compared", lambda oracle, x: compared(oracle, x) + worse)
    solver = solver_of(network, 0.6, sample_fraction=fraction, iterations=6, stop_at_original=stop)
    solution = solver.run()
    check_budgets(network, solver, solution)
    oracle = solver.oracle
    original = np.ones(solver.layout.size)
    measured = oracle.judge(original).mean() if oracle.judges else solver.objective.value(original, oracle.sample)
    assert solver.target == (pytest.approx(measured + worse, rel=1e-5) if stop else -np.inf)
    assert ("solve 1: good enough" in solution.status) == (worse > 0 and stop)
    if worse and stop:
        assert oracle.compared(solution.relaxed) - worse <= solver.target


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_a_warm_start_meets_other_budgets_and_pays(network, share):
    warm = solver_of(network, 0.5, iterations=6).run().warm
    pairs, diagonal = warm.bfgs.pairs, warm.bfgs.diagonal.copy()
    cold = solver_of(network, share, iterations=6).run()
    solvers = [solver_of(network, share, warm, iterations=6) for _ in range(2)]
    solutions = [solver.run() for solver in solvers]
    check_budgets(network, solvers[0], solutions[0])
    assert gradients_of_relaxation(solutions[0]) < gradients_of_relaxation(cold)
    relaxed = [network[1].value(solution.relaxed, SAMPLE) for solution in (solutions[0], cold)]
    assert relaxed[0] <= relaxed[1] * 1.1
    np.testing.assert_array_equal(solutions[0].rounded.scale, solutions[1].rounded.scale)
    assert warm.bfgs.pairs == pairs
    np.testing.assert_array_equal(warm.bfgs.diagonal, diagonal)


def test_a_warm_start_is_done_sooner(network, monkeypatch):
    patience = []
    loop_of = solve.Solver._loop

    def watched(self, *arguments, **stops):
        loop = loop_of(self, *arguments, **stops)
        patience.append(loop.settings.patience)
        return loop

    monkeypatch.setattr(solve.Solver, "_loop", watched)
    warm = solver_of(network, 0.5, iterations=2).run().warm
    solver_of(network, 0.4, warm).run()
    assert patience == [5, 5, solve.WARM_PATIENCE, solve.WARM_REFINING]


@pytest.mark.parametrize(("share", "came_down"), [(0.4, True), (0.5, False)])
def test_a_warm_start_sees_half_of_a_whole_sample_at_once(network, share, came_down):
    warm = solver_of(network, 0.45).run().warm
    solver = solver_of(network, share, warm, renew_every=5, refine_iterations=0)
    solver.run()
    assert any("continuation" in status for status in solver.log.status) == came_down
    assert solver.oracle.sample.size == solver.oracle.count // 2


@pytest.fixture
def _all_is_lost(monkeypatch):
    """Every rounding has lost so much that it fades."""
    monkeypatch.setattr(contest, "DRIFT", -np.inf)


@pytest.mark.usefixtures("_all_is_lost")
@pytest.mark.parametrize("continuation", [True, False])
@pytest.mark.parametrize("options", [{}, {"rounding": "random", "draws": 1}, {"sample_fraction": 1.0}])
def test_what_rounding_loses_fades_out(network, continuation, options):
    solver = solver_of(network, 0.4, continuation=continuation, refine_iterations=1, **options)
    solution = solver.run()
    check_budgets(network, solver, solution)
    faded = continuation
    assert ("fading: " in solution.status) == faded
    records = [record for record in solution.records if record.phase == "fade"]
    assert bool(records) == faded
    used = network[0].costs.used(solution.rounded.allocation) / solver.limits
    for record in records:
        assert not record.prices
        np.testing.assert_allclose(list(record.budget_use.values()), used)


@pytest.mark.usefixtures("_all_is_lost")
@pytest.mark.parametrize("fraction", [0.4, 1.0])
def test_a_fade_is_counted_and_a_warm_start_knows_nothing_of_it(network, monkeypatch, fraction):
    counted, found, learnt = Counted(network[1]), [], []
    seen, begin = counted.tally.images, solve.fade

    def watched(loop, *arguments):
        learnt.append((loop.bfgs.pairs, loop.bfgs.diagonal.copy()))
        return begin(loop, *arguments)

    def record(entry):
        found.append((counted.gradients, counted.losses, counted.images))
        assert (entry.gradients, entry.values, entry.images - seen) == found[-1]

    monkeypatch.setattr(solve, "fade", watched)
    options = {"sample_fraction": fraction, "stop_at_original": False}
    solution = solver_of((network[0], counted), 0.4, record=record, **options).run()
    assert "fade" in {entry.phase for entry in solution.records}
    assert solution.warm.bfgs.pairs == learnt[0][0]
    np.testing.assert_array_equal(solution.warm.bfgs.diagonal, learnt[0][1])


def test_one_draw_of_the_paper_is_asked_for_no_loss(network, monkeypatch):
    monkeypatch.setattr(solve, "Contest", None)
    solver = solver_of(network, 0.4, rounding="random", draws=1, continuation=False)
    check_budgets(network, solver, solver.run())


@pytest.mark.usefixtures("_all_is_lost")
@pytest.mark.parametrize("worse", [True, False])
def test_a_fade_that_does_not_pay_is_left(network, monkeypatch, worse):
    seen = []

    def faded(loop, masks, rounded, *arguments):
        seen.extend([rounded, dataclasses.replace(rounded, scale=rounded.scale * (0.01 if worse else 1.01))])
        return seen[1], "done"

    monkeypatch.setattr(solve, "fade", faded)
    solution = solver_of(network, 0.4, refine_iterations=0).run()
    assert solution.rounded is seen[0 if worse else 1]
    assert ("it does not pay" in solution.status) == worse


@pytest.mark.usefixtures("_all_is_lost")
def test_a_fade_that_fails_leaves_the_rounding(network, monkeypatch):
    def failing_fade(*arguments):
        raise SolverError("away")

    monkeypatch.setattr(solve, "fade", failing_fade)
    solver = solver_of(network, 0.4)
    solution = solver.run()
    check_budgets(network, solver, solution)
    assert "fading: left out: away" in solution.status


@pytest.mark.parametrize("budgeted", [0, 1], ids=["macs", "params"])
def test_samples_of_refining_grow_by_the_share_of_macs_whatever_has_a_budget(network, monkeypatch, budgeted):
    shares, keep = [], SampledLoss.keep

    def watched(oracle, kept, whole, share):
        shares.append(share)
        return keep(oracle, kept, whole, share)

    monkeypatch.setattr(SampledLoss, "keep", watched)
    solver = solver_of(network, 0.4)
    solver.costs, solver.limits = solver.costs.take(np.arange(2) == budgeted), solver.limits[[budgeted]]
    allocation = solver.run().rounded.allocation
    macs, params = network[0].costs.used(allocation) / network[0].costs.totals()
    assert shares == [macs]
    assert abs(macs - params) > 0.02


def test_budgets_of_the_original_leave_nothing_to_decide_and_a_warm_start_still(network):
    solver = solver_of(network, 1.0)
    solution = solver.run()
    assert solution.rounded.allocation.whole.all()
    assert "nothing left to decide" in solution.status
    assert not solution.records
    tighter = solver_of(network, 0.5, solution.warm)
    check_budgets(network, tighter, tighter.run())


def failing(calls):
    """A back end that fails at some of its calls, counted from 1, as its `count` does."""

    def back_end(program, name):
        back_end.count += 1
        if back_end.count in calls:
            raise SolverError("away")
        return solve_qp(program, name)

    solve_qp, back_end.count = solve.solve_qp, 0
    return back_end


def test_a_back_end_that_never_answers_is_an_error_of_ours(network, monkeypatch):
    monkeypatch.setattr(solve, "solve_qp", failing(range(1, 999)))
    with pytest.raises(SolverError, match="away"):
        solver_of(network, 0.4, start="ones").run()


@pytest.mark.parametrize("call", [3, 4, 5])
def test_one_failure_on_the_way_down_is_survived(network, monkeypatch, call):
    monkeypatch.setattr(solve, "solve_qp", back_end := failing({call}))
    solver = solver_of(network, 0.4, start="ones")
    check_budgets(network, solver, solver.run())
    assert back_end.count > call


def test_a_curvature_that_is_not_finite_leaves_the_integer_program_out(network, monkeypatch):
    monkeypatch.setattr(SampledLoss, "curvature", lambda self, x: np.full(len(x), np.nan))
    solver = solver_of(network, 0.4)
    solution = solver.run()
    check_budgets(network, solver, solution)
    assert "integer program" not in solution.status


@pytest.mark.parametrize("share", [0.5, 0.15])
def test_a_back_end_that_never_answers_leaves_the_heuristic(network, monkeypatch, share):
    monkeypatch.setattr(solve, "solve_qp", failing(range(1, 999)))
    solver = solver_of(network, share)
    solution = solver.run()
    assert network[0].costs.fits(solution.rounded.allocation, solver.limits)
    assert "away" in solution.status


@pytest.mark.parametrize("stop_at_original", [True, False])
def test_a_bad_image_among_those_that_judge_is_an_error(network, monkeypatch, stop_at_original):
    monkeypatch.setattr(SampledLoss, "compared", lambda self, x: np.nan)
    with pytest.raises(DataError, match="that solutions are compared on"):
        solver_of(network, 0.4, stop_at_original=stop_at_original).run()


def test_masks_outside_the_budgets_are_no_solution(network, monkeypatch):
    run = solve.SQP.run

    def lost(loop, iterations=None):
        result = run(loop, iterations)
        return dataclasses.replace(result, x=np.ones_like(result.x), status="the rows are not met yet")

    monkeypatch.setattr(solve.SQP, "run", lost)
    solver = solver_of(network, 0.4, refine_iterations=0, continuation=False)
    solution = solver.run()
    check_budgets(network, solver, solution)
    assert "solve 1: left out: the rows are not met yet" in solution.status
    assert solution.warm is None


def test_what_rounding_cost_is_told(network):
    solution = solver_of(network, 0.4).run()
    assert 0 < solution.rounding.relaxed < np.inf
    assert solution.rounding.rounded != solution.rounding.relaxed
    assert solver_of(network, 1.0).run().rounding is None


def test_masks_without_a_certificate_are_masks_still(network, monkeypatch):
    def failing_certificate(loop):
        raise SolverError("away")

    plain = solver_of(network, 0.4).run()
    monkeypatch.setattr(solve.SQP, "certificate", failing_certificate)
    solution = solver_of(network, 0.4).run()
    np.testing.assert_array_equal(solution.relaxed, plain.relaxed)
    assert plain.certificates
    assert not solution.certificates
    assert "solve 1: no certificate: away" in solution.status


def test_a_warm_start_on_a_sample_without_a_finite_loss_leaves_the_heuristic(network, monkeypatch):
    def failing_refresh(loop):
        raise SolverError("not finite")

    warm = solver_of(network, 0.6).run().warm
    monkeypatch.setattr(solve.SQP, "refresh", failing_refresh)
    monkeypatch.setattr(SampledLoss, "fill", lambda self: True)
    solver = solver_of(network, 0.4, warm)
    solution = solver.run()
    check_budgets(network, solver, solution)
    assert "solve 1: left out: not finite" in solution.status
    assert solution.warm is None
