"""A long run: the processes that share it, and the folder from which it goes on when it was killed."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, OutputError
from ..formats.safetensors import parse_json_object
from ..storage.files import read_small


class Team:
    """The processes that `accelerate launch` started; one alone otherwise, and then accelerate is not needed."""

    def __init__(self) -> None:
        self.rank, self.size = 0, 1
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from accelerate import PartialState

            self.state = PartialState()
            self.rank, self.size = self.state.process_index, self.state.num_processes

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            self.state.wait_for_everyone()

    def gather(self, items: list[Any]) -> list[Any]:
        """The items of all processes, for each of them."""
        if self.size == 1:
            return items
        from accelerate.utils import gather_object

        return list(gather_object(items))

    def sum(self, array: np.ndarray) -> np.ndarray:
        """The sum of all processes' arrays, for each of them."""
        if self.size == 1:
            return array
        import torch
        from accelerate.utils import reduce

        total: np.ndarray = reduce(torch.from_numpy(array).to(self.state.device), "sum").cpu().numpy()
        return total


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
