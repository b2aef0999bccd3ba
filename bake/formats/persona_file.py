"""Files of personas: YAML or TOML read within limits, and YAML written with comments."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..core.limits import MAX_PERSONA
from ..core.persona import Persona
from ..core.persona_table import SCHEMA_URL, persona_of
from ..core.text import one_line
from ..core.toml import parse_toml
from ..errors import BrokenFileError, InputError
from ..storage.files import read_small
from .safe_yaml import RefusedError, load_yaml

SUFFIXES = (".yaml", ".yml", ".toml")
HEAD = f"# yaml-language-server: $schema={SCHEMA_URL}\n"
"""First line of the files that are written here, by which editors complete them."""


def read_persona(path: Path) -> Persona:
    """Read the persona in a file.

    Raises:
        InputError: no such file, or a field of it is wrong; BrokenFileError: not YAML or TOML that is read.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give the file of a persona")
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path}: a persona is a file that ends in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    persona = parse_persona(read_small(path, most=MAX_PERSONA), str(path))
    # Links are not followed: paths are relative to the place that the user sees.
    return replace(persona, folder=os.path.dirname(os.path.abspath(path)))  # noqa: PTH100, PTH120


def parse_persona(content: bytes, file: str) -> Persona:
    """Parse a persona; `file` names it in messages, and its suffix tells the language.

    Raises:
        InputError: as `read_persona`.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BrokenFileError(f"{file}: is not text in UTF-8; save it as that") from None
    try:
        if file.lower().endswith(".toml"):
            data: Any = parse_toml(text)
        else:
            data = load_yaml(text, unique=True)
    except RefusedError as error:
        raise BrokenFileError(f"{file}: {error}; write it plainly (`emobake persona init` makes an example)") from None
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise BrokenFileError(f"{file}: is not valid TOML ({reason})") from None
    if data is None:
        raise InputError(f"{file}: is empty; `emobake persona init` makes an example")
    return persona_of(data, file)


def persona_text(data: Mapping[str, Any], comments: Mapping[str, Sequence[str]] | None = None) -> str:
    """Write a persona's data as YAML; `comments` stand in front of a field, or of all under an empty name.

    A field that only has comments is left to whoever reads them.
    """
    import yaml

    notes = comments or {}
    options = {"Dumper": _dumper(), "sort_keys": False, "allow_unicode": True, "width": 110}
    parts = [HEAD, *(_comment(line) for line in notes.get("", ()))]
    for name in dict.fromkeys((*data, *(name for name in notes if name))):
        parts += [_comment(line) for line in notes.get(name, ())]
        if name in data:
            parts.append(yaml.dump({name: data[name]}, **options))
    return "".join(parts)


def _comment(line: str) -> str:
    return f"# {' '.join(one_line(line).split())}\n"


def _dumper() -> Any:
    import yaml

    class Dumper(yaml.SafeDumper):  # type: ignore[misc]
        """Writes texts of several lines as blocks, and lists below a field further to the right."""

        def increase_indent(self, flow: bool = False, indentless: bool = False) -> Any:
            return super().increase_indent(flow, False)

    def text(dumper: Any, value: str) -> Any:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_representer(str, text)
    return Dumper
