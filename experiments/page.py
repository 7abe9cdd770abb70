"""What a runner leaves for readers: NAME.md, which is printed as well, and pictures."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from cobla_tf.experiments.result_file import Record
from cobla_tf.experiments.subject import Subject
from matplotlib.figure import Figure

from cobla_tf.files import replace_with
from cobla_tf.notes import doubtful
from cobla_tf.plots import save_png
from cobla_tf.report_parts import Evaluation


def write_page(
    file: Path,
    subject: Subject,
    records: Sequence[Record],
    title: str,
    parts: Sequence[str],
    figures: Mapping[str, Figure] | None = None,
) -> None:
    """Write and print a page.

    Args:
        file: path of the page without its ending.
        subject: what the results are of.
        records: results, at least one.
        title: what the page shows; network and data are added.
        parts: paragraphs and tables in Markdown.
        figures: pictures by what to add to the file's name.
    """
    original = Evaluation(math.nan, records[0]["original_accuracy"], records[0]["test_images"])
    notes = bullets([f"note: {note}" for note in doubtful(original, subject.data.classes)])
    heading = f"{title}; {subject.model.name}, {subject.data.description}."
    text = "\n\n".join(part for part in (heading, *parts, notes) if part) + "\n"
    print(f"\n{text}")
    replace_with(file.with_suffix(".md"), lambda path: path.write_text(text, encoding="utf-8"))
    for name, figure in (figures or {}).items():
        replace_with(file.with_name(f"{file.name}{name}.png"), lambda path, figure=figure: save_png(figure, path))


def original_words(record: Record, top: int) -> str:
    """Both accuracies of the original, as a sentence."""
    accuracies = 100 * record["original_accuracy"], 100 * record["original_top_accuracy"]
    return "The original has {:.2f} (top-1) and {:.2f} (top-{}).".format(*accuracies, top)


def bullets(lines: Sequence[str]) -> str:
    """A list in Markdown."""
    return "\n".join(f"- {line}" for line in lines)
