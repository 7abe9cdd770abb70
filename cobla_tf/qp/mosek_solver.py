"""MOSEK Fusion on the conic lifting of a quadratic program whose Hessian is diagonal plus low rank."""

from typing import TYPE_CHECKING

import numpy as np
from absl import logging

from cobla_tf.errors import SolverError
from cobla_tf.qp.active_set import polish
from cobla_tf.qp.problem import Array, QuadraticProgram

if TYPE_CHECKING:
    from mosek import fusion

NO_LICENCE = (
    "The solver 'mosek' needs a licence and none answers: get a free academic or trial one at "
    "https://www.mosek.com/license/request/ and put mosek.lic in the folder 'mosek' of your home folder, or name it in "
    "MOSEKLM_LICENSE_FILE; or choose the solver 'structured'."
)


def licence_answers() -> bool:
    """Whether MOSEK is installed and a licence for its conic solver can be had now (a probe of some 0.05 s)."""
    try:
        import mosek
    except ImportError as error:
        logging.info("MOSEK cannot be imported: %s", error)
        return False
    try:
        with mosek.Env() as environment:
            environment.checkoutlicense(mosek.feature.pton)
    except mosek.Error as error:
        logging.debug("MOSEK's licence does not answer: %s", error)
        return False
    return True


def build_model(program: QuadraticProgram) -> "fusion.Model":
    """Fusion model of a reduced program (see `presolve`), from constants; needs no licence.

    Variables `step` d [n], `rest` v [n], `low_rank` w [k] and `curvature` t [2, or 1 for k = 0]; constraints `rows`
    A d <= b (absent for p = 0), `lower` and `upper` on finite bounds, `split` v + Q w = D^(1/2) d and `orthogonal`
    Q^T v = 0, which together say w = Q^T D^(1/2) d, and the rotated quadratic cones `cone_rest` 2 t_0 >= |v|^2 and
    `cone_low_rank` 2 t_1 >= sum (1 + shift_i) w_i^2. The objective is g^T d + sum t.
    Every matrix is a constant: in Fusion the transpose of a matrix parameter writes wrong coefficients in silence.

    Returns:
        The model; the caller disposes of it.
    """
    from mosek.fusion import Domain, Expr, Model, ObjectiveSense

    n, k = program.hessian.basis.shape
    model = Model("cobla_qp")
    step = model.variable("step", n, Domain.unbounded())
    _bound(model, step, program)
    rest = model.variable("rest", n, Domain.unbounded())
    curvature = model.variable("curvature", 2 if k else 1, Domain.unbounded())
    split = Expr.sub(rest, Expr.mulElm(np.sqrt(program.hessian.diagonal).tolist(), step))
    if k:
        split = Expr.add(split, _add_low_rank(model, program, rest, curvature))
    model.constraint("split", split, Domain.equalsTo(0.0))
    model.constraint("cone_rest", Expr.vstack(curvature.index(0), 1.0, rest), Domain.inRotatedQCone())
    if program.limits.size:
        activity = Expr.mul(program.rows, step)
        model.constraint("rows", activity, Domain.lessThan(program.limits.tolist()))
    loss = Expr.add(Expr.dot(program.gradient.tolist(), step), Expr.sum(curvature))
    model.objective("loss", ObjectiveSense.Minimize, loss)
    return model


def _bound(model: "fusion.Model", step: "fusion.Variable", program: QuadraticProgram) -> None:
    """Bound the step where it has finite bounds; Fusion's ranged domain refuses infinite ones."""
    from mosek.fusion import Domain

    for name, bounds, domain in (
        ("lower", program.lower, Domain.greaterThan),
        ("upper", program.upper, Domain.lessThan),
    ):
        finite = np.flatnonzero(np.isfinite(bounds))
        if finite.size:
            model.constraint(name, step.pick(finite.tolist()), domain(bounds[finite].tolist()))


def _add_low_rank(
    model: "fusion.Model",
    program: QuadraticProgram,
    rest: "fusion.Variable",
    curvature: "fusion.Variable",
) -> "fusion.Expression":
    """Add w with its cone and the equation Q^T v = 0; returns Q w."""
    from mosek.fusion import Domain, Expr

    basis, weights = program.hessian.basis, np.sqrt(1.0 + program.hessian.shift)
    low_rank = model.variable("low_rank", weights.size, Domain.unbounded())
    weighted = Expr.mulElm(weights.tolist(), low_rank)
    model.constraint("cone_low_rank", Expr.vstack(curvature.index(1), 1.0, weighted), Domain.inRotatedQCone())
    model.constraint("orthogonal", Expr.mul(np.ascontiguousarray(basis.T), rest), Domain.equalsTo(0.0))
    return Expr.mul(np.ascontiguousarray(basis), low_rank)


def solve(program: QuadraticProgram) -> tuple[Array, Array]:
    """Minimise a reduced program (see `presolve`).

    Returns:
        x, float64 [n], and row multipliers, float64 [p], polished.

    Raises:
        SolverError: no licence answers, or MOSEK found no optimum.
    """
    from mosek.fusion import FusionException, OptimizeError

    with build_model(program) as model:
        try:
            model.solve()
            x = np.asarray(model.getVariable("step").level())
            # MOSEK's dual of a constraint from above is at or below 0 when minimising.
            y = -np.asarray(model.getConstraint("rows").dual()) if program.limits.size else np.zeros(0)
        except OptimizeError as error:
            raise SolverError(f"MOSEK stopped: {error}" if licence_answers() else NO_LICENCE) from error
        except FusionException as error:
            raise SolverError(f"MOSEK gave no optimum: {error}; check rows and bounds.") from error
    # A cone's accuracy is that of the squared distance: the step itself may be off by its root.
    x, y, _ = polish(program, x, y)
    return x, y
