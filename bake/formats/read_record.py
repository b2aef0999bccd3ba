"""Reading back the record of a finished output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..core.record import Record, parse_record
from ..core.strict_json import parse_json_object
from ..errors import InputError
from ..storage.files import read_small


def read_record(out: Path) -> Record:
    """The ``emobake.json`` of the folder `out`.

    Raises:
        InputError: no such folder or file, or not a record of this version's kind.
    """
    return parse_record(read_manifest(out), f"{out}/emobake.json")


def read_manifest(out: Path) -> dict[str, Any]:
    """What a bake has written about itself: in the folder `out`, or into the metadata of the GGUF file `out`.

    Raises:
        InputError: no such folder or file, or not an output of emobake.
    """
    if out.suffix.lower() == ".gguf" and not out.is_dir():
        from ..formats.gguf.model import RECORD, open_gguf

        manifest = open_gguf(out).record
        if manifest is None:
            raise InputError(f"{out}: has no {RECORD} in its metadata, so it is not an output of emobake")
        return manifest
    if not out.is_dir():
        raise InputError(f"{out}: no such folder")
    file = out / "emobake.json"
    if not file.is_file():
        raise InputError(f"{out}: has no emobake.json, so it is not an output of emobake; bake it first")
    return parse_json_object(read_small(file, str(file)), str(file))
