"""Finished work of a long run, kept on disk."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..core.strict_json import parse_json_object
from ..errors import InputError, OutputError
from ..storage.files import read_small
from .processes import Team


class Ledger:
    """What is done of one stage of a run: a key and a JSON value for each thing, in lines of files of a folder.

    Every process appends to a file of its own; all of them know what the run had finished when it was begun again.
    """

    def __init__(self, folder: Path, stage: str, team: Team) -> None:
        self._file, self._team = folder / f"{stage}-{team.rank}.jsonl", team
        self._folder = folder
        found = [pair for file in sorted(folder.glob(f"{stage}-*.jsonl")) for pair in _pairs(file)]
        self.done: dict[str, Any] = dict(team.gather(found))

    def add(self, values: Mapping[str, Any]) -> None:
        """Take in what was finished just now.

        Raises:
            OutputError: it cannot be written; what was written before is kept.
        """
        lines = "".join(json.dumps([key, value], ensure_ascii=False) + "\n" for key, value in values.items())
        with writing(self._folder), self._file.open("a", encoding="utf-8") as file:
            file.write("\n" + lines)  # ends what a killed run may have left half written
        self.done |= values

    def gathered(self) -> dict[str, Any]:
        """What all processes have done, for each of them."""
        self._team.wait()
        self.done = dict(self._team.gather(list(self.done.items())))
        return self.done


def _pairs(file: Path) -> Iterator[tuple[str, Any]]:
    with file.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                if isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str):
                    yield entry[0], entry[1]


def check_same(folder: Path, record: Mapping[str, Any], what: str) -> None:
    """Write down what the work in `folder` is of, or see that it is the same as now; `what` as in "an extraction".

    Raises:
        InputError: something else was begun there.
    """
    file = folder / "run.json"
    if not file.exists():
        file.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        return
    begun = parse_json_object(read_small(file, str(file)), str(file))
    now = json.loads(json.dumps(record))
    differing = [key for key in sorted(begun.keys() | now.keys()) if begun.get(key) != now.get(key)]
    if differing:
        raise InputError(
            f"{folder}: {what} begun there had another {', '.join(differing)}; finish it as it was begun, "
            "or --restart to begin anew"
        )


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the system says against writing to `path`, as an error of ours.

    Raises:
        OutputError: the disk is full, no permission.
    """
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}); what was finished before is kept") from None
