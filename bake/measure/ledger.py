"""Finished work of a long run, kept on disk so that a killed run continues where it stopped."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError, OutputError
from ..storage.files import read_json
from ..storage.publish import write_file
from .processes import Processes


class WorkFolder:
    """A folder for the finished work of one run."""

    def __init__(
        self, folder: Path, processes: Processes, begun: Mapping[str, Any], what: str, *, restart: bool
    ) -> None:
        """Open the folder, or make it; with `restart`, forget its content.

        `begun` is JSON data that the results depend on, `what` names the run, as in "an extraction".

        Raises:
            InputError: another run was begun there. OutputError: the folder cannot be made.
        """
        self.folder, self.processes = folder, processes
        if processes.is_first:
            with writing(folder):
                if restart and folder.exists():
                    shutil.rmtree(folder)
                folder.mkdir(parents=True, exist_ok=True)
                _check_same(folder, begun, what)
        processes.wait()
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)  # On other machines.

    def ledger(self, stage: str) -> Ledger:
        """The finished work of one stage."""
        return Ledger(self.folder, stage, self.processes)

    def remove(self) -> None:
        """Remove the folder, once the results are written elsewhere."""
        shutil.rmtree(self.folder, ignore_errors=True)


class Ledger:
    """Finished work of one stage: a key and a JSON value per line, in files of a folder.

    Every process appends to a file of its own; all of them know what earlier runs finished.
    """

    def __init__(self, folder: Path, stage: str, processes: Processes) -> None:
        self._file, self._processes = folder / f"{stage}-{processes.rank}.jsonl", processes
        self._folder = folder
        found = [pair for file in sorted(folder.glob(f"{stage}-*.jsonl")) for pair in _pairs(file)]
        self.done: dict[str, Any] = dict(processes.gather(found))

    def add(self, values: Mapping[str, Any]) -> None:
        """Record finished work.

        Raises:
            OutputError: it cannot be written; earlier work is kept.
        """
        lines = "".join(json.dumps([key, value], ensure_ascii=False) + "\n" for key, value in values.items())
        with writing(self._folder), self._file.open("a", encoding="utf-8") as file:
            file.write("\n" + lines)  # The line break ends a line that a killed run left half written.
        self.done |= values

    def gathered(self) -> dict[str, Any]:
        """The finished work of all processes, for each of them."""
        self._processes.wait()
        self.done = dict(self._processes.gather(list(self.done.items())))
        return self.done


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a system error while writing to `path` into an `OutputError`.

    Raises:
        OutputError: the disk is full, or no permission.
    """
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}); finished work is kept") from None


def _check_same(folder: Path, begun: Mapping[str, Any], what: str) -> None:
    """Write down what the run depends on, or check that it is the same as when the run was begun."""
    file = folder / "run.json"
    if not file.exists():
        write_file(file, (json.dumps(begun, indent=2) + "\n").encode())
        return
    before, now = read_json(file), json.loads(json.dumps(begun))
    differing = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    if differing:
        raise InputError(
            f"{folder}: {what} begun there had another {', '.join(differing)}; finish it as it was begun, "
            "or `restart` to begin again"
        )


def _pairs(file: Path) -> Iterator[tuple[str, Any]]:
    with file.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                if isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str):
                    yield entry[0], entry[1]
