import ast
import json
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / "experiments").glob("*.ipynb"))


FORMS = {"text/html": "_repr_html_", "image/png": "_repr_png_", "text/plain": "__repr__"}
"""What of a value a notebook asks for."""
LONG, SHORT = "epochs=25", "epochs=2"


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=lambda path: path.name)
def cells(request):
    notebook = json.loads(request.param.read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def run(source, name, names):
    """Run a cell; the value of its last line, which a notebook shows."""
    *before, last = ast.parse(source).body
    before += [] if isinstance(last, ast.Expr) else [last]
    exec(compile(ast.Module(before, []), name, "exec"), names)
    return eval(compile(ast.Expression(last.value), name, "eval"), names) if isinstance(last, ast.Expr) else None


def test_its_cells_run_in_order(cells, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names, sources = {}, ["".join(cell["source"]) for cell in cells]
    assert sum(source.count(LONG) for source in sources) == 1
    for cell, source in zip(cells, sources, strict=True):
        shown = run(source.replace(LONG, SHORT), cell["id"], names)
        for form in (form for output in cell["outputs"] for form in output.get("data", {})):
            assert getattr(shown, FORMS[form])()
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
