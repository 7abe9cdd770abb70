import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from functools import wraps
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import logging as absl_logging
from networks import images_and_labels, small_cnn

import cobla_tf
from cobla_tf import contest, export
from cobla_tf.config import Config, FineTuneConfig, SolveConfig
from cobla_tf.errors import OutputError
from cobla_tf.events import FILE, EventFile
from cobla_tf.examples import Stream
from cobla_tf.finetune import train, training_backup
from cobla_tf.journal import Journal
from cobla_tf.losses import resolve_loss
from cobla_tf.objective import Objective
from cobla_tf.progress import bar, doing
from cobla_tf.reading import as_examples
from cobla_tf.unfinished import LOCK, Unfinished, aside, held

QUICK = Config(
    solve=SolveConfig(iterations=3, draws=4, refine_iterations=2, sample_fraction=0.3, precision="float32"),
    batch_size=64,
)
BUDGET = {"macs": 0.3, "params": 0.3}


class Killed(BaseException):
    """What nothing catches."""


class Calls:
    """Counts what the objective computes, and stops everything at one call."""

    def __init__(self, monkeypatch):
        self.done, self.most = 0, None
        for kind in ("value", "values", "gradient", "fisher", "constant_loss", "evaluate"):
            monkeypatch.setattr(Objective, kind, self.counted(getattr(Objective, kind)))

    def counted(self, method):
        @wraps(method)
        def count(*args):
            if self.done == self.most:
                raise Killed
            answer = method(*args)
            self.done += 1
            return answer

        return count


@pytest.fixture(scope="module")
def model():
    model = small_cnn()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(*images_and_labels(200), epochs=6, verbose=0)
    return model


def solved(model, folder=None, **changes):
    config = dataclasses.replace(QUICK, output_dir=folder, exports=(), **changes)
    return cobla_tf.compress(model, images_and_labels(200), **BUDGET, config=config)


def counts(report):
    return [(r.phase, r.iteration, r.loss, r.gradients, r.values, r.images) for r in report.iterations]


def same_weights(one, other):
    return all(np.array_equal(*pair) for pair in zip(one.get_weights(), other.get_weights(), strict=True))


@pytest.mark.parametrize(("last", "step"), [("refine", 7), ("fade", 29)])
def test_a_run_that_is_killed_again_and_again_ends_like_one_that_never_was(model, tmp_path, monkeypatch, last, step):
    if last == "fade":
        monkeypatch.setattr(contest, "DRIFT", -np.inf)
    calls = Calls(monkeypatch)
    whole = solved(model)
    needed = calls.done
    phases = {record.phase for record in whole.report.iterations}
    assert {"continuation", "solve 1", last} <= phases
    attempts = 0
    while True:
        calls.done, calls.most = 0, step
        try:
            result = solved(model, tmp_path)
            break
        except Killed:
            attempts += 1
            assert calls.done == step
    assert attempts == (needed - 1) // step
    assert calls.done == needed - attempts * step
    assert [site.rank for site in result.report.sites] == [site.rank for site in whole.report.sites]
    assert same_weights(result.model, whole.model)
    assert counts(result.report) == counts(whole.report)
    assert result.report.evaluations == whole.report.evaluations
    assert any("resumed: " in note for note in result.report.notes)
    assert not (tmp_path / "unfinished").exists()


def test_other_settings_neither_read_nor_overwrite_what_is_unfinished(model, tmp_path, monkeypatch, caplog):
    calls = Calls(monkeypatch)
    calls.most = 6
    with pytest.raises(Killed):
        solved(model, tmp_path)
    (kept,) = (tmp_path / "unfinished").iterdir()
    content = kept.read_bytes()
    calls.done, calls.most = 0, None
    caplog.set_level("INFO", "absl")
    other = solved(model, tmp_path, seed=1)
    assert f"{kept.name}, unfinished" in caplog.text
    assert calls.done > 6
    assert not any("resumed" in note for note in other.report.notes)
    assert kept.read_bytes() == content


