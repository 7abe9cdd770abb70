"""The paper's section 5.2: R-VBMF and signal recovery set their own cost, and COBLA gets budgets of the same costs.

python -m cobla_tf.experiments.section52 --model=squeezenet.keras --preprocessing=torch --dataset=imagenet_folder writes
section52.csv and section52.jsonl as it goes, then section52.md. The same command goes on where it was stopped.
"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from cobla_tf.experiments.command import main
from cobla_tf.experiments.experiment import SQUEEZENET, SQUEEZENET_WORDS, Experiment, Settings

if TYPE_CHECKING:
    from cobla_tf.experiments.result_file import Record
    from cobla_tf.experiments.subject import Subject

    from cobla_tf.baselines.method import Method

NAMES = {
    "cobla": "COBLA", "r_vbmf": "R-VBMF", "signal_recovery": "signal recovery, 2.858",
    "signal_recovery_exact": "signal recovery, omega(beta)",
}  # fmt: skip
PAPER = {("r_vbmf", "r_vbmf"): ("0.25", "0.19", "chance", "chance"), ("r_vbmf", "cobla"): ("-", "-", "15.9", "36.2")}
"""By baseline and method, for scheme spatial: MACs, params, top-1, top-5; chance is 'close to chance level'."""
UNPRINTED = ("-",) * 4
PAPER_WORDS = "Of signal recovery it prints only that it too dramatically underestimates the ranks."


def run(subject: "Subject", settings: Settings, folder: Path) -> None:
    """The table."""
    from cobla_tf.experiments.page import original_words, write_page
    from cobla_tf.experiments.same_costs import SameCosts

    from cobla_tf.texts import table

    same_costs = SameCosts(subject, _baselines(settings.methods), settings.schemes)
    rows = same_costs.rows((1.0,), settings.seeds)
    records = same_costs.run(rows, folder / "section52", {})
    head = ["scheme", "costs of", "ranks by", "seed", "MACs", "paper", "params", "paper", "top-1 before"]
    head += ["top-1", "paper", f"top-{subject.top}", "paper (top-5)"]
    title = f"Accuracy in % under the same costs, before and after fine-tuning; epochs: {settings.epochs}"
    words = f"{original_words(records[0], subject.top)} {SQUEEZENET_WORDS} {PAPER_WORDS}"
    parts = [table(head, [_row(record) for record in records], "github", text_columns=3), words]
    write_page(folder / "section52", subject, records, title, parts)


def _baselines(names: tuple[str, ...]) -> dict[str, "Method"]:
    from cobla_tf.experiments.comparison import check_names

    from cobla_tf.baselines import RIVALS

    own_cost = {name: rival for name, rival in RIVALS.items() if not rival.budgeted}
    check_names("method that sets its own cost", names, tuple(own_cost))
    return {name: own_cost[name] for name in names}


def _row(record: "Record") -> list[str]:
    key = (record["baseline"], record["method"])
    macs, params, top1, top5 = PAPER.get(key, UNPRINTED) if record["scheme"] == "spatial" else UNPRINTED
    before, after, top = (
        f"{100 * record[name]:.2f}" for name in ("accuracy_before_fine_tuning", "accuracy", "top_accuracy")
    )
    shares = [f"{record['macs']:.3f}", macs, f"{record['params']:.3f}", params]
    names = [NAMES[name] for name in key]
    return [record["scheme"], *names, str(record["seed"]), *shares, before, after, top1, top, top5]


EXPERIMENT = Experiment(
    "section52",
    dataclasses.replace(SQUEEZENET, methods=("r_vbmf", "signal_recovery"), schemes=("spatial",), epochs=10),
    ("methods", "top", "epochs", "optimizer", "learning_rate"),
    run,
)

if __name__ == "__main__":
    main(EXPERIMENT)
