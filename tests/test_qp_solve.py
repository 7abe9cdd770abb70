"""Which back end is taken, what happens when one fails, and that it is said aloud."""

import logging
import re

import numpy as np
import pytest
from qp_programs import random_program

from cobla_tf.config import QP_SOLVERS
from cobla_tf.errors import SolverError
from cobla_tf.qp import KKT_TOLERANCE, mosek_solver, resolve_solver, solve
from cobla_tf.qp.solve import _BACK_ENDS, _announce


@pytest.fixture
def log(caplog):
    """What absl logged at INFO and above."""
    absl = logging.getLogger("absl")
    level, propagate = absl.level, absl.propagate
    absl.propagate = True
    absl.addHandler(caplog.handler)
    absl.setLevel(logging.INFO)
    yield caplog
    absl.removeHandler(caplog.handler)
    absl.setLevel(level)
    absl.propagate = propagate


def _licence(monkeypatch, answers):
    monkeypatch.setattr(mosek_solver, "licence_answers", lambda: answers)


@pytest.mark.parametrize(("answers", "expected"), [(True, "mosek"), (False, "structured")])
def test_auto_takes_mosek_where_a_licence_answers_and_says_so_once(monkeypatch, log, answers, expected):
    _licence(monkeypatch, answers)
    _announce.cache_clear()
    assert resolve_solver("auto") == expected
    assert f"QP solver: {expected}" in log.text
    log.clear()
    assert resolve_solver("auto") == expected
    assert not log.records


@pytest.mark.parametrize("name", ["structured", "clarabel"])
def test_named_back_ends_stand_for_themselves(name):
    assert resolve_solver(name) == name
    assert solve(random_program(), name).solver == name


def test_every_choice_is_known():
    assert set(QP_SOLVERS) == {"auto", *_BACK_ENDS}
    with pytest.raises(SolverError, match="must be one of"):
        resolve_solver("quadprog")
    with pytest.raises(SolverError, match="must be one of"):
        solve(random_program(), "quadprog")


def test_mosek_without_a_licence_says_where_to_get_one(monkeypatch):
    _licence(monkeypatch, False)
    for ask in (lambda: resolve_solver("mosek"), lambda: solve(random_program(), "mosek")):
        with pytest.raises(SolverError, match=re.escape("https://www.mosek.com/license/request/")) as caught:
            ask()
        assert "MOSEKLM_LICENSE_FILE" in str(caught.value)


def _answers(x):
    return lambda program: (np.full(program.gradient.size, x), np.zeros(program.limits.size))


def _fails(program):
    raise ZeroDivisionError("far away")


@pytest.mark.parametrize("back_end", [_answers(0.0), _answers(np.nan), _fails])
def test_structured_gives_way_to_clarabel_aloud(monkeypatch, log, back_end):
    monkeypatch.setitem(_BACK_ENDS, "structured", back_end)
    solution = solve(random_program(), "structured")
    assert solution.solver == "clarabel"
    assert solution.residual <= KKT_TOLERANCE
    assert "'structured' gives way to 'clarabel'" in log.text


def test_fallback_is_silent_where_nothing_failed(log):
    assert solve(random_program(), "structured").solver == "structured"
    assert not [record for record in log.records if record.levelno >= logging.WARNING]


def test_back_end_exceptions_become_solver_errors(monkeypatch):
    monkeypatch.setitem(_BACK_ENDS, "clarabel", _fails)
    with pytest.raises(SolverError, match=r"'clarabel' failed: ZeroDivisionError: far away"):
        solve(random_program(), "clarabel")


def test_useless_answers_are_errors_and_inaccurate_ones_warnings(monkeypatch, log):
    program = random_program()
    monkeypatch.setitem(_BACK_ENDS, "clarabel", _answers(0.0))
    with pytest.raises(SolverError, match="KKT residual"):
        solve(program, "clarabel")

    def rough(program):
        x, y = _BACK_ENDS["structured"](program)
        return x, y * (1 + 1e-4)

    monkeypatch.setitem(_BACK_ENDS, "clarabel", rough)
    assert KKT_TOLERANCE < solve(program, "clarabel").residual < 1e-3
    assert re.search(r"'clarabel': KKT residual .* above", log.text)


def test_an_answer_that_just_misses_the_tolerance_is_kept_where_clarabel_has_none(monkeypatch, log):
    exact = _BACK_ENDS["structured"]

    def rough(program):
        x, y = exact(program)
        return x, y * (1 + 1e-4)

    monkeypatch.setitem(_BACK_ENDS, "structured", rough)
    monkeypatch.setitem(_BACK_ENDS, "clarabel", _fails)
    solution = solve(random_program(), "structured")
    assert solution.solver == "structured"
    assert KKT_TOLERANCE < solution.residual < 1e-3
    assert "'structured' keeps its answer: The QP solver 'clarabel' failed: ZeroDivisionError: far away" in log.text