def answers(path, questions, header=None):
    """The answers to the questions, and how many of them were computed."""
    computed = []

    def answer(number):
        return journal.answer(("question", number), lambda: computed.append(number) or np.array([number, 0.5]))

    journal = Journal(path, header or {"seed": 0})
    got = [answer(number) for number in questions]
    journal.close()
    np.testing.assert_array_equal(got, [[number, 0.5] for number in questions])
    return computed


def test_a_journal_gives_back_what_it_was_given_and_no_more(tmp_path, caplog):
    path = tmp_path / "solve.journal"
    assert answers(path, range(5)) == [0, 1, 2, 3, 4]
    assert answers(path, range(7)) == [5, 6]
    assert answers(path, [0, 1, 9, 3]) == [9, 3]
    assert "record 3 answers another question" in caplog.text
    assert answers(aside(path), range(7)) == []
    assert answers(path, [0, 1, 9, 3, 4]) == [4]
    assert answers(path, range(2), {"seed": 1}) == [0, 1]
    assert "set_aside" in caplog.text
    assert answers(aside(path), [0, 1, 9, 3, 4]) == []


def test_the_clock_counts_what_an_answer_took_when_it_was_computed(tmp_path):
    path = tmp_path / "solve.journal"

    def slow():
        time.sleep(0.2)
        return np.zeros(1)

    for computed in (slow, pytest.fail):
        journal = Journal(path, {})
        began = journal.clock()
        journal.answer(("question",), computed)
        assert journal.clock() - began >= 0.2
        assert journal.replayed == (computed is not slow)
        journal.close()


def test_a_damaged_journal_is_used_as_far_as_it_is_whole(tmp_path):
    path, rng = tmp_path / "solve.journal", np.random.default_rng(0)
    head, whole = headed(path, range(6))
    for position in rng.integers(0, len(whole), 60):
        torn = whole[:position]
        flipped = torn + bytes([whole[position] ^ 1 << int(rng.integers(8))]) + whole[position + 1 :]
        garbage = torn + rng.bytes(int(rng.integers(1, 200)))
        for content in (torn, flipped, garbage):
            path.write_bytes(content)
            computed = answers(path, range(6))
            assert computed == list(range(6 - len(computed), 6))
            assert computed or (content is flipped and position < head)
            assert answers(path, range(6)) == []


def headed(path, questions):
    """The length of the first record of a new journal with answers to some questions, and its content."""
    answers(path, [])
    head = path.stat().st_size
    answers(path, questions)
    return head, path.read_bytes()


def test_a_damaged_header_costs_no_answer(tmp_path, caplog):
    path = tmp_path / "solve.journal"
    head, whole = headed(path, range(3))
    places = [range(place, place + 1) for place in range(head)]
    for place in (*places, range(8), range(8, 24), range(24, head)):  # length, digest and content of the header
        flipped = bytearray(whole)
        for i in place:
            flipped[i] ^= 1 << i % 8
        path.write_bytes(flipped)
        assert answers(path, range(3)) == []
        assert path.read_bytes() == whole
    assert "its header is damaged" in caplog.text


def test_a_header_of_which_nothing_is_left_and_another_one_are_set_aside(tmp_path):
    path = tmp_path / "solve.journal"
    head, whole = headed(path, range(3))
    path.write_bytes(bytes(head) + whole[head:])
    assert answers(path, range(3)) == [0, 1, 2]
    assert aside(path).read_bytes() == bytes(head) + whole[head:]
    assert answers(path, range(3), {"seed": 1}) == [0, 1, 2]
    other = bytearray(path.read_bytes())
    other[8] ^= 1  # of its digest
    path.write_bytes(other)
    assert answers(path, range(3)) == [0, 1, 2]
    assert aside(path).read_bytes() == other


@pytest.mark.parametrize("content", [b"", b"nothing of ours", os.urandom(500)])
def test_a_foreign_journal_is_set_aside(tmp_path, content):
    path = tmp_path / "solve.journal"
    path.write_bytes(content)
    assert answers(path, range(3)) == [0, 1, 2]
    assert not content or aside(path).read_bytes() == content


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_one_sentence(tmp_path):
    journal = Journal(tmp_path / "solve.journal", {})
    refused = pytest.raises(OutputError, match=r"No space left on device.*the same command goes on")
    with Path("/dev/full").open("wb", buffering=0) as journal._file, refused:
        journal.answer(("question",), lambda: np.zeros(3))


