"""A layer's kernel as a masked sum of rank-one terms; NumPy only."""

from dataclasses import dataclass

import numpy as np

from cobla_tf.kernels import KernelForm

Array = np.ndarray


@dataclass(frozen=True)
class Decomposition:
    """W = sum_j m_j P_j V_j^T with P_j = sigma_j U_j (Eqs. 2 to 4), in each group of channels with the same masks.

    Attributes:
        form: how the kernel is read as matrices.
        singular: singular values of each group in descending order, float64 [groups, full_rank].
        P: scaled left singular vectors, the output side, float64 [groups, rows, full_rank].
        V: right singular vectors, the input side, float64 [groups, columns, full_rank].
    """

    form: KernelForm
    singular: Array
    P: Array
    V: Array

    @property
    def full_rank(self) -> int:
        """Number of masks, min(rows, columns) of a matricised kernel."""
        return self.singular.shape[1]

    @property
    def sigma(self) -> Array:
        """Norm of each term over all groups, descending, float64 [full_rank]; of one group, its singular values."""
        return np.sqrt(np.sum(self.singular**2, axis=0))

    def fold(self, mask: Array) -> Array:
        """The kernel W(m), float64, for a mask [full_rank]."""
        kept = np.flatnonzero(mask)
        return self.form.kernel((self.P[:, :, kept] * mask[kept]) @ self.V[:, :, kept].swapaxes(1, 2))

    def project(self, kernel_gradient: Array) -> Array:
        """dE/dm_j = P_j^T (dE/dW) V_j, summed over the groups, float64 [full_rank], from dE/dW."""
        return np.einsum("gij,gij->j", self.P, self.form.matrices(kernel_gradient.astype(float)) @ self.V)

    def factors(self, terms: Array, scale: Array | None = None) -> tuple[Array, Array]:
        """Kernels of the two layers that replace the original one.

        The weight scale_j sigma_j of a term is shared equally between both kernels, which changes nothing in
        their product and leaves fine-tuning two factors of like size.

        Args:
            terms: indices of the r kept terms, int [r].
            scale: their masks, non-negative [r]; ones by default.

        Returns:
            G and H: see `KernelForm.factors`.
        """
        singular = self.singular[:, None, terms]
        root = np.sqrt(singular * (1.0 if scale is None else scale))
        left = self.P[:, :, terms] * root / np.maximum(singular, np.finfo(float).tiny)
        return self.form.factors(self.V[:, :, terms] * root, left)


def decompose(kernel: Array, form: KernelForm) -> Decomposition:
    """SVD of a kernel's matrices in float64."""
    U, singular, Vt = np.linalg.svd(form.matrices(kernel.astype(np.float64)), full_matrices=False)
    return Decomposition(form, singular, U * singular[:, None], Vt.swapaxes(1, 2))
