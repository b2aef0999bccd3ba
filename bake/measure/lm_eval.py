"""Benchmarks by EleutherAI's lm-evaluation-harness, which runs as a program of its own on a checkpoint.

Sutawika et al., https://github.com/EleutherAI/lm-evaluation-harness. Its results are read from the JSON that it writes.
"""

from __future__ import annotations

import math
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..core.packages import require
from ..errors import InputError, ModelError
from ..models.loading import Runtime
from ..storage.files import read_json

_HOURS = 48
_COMMAND = "-m lm_eval --model hf --model_args pretrained=model,dtype={dtype} --tasks {tasks} --batch_size {size}"


def check_tasks(tasks: Sequence[str]) -> None:
    """Refuse what is no name of a task, and a missing package, before any work.

    Raises:
        InputError: such a name. MissingPackageError: lm-eval is not installed.
    """
    for task in tasks:
        if not re.fullmatch(r"\w[\w.:-]{0,99}", task):
            raise InputError(f"`lm_eval` takes names of tasks, such as hellaswag,arc_easy; {task[:60]!r} is none")
    if tasks:
        require("lm_eval", extra="lm-eval", purpose="benchmarks")


def run_lm_eval(
    folder: Path, tasks: Sequence[str], runtime: Runtime, limit: int | None = None
) -> dict[str, dict[str, float]]:
    """Run `tasks` on the checkpoint in `folder`; returns task -> metric -> figure.

    `limit` is the number of items of each task; None: all.

    Raises:
        ModelError: lm-eval failed, or wrote no results. BrokenFileError: its results are not JSON.
    """
    words = _COMMAND.format(dtype=runtime.dtype, tasks=",".join(tasks), size=runtime.batch_size)
    command = [sys.executable, *shlex.split(words), *shlex.split("lm_eval --output_path out")[1:]]
    if runtime.device != "auto":
        command += [*shlex.split("lm_eval --device")[1:], runtime.device]
    if limit is not None:
        command += [*shlex.split("lm_eval --limit")[1:], str(limit)]
    with tempfile.TemporaryDirectory(prefix="emobake-") as name:
        place = Path(name)
        # By a plain name, because a comma or an equals sign in a path would be read as another argument.
        (place / "model").symlink_to(folder.absolute(), target_is_directory=True)
        try:
            done = subprocess.run(
                command,
                cwd=place,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_HOURS * 3600,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ModelError(f"lm_eval: did not run ({type(error).__name__})") from None
        if done.returncode != 0:
            said = (done.stderr.strip().splitlines() or ["no message"])[-1][:200]
            raise ModelError(f"lm_eval: failed on {folder.name} ({said}); finished work is kept, run again to continue")
        files = sorted((place / "out").rglob("results*.json")) if (place / "out").exists() else []
        if not files:
            raise ModelError(f"lm_eval: wrote no results for {folder.name}")
        return _results(read_json(files[-1]), tasks)


def _results(data: Mapping[str, object], tasks: Sequence[str]) -> dict[str, dict[str, float]]:
    """The figures of each task in the results of lm-eval: its metrics are called ``acc,none`` and so on."""
    results = data.get("results")
    found: dict[str, dict[str, float]] = {}
    for task, figures in results.items() if isinstance(results, dict) else ():
        if isinstance(figures, dict):
            found[str(task)[:100]] = {
                str(metric).partition(",")[0][:100]: float(value)
                for metric, value in figures.items()
                if type(value) in (int, float) and math.isfinite(value) and "," in str(metric)
            }
    missing = [task for task in tasks if not found.get(task)]
    if missing:
        raise ModelError(f"lm_eval: its results have no figures of {missing[0]}")
    return found
