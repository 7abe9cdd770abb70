"""Whatever is in a flag or a file: one sentence and exit code 2, or the run begins; more of it with COBLA_FUZZ=500."""

import contextlib
import io
import json
import os
import shutil
import signal
import zipfile
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from cobla_tf.experiments.result_file import ResultFile

from cobla_tf import compression, hdf5, job, main, models
from cobla_tf.errors import CoblaError
from cobla_tf.journal import Journal
from cobla_tf.training_backup import TrainingBackup
from cobla_tf.unfinished import aside

ROUNDS = int(os.environ.get("COBLA_FUZZ", "5"))
BEGUN = 130
"""Exit code of a run that came to its first step, and was stopped there."""
SECONDS = 60
"""After which a run is taken to hang; HDF5 is given up after 20."""
RUN, PRETRAINED = compression.Compression.run, job.Job._pretrained
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
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)}
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail(f"no end after {SECONDS} s"))
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def outcome(*argv):
    """Exit code of the program in this process; what it says must be one sentence where that is 2."""
    said = io.StringIO()
    silence = contextlib.redirect_stdout(io.StringIO())
    with flagsaver.flagsaver(), contextlib.redirect_stderr(said), silence, pytest.raises(SystemExit) as end:
        signal.alarm(SECONDS)
        try:
            main.run(["main", *argv])
        finally:
            signal.alarm(0)
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
    allowed = value in ("~nobody-here/x", "")  # as a name like any other, and for no folder
    assert outcome("--macs=0.9", "--params=none", f"--output_dir={value}") == (BEGUN if allowed else 2)


@pytest.mark.parametrize(
    "text", ["--flagfile=my.flags", "--flagfile=", "--flagfile=.", "macs=0.5", "--macs 0.5", "--", "\0"]
)
def test_a_flagfile_of_any_form(text):
    Path("my.flags").write_text(f"{text}\n--dataset=nothing\n")
    assert outcome("--flagfile=my.flags") == 2


@pytest.mark.parametrize(
    ("name", "folder", "file"), [(".lock", 2, BEGUN), ("unfinished", BEGUN, 2), ("pretrained.keras", BEGUN, BEGUN)]
)
def test_what_lies_in_an_output_folder_where_something_else_should_be(name, folder, file, monkeypatch):
    monkeypatch.setattr(compression.Compression, "_steps", compression.Compression.run)  # which stops
    monkeypatch.setattr(compression.Compression, "run", RUN)
    monkeypatch.setattr(job.Job, "_pretrained", PRETRAINED)
    path = Path("cobla_out", name)
    for make, code in ((path.mkdir, folder), (path.touch, file)):
        path.parent.mkdir()
        make()
        assert outcome("--macs=0.9", "--params=none", "--pretrain_epochs=1") == code
        if code == BEGUN:
            assert keras.models.load_model("cobla_out/pretrained.keras").count_params() == tiny().count_params()
        shutil.rmtree("cobla_out")


@pytest.fixture
def backup(tmp_path):
    """The file that a training is kept in, and what becomes of that training with other bytes in the file.

    That is the number of epochs restored. Where it is one, the weights are those kept; where none, the file is set
    aside.
    """
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(80)])
    model.compile("sgd", "mse")
    path, best = tmp_path / "training.npz", SimpleNamespace(weights=[], epoch=0, loss=1.0)
    kept = TrainingBackup(path, b"key")
    kept.restore(model, best)
    kept.set_model(model)
    kept.set_params({"epochs": 2})
    kept.on_train_begin()
    kept.on_epoch_end(0, {"loss": 1.0})
    weights, others = model.get_weights(), [np.full_like(weight, 7) for weight in model.get_weights()]

    def restored(content):
        path.write_bytes(content)
        model.set_weights(others)
        epochs = TrainingBackup(path, b"key").restore(model, best)
        for found, expected in zip(model.get_weights(), weights if epochs else others, strict=True):
            np.testing.assert_array_equal(found, expected)
        assert epochs or aside(path).read_bytes() == content
        assert path.exists() == bool(epochs)
        return epochs

    return path, restored


def test_a_damaged_backup_of_training_is_set_aside(backup):
    path, restored = backup
    content, rng = path.read_bytes(), np.random.default_rng(0)
    assert restored(content) == restored(content + b"more") == 1
    foreign = io.BytesIO()
    np.save(foreign, np.zeros(3))
    for other in (foreign.getvalue(), zipped({"facts.npy": content[:200]}), json.dumps([1]).encode()):
        assert restored(other) == 0
    for _ in range(20 * ROUNDS):
        restored(damaged(content, rng))  # not all bytes of a zip file count


def test_no_bit_in_the_header_of_a_large_array_is_believed(backup):
    path, restored = backup
    content = path.read_bytes()
    with np.load(path) as file:
        end = content.index(max((file[name].tobytes() for name in file.files), key=len))
    begin = content.rindex(b"\x93NUMPY", 0, end)
    assert end - begin == 128
    for bit in range(8 * begin, 8 * end):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        assert restored(flipped) == 0


def test_a_shortage_of_memory_is_no_fault_of_the_backup(backup, monkeypatch):
    def short(path):
        raise MemoryError

    path, restored = backup
    content = path.read_bytes()
    with monkeypatch.context() as patched, pytest.raises(MemoryError):
        patched.setattr(np, "load", short)
        restored(content)
    assert path.read_bytes() == content


def answers(path):
    """To five questions, and how many of them were computed."""
    computed = []
    journal = Journal(path, {"seed": 0})
    given = [journal.answer((i,), lambda i=i: computed.append(i) or np.full(3, i / 7)) for i in range(5)]
    journal.close()
    return np.array(given), len(computed)


def test_a_damaged_journal_is_used_as_far_as_it_is_whole(tmp_path):
    path, rng, counts = tmp_path / "solve.journal", np.random.default_rng(0), set()
    expected, _ = answers(path)
    content = path.read_bytes()
    for _ in range(10 * ROUNDS):
        path.write_bytes(damaged(content, rng))
        given, computed = answers(path)
        np.testing.assert_array_equal(given, expected)
        counts.add(computed)
        assert answers(path)[1] == 0
    assert len(counts) > 2  # all, none, some


def test_a_damaged_file_of_results_is_one_sentence_or_holds_results(tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "rows.jsonl"
    ResultFile(tmp_path, "rows", {"size": 1}, ("name",)).add({"name": "one"})
    content, outcomes = path.read_bytes(), set()
    for _ in range(4 * ROUNDS):
        path.write_bytes(damaged(content, rng))
        try:
            records = ResultFile(tmp_path, "rows", {"size": 1}, ("name",)).records()
            assert all("name" in record for record in records)
            outcomes.add("results")
        except CoblaError as error:
            assert str(path) in str(error)
            outcomes.add("refused")
    assert outcomes == {"results", "refused"}