def test_what_is_refused_for_another_reason_than_room_asks_for_none(tmp_path):
    (tmp_path / "solve.journal" / "inner").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"\(Is a directory\); mend that, and the same command goes on where it was"):
        Journal(tmp_path / "solve.journal", {})


def test_a_full_disk_costs_training_no_backup(tmp_path, monkeypatch, full_disk):
    whole, history, _ = tuned(None, monkeypatch, None)
    assert tuned(tmp_path, monkeypatch, 10) is None  # in the third epoch of four batches
    folder = tmp_path / "unfinished"
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert {path.suffix for path in before} == {".npz", ".previous"}
    with full_disk(5000), pytest.raises(OutputError, match=r"npz cannot be written \(File too large\); mend that"):
        tuned(tmp_path, monkeypatch, None)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    model, again, batches = tuned(tmp_path, monkeypatch, None)
    assert (again, batches) == (history, 8)
    assert same_weights(model, whole)


@pytest.mark.parametrize("name", ["set aside", "previous"])
def test_a_backup_that_cannot_be_moved_is_one_sentence(name, tmp_path, monkeypatch):
    tuned(tmp_path, monkeypatch, 10)
    (path,) = (tmp_path / "unfinished").glob("*.npz")
    if name == "set aside":
        path.write_bytes(b"")
        aside(path).mkdir()
    else:
        path.with_suffix(".previous").unlink()
        path.with_suffix(".previous").mkdir()
    with pytest.raises(OutputError, match=r"npz cannot be (written|renamed) \(Is a directory\); mend that"):
        tuned(tmp_path, monkeypatch, None)


def test_two_runs_in_one_folder(tmp_path):
    refused = []

    def other():
        try:
            with held(tmp_path):
                pass
        except OutputError as error:
            refused.append(str(error))

    with held(tmp_path), held(tmp_path):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert "another run is at work" in refused.pop()
    other()
    assert not refused


