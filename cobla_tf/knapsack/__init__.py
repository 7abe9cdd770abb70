"""The multiple-choice knapsack with several budgets, proved optimal: problem, bound, search, entry point."""

from cobla_tf.knapsack.problem import Choices, Proved, Solution
from cobla_tf.knapsack.solve import solve

__all__ = ["Choices", "Proved", "Solution", "solve"]
