"""The quadratic form and program, and what is refused before any work."""

from dataclasses import replace

import numpy as np
import pytest
from qp_programs import dense, random_program

from cobla_tf.errors import SolverError
from cobla_tf.qp import solve

TOLERANCE = 1e-12  # float64, entries up to 1e4


def test_product_is_that_of_the_matrix():
    program = random_program(spread=True)
    d = np.random.default_rng(1).normal(size=program.gradient.size)
    np.testing.assert_allclose(program.hessian @ d, dense(program.hessian) @ d, rtol=TOLERANCE, atol=1e-10)
    expected = program.gradient @ d + 0.5 * d @ dense(program.hessian) @ d
    assert program.objective(d) == pytest.approx(expected, rel=TOLERANCE)


@pytest.mark.parametrize("kept", [1, 3, 15, 40])
def test_restriction_is_the_principal_submatrix_with_an_orthonormal_basis(kept):
    form = random_program(n=40, k=6, spread=True).hessian
    keep = np.sort(np.random.default_rng(2).permutation(40)[:kept])
    expected = dense(form)[np.ix_(keep, keep)]
    for part in (form.restrict(keep), form.take(keep)):
        np.testing.assert_allclose(dense(part), expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())
    basis = form.restrict(keep).basis
    np.testing.assert_allclose(basis.T @ basis, np.eye(basis.shape[1]), atol=TOLERANCE)
    assert (form.restrict(keep).shift > -1).all()


def _hessian(program, **changes):
    return replace(program, hessian=replace(program.hessian, **changes))


def _at(values, value):
    values = values.copy()
    values.flat[3] = value
    return values


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda p: replace(p, gradient=p.gradient[1:]), "gradient of shape"),
        (lambda p: replace(p, rows=p.rows[:, 1:]), "rows of shape"),
        (lambda p: replace(p, gradient=_at(p.gradient, np.nan)), "gradient without NaN"),
        (lambda p: replace(p, gradient=_at(p.gradient, np.inf)), "finite gradient"),
        (lambda p: replace(p, rows=_at(p.rows, np.nan)), "rows without NaN"),
        (lambda p: replace(p, rows=_at(p.rows, np.inf)), "finite rows"),
        (lambda p: replace(p, limits=p.limits * np.nan), "limits without NaN"),
        (lambda p: replace(p, limits=p.limits - np.inf), "above -infinity"),
        (lambda p: replace(p, lower=_at(p.lower, 2.0)), "lower <= upper"),
        (lambda p: replace(p, upper=_at(p.upper, np.nan)), "upper without NaN"),
        (lambda p: _hessian(p, diagonal=_at(p.hessian.diagonal, 0.0)), "positive diagonal"),
        (lambda p: _hessian(p, shift=_at(p.hessian.shift, -1.0)), "every shift above -1"),
        (lambda p: _hessian(p, basis=_at(p.hessian.basis, np.nan)), "finite Hessian"),
        (lambda p: _hessian(p, basis=2 * p.hessian.basis), "orthonormal"),
        (lambda p: _hessian(p, basis=p.hessian.basis[:, 1:]), "basis of shape"),
    ],
)
def test_malformed_programs_are_refused(change, sentence):
    with pytest.raises(SolverError, match=sentence):
        solve(change(random_program()), "structured")
