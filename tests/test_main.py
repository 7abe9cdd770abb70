import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from networks import small_cnn

from cobla_tf import sweep
from cobla_tf.config import Config
from cobla_tf.errors import SolverError
from cobla_tf.files import at_home
from cobla_tf.job import Job
from cobla_tf.terminal import run_with_arguments

ROOT = Path(__file__).resolve().parent.parent


def run(*flags, cwd):
    command = [sys.executable, "-m", "cobla_tf.main", *flags]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture
def refused(command):
    """Runs the command; its one sentence on bad input."""

    def run_here(*flags):
        code, _, err = command(*flags)
        assert code == 2
        (error,) = [line for line in err.splitlines() if line.startswith("cobla_tf: error: ")]
        return error

    return run_here


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.keras"
    small_cnn().save(path)
    return str(path)


def test_the_default_run_with_flags_that_override_its_flagfile(tmp_path):
    flags = ("--macs=0.4", "--params=none", "--iterations=3", "--epochs=1", "--pretrain_epochs=2", "--seed=3",
             "--draws=2", "--refine_iterations=2", "--exports=keras,litert")  # fmt: skip
    done = run(*flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "cobla_out" / "report.json").read_text())
    macs, params = report["budgets"]
    assert macs["reached"] <= macs["limit"] <= 0.4 * macs["original"]
    assert params["limit"] is None
    assert report["seed"] == 3
    assert report["evaluations"]["fine-tuned"]["examples"] == 500
    assert shlex.split(report["command"]) == ["python", "-m", "cobla_tf.main", *flags]
    given = {"model": "digits_cnn", "dataset": "digits", "preprocessing": "none", "pretrain_epochs": 2}
    assert report["config"]["input"] == given
    for site in report["sites"]:
        assert site["name"] in done.stdout
    for path in report["files"].values():
        assert (tmp_path / path).exists()


def test_resources_from_a_csv_file(tmp_path, command, refused):
    rows = [f"conv{i},latency,{cost},{cost / 40},0.125" for i, cost in ((1, 0.5), (2, 2.0), (3, 1.5), (4, 1.25))]
    (tmp_path / "costs.csv").write_text("\n".join(["site,resource,original,per_rank,base", *rows]))
    quick = ("--iterations=1", "--sample_fraction=0.05", "--draws=1", "--refine_iterations=0", "--epochs=0")
    flags = ("--resources=costs.csv", "--budgets=latency=0.7", "--exports=", *quick)
    code, _, err = command(*flags, "--pretrain_epochs=0")
    assert code == 0, err
    budgets = json.loads((tmp_path / "cobla_out" / "report.json").read_text())["budgets"]
    assert [budget["resource"] for budget in budgets] == ["macs", "params", "latency"]
    assert budgets[2]["reached"] <= budgets[2]["limit"] == 0.7 * budgets[2]["original"] == 3.675
    (tmp_path / "costs.csv").write_text("\n".join(["site,resource,original,per_rank,base", *rows[1:]]))
    assert "latency: expected costs for every site, got none for conv1." in refused(*flags, "--pretrain_epochs=0")


