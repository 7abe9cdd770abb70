import json
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / "experiments").glob("*.ipynb"))


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=lambda path: path.name)
def cells(request):
    notebook = json.loads(request.param.read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_its_cells_run_in_order(cells, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for cell in cells:
        source = "".join(cell["source"]).replace("epochs=25", "epochs=2")
        exec(compile(source, cell["id"], "exec"), names)
    assert all(budget.reached <= budget.limit for budget in names["result"].report.budgets)
    assert list(tmp_path.glob("*.keras"))


def test_its_stored_output_is_of_one_run_and_of_no_machine(cells):
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {"stream", "execute_result"}
    assert {output.get("name", "stdout") for output in outputs} == {"stdout"}
    assert sum("text/html" in output.get("data", {}) for output in outputs) == 1
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    text = json.dumps(outputs)
    assert not any(place in text for place in ("/home/", "/root/", "/tmp/", "/usr/"))
