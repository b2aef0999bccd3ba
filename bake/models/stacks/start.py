"""Answer one request with a runner: ``python start.py RUNNER.py REQUEST.json RESPONSE.json``.

Needs the standard library, not emobake. The package's ``__init__`` describes request and response. A runner is a file
beside this one with two functions:

- ``version(request) -> str`` imports what the request needs of the stack, and tells its version; raises ``ImportError``
  where it is not there.
- ``answer(request) -> list[list[int]]`` generates the tokens that follow each prompt. Where the stack converts and
  quantises checkpoints, and the request has ``texts``, lists of token ids, it also writes the log-probabilities after
  each of their tokens (`log_probs.py`).

A stack may start worker processes that import this file again, so work begins under ``__main__`` only.
"""

from __future__ import annotations

import json
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

NOT_INSTALLED = 3
"""Exit code where the stack cannot be imported."""


def load(file: str) -> Any:
    """Import a runner from its file."""
    spec = spec_from_file_location(Path(file).stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def main(runner_file: str, request_file: str, response_file: str) -> int:
    """Answer one request."""
    request = json.loads(Path(request_file).read_text(encoding="utf-8"))
    runner = load(runner_file)
    try:
        version = runner.version(request)
    except ImportError as error:
        print(f"{request['stack']} cannot be used: {error}", file=sys.stderr)
        return NOT_INSTALLED
    try:
        tokens = runner.answer(request)
    except Exception as error:
        print(f"{type(error).__name__}: {' '.join(str(error).split())[:600]}", file=sys.stderr)
        return 1
    response = {"stack": request["stack"], "version": version, "tokens": tokens}
    Path(response_file).write_text(json.dumps(response), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
