"""Packages that are imported are declared, and only in the one place where they are needed."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

from support.paths import ROOT
from support.running import run_process

from emobake.core.toml import parse_toml

PROJECT = parse_toml((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OTHER_NAMES = {"pyyaml": "yaml", "scikit-learn": "sklearn"}
"""Package -> name to import, where the two differ by more than ``-`` and ``_``."""
STACKS = {"llama_cpp", "mlx", "mlx_lm", "vllm", "xllamacpp"}
STACKS |= {
    "ctranslate2",
    "onnx_ir",
    "onnxruntime",
    "onnxruntime_genai",
    "openvino",
    "optimum",
    "mistralrs",
    "tokenizers",
}
"""Imported in an environment of the stack, and by nobody else."""


def names(requirements: list[str]) -> set[str]:
    """Names to import of requirements; of an extra that is one of ours, nothing."""
    packages = {re.match(r"[\w-]+", line)[0] for line in requirements} - {"emobake"}
    return {OTHER_NAMES.get(package, package.replace("-", "_")) for package in packages}


def imports(file: Path) -> set[str]:
    """Names of the packages that a module imports, at the top or in functions, `require` included."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("require", "import_module"):
            found |= {argument.value for argument in node.args[:1] if isinstance(argument, ast.Constant)}
    return {name.partition(".")[0] for name in found} - sys.stdlib_module_names - {"emobake", "tomllib", "__future__"}


CORE = names(PROJECT["dependencies"])
EXTRAS = set().union(*map(names, PROJECT["optional-dependencies"].values()))


def test_every_import_is_declared():
    stacks = ROOT / "bake" / "models" / "stacks"
    found, beside = set(), {file.stem for file in stacks.glob("*.py")}
    for file in sorted((ROOT / "bake").rglob("*.py")):
        # A runner imports what lies beside it as a module of its own.
        allowed = CORE | EXTRAS | (STACKS | beside if file.parent == stacks else set())
        assert imports(file) <= allowed, file
        found |= imports(file)
    assert found - STACKS >= {"yaml", "torch", "tomli"}, "the check sees imports of every kind"


def test_everything_declared_is_imported():
    found = set().union(*(imports(file) for file in (ROOT / "bake").rglob("*.py")))
    assert found >= CORE | EXTRAS


def test_the_core_needs_no_extra():
    """Modules import packages of the extras inside functions only."""
    stacks = ROOT / "bake" / "models" / "stacks"
    for file in (ROOT / "bake").rglob("*.py"):
        if file.parent == stacks:
            continue
        body = ast.parse(file.read_text(encoding="utf-8")).body
        top = {alias.name for node in body if isinstance(node, ast.Import) for alias in node.names}
        top |= {node.module for node in body if isinstance(node, ast.ImportFrom) and not node.level}
        assert not {name.partition(".")[0] for name in top} & (EXTRAS - CORE), file


def test_every_module_is_imported_without_what_only_unix_has():
    """Not a run on Windows, but what an import there would stumble over first."""
    code = (
        "import importlib, os, pkgutil, signal, sys\n"
        "sys.modules.update(dict.fromkeys(('fcntl', 'grp', 'pwd', 'readline', 'resource', 'termios', 'tty')))\n"
        "for owner, names in ((os, ('copy_file_range', 'fork', 'getuid', 'killpg', 'O_DIRECTORY')), "
        "(signal, ('SIGKILL', 'SIGHUP', 'SIGUSR1'))):\n"
        "    for name in names: delattr(owner, name)\n"
        "import emobake\n"
        "for module in pkgutil.walk_packages(emobake.__path__, 'emobake.'):\n"
        "    last = module.name.rpartition('.')[2]\n"
        "    if last != '__main__' and not last.startswith('run_'): importlib.import_module(module.name)\n"
        "print(len(sys.modules) > 100)"
    )
    assert run_process("-c", code).ok().out == "True\n"


def test_only_one_module_imports_toml():
    assert [f.name for f in (ROOT / "bake").rglob("*.py") if "tomli" in imports(f)] == ["toml.py"]