def test_a_flagfile_in_the_current_folder_comes_first(tmp_path, refused):
    (tmp_path / "vgg16.flags").write_text("--model=nothing.keras\n--dataset=digits\n--macs=0.5\n")
    assert "nothing.keras" in refused("--flagfile=vgg16.flags")


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_reads_well_and_does_not_wait_for_tensorflow(tmp_path, flag):
    done = run(flag, cwd=tmp_path)
    assert done.returncode == 0
    assert "--macs" in done.stdout
    assert "Budget on the multiply-accumulates" in done.stdout
    command = "import sys, cobla_tf.main; print(any(m in sys.modules for m in ('tensorflow', 'keras', 'numpy')))"
    assert (
        subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True).stdout == "False\n"
    )


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--macs=0"], "macs budget must be"),
        (["--macs=half"], "--macs must be a number or none, got 'half'; 50 % is 0.5"),
        (["--macs=40%"], "--macs must be a number or none, got '40%'; 40 % is 0.4"),
        (["--macs=0,5"], "--macs must be a number or none, got '0,5'; write 0.5"),
        (["--sweep=0.5,30 %"], "--sweep must be numbers separated by commas, got '30 %'; 30 % is 0.3"),
        (["--sweep=0.5;0.3"], "--sweep must be numbers separated by commas, got '0.5;0.3'; 50 % is 0.5"),
        (["--budgets=latency=60%"], "latency must be a number or none, got '60%'; 60 % is 0.6"),
        (["--macs=0.0001"], "smallest reachable"),
        (["--budgets=latency=0.5"], r"'latency', but the resources are macs, params; .*--resources"),
        (["--budgets=latency"], "--budgets must be NAME=NUMBER"),
        (["--budgets=macs=0.5"], "macs has two budgets"),
        (["--resources=nowhere.csv"], r"nowhere.csv \(No such file"),
        (["--exclude=nothing*"], "matches no layer"),
        (["--flagfile=nowhere.flags"], "nowhere.flags"),
        (["--model=missing.keras", "--dataset=digits", "--macs=0.5"], "missing.keras"),
        (["--model=digits_cnn"], "--dataset"),
        (["--optimizer=adamm"], "adamm"),
        (["--exports=coreml"], r"keras, savedmodel, .*got 'coreml'\."),
        (["--exports=keras,tflite"], r"got 'tflite'; did you mean litert\?"),
        (["--exports=tflite_int8"], r"got 'tflite_int8'; did you mean litert_int8\?"),
        (["--model=nin_cifar10", "--dataset=cifar10", "--data_dir=.", "--macs=0.5"], "not prepared|prepare"),
        (["--output_dir=/dev/null/out"], "/dev/null/out"),
        (["stray"], "stray"),
        (["--mcas=0.5"], r"mean: macs\? --help"),
        (
            ["--benchmark=yes"],
            r"error: flag --benchmark=yes: expected true or false, got 'yes'; --help lists all flags\.",
        ),
        (["--no_such=1"], "'no_such'; --help"),
        (["--macs=50"], r"50 % is 0\.5"),
        (["--loss=crossentropy"], "did you mean .*crossentropy"),
        (["--scheme=both"], "spatial"),
        (["--iterations=0"], "iterations"),
        (["--dataset=digits"], "expected --model"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(flags, sentence, refused):
    assert re.search(sentence, refused("--pretrain_epochs=0", *flags))


@pytest.mark.parametrize(("flag", "sentence"), [("--macs=half", "--macs must be"), ("--macs=0.0001", "smallest")])
def test_a_process_that_is_given_bad_input_prints_nothing_else_and_ends_with_2(flag, sentence, tmp_path):
    done = run("--verbosity=-1", flag, cwd=tmp_path)
    assert done.returncode == 2
    (error,) = done.stderr.splitlines()
    assert error.startswith("cobla_tf: error: ") and sentence in error


def test_labels_and_images_that_do_not_fit_the_model(model_file, tmp_path, refused):
    assert "digits" in refused(f"--model={model_file}", "--dataset=digits", "--macs=0.5")
    assert not np.any([path.suffix == ".keras" for path in tmp_path.rglob("*")])


def test_a_folder_without_a_class_of_the_model_is_refused(tmp_path, refused):
    images = keras.Input((6, 6, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(8, 3)(images))
    keras.Model(images, keras.layers.Dense(3)(x)).save(tmp_path / "three.keras")
    for part in ("train/ant", "train/zebra", "val/ant", "val/zebra"):
        (tmp_path / "two" / part).mkdir(parents=True)
        keras.utils.save_img(tmp_path / "two" / part / "1.png", np.zeros((6, 6, 3)))
    flags = (f"--model={tmp_path / 'three.keras'}", f"--dataset={tmp_path / 'two'}", "--macs=0.9")
    assert "has 2 classes, and the model has 3 outputs" in refused(*flags)
    assert "has 2 classes, and the model has 3 outputs" not in refused(*flags, "--loss=nonsense")
    keras.Model(images, keras.layers.Dense(1)(x)).save(tmp_path / "one.keras")
    for part in ("train/bee", "val/bee"):
        shutil.copytree(tmp_path / "two" / "train" / "ant", tmp_path / "two" / part)
    flags = (f"--model={tmp_path / 'one.keras'}", flags[1], "--macs=1e-9")
    assert "has 3 classes, and the model has 1 output:" in refused(*flags, "--loss=binary_crossentropy")
    assert "smallest reachable" in refused(*flags, "--loss=mse")


@pytest.mark.parametrize("error", [MemoryError(), type("ResourceExhaustedError", (Exception,), {})("OOM")])
def test_too_little_memory_is_a_sentence(refused, monkeypatch, error):
    def fails(job):
        raise error

    monkeypatch.setattr("cobla_tf.job.Job.run", fails)
    assert "more memory than there is: lower --batch_size" in refused("--macs=0.5")


def test_before_a_sweep_the_network_is_trained_for_its_first_point():
    job = object.__new__(Job)
    object.__setattr__(job, "sweep", ["given"])
    budgets = {"macs": [1000, 0.3, 0.5], "params": [7, 9]}
    first = job._first({**budgets, "methods": ["uniform", "cobla"]})
    assert first == {"budgets": {"macs": 0.5, "params": 9}, "method": "cobla"}
    assert job._first({**budgets, "methods": ["uniform"]})["method"] == "uniform"


def test_a_sweep_prints_and_writes_its_curve(tmp_path, command, refused):
    flags = ("--pretrain_epochs=1", "--method=pos_cvx,uniform", "--epochs=0", "--exports=")
    code, out, err = command("--sweep=0.4,0.6", *flags)
    assert code == 0, err
    rows = (tmp_path / "cobla_out" / "curve.csv").read_text().splitlines()
    assert [row.split(",")[:2] for row in rows[1:]] == [[m, b] for m in ("pos_cvx", "uniform") for b in ("0.6", "0.4")]
    assert "pos_cvx" in out and not (tmp_path / "cobla_out" / "unfinished").exists()
    assert "--budgets cannot go with --sweep" in refused("--sweep=0.4", "--budgets=latency=2")


def test_a_point_that_failed_ends_a_sweep_with_1_and_keeps_the_training_before_it(tmp_path, command, monkeypatch):
    compress = sweep.compress

    def failing(*arguments, budgets, **options):
        if budgets["macs"] == 0.4:
            raise SolverError("no use")
        return compress(*arguments, budgets=budgets, **options)

    monkeypatch.setattr(sweep, "compress", failing)
    code, out, _ = command("--sweep=0.4,0.6", "--pretrain_epochs=1", "--method=uniform", "--epochs=0", "--exports=")
    assert code == 1
    assert "uniform_macs0.4_params0.4: no use" in out
    assert list((tmp_path / "cobla_out" / "unfinished").glob("pretraining-*"))


PRINTING = """
from cobla_tf.terminal import run_with_arguments
def main():
    for _ in range(20000):
        print("much more than a pipe holds")
    {end}
run_with_arguments("test", main, "nothing is kept")
"""


@pytest.mark.parametrize(("end", "code"), [("return 0", 141), ("import sys; sys.exit(5)", 141)])
def test_what_reads_the_output_may_end_before(end, code):
    program = f"{shlex.quote(sys.executable)} -c {shlex.quote(PRINTING.format(end=end))}"
    command = ["/bin/bash", "-c", f"{program} | head -1; exit ${{PIPESTATUS[0]}}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "much more than a pipe holds"
    assert (done.returncode, done.stderr) == (code, "")


@pytest.mark.parametrize("end", ["return 3", "raise OSError('no such thing')"])
def test_a_closed_output_changes_no_exit_code(end):
    program = PRINTING.replace("20000", "2").format(end=end)
    command = ["/bin/bash", "-c", f"{shlex.quote(sys.executable)} -c {shlex.quote(program)} >&-"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == (3 if "return" in end else 2)
    assert "Traceback" not in done.stderr


def test_a_broken_pipe_of_something_else_is_bad_input(capsys):
    def main():
        raise BrokenPipeError(32, "Broken pipe")

    with pytest.raises(SystemExit) as ended:
        run_with_arguments("test", main, "nothing is kept")
    assert ended.value.code == 2
    assert "Broken pipe" in capsys.readouterr().err


@pytest.mark.parametrize("ignored", [True, False])
def test_a_signal_that_the_caller_ignores_stays_ignored(ignored):
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.default_int_handler)
    try:
        with pytest.raises(SystemExit) as ended:
            run_with_arguments(
                "test", lambda: int(signal.getsignal(signal.SIGINT) is signal.SIG_IGN), "nothing is kept"
            )
        assert ended.value.code == int(ignored)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


SLOW_TO_END = """
import os, signal, threading, time
from cobla_tf.terminal import run_with_arguments

def main():
    threading.Thread(target=time.sleep, args=(60,)).start()  # which the end of the process waits for
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)

signal.signal(signal.SIGINT, signal.default_int_handler)  # where it is ignored it stays so
run_with_arguments("test", main, "nothing is kept")
"""


def test_a_second_ctrl_c_ends_the_program_at_once_without_a_word():
    process = subprocess.Popen([sys.executable, "-c", SLOW_TO_END], stderr=subprocess.PIPE, text=True)
    assert process.stderr.readline() == "test: stopped; nothing is kept\n"
    process.send_signal(signal.SIGINT)
    _, more = process.communicate(timeout=30)
    assert (process.returncode, more) == (-signal.SIGINT, "")


def test_home_is_found_whatever_the_shell_does(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert at_home("~/out") == str(tmp_path / "out") == str(Config(output_dir="~/out").output_dir)
    assert at_home("out/~/x") == "out/~/x"
    assert at_home("~nobody/x") == "~nobody/x"
