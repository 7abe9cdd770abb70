"""The paper's Table 3: VGG-16 with the ranks of Tai et al. (2016), and COBLA under the costs of these ranks and less.

python -m cobla_tf.experiments.table3 --weights=vgg16.h5 --dataset=imagenet_folder writes table3.csv and table3.jsonl as
it goes, then table3.md. The same command goes on where it was stopped. Another network needs --ranks of its own.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from cobla_tf.experiments.command import main
from cobla_tf.experiments.experiment import Experiment, Settings

if TYPE_CHECKING:
    from cobla_tf.experiments.result_file import Record
    from cobla_tf.experiments.subject import Subject

BASELINE = "given_ranks"
PAPER = {
    (BASELINE, 1.0): ("0.33 N_C,O", "0.36 N_M,O", "-", "89.8",
                      "5, 24, 48, 48, 64, 128, 160, 192, 192, 256, 320, 320, 320"),
    ("cobla", 0.88): ("0.29 N_C,O (-12 %)", "0.32 N_M,O (-12 %)", "-", "89.8 (+0.0)",
                      "5, 17, 41, 54, 77, 109, 133, 155, 180, 239, 274, 283, 314"),
    ("cobla", 0.7): ("0.23 N_C,O (-30 %)", "0.25 N_M,O (-30 %)", "-", "88.9 (-0.9)",
                     "5, 16, 32, 48, 64, 81, 95, 116, 126, 203, 211, 215, 232"),
}  # fmt: skip
"""By method and share of the baseline's costs, as printed."""
PAPER_WORDS = (
    "The paper's rows are of VGG-16 on ImageNet, whose original has a top-5 accuracy of 89.8. Its budgets are its own "
    "rounded figures; ours are the exact costs of the given ranks, and 0.88 and 0.7 of them."
)


def run(subject: "Subject", settings: Settings, folder: Path) -> None:
    """The table, each row of the paper's below ours."""
    from cobla_tf.experiments.page import original_words, write_page
    from cobla_tf.experiments.same_costs import SameCosts, given_ranks

    from cobla_tf.texts import table

    given = given_ranks(settings.ranks, "given ranks, by default those of Tai et al. 2016 for VGG-16")
    same_costs = SameCosts(subject, {BASELINE: given}, settings.schemes)
    rows = same_costs.rows(settings.shares, settings.seeds)
    records = same_costs.run(rows, folder / "table3", {"ranks": list(settings.ranks)})
    head = ["scheme", "ranks by", "seed", "computation", "memory", "top-1", f"top-{subject.top}", "ranks"]
    lines = [line for record in records for line in _lines(record, _baseline_of(record, records))]
    title = f"Accuracy in % after fine-tuning; epochs: {settings.epochs}"
    parts = [table(head, lines, "github", text_columns=3), original_words(records[0], subject.top), PAPER_WORDS]
    write_page(folder / "table3", subject, records, title, parts)


def _baseline_of(record: "Record", records: list["Record"]) -> "Record":
    keys = ("scheme", "seed")
    return next(one for one in records if one["method"] == BASELINE and all(one[key] == record[key] for key in keys))


def _lines(record: "Record", baseline: "Record") -> list[list[str]]:
    """Ours, and the paper's where it has such a row."""
    own = record is baseline
    name = "given" if own else f"COBLA at {record['share']:g}"
    costs = [f"{record[what]:.3f} {unit}" for what, unit in (("macs", "N_C,O"), ("params", "N_M,O"))]
    accuracies = [f"{100 * record[what]:.2f}" for what in ("accuracy", "top_accuracy")]
    if not own:
        saved = [100 * (record[what] / baseline[what] - 1) for what in ("macs", "params")]
        changes = [100 * (record[what] - baseline[what]) for what in ("accuracy", "top_accuracy")]
        costs = [f"{cost} ({change:+.0f} %)" for cost, change in zip(costs, saved, strict=True)]
        accuracies = [f"{now} ({change:+.2f})" for now, change in zip(accuracies, changes, strict=True)]
    ranks = ", ".join("whole" if rank is None else str(rank) for rank in record["ranks"].values())
    lines = [[record["scheme"], name, str(record["seed"]), *costs, *accuracies, ranks]]
    paper = PAPER.get((record["method"], record["share"])) if record["scheme"] == "spatial" else None
    return [*lines, ["", "paper (top-5)", "", *paper]] if paper else lines


EXPERIMENT = Experiment(
    "table3",
    Settings(
        model="vgg16", dataset="imagenet2012", preprocessing="caffe", schemes=("spatial",), top=5, epochs=10,
        ranks=(5, 24, 48, 48, 64, 128, 160, 192, 192, 256, 320, 320, 320), shares=(1.0, 0.88, 0.7), batch_size=64,
        sample_fraction=0.01,  # of the 1.28 million images; the paper's 0.05 would take 36 GiB of memory
    ),
    ("ranks", "shares", "top", "epochs", "optimizer", "learning_rate"),
    run,
    smoke={"ranks": (3, 8, 8), "shares": (1.0, 0.88)},
)  # fmt: skip

if __name__ == "__main__":
    main(EXPERIMENT)