HOLDER = """
import sys
from pathlib import Path
from cobla_tf.unfinished import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_as_long_as_the_first_is_there(tmp_path, command):
    first = [sys.executable, "-c", HOLDER, str(tmp_path / "out")]
    with subprocess.Popen(first, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        code, _, said = command("--output_dir=out")
        process.kill()
    assert code == 2
    assert said == (
        "cobla_tf: error: another run is at work in out; wait until it ends, or name another output folder.\n"
    )
    with held(tmp_path / "out"):
        pass


def test_nothing_of_a_complete_run_stays(tmp_path):
    unfinished = Unfinished(tmp_path)
    path = unfinished.path("fine_tuning.npz", b"abcd")
    for file in (path, path.with_suffix(".previous")):
        file.write_bytes(b"x")
        aside(file).write_bytes(b"x")
    unfinished.end(complete=True)
    assert not list(tmp_path.iterdir())


def test_what_was_being_written_when_a_run_was_killed_is_removed(tmp_path):
    (tmp_path / ".writing-compressed.keras-abc").mkdir()
    (tmp_path / ".writing-compressed.keras-abc" / "half").write_text("half")
    with held(tmp_path):
        assert {path.name for path in tmp_path.iterdir()} == {LOCK}


def dropping_cnn():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization(), keras.layers.Dropout(0.3)]
    return keras.Sequential([keras.Input((10, 10, 2)), *layers, keras.layers.Flatten(), keras.layers.Dense(3)])


def streamed():
    data = tf.data.Dataset.from_tensor_slices(images_and_labels(50))
    return Stream(data.shuffle(50, seed=1).batch(16), 50)


def tuned(folder, monkeypatch, most, epochs=4, make=lambda: as_examples(images_and_labels(50)), **further):
    """Train, and be killed at batch `most`; the model and its history."""
    batches = []

    def count(callback, batch, logs=None):
        batches.append(batch)
        if len(batches) == most:
            raise Killed

    monkeypatch.setattr(keras.callbacks.TerminateOnNaN, "on_batch_end", count)
    model, examples = dropping_cnn(), make()
    unfinished = Unfinished(folder)
    config = FineTuneConfig(**{"epochs": epochs, "optimizer": "yellowfin", "learning_rate": 0.1, **further})
    arguments = (model, examples, resolve_loss(None, model, examples.probe()), config, 16)
    backup = training_backup(unfinished, "fine_tuning", *arguments, 0)
    try:
        history = train(*arguments, 0, backup)
    except Killed:
        return None
    return model, history, len(batches)


def test_training_goes_on_at_the_last_epoch_as_if_nothing_had_been(tmp_path, monkeypatch):
    whole, history, _ = tuned(None, monkeypatch, None)
    assert tuned(tmp_path, monkeypatch, 6) is None  # in the second epoch of four batches
    assert tuned(tmp_path, monkeypatch, 8) is None  # at the end of the third, before it is kept
    model, again, batches = tuned(tmp_path, monkeypatch, None)
    assert batches == 8
    assert same_weights(model, whole)
    assert again == history
    for one, other in zip(model.optimizer.variables, whole.optimizer.variables, strict=True):
        np.testing.assert_array_equal(one, other)
    assert tuned(tmp_path, monkeypatch, None)[1:] == (history, 0)


def stopping():
    return {"callbacks": (keras.callbacks.EarlyStopping("loss", patience=1, min_delta=9.0, restore_best_weights=True),)}


def averaging():
    return {"optimizer": keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.9), "learning_rate": None}


def test_what_stops_training_tells_it_from_others_and_names_that_keras_counts_do_not(tmp_path):
    def place(**options):
        config = FineTuneConfig(4, **options)
        examples, model = as_examples(images_and_labels(50)), small_cnn()
        loss = resolve_loss(None, model, examples.probe())
        return training_backup(Unfinished(tmp_path), "fine_tuning", model, examples, loss, config, 16, 0)._path

    def scaled():
        return {"optimizer": keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))}

    assert place(**scaled()) == place(**scaled())
    given = stopping()
    given["callbacks"][0].min_delta *= -1  # as Keras does in training
    assert place(**stopping()) == place(**given) != place()


@pytest.mark.parametrize(("further", "epochs"), [(stopping, 2), (averaging, 4)])
def test_training_that_came_to_its_end_is_not_gone_on_with(tmp_path, monkeypatch, further, epochs):
    whole, history, _ = tuned(tmp_path, monkeypatch, None, **further())
    assert len(history) == epochs
    model, again, batches = tuned(tmp_path, monkeypatch, None, **further())
    assert batches == 0
    assert again == history
    assert same_weights(model, whole)


@pytest.mark.parametrize("spoilt", ["bit", "shape"])
def test_a_backup_that_cannot_be_used_gives_way_to_the_one_before(tmp_path, monkeypatch, spoilt):
    whole, history, _ = tuned(None, monkeypatch, None)
    assert tuned(tmp_path, monkeypatch, 9) is None  # two epochs are kept
    (path,) = tmp_path.glob("unfinished/*.npz")
    if spoilt == "bit":  # that says "encrypted"
        content = bytearray(path.read_bytes())
        content[content.rindex(b"PK\x01\x02") + 8] ^= 1
        first = content.index(b"PK\x01\x02")
        content[first + 8] ^= 1
        path.write_bytes(content)
    else:
        with np.load(path) as file:
            arrays = dict(file)
        arrays["state_0"] = np.zeros(7)
        np.savez(path, **arrays)
    model, again, batches = tuned(tmp_path, monkeypatch, None)
    assert batches == 12 and again == history and same_weights(model, whole)


class Residual(keras.layers.Layer):
    """Has no config of its own, and could have none."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def call(self, x):
        return x + self.inner(x)


@keras.saving.register_keras_serializable("tests")
class Block(keras.layers.Layer):
    def __init__(self, width, **options):
        super().__init__(**options)
        self.width, self.residual = width, Residual(keras.layers.Dense(width, kernel_initializer="ones"))

    def call(self, x):
        return self.residual(x)

    def get_config(self):
        return super().get_config() | {"width": self.width}


