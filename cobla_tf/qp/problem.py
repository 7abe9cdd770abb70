"""The convex quadratic program of one SQP iteration, with its Hessian as diagonal plus low rank."""

from dataclasses import dataclass

import numpy as np

from cobla_tf.errors import SolverError

Array = np.ndarray

_ORTHONORMAL = 1e-6
"""Largest entry of Q^T Q - I that the lifting of the cone solvers still bears."""


def _require(ok: bool, expected: str, advice: str) -> None:
    if not ok:
        raise SolverError(f"The quadratic program is malformed: expected {expected}; {advice}.")


@dataclass(frozen=True)
class QuadraticForm:
    """B = D^(1/2) (I + Q diag(shift) Q^T) D^(1/2), never formed as a matrix.

    Attributes:
        diagonal: D, float64 [n], positive.
        basis: Q, float64 [n, k], orthonormal columns; k may be 0.
        shift: float64 [k], every entry above -1, so that B is positive definite.
    """

    diagonal: Array
    basis: Array
    shift: Array

    def __matmul__(self, d: Array) -> Array:
        """B d, float64 [n]."""
        root = np.sqrt(self.diagonal)
        scaled = root * d
        return root * (scaled + self.basis @ (self.shift * (self.basis.T @ scaled)))

    def take(self, keep: Array) -> "QuadraticForm":
        """The principal submatrix of the kept coordinates, cheaply: its basis is no longer orthonormal.

        Args:
            keep: bool or int index into the n coordinates.
        """
        return QuadraticForm(self.diagonal[keep], self.basis[keep], self.shift)

    def restrict(self, keep: Array) -> "QuadraticForm":
        """The principal submatrix of the kept coordinates, with an orthonormal basis again; O(n k^2).

        Args:
            keep: bool or int index into the n coordinates.
        """
        frame, corner = np.linalg.qr(self.basis[keep])
        shift, turn = np.linalg.eigh((corner * self.shift) @ corner.T)
        # Eigenvalues of a principal submatrix interlace: rounding must not carry a shift to -1 or below.
        shift = np.clip(shift, self.shift.min(initial=0.0), self.shift.max(initial=0.0))
        return QuadraticForm(self.diagonal[keep], frame @ turn, shift)

    def validate(self) -> None:
        """Check shapes and definiteness; raises SolverError."""
        n, k = self.diagonal.size, self.shift.size
        _require(self.diagonal.shape == (n,) and self.shift.shape == (k,), "vectors D and shift", "flatten them")
        _require(n > 0, "at least one variable", "leave the solver out where nothing can move")
        _require(self.basis.shape == (n, k), f"a basis of shape {(n, k)}", f"got {self.basis.shape}, reshape it")
        finite = all(np.isfinite(part).all() for part in (self.diagonal, self.basis, self.shift))
        _require(finite, "a finite Hessian", "got NaN or infinity, check the gradients behind it")
        _require((self.diagonal > 0).all(), "a positive diagonal D", "got an entry at or below 0, damp the update")
        _require((self.shift > -1).all(), "every shift above -1", "got an indefinite Hessian, damp the update")
        drift = np.abs(self.basis.T @ self.basis - np.eye(k)).max(initial=0.0)
        _require(drift <= _ORTHONORMAL, "orthonormal basis columns", f"they are off by {drift:.1e}, take a QR first")


@dataclass(frozen=True)
class QuadraticProgram:
    """Minimise g^T d + d^T B d / 2 subject to A d <= b and lower <= d <= upper.

    Attributes:
        hessian: B.
        gradient: g, float64 [n].
        rows: A, float64 [p, n]; p may be 0.
        limits: b, float64 [p]; an infinite entry switches its row off.
        lower, upper: float64 [n], lower <= upper; equal entries fix a variable.
    """

    hessian: QuadraticForm
    gradient: Array
    rows: Array
    limits: Array
    lower: Array
    upper: Array

    def objective(self, d: Array) -> float:
        """Value of the quadratic model at d (negative: predicted decrease)."""
        return float(self.gradient @ d + 0.5 * d @ (self.hessian @ d))

    def validate(self) -> None:
        """Check shapes, finiteness and the order of the bounds; raises SolverError."""
        self.hessian.validate()
        n, p = self.hessian.diagonal.size, self.limits.size
        shapes = {"gradient": (n,), "rows": (p, n), "limits": (p,), "lower": (n,), "upper": (n,)}
        for name, shape in shapes.items():
            got = getattr(self, name)
            _require(got.shape == shape, f"{name} of shape {shape}", f"got {got.shape}, match the Hessian's {n}")
            _require(not np.isnan(got).any(), f"{name} without NaN", "check where it was computed")
        _require(np.isfinite(self.gradient).all(), "a finite gradient", "got infinity, lower the step or the data")
        _require(np.isfinite(self.rows).all(), "finite rows", "got infinity, check the costs")
        _require((self.limits > -np.inf).all(), "limits above -infinity", "use +infinity to switch a row off")
        wrong = np.flatnonzero((self.lower > self.upper) | (self.lower == np.inf) | (self.upper == -np.inf))
        _require(wrong.size == 0, "lower <= upper", f"variable {wrong[:1]} has no room, exchange or widen its bounds")
