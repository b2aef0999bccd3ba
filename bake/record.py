"""Reading back the record of a bake, and what a check of it finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .errors import InputError
from .headers import parse_json_object
from .sources import read_small
from .vectors import Steering


@dataclass(frozen=True)
class Check:
    """One finding. `ok` is None for what is reported but not judged."""

    name: str
    ok: bool | None
    detail: str

    def as_dict(self) -> dict[str, Any]:
        """The finding as plain data, for ``--json``."""
        return asdict(self)


def read_manifest(out: Path) -> Mapping[str, Any]:
    """The ``emobake.json`` of the folder `out`, with the fields that checking needs.

    Raises:
        InputError: no such folder or file, or not a record of this version's kind.
    """
    if not out.is_dir():
        raise InputError(f"{out}: no such folder")
    file = out / "emobake.json"
    if not file.is_file():
        raise InputError(f"{out}: has no emobake.json, so it is not an output of emobake; bake it first")
    manifest = parse_json_object(read_small(file, str(file)), str(file))
    expected: dict[str, tuple[type, ...]] = {"adapters": (list,)}
    if manifest.get("format") != "peft-each":
        expected = {
            "weights": (dict,),
            "biases": (list,),
            "files": (dict,),
            "added_tensors": (list,),
            "scale": (int, float),
        }
    known = manifest.get("format") in ("checkpoint", "peft", "peft-each")
    if not known or not all(isinstance(manifest.get(k), t) for k, t in expected.items()):
        raise InputError(f"{file}: is not a record that this version of emobake writes; bake again")
    return manifest


def recipe(manifest: Mapping[str, Any]) -> Steering:
    """The weights that a manifest records."""
    layers = manifest.get("steered_layers")
    return Steering(tuple(manifest["weights"].items()), manifest["scale"], None if layers is None else tuple(layers))
