"""Where a solve is, and what its losses and gradients have cost so far."""

from dataclasses import dataclass


@dataclass
class Tally:
    """Shared by an objective and what is made of it.

    Attributes:
        images: that gradients were taken on, one count an image and gradient.
        seconds: in losses, gradients and curvature.
        stage: of the solve, as a bar is to call it.
    """

    images: int = 0
    seconds: float = 0.0
    stage: str = "solve"
