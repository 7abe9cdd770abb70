"""The paper's Table 2: COBLA and POS-CVX on SqueezeNet at 0.7, 0.6 and 0.5 after 50 epochs of fine-tuning.

python -m cobla_tf.experiments.table2 --model=squeezenet.keras --preprocessing=torch --dataset=imagenet_folder writes
table2.csv and table2.jsonl as it goes, then table2.md. The same command goes on where it was stopped.
--flagfile=table2_row1.flags is the first row alone, so that several machines can share the work.
"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from cobla_tf.experiments.command import main
from cobla_tf.experiments.experiment import SQUEEZENET, SQUEEZENET_WORDS, Experiment, Settings

if TYPE_CHECKING:
    from cobla_tf.experiments.comparison_figure import Chart
    from cobla_tf.experiments.subject import Subject

METHODS = ("cobla", "pos_cvx")
PAPER = {
    (0.7, "spatial"): (("55.7", "-2.0"), ("79.2", "-1.1")),
    (0.7, "channel"): (("55.4", "-2.4"), ("78.8", "-1.6")),
    (0.6, "spatial"): (("54.4", "-4.1"), ("78.2", "-2.7")),
    (0.6, "channel"): (("54.3", "-3.8"), ("77.9", "-2.7")),
    (0.5, "spatial"): (("52.6", "-7.4"), ("77.0", "-5.7")),
    (0.5, "channel"): (("51.7", "-5.5"), ("76.2", "-4.1")),
}
"""By budget and scheme: (COBLA, baseline less COBLA) top-1 and top-5, as printed."""
UNPRINTED = (("-", "-"), ("-", "-"))
PAPER_WORDS = "The paper's original has 57.2 (top-1) and 80.0 (top-5)."


def run(subject: "Subject", settings: Settings, folder: Path) -> None:
    """The table."""
    from cobla_tf.experiments.comparison import results_of
    from cobla_tf.experiments.comparison_figure import Chart
    from cobla_tf.experiments.page import original_words, write_page

    from cobla_tf.texts import table

    records = results_of(subject, dataclasses.replace(settings, methods=METHODS), folder / "table2")
    charts = [Chart(records), Chart(records, "top_accuracy")]
    head = ["N_C,max", "N_M,max", "scheme"]
    for top, paper in ((1, "paper"), (subject.top, "paper (top-5)")):
        head += [f"top-{top} COBLA", paper, f"top-{top} POS-CVX", paper]
    places = [(eta, scheme) for eta in reversed(charts[0].etas) for scheme in charts[0].schemes]
    rows = [[f"{eta:g} N_C,O", f"{eta:g} N_M,O", scheme, *_row(charts, eta, scheme)] for eta, scheme in places]
    title = f"Accuracy in % after fine-tuning, POS-CVX in points from COBLA; epochs: {settings.epochs}"
    words = f"{original_words(records[0], subject.top)} {PAPER_WORDS} {SQUEEZENET_WORDS}"
    parts = [table(head, rows, "github", text_columns=3), words]
    write_page(folder / "table2", subject, records, title, parts)


def _row(charts: list["Chart"], eta: float, scheme: str) -> list[str]:
    cells = []
    for chart, paper in zip(charts, PAPER.get((eta, scheme), UNPRINTED), strict=True):
        own, baseline = (chart.of_method(scheme, eta, method) for method in METHODS)
        cells += [str(own), paper[0], f"{baseline.mean - own.mean:+.2f}", paper[1]]
    return cells


EXPERIMENT = Experiment(
    "table2",
    dataclasses.replace(SQUEEZENET, epochs=50),
    ("etas", "top", "epochs", "optimizer", "learning_rate"),
    run,
)

if __name__ == "__main__":
    main(EXPERIMENT)
