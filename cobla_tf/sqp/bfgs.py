"""Damped BFGS in compact form: a diagonal and at most 2 * memory columns, never a matrix."""

from dataclasses import dataclass, field

import numpy as np

from cobla_tf.qp.problem import QuadraticForm

Array = np.ndarray

DAMPING = 0.2
"""Powell's constant: s^T y is kept at or above this share of s^T B s."""
FLOOR = 1e-8
"""Smallest eigenvalue of B relative to its diagonal, against round-off in the compact form."""


@dataclass
class CompactBFGS:
    """B = D - W M^-1 W^T after Byrd, Nocedal and Schnabel (1994), Theorem 2.3, with Powell's damping.

    Attributes:
        diagonal: D, the first Hessian, float64 [n], positive.
        memory: most pairs kept; the oldest goes first.
    """

    diagonal: Array
    memory: int
    _steps: list[Array] = field(default_factory=list)
    _changes: list[Array] = field(default_factory=list)
    _form: QuadraticForm | None = None

    @property
    def pairs(self) -> int:
        """Number of pairs (s, y) held."""
        return len(self._steps)

    @property
    def arrays(self) -> list[Array]:
        """All that the matrix is made of."""
        return [self.diagonal, *self._steps, *self._changes]

    def clear(self) -> None:
        """Fall back to the diagonal."""
        self._steps.clear()
        self._changes.clear()
        self._form = None

    def widened(self, diagonal: Array) -> "CompactBFGS":
        """A copy for more variables, of which the pairs know nothing.

        Args:
            diagonal: theirs, float64 [m], positive.
        """
        rest = np.zeros(len(diagonal))
        steps, changes = ([np.append(one, rest) for one in all_] for all_ in (self._steps, self._changes))
        return CompactBFGS(np.append(self.diagonal, diagonal), self.memory, steps, changes)

    def stiffen(self, factor: float) -> None:
        """Multiply D: the curvature outside the span of the pairs was underestimated."""
        self.diagonal = self.diagonal * factor
        self._form = None

    def update(self, step: Array, change: Array) -> None:
        """Take in a step s and the change y of the gradient along it, both on the same sample."""
        if not step.any():
            return
        image = self.form() @ step
        curvature, model = float(step @ change), float(step @ image)
        if curvature < DAMPING * model:
            share = (1 - DAMPING) * model / (model - curvature)
            change = share * change + (1 - share) * image
        self._steps.append(step)
        self._changes.append(change)
        del self._steps[: -self.memory], self._changes[: -self.memory]
        self._form = None

    def form(self) -> QuadraticForm:
        """The current B; worked out once a change."""
        if self._form is None:
            self._form = self._compact()
        return self._form

    def _compact(self) -> QuadraticForm:
        """An orthonormal basis and the eigenvalues of the low-rank part, in the metric of D."""
        n = len(self.diagonal)
        if not self._steps:
            return QuadraticForm(self.diagonal, np.zeros((n, 0)), np.zeros(0))
        S, Y = np.stack(self._steps, axis=1), np.stack(self._changes, axis=1)
        root = np.sqrt(self.diagonal)[:, None]
        products = S.T @ Y
        middle = np.block(
            [
                [S.T @ (self.diagonal[:, None] * S), np.tril(products, -1)],
                [np.tril(products, -1).T, -np.diag(np.diag(products))],
            ]
        )
        columns = np.hstack([root * S, Y / root])
        size = np.linalg.norm(columns, axis=0)  # equilibrated: pairs differ by orders of magnitude near the end
        Q, R = np.linalg.qr(columns / size)
        core = -R @ np.linalg.solve(middle / np.outer(size, size), R.T)
        shift, vectors = np.linalg.eigh((core + core.T) / 2)
        return QuadraticForm(self.diagonal, Q @ vectors, np.maximum(shift, FLOOR - 1))
