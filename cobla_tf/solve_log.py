"""What a solve tells on its way: a record of every iteration, a sentence for every phase."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from cobla_tf.objective import Objective
from cobla_tf.qp.solution import QPSolution
from cobla_tf.report_parts import CertificateRecord, IterationRecord, RoundingRecord
from cobla_tf.sqp.evaluations import Evaluations
from cobla_tf.sqp.interface import Certificate, Iteration
from cobla_tf.start import Start

Array = np.ndarray


@dataclass
class SolveLog:
    """Makes records of the iterations of one SQP loop after another.

    Attributes:
        objective: counts the images.
        start: counts the losses that finding it took.
        resources, limits: names and limits of the rows, float64 [R].
        on_record: called after every iteration.
        gradients, values: evaluations so far, but for those of the start and of the present loop.
        records, certificates, status: what there was to tell.
        rounding: what it cost; None where nothing was compared.
        phase: the present one.
    """

    objective: Objective
    start: Start
    resources: tuple[str, ...]
    limits: Array
    on_record: Callable[[IterationRecord], None]
    gradients: int = 0
    values: int = 0
    records: list[IterationRecord] = field(default_factory=list)
    certificates: list[CertificateRecord] = field(default_factory=list)
    status: list[str] = field(default_factory=list)
    rounding: RoundingRecord | None = None
    phase: str = field(default="", init=False)
    _used: Callable[[Array], Array] = field(init=False, repr=False)
    _ranks: Callable[[Array], Array] | None = field(default=None, init=False, repr=False)

    def enter(self, phase: str, used: Callable[[Array], Array], ranks: Callable[[Array], Array] | None = None) -> None:
        """Begin a phase.

        Args:
            phase: its name.
            used: cost [R] of an iterate [n].
            ranks: sums [S] of an iterate's masks; None where the ranks are fixed and the rows are no budgets.
        """
        self.phase, self._used, self._ranks = phase, used, ranks

    def tell(self, phase: str, sentence: str) -> None:
        """Say how a phase ended."""
        self.status.append(f"{phase}: {sentence}")

    def leave(self, spent: Evaluations) -> None:
        """Count what a loop has spent that another one follows."""
        self.gradients, self.values = self.gradients + spent.gradients, self.values + spent.values

    def add(self, step: Iteration) -> None:
        """Record an iteration of the present phase."""
        record = IterationRecord(
            phase=self.phase,
            iteration=step.number,
            loss=step.loss,
            judged=step.judged,
            predicted_decrease=step.predicted_decrease,
            step=step.step,
            budget_use=self._budget_use(step.x),
            seconds=step.seconds,
            gradients=self.gradients + step.gradients,
            values=self.start.values + self.values + step.values,
            images=self.objective.tally.images,
            qp_residual=step.qp.residual,
            prices={} if self._ranks is None else self._prices(step.qp),
            ranks=() if self._ranks is None else tuple(self._ranks(step.x).tolist()),
        )
        self.records.append(record)
        self.on_record(record)

    def certify(self, phase: str, certificate: Certificate) -> None:
        """Record how near to an optimum the present phase, a solve within the budgets, has ended."""
        qp = certificate.qp
        parts = certificate.residual, qp.residual, certificate.predicted_decrease
        record = CertificateRecord(phase, *parts, self._budget_use(certificate.x), self._prices(qp))
        self.certificates.append(record)

    def _budget_use(self, x: Array) -> dict[str, float]:
        return self._by_resource(self._used(x) / self.limits)

    def _prices(self, qp: QPSolution) -> dict[str, float]:
        return self._by_resource(qp.row_multipliers / 100)

    def _by_resource(self, values: Array) -> dict[str, float]:
        return dict(zip(self.resources, values.tolist(), strict=True))
