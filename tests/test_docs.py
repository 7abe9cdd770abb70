import re
from dataclasses import fields
from pathlib import Path

import pytest
from absl import flags
from cobla_tf.experiments.experiment import Settings

import cobla_tf.main
from cobla_tf.datasets import load_dataset
from cobla_tf.image_source import TEST_SPLITS
from cobla_tf.kinds import KINDS
from cobla_tf.preprocessing import PREPROCESSINGS

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
OTHERS = [*sorted((ROOT / "experiments").glob("*.md")), ROOT / "third_party" / "README.md"]
PAGES = [README, *(path.read_text(encoding="utf-8") for path in OTHERS)]
WORKSPACE = (ROOT / "WORKSPACE.md").read_text(encoding="utf-8")
COMMANDS = ["pip install -e .", "python -m cobla_tf.main"]


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)


def headings(path):
    """Anchors of a Markdown page, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def documented_flags():
    return dict(re.findall(r"^\| `--(\w+)` \| (\S+) \|", README, flags=re.MULTILINE))


def shown(default):
    if isinstance(default, bool):
        return str(default).lower()
    text = ",".join(default) if isinstance(default, list) else str(default)
    return text if default not in (None, []) else "-"


def test_the_flags_table_is_the_programs_own_defaults_included():
    defined = flags.FLAGS.flags_by_module_dict()[cobla_tf.main.__name__]
    assert documented_flags() == {flag.name: shown(flag.default) for flag in defined}


def test_every_flag_in_the_text_exists():
    text = " ".join([*PAGES, WORKSPACE])
    named = set(re.findall(r"--(?:no(?=band|growing|continuation|stop_at_original))?([a-z_]+)\b(?!\()", text))
    folders = ("cobla_tf", "experiments", "third_party")
    sources = [path.read_text(encoding="utf-8") for folder in folders for path in (ROOT / folder).rglob("*.py")]
    defined = set(re.findall(r'(?:flags\.DEFINE_\w+\(\s*"|add_argument\(\s*"--)(\w+)"', " ".join(sources)))
    defined |= {field.name for field in fields(Settings)}
    assert {"method", "names", "threads"} <= defined
    of_absl_and_ruff = {"help", "verbosity", "flagfile", "check"}
    of_other_programs = {"logdir", "durations", "maxfail"}
    assert named - of_absl_and_ruff - of_other_programs <= defined


def test_what_readme_says_of_schemes_preprocessing_and_digits_is_so():
    alike = [name for name, kind in KINDS.items() if kind.schemes == ("channel",)]
    said = re.search(r"1 x 1, which ([^;]*) have with any scheme", README)[1]
    assert sorted(re.findall(r"`(\w+)`", said)) == sorted(alike)
    row = next(line for line in README.splitlines() if line.startswith("| `--preprocessing`"))
    assert set(re.findall(r"`(\w+)`", row)) == set(PREPROCESSINGS)
    digits = load_dataset("digits", data_dir=None, image_shape=(8, 8, 1), preprocessing="none", seed=0)
    assert "`digits` (8 x 8, pixels of 0 to 16)" in README and digits.train[0].max() == 16
    assert set(TEST_SPLITS) == {"test", "validation", "val"} and all(f"`{name}`" in README for name in TEST_SPLITS)


def test_the_first_shell_block_is_the_two_commands_that_ci_runs():
    assert blocks("sh")[0].splitlines() == COMMANDS
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "README.md" in ci
    assert 'bash -euc "${commands[0]}"' in ci
    assert 'bash -euc "${commands[1]}"' in ci


def test_the_python_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(blocks("python")[0].replace("epochs=8", "epochs=1"), "README.md", "exec"), names)
    assert (tmp_path / "smaller.keras").is_file()
    assert all(budget.reached <= budget.limit for budget in names["result"].report.budgets)
    assert [layer.reason for layer in names["result"].report.skipped if layer.name == "stem"] == ["excluded by 'stem'"]


def test_every_public_name_is_there():
    table = README.partition("All that `import cobla_tf` gives")[2].partition("###")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert sorted(re.findall(r"`(\w+)", " ".join(rows))) == sorted(cobla_tf.__all__) == sorted(dir(cobla_tf))
    assert all(getattr(cobla_tf, name).__name__ == name for name in cobla_tf.__all__)
    named = set(re.findall(r"\bcobla_tf\.(?!main|experiments|third_party|latency)(\w+)\(", README))
    assert named <= set(cobla_tf.__all__)


@pytest.mark.parametrize("page", ["README.md", "WORKSPACE.md", "experiments/measurements.md"])
def test_linked_files_and_headings_exist(page):
    path = ROOT / page
    links = re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", path.read_text(encoding="utf-8"))
    assert links
    for target, anchor in links:
        if "://" in target:
            continue
        linked = path.parent / target if target else path
        assert linked.exists()
        assert not anchor or anchor in headings(linked)


@pytest.mark.parametrize("folder", ["cobla_tf", "experiments", "tests", "third_party"])
def test_the_workspace_page_has_a_line_for_every_file(folder):
    files = {path.name for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".flags")} - {"__init__.py"}
    assert {name for name in files if f"`{name}`" not in WORKSPACE} == set()
