"""Conventions of the code that no linter knows."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.paths import ROOT

from emobake.cli.terminal import option
from emobake.errors import spell_arguments

MODULES = sorted((ROOT / "bake").rglob("*.py"))
LIBRARY = [path for path in MODULES if "cli" not in path.relative_to(ROOT / "bake").parts]
# Commands of other programs, and of ours on a card or in its docstring.
ALLOWED = (
    "hf download",
    "vllm serve",
    "llama-server",
    "--max-lora-rank",
    "convert_hf_to_gguf.py",
    "mlx_lm.generate",
    "--model-impl",
    "--input-type=module",
    "export openvino",
    "emobake ",
    "--outfile",
    "--outtype",
    "lm_eval ",
)


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Strings of a module that are no docstrings; of an f-string, its text with {} for each value."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    seen = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        parts = node.values if isinstance(node, ast.JoinedStr) else [node]
        known = [part.value if isinstance(part, ast.Constant) else "{}" for part in parts]
        if id(node) not in seen and all(isinstance(text, str) for text in known) and set(known) != {"{}"}:
            yield node.lineno, "".join(known)
        seen.update(map(id, parts))


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: str(path.relative_to(ROOT / "bake")))
def test_the_library_names_arguments_and_not_options(path: Path):
    found = [f"{line}: {text}" for line, text in texts(path) if re.search(r"(?<!\w)--[a-z]", text)]
    assert not [text for text in found if not any(allowed in text for allowed in ALLOWED)]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT / "bake")))
def test_no_error_is_raised_bare(path: Path):
    assert not re.search(r"raise EmobakeError\(", path.read_text(encoding="utf-8"))


def test_arguments_become_options():
    text = "give `overwrite`, or `link_mode` copy; `push` needs `hash_files`; run `emobake vectors list`"
    said = "give --overwrite, or --link-mode copy; --push-to-hub needs --hash; run `emobake vectors list`"
    assert spell_arguments(text, option) == said
