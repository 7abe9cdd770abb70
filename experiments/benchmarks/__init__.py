"""Benchmarks that print ratios of one run: the quadratic-program solvers, and the SQP loop on outside problems."""
