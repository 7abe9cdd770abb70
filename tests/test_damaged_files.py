"""Whatever is in a flag or a file: one sentence and exit code 2, or the run begins; more of it with COBLA_FUZZ=500."""

import contextlib
import io
import json
import os
import signal
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from cobla_tf.experiments.result_file import ResultFile

from cobla_tf import compression, hdf5, job, main, models
from cobla_tf.digest import digest
from cobla_tf.errors import CoblaError
from cobla_tf.journal import Journal
from cobla_tf.training_backup import TrainingBackup

ROUNDS = int(os.environ.get("COBLA_FUZZ", "5"))
BEGUN = 130
"""Exit code of a run that came to its first step, and was stopped there."""
NASTY = (
    "", " ", ",", "=", "nan", "inf", "-1", "0", "0.5", "2", "1e400", "-1e-400", "9" * 400, "9" * 5000, "0x10", "1_0",
    "½", "é", "\udcff", "a\0b", "\x1b[31m", "a=b", "a,b", "[]", "{}", "*", "[", "../..", "~nobody-here/x", "x" * 5000,
    "None", "none", "all", "auto", "latency=0.5", "macs=1,macs=1", "cobla,uniform", "r_vbmf", "mse", "sgd",
)  # fmt: skip
CSV = "site,resource,original,per_rank\n" + "conv1,latency,20,2\n"


@pytest.fixture(autouse=True)
def stopped_at_its_first_step(tmp_path, monkeypatch):
    def stop(*arguments, **options):
        raise KeyboardInterrupt(signal.SIGINT)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compression.Compression, "run", stop)
    monkeypatch.setattr(job.Job, "_pretrained", stop)
    monkeypatch.setattr("absl.logging.use_absl_handler", lambda: None)  # it would outlast the test
    monkeypatch.setitem(models.ZOO, "digits_cnn", tiny)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def outcome(*argv):
    """Exit code of the program in this process; what it says must be one sentence where that is 2."""
    said = io.StringIO()
    silence = contextlib.redirect_stdout(io.StringIO())
    with flagsaver.flagsaver(), contextlib.redirect_stderr(said), silence, pytest.raises(SystemExit) as end:
        main.run(["main", *argv])
    code = end.value.code
    sentences = [line for line in said.getvalue().splitlines() if line.startswith("cobla_tf: error: ")]
    assert code in (2, BEGUN), said.getvalue()
    assert len(sentences) == (code == 2), said.getvalue()
    assert "Traceback" not in said.getvalue()
    return code


def damaged(content, rng):
    """Some bytes in place of others: single ones, more or fewer, of another encoding or kind, cut off or none."""
    place = int(rng.integers(len(content) + 1))
    noise = rng.bytes(int(rng.integers(1, 40)))
    flipped = bytearray(content)
    for position in rng.integers(0, len(content), int(rng.integers(1, 9))):
        flipped[position] ^= 1 << int(rng.integers(8))
    damages = [
        bytes(flipped),
        content[:place] + noise + content[place:],
        content[:place] + content[place + len(noise) :],
        content[:place],
        content.decode("latin-1").encode("utf-16"),
        noise,
        b"",
        zipped({"config.json": b"[]", "metadata.json": b"{}"}),
        b"\x89PNG\r\n\x1a\n" + noise,
        b"\0" * 100,
    ]
    return damages[int(rng.integers(len(damages)))]


def zipped(files):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return made.getvalue()


def tiny():
    keras.utils.set_random_seed(0)
    images = keras.Input((8, 8, 1))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3, name="conv1")(images))
    return keras.Model(images, keras.layers.Dense(10)(x))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """By kind: a whole file, and the flags that read it."""
    folder = tmp_path_factory.mktemp("whole")
    tiny().save(folder / "net.keras")
    tiny().save(folder / "net.h5")
    tiny().save_weights(folder / "net.weights.h5")
    (folder / "costs.csv").write_text(CSV)
    (folder / "my.flags").write_text("# mine\n--model=net.keras\n--dataset=digits\n--macs=0.9\n")
    return folder


ASKED = {
    "my.flags": ("--flagfile=my.flags",),
    "costs.csv": ("--model=net.keras", "--dataset=digits", "--resources=costs.csv", "--budgets=latency=0.9"),
    "net.keras": ("--model=net.keras", "--dataset=digits", "--macs=0.9"),
    "net.h5": ("--model=net.h5", "--dataset=digits", "--macs=0.9"),
    "net.weights.h5": ("--model=net.keras", "--weights=net.weights.h5", "--dataset=digits", "--macs=0.9"),
}


