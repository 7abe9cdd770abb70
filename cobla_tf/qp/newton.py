"""The linear system behind the interior point and the active set, by Woodbury's identity."""

import numpy as np
from scipy.linalg import lu_factor, lu_solve

from cobla_tf.qp.problem import Array, QuadraticForm

_RANK = 1e-13
"""Eigenvalue of the equilibrated row system, over the largest, below which rows count as dependent."""


class NewtonSystem:
    """Factors of [[B + diag(extra), A^T], [A, -diag(give)]]; O(n k (k + p)) to build, O(n (k + p)) to solve."""

    def __init__(self, form: QuadraticForm, rows: Array, extra: Array, give: Array) -> None:
        """Factor.

        Args:
            form: B [n, n]; its basis need not be orthonormal.
            rows: A, float64 [p, n]; p may be 0, and rows may be dependent.
            extra: float64 [n], at or above 0.
            give: float64 [p], at or above 0.
        """
        self._form, self._rows, self._extra, self._give = form, rows, extra, give
        self._weight = form.diagonal + extra
        self._half = np.sqrt(form.diagonal) / self._weight
        spread = form.basis * np.sqrt(form.diagonal / self._weight)[:, None]
        # I + S C instead of S^-1 + C: a shift may be 0.
        self._inner = lu_factor(np.eye(form.shift.size) + form.shift[:, None] * (spread.T @ spread))
        self._answers = self._invert(rows.T)
        self._schur = _pseudo_inverse(rows @ self._answers + np.diag(give))

    def _invert(self, right: Array) -> Array:
        """(B + diag(extra))^-1 applied to columns [n, ...]."""
        half, weight = (v.reshape(-1, *[1] * (right.ndim - 1)) for v in (self._half, self._weight))
        inner = self._form.basis.T @ (half * right)
        shift = self._form.shift.reshape(-1, *[1] * (right.ndim - 1))
        return right / weight - half * (self._form.basis @ lu_solve(self._inner, shift * inner))

    def _solve_once(self, top: Array, bottom: Array) -> tuple[Array, Array]:
        plain = self._invert(top)
        y = self._schur @ (self._rows @ plain - bottom)
        return plain - self._answers @ y, y

    def solve(self, top: Array, bottom: Array) -> tuple[Array, Array]:
        """x [n] and y [p] for the right-hand sides top [n] and bottom [p], refined once."""
        x, y = self._solve_once(top, bottom)
        left_top = top - (self._form @ x + self._extra * x + self._rows.T @ y)
        left_bottom = bottom - (self._rows @ x - self._give * y)
        dx, dy = self._solve_once(left_top, left_bottom)
        return x + dx, y + dy


def _pseudo_inverse(matrix: Array) -> Array:
    """Pseudo-inverse of a positive semidefinite matrix [p, p], equilibrated so that row sizes do not matter."""
    size = np.sqrt(np.diag(matrix))
    size = np.where(size > 0, size, 1.0)
    values, vectors = np.linalg.eigh(matrix / np.outer(size, size))
    useful = values > _RANK * values.max(initial=0.0)
    inverse = np.where(useful, 1.0 / np.where(useful, values, 1.0), 0.0)
    return (vectors * inverse) @ vectors.T / np.outer(size, size)