def test_the_key_of_a_backup_is_that_of_the_next_process_too(tmp_path):
    def place():
        inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, kernel_initializer="ones")])
        layers = [
            keras.Input((10, 10, 2)),
            keras.layers.RandomCrop(10, 10),  # draws a seed, and keeps it
            keras.layers.Conv2D(4, 3, kernel_initializer="ones"),
            keras.layers.GlobalAveragePooling2D(),
            Block(4),
            keras.layers.Reshape((1, 4)),
            keras.layers.TimeDistributed(inner),  # whose name is counted
            keras.layers.Flatten(),
            keras.layers.Dense(3, kernel_initializer="ones"),
        ]
        model, examples = keras.Sequential(layers), as_examples(images_and_labels(50))
        loss, config = resolve_loss(None, model, examples.probe()), FineTuneConfig(2)
        return training_backup(Unfinished(tmp_path), "fine_tuning", model, examples, loss, config, 16, 0)._path

    assert place() == place()


def test_what_changes_a_layer_in_training_alone_is_another_backup(tmp_path):
    def place(rate=0.1, regularizer=None, trainable=True):
        model = keras.Sequential(
            [
                keras.Input((10, 10, 2)),
                keras.layers.Conv2D(4, 3, kernel_initializer="ones", kernel_regularizer=regularizer),
                keras.layers.GlobalAveragePooling2D(),
                keras.layers.Dropout(rate),
                keras.layers.Dense(3, kernel_initializer="ones"),
            ]
        )
        model.layers[0].trainable = trainable
        examples = as_examples(images_and_labels(50))
        loss = resolve_loss(None, model, examples.probe())
        config = FineTuneConfig(2)
        return training_backup(Unfinished(tmp_path), "fine_tuning", model, examples, loss, config, 16, 0)._path

    places = [place(), place(0.9), place(regularizer=keras.regularizers.L2(0.5)), place(trainable=False)]
    assert len(set(places)) == len(places)
    assert place() == places[0]


def test_what_changes_training_is_another_backup(tmp_path):
    def place(callback=None, excluded=()):
        optimizer = keras.optimizers.AdamW(1e-3)
        if excluded:
            optimizer.exclude_from_weight_decay(var_names=list(excluded))
        config = FineTuneConfig(4, optimizer, callbacks=(callback,) if callback else ())
        examples, model = as_examples(images_and_labels(50)), small_cnn()
        loss = resolve_loss(None, model, examples.probe())
        return training_backup(Unfinished(tmp_path), "fine_tuning", model, examples, loss, config, 16, 0)._path

    stop = keras.callbacks.EarlyStopping
    kinds = [
        stop("loss"),
        stop("loss", restore_best_weights=True),
        stop("loss", start_from_epoch=2),
        stop("loss", mode="max"),
    ]
    places = [place(), place(excluded=["bias"]), *map(place, kinds)]
    assert len(set(places)) == len(places)
    assert place(stop("loss")) == places[2]


def test_a_split_of_one_shuffle_goes_on_in_the_same_order(model, tmp_path, monkeypatch):
    monkeypatch.setattr("cobla_tf.reading.IN_MEMORY_LIMIT", 0)

    def solve(folder):
        keras.utils.set_random_seed(0)
        whole = tf.data.Dataset.from_tensor_slices(images_and_labels(120)).shuffle(120, seed=1).batch(20)
        config = dataclasses.replace(QUICK, output_dir=folder, exports=())
        return cobla_tf.compress(model, whole.skip(2), **BUDGET, validation=whole.take(2), config=config).report

    expected = solve(None)
    calls = Calls(monkeypatch)
    calls.most = 7
    with pytest.raises(Killed):
        solve(tmp_path)
    calls.most = None
    report = solve(tmp_path)
    assert [site.rank for site in report.sites] == [site.rank for site in expected.sites]
    assert counts(report) == counts(expected)
    assert any("resumed" in note for note in report.notes)


def test_a_backup_is_of_one_loss_and_precision(tmp_path):
    model, examples = dropping_cnn(), as_examples((images_and_labels()[0], np.eye(3)[images_and_labels()[1]]))
    paths = set()
    for smoothing, precision in [(0.0, "float32"), (0.1, "float32"), (0.0, "bfloat16"), (0.0, "float32")]:
        given = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing)
        arguments = (model, examples, resolve_loss(given, model, examples.probe()), FineTuneConfig(2), 16, 0)
        backup = training_backup(Unfinished(tmp_path), "fine_tuning", *arguments, precision)
        paths.add(backup._path)
    assert len(paths) == 3


