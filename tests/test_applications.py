import json

import keras
import pytest
from cobla_tf.experiments import applications
from cobla_tf.experiments.applications import builders, checked, measure, measure_exports
from cobla_tf.experiments.applications_table import HEAD, markdown

from cobla_tf.errors import ModelError


@pytest.mark.parametrize(("name", "options"), [("MobileNet", {"alpha": 0.25}), ("MobileNetV3Small", {"alpha": 0.25})])
def test_an_architecture_is_equal_at_full_rank_and_halved(name, options):
    record = measure(name, 32, classes=10, **options)
    assert json.loads(json.dumps(record)) == record
    assert record["sites"] > 10
    assert 0 < record["difference"] < 1e-10
    assert keras.config.floatx() == "float32" and keras.config.dtype_policy().name == "float32"
    for resource in ("macs", "params"):
        assert 0.3 < record[f"kept_{resource}"] / record[f"site_{resource}"] <= 0.5
        assert record[f"site_{resource}"] < record[resource]
    assert record["reloaded"] < 1e-6
    row = next(line for line in markdown([record], "3", "[32, 32, 3]").splitlines() if line.startswith(f"| {name} "))
    assert row.count("|") == len(HEAD) + 1


def test_what_exports_differ_by_stands_beside_the_rest():
    record = measure_exports("MobileNet", 32, classes=10, alpha=0.25)
    assert 0 <= record["savedmodel"] < 1e-4
    assert 0 < record["litert"] < 1e-4
    text = markdown([{**dict.fromkeys(ROW, 1), "name": "MobileNet"}], "3", "[32, 32, 3]", [record])
    assert f"{record['litert']:.0e}" in text


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [({"difference": 2}, "differs at full rank by 2"), ({"difference": float("nan")}, "nan"),
     ({"kept_params": 51, "site_params": 101}, "keeps 51 params of 101")],
)  # fmt: skip
def test_a_broken_promise_is_an_error(wrong, sentence):
    fine = {**dict.fromkeys(ROW, 1), "site_macs": 2, "site_params": 2, "difference": 0}
    assert checked(fine) == fine
    with pytest.raises(ModelError, match=sentence):
        checked({**fine, **wrong})


def test_all_architectures_are_known_and_a_failure_is_a_row():
    assert {"VGG16", "ResNet50", "EfficientNetB0", "ConvNeXtTiny", "NASNetMobile"} <= set(builders())
    assert "| Net " in markdown([{"name": "Net", "error": "too | large"}], "3", "[32, 32, 3]")
    assert "too \\| large" in markdown([{"name": "Net", "error": "too | large"}], "3", "[32, 32, 3]")


def test_a_stopped_run_goes_on_with_what_is_left(tmp_path, monkeypatch):
    asked = []

    def in_own_process(name, measure_one):
        assert measure_one is measure
        asked.append(name)
        return {"name": name, "error": "none"} if name == "VGG19" else {**dict.fromkeys(ROW, 1), "name": name}

    monkeypatch.setattr(applications, "in_own_process", in_own_process)
    monkeypatch.setattr(applications, "_OUTPUT", Value(str(tmp_path)))
    monkeypatch.setattr(applications, "_NAMES", Value(["VGG16", "VGG19"]))
    monkeypatch.setattr(applications, "_EXPORTS", Value(False))
    applications.main([])
    applications.main([])
    assert asked == ["VGG16", "VGG19", "VGG19"]
    assert "VGG16" in (tmp_path / "applications.md").read_text()


ROW = (
    "sites", "macs", "site_macs", "params", "site_params", "difference", "kept_macs", "kept_params", "reloaded",
    "peak_bytes", "seconds",
)  # fmt: skip


class Value:
    def __init__(self, value):
        self.value = value
