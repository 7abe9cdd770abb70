"""The paper's Fig. 5: what each layer of SqueezeNet keeps of its computation under COBLA at half the cost.

python -m cobla_tf.experiments.fig5 --model=squeezenet.keras --preprocessing=torch --dataset=imagenet_folder writes
fig5.jsonl and fig5.csv, then fig5.md (table) and fig5_SCHEME.png. The paper draws the network's graph; here the layers
stand in order.
"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from cobla_tf.experiments.command import main
from cobla_tf.experiments.experiment import SQUEEZENET, SQUEEZENET_WORDS, Experiment, Settings

if TYPE_CHECKING:
    from cobla_tf.experiments.result_file import Record
    from cobla_tf.experiments.subject import Subject

PAPER = {"conv1": "28.9", "conv10": "66"}
PAPER_WORDS = (
    "In the text it prints the figures of conv1 and conv10, and that for most 1x1 layers nothing is reduced; it does "
    "not say with which scheme."
)


def run(subject: "Subject", settings: Settings, folder: Path) -> None:
    """A table over all schemes and seeds, and a picture of each."""
    from cobla_tf.experiments.comparison import results_of
    from cobla_tf.experiments.page import write_page

    from cobla_tf.plots import shares_figure
    from cobla_tf.report_parts import SiteReport

    records = results_of(subject, dataclasses.replace(settings, methods=("cobla",)), folder / "fig5")
    figures = {
        f"_{_name(record)}": shares_figure(
            f"{subject.model.name}, {_name(record)}", [SiteReport(**site) for site in record["sites"]]
        )
        for record in records
    }
    paper = PAPER if subject.model.name.startswith("squeezenet") else {}
    parts = [_table(records, paper), f"{SQUEEZENET_WORDS} {PAPER_WORDS}"]
    write_page(folder / "fig5", subject, records, "MACs of each layer that are saved, in %", parts, figures)


def _table(records: list["Record"], paper: dict[str, str]) -> str:
    from cobla_tf.texts import table

    rows = []
    for number, site in enumerate(records[0]["sites"]):
        saved = [record["sites"][number] for record in records]
        shares = [f"{100 * (1 - one['after']['macs'] / one['before']['macs']):.1f}" for one in saved]
        rows.append([site["name"], "x".join(map(str, site["kernel_shape"])), *shares, paper.get(site["name"], "-")])
    rows.append(["total", "", *[f"{100 * (1 - record['macs']):.1f}" for record in records], "-"])
    return table(["layer", "kernel", *map(_name, records), "paper"], rows, "github", text_columns=2)


def _name(record: "Record") -> str:
    return f"{record['scheme']}_{record['eta']:g}_seed{record['seed']}"


EXPERIMENT = Experiment(
    "fig5", dataclasses.replace(SQUEEZENET, etas=(0.5,), schemes=("spatial",), top=None), ("etas",), run,
    smoke={"top": None, "epochs": 0},
)  # fmt: skip

if __name__ == "__main__":
    main(EXPERIMENT)
