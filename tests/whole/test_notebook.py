"""The notebook: it uses the public interface only, and runs from top to bottom in a kernel of Jupyter."""

import ast
import json
from pathlib import Path

import pytest

import emobake

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "first-bake.ipynb"
CODE = [
    "".join(cell["source"])
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    if cell["cell_type"] == "code"
]


def test_it_uses_the_public_interface_only():
    tree = ast.parse("\n".join(CODE))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported == {"pathlib", "transformers"}
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "emobake"
    }
    assert {"bake", "verify", "unbake", "audit"} <= used <= set(emobake.__all__)


def test_it_is_stored_without_outputs():
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        assert not cell.get("outputs") and cell.get("execution_count") is None


@pytest.mark.browser
def test_it_runs_from_top_to_bottom(tmp_path):
    nbclient, nbformat = (pytest.importorskip(name) for name in ("nbclient", "nbformat"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    said = [
        "".join(str(out.get("text", "")) + str(out.get("data", {}).get("text/plain", "")) for out in cell.outputs)
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]
    assert "transformers steered" in said[2] and "False" not in said[4] and "equals the hook" in said[4]
    before, after = said[5].strip().split("\n\n")
    assert before != after and "joy" in after
    assert "joy about 1.2" in said[6] and said[6].rstrip().endswith("True")
