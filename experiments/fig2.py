"""The paper's Fig. 2: all methods on SqueezeNet at 0.5, 0.6 and 0.7 of MACs and params, before fine-tuning.

python -m cobla_tf.experiments.fig2 --model=squeezenet.keras --preprocessing=torch --dataset=imagenet_folder writes
fig2.csv and fig2.jsonl as it goes, then fig2.md (tables and findings) and fig2.png. The same command goes on where it
was stopped.
"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from cobla_tf.experiments.command import main
from cobla_tf.experiments.experiment import SQUEEZENET, SQUEEZENET_WORDS, Experiment, Settings

if TYPE_CHECKING:
    from cobla_tf.experiments.subject import Subject

METHODS = ("cobla", "cptv", "pos_greedy", "pos_cvx", "uniform", "energy", "alds", "greedy_accuracy")
TOP1, TOP5 = {"original": "57.2"}, {"original": "80.0"}
PAPER_WORDS = "Of its Fig. 2 the paper prints the accuracies of the original and no others."


def run(subject: "Subject", settings: Settings, folder: Path) -> None:
    """Two tables, findings, and a picture of four panels."""
    from cobla_tf.experiments.comparison import results_of
    from cobla_tf.experiments.comparison_figure import Chart
    from cobla_tf.experiments.page import bullets, write_page

    records = results_of(subject, settings, folder / "fig2")
    charts = [Chart(records, "accuracy", "top-1"), Chart(records, "top_accuracy", f"top-{subject.top}")]
    parts = []
    for chart, paper in zip(charts, (TOP1, TOP5 if subject.top == 5 else {}), strict=True):
        parts += [f"{chart.name}:", chart.table(paper), bullets(chart.verdicts())]
    figures = {"": charts[0].figure(f"{subject.model.name}: before fine-tuning", charts[1])}
    title = "Accuracy in % before fine-tuning"
    write_page(folder / "fig2", subject, records, title, [*parts, f"{SQUEEZENET_WORDS} {PAPER_WORDS}"], figures)


EXPERIMENT = Experiment(
    "fig2", dataclasses.replace(SQUEEZENET, methods=METHODS), ("etas", "methods", "top"), run, smoke={"epochs": 0}
)

if __name__ == "__main__":
    main(EXPERIMENT)
