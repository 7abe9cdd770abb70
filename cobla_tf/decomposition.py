"""A convolution kernel as a masked sum of rank-one terms, in both schemes of the paper; NumPy only."""

from dataclasses import dataclass

import numpy as np

from cobla_tf.config import SCHEMES
from cobla_tf.errors import ConfigError

Array = np.ndarray


def matricize(kernel: Array, scheme: str) -> Array:
    """Reshape a kernel so that its SVD gives the scheme's factors.

    Args:
        kernel: [kh, kw, c, f].
        scheme: "spatial" (Eq. 3) or "channel" (Eq. 4).

    Returns:
        [kw * f, kh * c] for spatial, [f, kh * kw * c] for channel: the output side in the rows.
    """
    kh, kw, c, f = kernel.shape
    if scheme == "spatial":
        return kernel.transpose(1, 3, 0, 2).reshape(kw * f, kh * c)
    return kernel.transpose(3, 0, 1, 2).reshape(f, kh * kw * c)


def tensorize(matrix: Array, kernel_shape: tuple[int, ...], scheme: str) -> Array:
    """Undo matricize: the kernel [kh, kw, c, f] of a matricised one."""
    kh, kw, c, f = kernel_shape
    if scheme == "spatial":
        return matrix.reshape(kw, f, kh, c).transpose(2, 0, 3, 1)
    return matrix.reshape(f, kh, kw, c).transpose(1, 2, 3, 0)


@dataclass(frozen=True)
class Decomposition:
    """W = sum_j m_j P_j V_j^T with P_j = sigma_j U_j (Eqs. 2 to 4).

    Attributes:
        scheme: "spatial" or "channel".
        kernel_shape: (kh, kw, c, f).
        sigma: singular values in descending order, float64 [full_rank].
        P: scaled left singular vectors, the output side, float64 [rows, full_rank].
        V: right singular vectors, the input side, float64 [columns, full_rank].
    """

    scheme: str
    kernel_shape: tuple[int, int, int, int]
    sigma: Array
    P: Array
    V: Array

    @property
    def full_rank(self) -> int:
        """Number of masks, min(rows, columns) of the matricised kernel."""
        return len(self.sigma)

    def fold(self, mask: Array) -> Array:
        """The kernel W(m), float64 [kh, kw, c, f], for a mask [full_rank]."""
        kept = np.flatnonzero(mask)
        return tensorize((self.P[:, kept] * mask[kept]) @ self.V[:, kept].T, self.kernel_shape, self.scheme)

    def project(self, kernel_gradient: Array) -> Array:
        """dE/dm_j = P_j^T (dE/dW) V_j, float64 [full_rank], from dE/dW [kh, kw, c, f]."""
        matrix = matricize(kernel_gradient, self.scheme)
        return np.einsum("ij,ij->j", self.P, matrix @ self.V)

    def factors(self, terms: Array, scale: Array | None = None) -> tuple[Array, Array]:
        """Kernels of the two layers that replace the original one.

        The weight scale_j sigma_j of a term is shared equally between both kernels, which changes nothing in
        their product and leaves fine-tuning two factors of like size.

        Args:
            terms: indices of the r kept terms, int [r].
            scale: their masks, non-negative [r]; ones by default.

        Returns:
            G and H: [kh, 1, c, r] and [1, kw, r, f] for spatial, [kh, kw, c, r] and [1, 1, r, f] for channel.
        """
        kh, kw, c, f = self.kernel_shape
        rank = len(terms)
        weight = self.sigma[terms] * (1.0 if scale is None else scale)
        left = self.P[:, terms] * np.sqrt(weight) / np.maximum(self.sigma[terms], np.finfo(float).tiny)
        right = self.V[:, terms] * np.sqrt(weight)
        if self.scheme == "spatial":
            return right.reshape(kh, 1, c, rank), left.reshape(1, kw, f, rank).transpose(0, 1, 3, 2)
        return right.reshape(kh, kw, c, rank), left.T.reshape(1, 1, rank, f)


def decompose(kernel: Array, scheme: str) -> Decomposition:
    """SVD of a matricised kernel [kh, kw, c, f] in float64.

    Raises:
        ConfigError: the scheme is unknown.
    """
    if scheme not in SCHEMES:
        raise ConfigError(f"scheme must be one of {SCHEMES}, got {scheme!r}.")
    U, sigma, Vt = np.linalg.svd(matricize(kernel.astype(np.float64), scheme), full_matrices=False)
    return Decomposition(scheme, tuple(kernel.shape), sigma, U * sigma, Vt.T)
