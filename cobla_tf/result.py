"""What a compression gives back, and how a notebook shows it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cobla_tf.errors import ConfigError
from cobla_tf.report import Report
from cobla_tf.solution import WarmStart

if TYPE_CHECKING:
    import keras
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class Result:
    """What compress() returns; at the end of a notebook's cell it shows its figures in brief.

    Attributes:
        model: the compressed network, of built-in layers only; fine-tuned where that was asked for.
        report: what was done, per site and in total.
        warm: what a solve for other budgets on the same sites can start from; None where nothing was optimised.
    """

    model: "keras.Model"
    report: Report
    warm: WarmStart | None = None

    def plot(self, what: str = "sites") -> "Figure":
        """A figure that a notebook shows, and that `savefig(path)` writes.

        Args:
            what: "sites" for the share of its MACs that each site keeps, "convergence" for loss and use of the budgets
                over the iterations.

        Raises:
            ConfigError: there is no such figure.
        """
        from cobla_tf.plots import FIGURES

        if what not in FIGURES:
            raise ConfigError(f"plot() draws one of {', '.join(FIGURES)}, got {what!r}.")
        return FIGURES[what](self.report)

    def __repr__(self) -> str:
        """The report in five lines; `print(result.report)` has all of it."""
        from cobla_tf.page import headlines

        return "\n".join([f"{self.report.model}, compressed", *headlines(self.report)])

    def _repr_html_(self) -> str:
        from cobla_tf.page import brief_html

        return brief_html(self.report)
