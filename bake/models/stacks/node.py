"""Node.js beside a folder of installed npm packages, for the runners that need it. Standard library only."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


class NotInstalledError(ImportError):
    """Node.js or the package is missing."""


def modules(request: dict[str, Any]) -> Path:
    """The folder ``node_modules``: the request's, or that of this interpreter's environment."""
    given = request.get("node_modules")
    return Path(given) if given else Path(sys.prefix) / "node_modules"


def version(package: str, request: dict[str, Any]) -> str:
    """The version of an installed package.

    Raises:
        NotInstalledError: it, or Node.js, is not there.
    """
    if shutil.which("node") is None:
        raise NotInstalledError("no node (Node.js) found on PATH")
    file = modules(request) / package / "package.json"
    try:
        return str(json.loads(file.read_text(encoding="utf-8"))["version"])
    except (OSError, ValueError, KeyError):
        raise NotInstalledError(f"no package {package} in {file.parents[len(Path(package).parts)]}") from None


def run(script: str, asked: dict[str, Any], request: dict[str, Any]) -> Any:
    """Run the module `script`, which reads the JSON file `asked` and writes another; returns what it wrote.

    Raises:
        RuntimeError: it failed.
    """
    with tempfile.TemporaryDirectory(prefix="emobake-") as folder:
        given, written = Path(folder) / "asked.json", Path(folder) / "written.json"
        given.write_text(json.dumps(asked), encoding="utf-8")
        # A module from standard input finds packages beside the working directory.
        done = subprocess.run(
            ["node", "--input-type=module", "-", str(given), str(written)],
            input=script,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=modules(request).parent,
            check=False,
        )
        if done.returncode or not written.is_file():
            lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
            errors = [line for line in lines if "Error" in line]
            raise RuntimeError((errors or lines or [f"node stopped with exit code {done.returncode}"])[-1])
        return json.loads(written.read_text(encoding="utf-8"))
