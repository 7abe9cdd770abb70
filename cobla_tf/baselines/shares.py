"""The share of a kernel's energy, the sum of its squared singular values, that its leading terms hold."""

import numpy as np

Array = np.ndarray


def energy_shares(sigma: Array) -> Array:
    """Of the first 1, 2, ..., n terms, float64 [n], the last one exactly 1; all of them 1 for a kernel of zeros.

    Args:
        sigma: singular values, descending, float64 [n].
    """
    if not sigma.any():
        return np.ones(len(sigma))
    energy = np.cumsum((sigma / sigma[0]) ** 2)  # relative, so that no square overflows or vanishes
    return energy / energy[-1]
