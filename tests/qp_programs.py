"""Small quadratic programs that the tests share: random, degenerate and badly scaled."""

from dataclasses import replace

import numpy as np

from cobla_tf.qp import QuadraticForm, QuadraticProgram


def dense(form):
    """B as a matrix."""
    root = np.sqrt(form.diagonal)
    return root[:, None] * (np.eye(root.size) + (form.basis * form.shift) @ form.basis.T) * root


def random_program(n=40, k=6, p=2, seed=0, spread=False):
    """Masks in a box of width 1 under budget rows of very different size, some violated by a zero step."""
    rng = np.random.default_rng(seed)
    diagonal = 10 ** rng.uniform(-2, 2, n) if spread else np.full(n, 0.7)
    shift = np.where(np.arange(k) % 2, -rng.uniform(0.1, 0.99, k), 10 ** rng.uniform(-1, 3, k))
    form = QuadraticForm(diagonal, np.linalg.qr(rng.normal(size=(n, k)))[0], shift)
    masks = np.clip(rng.normal(0.5, 0.6, n), 0, 1)
    rows = rng.uniform(0.1, 3, (p, n)) * 10.0 ** (3 * np.arange(p))[:, None]
    limits = rows @ masks * (rng.uniform(0.6, 1.1, p) - 1)
    return QuadraticProgram(form, rng.normal(size=n) * rng.lognormal(size=n), rows, limits, -masks, 1 - masks)


def scaled_hessian(program, factor):
    """The same with theta times a factor."""
    return replace(program, hessian=replace(program.hessian, diagonal=program.hessian.diagonal * factor))


def violated(program):
    """Rows far from met at a zero step."""
    return replace(program, limits=0.9 * program.rows @ program.lower)


def _free_sides(program):
    odd = np.arange(program.lower.size) % 3
    return replace(
        program, lower=np.where(odd == 0, -np.inf, program.lower), upper=np.where(odd == 1, np.inf, program.upper)
    )


def _fixed(program):
    still = np.arange(program.lower.size) % 3 == 0
    return replace(program, lower=np.where(still, 0.0, program.lower), upper=np.where(still, 0.0, program.upper))


def _one_infinite(program):
    return replace(program, limits=np.where(np.arange(program.limits.size) == 0, np.inf, program.limits))


def _duplicated(program):
    return replace(program, rows=np.tile(program.rows, (2, 1)), limits=np.tile(program.limits, 2))


def _tied(program):
    rows = np.ceil(program.rows / np.abs(program.rows).max(axis=1, initial=1, keepdims=True) * 3)
    return replace(program, gradient=np.round(program.gradient), rows=rows, limits=0.5 * rows @ program.lower)


CHANGES = {
    "plain": lambda program: program,
    "zero gradient": lambda program: replace(program, gradient=0 * program.gradient),
    "zero gradient, rows violated": lambda program: replace(violated(program), gradient=0 * program.gradient),
    "flat": lambda program: scaled_hessian(program, 1e-7),
    "steep": lambda program: scaled_hessian(program, 1e7),
    "rows x 1e8": lambda program: replace(program, rows=program.rows * 1e8, limits=program.limits * 1e8),
    "rows violated": violated,
    "flat, rows violated": lambda program: scaled_hessian(violated(program), 1e-7),
    "steep, rows violated": lambda program: scaled_hessian(violated(program), 1e7),
    "fixed variables": _fixed,
    "all fixed": lambda program: replace(
        program, lower=0 * program.lower, upper=0 * program.upper, limits=np.abs(program.limits)
    ),
    "duplicated rows": _duplicated,
    "ties": _tied,
    "infinite row": _one_infinite,
    "infinite bounds": _free_sides,
    "room only in a corner": lambda program: replace(program, limits=program.rows @ program.lower),
    "hardly any room": lambda program: replace(
        program, limits=program.rows @ program.lower + 1e-5 * program.rows.sum(axis=1)
    ),
}
SHAPES = [(20, 4, 2), (60, 0, 2), (50, 12, 0), (300, 20, 3)]  # (n, k, p)
