"""Convex quadratic programs with a diagonal plus low-rank Hessian: problem, solution, back ends and entry point."""

from cobla_tf.qp.problem import QuadraticForm, QuadraticProgram
from cobla_tf.qp.solution import KKT_TOLERANCE, QPSolution
from cobla_tf.qp.solve import resolve_solver, solve

__all__ = ["KKT_TOLERANCE", "QPSolution", "QuadraticForm", "QuadraticProgram", "resolve_solver", "solve"]
