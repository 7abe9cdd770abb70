"""Random quadratic programs of one SQP iteration, well posed and degenerate, at any size."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from cobla_tf.qp.problem import QuadraticForm, QuadraticProgram

_SITES = 13
"""Masks of one site share their cost, as in VGG-16."""


def random_program(n: int, pairs: int, rng: np.random.Generator) -> QuadraticProgram:
    """Masks in [0, 1] under two budget rows, in shares of the whole cost; a zero step meets them.

    Args:
        n: masks.
        pairs: BFGS pairs; each adds two directions, one stiffer and one softer than the diagonal.
        rng: the source of chance.
    """
    masks = np.clip(rng.normal(0.4, 0.6, n), 0, 1)
    costs = rng.lognormal(0, 1, (2, _SITES))[:, np.sort(rng.integers(0, _SITES, n))]
    rows = costs / costs.sum(axis=1, keepdims=True)
    limits = rows @ masks * rng.uniform(0.0, 0.05, 2)
    gradient = rng.normal(size=n) * rng.lognormal(0, 2, n) / n
    theta = float(np.abs(gradient).mean())
    shift = np.concatenate([10 ** rng.uniform(-1, 3, pairs), -rng.uniform(0.05, 0.99, pairs)])
    basis = np.linalg.qr(rng.normal(size=(n, 2 * pairs)))[0]
    return QuadraticProgram(QuadraticForm(np.full(n, theta), basis, shift), gradient, rows, limits, -masks, 1 - masks)


def _theta(program: QuadraticProgram, factor: float) -> QuadraticProgram:
    return replace(program, hessian=replace(program.hessian, diagonal=program.hessian.diagonal * factor))


def _infeasible_start(program: QuadraticProgram) -> QuadraticProgram:
    """Down to a fifth of what the masks cost now."""
    return replace(program, limits=0.8 * program.rows @ program.lower)


def _spread(program: QuadraticProgram) -> QuadraticProgram:
    """A diagonal over four orders of magnitude in place of theta I."""
    n = program.gradient.size
    spread = 10 ** np.random.default_rng(n).uniform(-2, 2, n)
    return replace(program, hessian=replace(program.hessian, diagonal=program.hessian.diagonal * spread))


def _fixed(program: QuadraticProgram) -> QuadraticProgram:
    """A third of the masks outside the band."""
    still = np.arange(program.lower.size) % 3 == 0
    lower, upper = (np.where(still, 0.0, bound) for bound in (program.lower, program.upper))
    return replace(program, lower=lower, upper=upper)


FAMILIES: dict[str, Callable[[QuadraticProgram], QuadraticProgram]] = {
    "plain": lambda qp: qp,
    "zero gradient": lambda qp: replace(qp, gradient=0 * qp.gradient),
    "theta x 1e-7": lambda qp: _theta(qp, 1e-7),
    "rows x 1e8": lambda qp: replace(qp, rows=qp.rows * 1e8, limits=qp.limits * 1e8),
    "infeasible start": _infeasible_start,
    "duplicate rows": lambda qp: replace(qp, rows=np.tile(qp.rows, (2, 1)), limits=np.tile(qp.limits, 2)),
    "zero rows": lambda qp: replace(qp, rows=np.vstack([qp.rows, 0 * qp.rows]), limits=np.tile(qp.limits, 2)),
    "hardly any room": lambda qp: replace(qp, limits=qp.rows @ qp.lower + 1e-7 * qp.rows.sum(axis=1)),
    "zero gradient, infeasible start": lambda qp: replace(_infeasible_start(qp), gradient=0 * qp.gradient),
    "theta x 1e-7, infeasible start": lambda qp: _theta(_infeasible_start(qp), 1e-7),
    "theta x 1e7": lambda qp: _theta(qp, 1e7),
    "spread diagonal": _spread,
    "fixed masks": _fixed,
}