@pytest.mark.parametrize("name", ASKED)
def test_a_damaged_file_is_one_sentence(name, files):
    for other in files.iterdir():
        Path(other.name).write_bytes(other.read_bytes())
    assert outcome(*ASKED[name]) == BEGUN
    content, rng = Path(name).read_bytes(), np.random.default_rng(0)
    codes = []
    for _ in range(ROUNDS):
        Path(name).write_bytes(damaged(content, rng))
        codes.append(outcome(*ASKED[name]))
    assert 2 in codes
    Path(name).unlink()
    assert outcome(*ASKED[name]) == 2
    Path(name).mkdir()
    assert outcome(*ASKED[name]) == 2


def test_hdf5_that_comes_to_no_end_is_given_up(monkeypatch):
    monkeypatch.setattr(hdf5, "SECONDS", 1.0)
    os.mkfifo("net.h5")  # nobody ever writes to it
    assert "damaged: HDF5 came to no end of it in 1 s" in hdf5.why_unreadable("net.h5")


def test_any_flag_with_any_value():
    rng = np.random.default_rng(0)
    names = sorted(flag.name for flag in flags.FLAGS.flags_by_module_dict()["cobla_tf.main"])
    for _ in range(5 * ROUNDS):
        chosen = rng.choice(names, int(rng.integers(1, 3)), replace=False)
        values = rng.choice(NASTY, len(chosen))
        outcome(
            "--macs=0.9", "--params=0.9", *(f"--{name}={value}" for name, value in zip(chosen, values, strict=True))
        )


@pytest.mark.parametrize("value", ["x" * 5000, "~nobody-here/x", "a\0b", "\udcff", "/dev/null/x", ""])
def test_paths_that_the_system_refuses(value):
    for flag in ("model", "weights", "dataset", "resources", "flagfile"):
        assert outcome("--model=digits_cnn", "--dataset=digits", f"--{flag}={value}") == 2
    outcome("--macs=0.9", "--params=none", f"--output_dir={value}")


@pytest.mark.parametrize(
    "text", ["--flagfile=my.flags", "--flagfile=", "--flagfile=.", "macs=0.5", "--macs 0.5", "--", "\0"]
)
def test_a_flagfile_of_any_form(text):
    Path("my.flags").write_text(f"{text}\n--dataset=nothing\n")
    assert outcome("--flagfile=my.flags") == 2


@pytest.mark.parametrize("name", [".lock", "unfinished", "pretrained.keras"])
def test_what_lies_in_an_output_folder_where_a_file_should_be(name):
    flags = ("--macs=0.9", "--params=none")
    Path("cobla_out", name).mkdir(parents=True)
    outcome(*flags)
    Path("cobla_out", name).rmdir()
    Path("cobla_out", name).write_text("a file")
    outcome(*flags)


def test_a_damaged_backup_of_training_is_set_aside(tmp_path):
    model, rng = tiny(), np.random.default_rng(0)
    model.compile("sgd", "sparse_categorical_crossentropy")
    path, best = tmp_path / "training.npz", type("Best", (), {"weights": [], "epoch": 0, "loss": 1.0})()
    kept = TrainingBackup(path, b"key")
    kept.restore(model, best)
    kept.set_model(model)
    kept.set_params({"epochs": 2})
    kept.on_train_begin()
    kept.on_epoch_end(0, {"loss": 1.0})
    content = path.read_bytes()
    assert TrainingBackup(path, b"key").restore(model, best) == 1
    foreign = io.BytesIO()
    np.save(foreign, np.zeros(3))
    others = [foreign.getvalue(), zipped({"facts.npy": content[:200]}), json.dumps([1]).encode()]
    for damage in [*others, *(damaged(content, rng) for _ in range(ROUNDS))]:
        path.write_bytes(damage)
        assert TrainingBackup(path, b"key").restore(model, best) in (0, 1)


def test_a_damaged_journal_or_file_of_results_is_one_sentence_or_set_aside(tmp_path):
    rng = np.random.default_rng(0)
    results = ResultFile(tmp_path, "rows", {"size": 1}, ("name",))
    results.add({"name": "one"})
    content = (tmp_path / "rows.jsonl").read_bytes()
    for _ in range(ROUNDS):
        damage = damaged(content, rng)
        (tmp_path / "rows.jsonl").write_bytes(damage)
        with contextlib.suppress(CoblaError):
            ResultFile(tmp_path, "rows", {"size": 1}, ("name",)).records()
        (tmp_path / "solve.journal").write_bytes(damage)
        journal = Journal(tmp_path / "solve.journal", {})
        assert journal.answer((digest(b"asked"),), lambda: np.ones(1)) == 1
        journal.close()