def test_what_could_not_be_exported_is_tried_again_without_the_work(tmp_path, monkeypatch):
    def full(source, path):
        raise OSError(28, "No space left on device")

    def run():
        config = Config(output_dir=tmp_path, exports=("keras",), fine_tune=FineTuneConfig(2), batch_size=64)
        return cobla_tf.compress(
            small_cnn(), images_and_labels(200), method="pos_cvx", macs=0.5, params=0.5, config=config
        ).report

    with monkeypatch.context() as patched:
        patched.setitem(export.WRITERS, "keras", full)
        report = run()
    assert "No space left" in report.failures["keras"]
    assert any("the same command, or one with other exports, tries again" in note for note in report.notes)
    again = run()
    assert not again.failures
    assert any("2 epochs of fine-tuning are of an earlier attempt" in note for note in again.notes)
    assert again.fine_tuning == report.fine_tuning
    assert (tmp_path / "compressed.keras").exists()
    assert not (tmp_path / "unfinished").exists()


def test_training_on_a_stream_goes_on_in_the_same_order(tmp_path, monkeypatch, recwarn):
    whole, history, _ = tuned(None, monkeypatch, None, make=streamed)
    assert tuned(tmp_path, monkeypatch, 10, make=streamed) is None  # in the third epoch of four batches
    model, again, batches = tuned(tmp_path, monkeypatch, None, make=streamed)
    assert batches == 8
    assert again == history
    assert same_weights(model, whole)
    assert not [warning for warning in recwarn if "ran out of data" in str(warning.message)]


def test_a_damaged_backup_gives_way_to_the_one_before(tmp_path, monkeypatch, caplog):
    _, history, _ = tuned(tmp_path, monkeypatch, None)
    (path,) = (tmp_path / "unfinished").glob("*.npz")
    content = path.read_bytes()
    for damaged in (b"", content[:5000] + bytes([content[5000] ^ 1]) + content[5001:]):
        path.write_bytes(damaged)
        _, again, batches = tuned(tmp_path, monkeypatch, None)
        assert again == history
        assert batches == 4
        assert f"{path.name} cannot be used" in caplog.text
        older = path.with_suffix(".previous")
        assert f"now {aside(path).name}; training goes on from {older.name}, 3 epochs done" in caplog.text
        assert aside(path).read_bytes() == damaged
        caplog.clear()
    older.write_bytes(b"older")
    path.write_bytes(b"newer")
    assert tuned(tmp_path, monkeypatch, None)[1:] == (history, 16)
    assert f"{aside(older).name}; there is no older one, and training begins anew" in caplog.text
    assert (aside(path).read_bytes(), aside(older).read_bytes()) == (b"newer", b"older")
    path.replace(tmp_path / "kept")
    tuned(tmp_path, monkeypatch, None, epochs=3)
    for other in (tmp_path / "unfinished").glob("*.npz"):
        (tmp_path / "kept").replace(other)
    assert "it is of another training" not in caplog.text
    tuned(tmp_path, monkeypatch, None, epochs=3)
    assert "it is of another training" in caplog.text


FLAGS = [
    "--pretrain_epochs=2", "--epochs=3", "--iterations=2", "--draws=1", "--refine_iterations=0", "--exports=keras",
]  # fmt: skip


def started(cwd, *more):
    command = [sys.executable, "-m", "cobla_tf.main", *FLAGS, *more]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's background would have it ignored
    try:
        return subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    finally:
        signal.signal(signal.SIGINT, before)


def stopped(folder, pattern, least, number):
    """Begin or go on, and send a signal once a file of this size is there; exit code and what was said."""
    process = started(folder)
    while process.poll() is None and not any(p.stat().st_size >= least for p in folder.glob(f"cobla_out/{pattern}")):
        time.sleep(0.01)
    process.send_signal(number)
    text, _ = process.communicate(timeout=300)
    return process.returncode, text


