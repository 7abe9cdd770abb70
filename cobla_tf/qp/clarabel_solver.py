"""Clarabel on the convex lifting of a quadratic program whose Hessian is diagonal plus low rank."""

import clarabel
import numpy as np
from scipy import sparse

from cobla_tf.errors import SolverError
from cobla_tf.qp.problem import Array, QuadraticProgram

_USABLE = ("Solved", "AlmostSolved", "InsufficientProgress", "MaxIterations", "NumericalError")
"""Statuses that still carry a point; the caller judges its residual."""


def _objective(program: QuadraticProgram) -> tuple[sparse.csc_matrix, Array]:
    """Quadratic and linear part over (d, v, w): g^T d + (|v|^2 + sum (1 + shift_i) w_i^2) / 2."""
    n, k = program.hessian.basis.shape
    weights = np.concatenate([np.zeros(n), np.ones(n), 1.0 + program.hessian.shift])
    return sparse.diags(weights, format="csc"), np.concatenate([program.gradient, np.zeros(n + k)])


def _equations(program: QuadraticProgram) -> sparse.csc_matrix:
    """Left sides, all equal to 0, of v + Q w = D^(1/2) d and Q^T v = 0, which say w = Q^T D^(1/2) d."""
    n, k = program.hessian.basis.shape
    basis = sparse.csc_matrix(program.hessian.basis)
    root = sparse.diags(np.sqrt(program.hessian.diagonal))
    blocks = [[-root, sparse.identity(n), basis], [sparse.csc_matrix((k, n)), basis.T, sparse.csc_matrix((k, k))]]
    return sparse.bmat(blocks, format="csc")


def _inequalities(program: QuadraticProgram) -> tuple[sparse.csc_matrix, Array]:
    """Left and right sides over (d, v, w) of rows, finite upper and finite lower bounds."""
    n, k = program.hessian.basis.shape
    up, low = np.isfinite(program.upper), np.isfinite(program.lower)
    unit = sparse.identity(n, format="csr")
    left = sparse.vstack([sparse.csr_matrix(program.rows), unit[up], -unit[low]])
    right = np.concatenate([program.limits, program.upper[up], -program.lower[low]])
    return sparse.hstack([left, sparse.csr_matrix((right.size, n + k))], format="csc"), right


def _settings() -> clarabel.DefaultSettings:
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-10
    # At unit scale the default, 1e-8, costs more accuracy than it saves: it stalled on boxes some 1e-6 wide.
    settings.static_regularization_constant = 1e-11
    return settings


def solve(program: QuadraticProgram) -> tuple[Array, Array]:
    """Minimise a reduced program (see `presolve`: no infinite row may be left, Clarabel's presolve stays on).

    Returns:
        x, float64 [n], and row multipliers, float64 [p].

    Raises:
        SolverError: Clarabel found no point.
    """
    n, k = program.hessian.basis.shape
    quadratic, linear = _objective(program)
    equations, (left, right) = _equations(program), _inequalities(program)
    cones = [clarabel.ZeroConeT(n + k), clarabel.NonnegativeConeT(right.size)]
    stacked = sparse.vstack([equations, left], format="csc")
    limits = np.concatenate([np.zeros(n + k), right])
    answer = clarabel.DefaultSolver(quadratic, linear, stacked, limits, cones, _settings()).solve()
    if str(answer.status) not in _USABLE:
        raise SolverError(f"Clarabel ended with status {answer.status}, expected a solution; check rows and bounds.")
    multipliers = np.asarray(answer.z)[n + k : n + k + program.limits.size]
    return np.asarray(answer.x)[:n], multipliers
