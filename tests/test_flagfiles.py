import subprocess
import sys

import pytest
from absl import flags

from cobla_tf.errors import ConfigError
from cobla_tf.flagfiles import packaged_flagfiles, resolve_flagfiles

NAMES = ("digits.flags", "nin_cifar10.flags", "squeezenet.flags", "vgg16.flags")
STRINGS = ("model", "weights", "dataset", "data_dir", "preprocessing", "scheme", "qp_solver", "optimizer", "output_dir")
NUMBERS = (
    "macs",
    "params",
    "sample_fraction",
    "iterations",
    "refine_iterations",
    "seed",
    "pretrain_epochs",
    "epochs",
    "learning_rate",
    "batch_size",
)


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def _parse(*argv):
    values = flags.FlagValues()
    for name in STRINGS:
        flags.DEFINE_string(name, None, name, flag_values=values)
    for name in NUMBERS:
        flags.DEFINE_float(name, None, name, flag_values=values)
    for name in ("exclude", "exports"):
        flags.DEFINE_list(name, [], name, flag_values=values)
    assert values(resolve_flagfiles(["main", *argv])) == ["main"]
    return values


@pytest.mark.parametrize("form", [["--flagfile={}"], ["-flagfile={}"], ["--flagfile", "{}"], ["-flagfile", "{}"]])
def test_every_form_finds_the_packaged_file(form):
    argv = ["main", *(part.format("vgg16.flags") for part in form), "--macs=0.5"]
    resolved = resolve_flagfiles(argv)
    assert resolved[-2].endswith(str(packaged_flagfiles()["vgg16.flags"])) and len(resolved) == len(argv)
    assert resolved[0] == "main" and resolved[-1] == "--macs=0.5"


@pytest.mark.parametrize("form", [["--flagfile=my.flags"], ["--flagfile", "my.flags"]])
def test_flags_before_and_behind_a_flagfile_override_it(tmp_path, form):
    (tmp_path / "my.flags").write_text("--macs=0.5\n--params=0.5\n--seed=3\n")
    values = _parse("--macs", "0.25", *form, "--params=0.75")
    assert (values.macs, values.params, values.seed) == (0.25, 0.75, 3)


def test_a_file_in_the_current_folder_comes_first(tmp_path):
    (tmp_path / "vgg16.flags").write_text("--macs=0.75\n")
    assert _parse("--flagfile=vgg16.flags").macs == 0.75


def test_a_path_with_folders_is_taken_as_it_is(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "vgg16.flags").write_text("--macs=0.25\n")
    assert resolve_flagfiles(["--flagfile=deep/vgg16.flags"]) == ["--flagfile=deep/vgg16.flags"]
    with pytest.raises(ConfigError, match="deep/digits"):
        resolve_flagfiles(["--flagfile=deep/digits.flags"])


@pytest.mark.parametrize("argv", [["--flagfile=wgg16.flags"], ["--flagfile", "wgg16.flags"]])
def test_a_flagfile_that_is_nowhere_is_an_error_with_the_choice(argv):
    with pytest.raises(
        ConfigError, match=r"'wgg16\.flags'.*current folder.*package's.*nin_cifar10\.flags.*vgg16\.flags"
    ):
        resolve_flagfiles(argv)


@pytest.mark.parametrize("argv", [["--macs=0.5", "vgg16.flags"], ["--", "--flagfile=vgg16.flags"], ["--flagfile="], []])
def test_everything_else_stays(argv):
    assert resolve_flagfiles(argv) == argv


def test_the_packaged_files_are_those_that_the_readme_names():
    assert set(NAMES) <= set(packaged_flagfiles())


@pytest.mark.parametrize("name", NAMES)
def test_a_packaged_file_parses_and_the_command_line_overrides_it(name):
    values = _parse(f"--flagfile={name}")
    assert values.model and values.dataset and 0 < values.macs <= 1 and 0 < values.params <= 1
    assert _parse(f"--flagfile={name}", "--macs=0.875").macs == 0.875


def test_tensorflow_is_imported_without_a_line_on_the_terminal():
    lines = ("from cobla_tf import quiet, terminal", "terminal.timed_log()", "quiet.import_tensorflow()")
    done = subprocess.run([sys.executable, "-c", "; ".join(lines)], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""


def test_finding_flagfiles_needs_no_tensorflow():
    code = "import sys, cobla_tf.flagfiles as f; f.packaged_flagfiles(); sys.exit('tensorflow' in sys.modules)"
    root = packaged_flagfiles()["vgg16.flags"].parent.parent
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