def exported(folder):
    """Names of all files, and what the exported model holds."""
    with zipfile.ZipFile(folder / "cobla_out" / "compressed.keras") as archive:
        return {str(path.relative_to(folder)) for path in folder.rglob("*")}, archive.read("model.weights.h5")


def test_real_signals_and_kills(tmp_path):
    folders = [tmp_path / "whole", tmp_path / "killed"]
    for folder in folders:
        folder.mkdir()
    whole = started(folders[0])
    for pattern, least, number in (
        ("unfinished/solve-*.journal", 4000, signal.SIGTERM),
        ("unfinished/fine_tuning-*.npz", 1, signal.SIGINT),
    ):
        code, text = stopped(folders[1], pattern, least, number)
        assert code == 128 + number, text
        assert "cobla_tf: stopped; the same command goes on where it was" in text.splitlines()
    code, text = stopped(folders[1], ".writing-compressed.keras-*", 0, signal.SIGKILL)
    assert code == -signal.SIGKILL, text
    assert not (folders[1] / "cobla_out" / "report.json").exists()
    text, _ = started(folders[1], "--verbosity=-1").communicate(timeout=300)
    assert "original: loss" not in text
    assert whole.wait(timeout=300) == 0
    assert exported(folders[0]) == exported(folders[1])
    reports = [json.loads((folder / "cobla_out" / "report.json").read_text()) for folder in folders]
    assert [any("resumed: " in note for note in report["notes"]) for report in reports] == [False, True]
    assert reports[0]["sites"] == reports[1]["sites"]
    assert reports[0]["fine_tuning"] == reports[1]["fine_tuning"]
    assert reports[0]["evaluations"] == reports[1]["evaluations"]


def test_bars_are_for_terminals_that_want_messages(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    def shown(terminal, level):
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setattr("cobla_tf.progress.DELAY", 0)
        absl_logging.set_verbosity(level)
        with doing("solve 1"):
            assert list(bar(range(3), 3, "batches")) == [0, 1, 2]
        return terminal.getvalue()

    before = absl_logging.get_verbosity()
    try:
        text = shown(Terminal(), absl_logging.INFO)
        assert "solve 1" in text
        assert "/3 [" in text
        assert shown(Terminal(), absl_logging.WARNING) == shown(io.StringIO(), absl_logging.INFO) == ""
    finally:
        absl_logging.set_verbosity(before)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_below_tensorboard_costs_nothing_that_was_computed(model, tmp_path, monkeypatch):
    def begun(self, folder, begin=EventFile.__init__):
        begin(self, folder)
        self._writer = tf.io.TFRecordWriter("/dev/full")

    refused = r"tfevents.solve cannot be written \(No space left on device\); make room for it, and the same command"
    with monkeypatch.context() as full, pytest.raises(OutputError, match=refused):
        full.setattr(EventFile, "__init__", begun)
        solved(model, tmp_path)
    assert any("resumed: " in note for note in solved(model, tmp_path).report.notes)
    assert (tmp_path / FILE).stat().st_size > 1000


def test_a_folder_in_the_place_of_the_scalars_is_one_sentence(tmp_path):
    (tmp_path / FILE / "inner").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"tfevents.solve cannot be written \(.*\); mend that"):
        EventFile(tmp_path)


def test_tensorboard_gets_every_iteration_once(model, tmp_path):
    report = solved(model, tmp_path).report
    records = [tf.compat.v1.Event.FromString(r.numpy()) for r in tf.data.TFRecordDataset(str(tmp_path / FILE))]
    assert records[0].file_version == "brain.Event:2"
    shown = [{value.tag: value.simple_value for value in event.summary.value} for event in records[1:]]
    assert len(shown) == len(report.iterations)
    for event, tags, record in zip(records[1:], shown, report.iterations, strict=True):
        assert tags["loss/on the sample"] == pytest.approx(record.loss, rel=1e-6)
        assert tags["budget used/macs"] == pytest.approx(record.budget_use["macs"], rel=1e-6)
        assert ("price/params" in tags) == ("rank/conv1" in tags) == (record.phase not in ("fade", "refine"))
        assert ("loss/on images that no gradient sees" in tags) == np.isfinite(record.judged)
        assert event.step == records.index(event)
