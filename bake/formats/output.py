"""Finished outputs: their records, and opening them for verification."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..core.record import RECORD_FILE, Record
from ..errors import InputError
from ..storage.files import read_json
from ..storage.model_name import is_gguf
from .check.output import Output


def read_record(out: str | os.PathLike[str]) -> Record:
    """Read the record of an output: of a folder, or of a GGUF file.

    Raises:
        InputError: no such output, or not a record that this version writes.
    """
    out = Path(out)
    return Record.from_json(read_record_json(out), str(out) if _is_gguf_file(out) else f"{out}/{RECORD_FILE}")


def read_record_json(out: Path) -> dict[str, Any]:
    """Read the record of an output as JSON data.

    Raises:
        InputError: no such output, or not an output of emobake.
    """
    if _is_gguf_file(out):
        from .gguf.model import RECORD_KEY, open_gguf

        record = open_gguf(out).record
        if record is None:
            raise InputError(f"{out}: has no {RECORD_KEY} in its metadata, so it is not an output of emobake")
        return record
    if not out.is_dir():
        raise InputError(f"{out}: no such folder")
    file = out / RECORD_FILE
    if not file.is_file():
        raise InputError(f"{out}: has no {RECORD_FILE}, so it is not an output of emobake; bake it first")
    return read_json(file)


def open_output(out: Path, record: Record) -> Output:
    """Open an output with the `record` that `read_record` has read.

    Raises:
        InputError: a file of it is missing or broken.
    """
    if record.form == "gguf":
        from .gguf.check import GgufOutput
        from .gguf.model import open_gguf

        return GgufOutput(open_gguf(out), record)
    if record.form == "peft":
        from .adapter.check import AdapterOutput, LoraOutput
        from .adapter.open import open_adapter

        return (LoraOutput if record.route == "lora" else AdapterOutput)(open_adapter(out), record)
    from .checkpoint.check import CheckpointOutput
    from .checkpoint.open import open_folder

    if record.adapter is not None:
        from .adapter.check import AdaptedOutput

        return AdaptedOutput(open_folder(out), record)
    return CheckpointOutput(open_folder(out), record)


def _is_gguf_file(out: Path) -> bool:
    return is_gguf(out.name) and not out.is_dir()
