"""Personas by file or name, and the values of a bake that they describe."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from ..core.outputs import Folder, GgufFile
from ..core.persona import Persona, PersonaBase, PersonaOutput
from ..core.recorded_persona import RecordedPersona
from ..core.spelling import did_you_mean
from ..core.stacks import STACKS
from ..errors import InputError
from ..formats.persona_file import SUFFIXES, parse_persona, read_persona
from ..storage.files import reading
from ..storage.model_name import ModelName, is_gguf
from ..vectors.find import Vectors, VectorSource

_HERE = ("./", "../", "/", "~")
"""Beginnings of a text that can only be a path."""


def load_persona(persona: str | os.PathLike[str]) -> Persona:
    """Load a persona: a YAML or TOML file, or the name of one that is shipped with emobake.

    Raises:
        InputError: no such file or name, or a field is unknown, missing, of a wrong type or out of range.
    """
    if not isinstance(persona, str | os.PathLike):
        raise InputError(f"a persona is a file or the name of a shipped one, not {persona!r}")
    name = os.fspath(persona)
    with reading():
        if os.path.lexists(name):
            return read_persona(Path(name))
    if name.lower() in shipped_personas():
        return parse_persona(shipped_content(name), f"{name.lower()}.yaml")
    if name.lower().endswith(SUFFIXES):
        raise InputError(f"{name}: no such file; `emobake persona init` makes an example")
    known = shipped_personas()
    raise InputError(f"{name}: no such persona; give a file, or one of {', '.join(known)}{did_you_mean(name, known)}")


def shipped_personas() -> tuple[str, ...]:
    """Names of the personas that are shipped with emobake."""
    found = (entry.name for entry in _folder().iterdir())
    return tuple(sorted(name.removesuffix(".yaml") for name in found if name.endswith(".yaml")))


def shipped_content(name: str) -> bytes:
    """The file of a shipped persona."""
    content: bytes = (_folder() / f"{name.lower()}.yaml").read_bytes()
    return content


def _folder() -> Any:
    return resources.files("emobake.vectors_data") / "personas"


@dataclass(frozen=True)
class PersonaRun:
    """The part of a persona's bake that its user chooses anew each time."""

    out: str | os.PathLike[str] | None = None
    """Folder of the outputs; None: that of the persona's file, or the current one."""
    model: str | os.PathLike[str] | ModelName | None = None
    """The base, in place of the persona's."""
    vectors: Vectors | VectorSource | None = None
    """The vectors, in place of the persona's."""
    converter: str = ""
    """llama.cpp's converter. A persona names none: a converter is a program."""
    overwrite: bool = False
    """Replace earlier outputs of emobake."""
    force: bool = False
    """Write even if the model is destroyed."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Further arguments of `emobake.bake`: `progress`, `notice`."""

    def folder(self, persona: Persona) -> Path:
        """The folder of the outputs."""
        return Path(self.out if self.out is not None else _shown(persona.folder))


def base_of(persona: Persona, run: PersonaRun) -> ModelName:
    """The base.

    Raises:
        InputError: neither the persona nor the user names one.
    """
    known = "" if persona.base is None else persona.base.id
    if run.model is not None:
        model = ModelName.parse(run.model)
        return ModelName.parse(model, base_model=known) if model.is_local and not model.base_model else model
    if persona.base is None:
        raise InputError(f"{persona.label}: names no base, which its file leaves open; give `model`")
    return _model(persona, persona.base)


def source_of(persona: Persona, run: PersonaRun) -> VectorSource:
    """The vectors.

    Raises:
        InputError: as `VectorSource.parse`.
    """
    if run.vectors is not None:
        return VectorSource.parse(run.vectors)
    names = tuple(_located(persona, name) for name in persona.vectors)
    vectors = None if not names else names[0] if len(names) == 1 else names
    return VectorSource(vectors, persona.vectors_for, persona.site)


def arguments_of(persona: Persona, output: PersonaOutput, run: PersonaRun) -> dict[str, Any]:
    """Arguments of `emobake.bake` for one output, without the scale.

    Raises:
        InputError: as `base_of`.
    """
    options, base = dict(output.options), base_of(persona, run)
    found: dict[str, Any] = {
        "model": base,
        "vectors": source_of(persona, run),
        "mix": dict(persona.mix),
        "layers": persona.layers,
        "force": persona.force or run.force,
        "targets": tuple(options.get("targets", persona.targets)),
        "tensor_parallel": 1 if output.is_adapter else persona.tensor_parallel,
        "text_only": options.get("text_only", False),
        "hash_files": options.get("hash_files", False),
        "persona": RecordedPersona.of(persona, output),
        **run.extra,
    }
    if persona.adapter is not None:
        merge = persona.adapter.merge and not output.is_adapter
        found |= {"model": _model(persona, persona.adapter), "base": base, "merge": merge}
    place = run.folder(persona) / output.place
    if output.is_adapter:
        found |= {"targets": (), "format": "peft-each" if options.get("each") else "peft"}
    elif output.kind != "gguf":
        found["format"] = "checkpoint"
    if output.kind == "push":
        found["push"] = _target(output, run)
    elif output.kind == "gguf":
        found |= _of_gguf(persona, output, place, base, found["targets"], run)
    else:
        found["out"] = Folder(place, options.get("link_mode", "auto"), run.overwrite)
    return found


def _of_gguf(
    persona: Persona, output: PersonaOutput, place: Path, base: ModelName, targets: tuple[str, ...], run: PersonaRun
) -> dict[str, Any]:
    """Arguments of a bake into a GGUF file."""
    options, found = output.options, dict[str, Any]()
    if "model" in options:
        known = "" if persona.base is None else persona.base.id
        found["model"] = ModelName(_located(persona, options["model"], always=True), "gguf", base_model=known)
    if "targets" not in options:
        # The others of the persona's are for its folders.
        found["targets"] = tuple(name for name in targets if "gguf" in STACKS[name].loads)
    share = "keep" if options.get("share") else None
    found["out"] = GgufFile(
        place,
        run.overwrite,
        options.get("modelfile", False),
        options.get("keep_split", False),
        share,  # type: ignore[arg-type]
        options.get("outtype"),
        run.converter if found.get("model", base).kind != "gguf" else "",
    )
    return found


def _target(output: PersonaOutput, run: PersonaRun) -> Any:
    from ..storage.hub.target import HubTarget

    options = output.options
    return HubTarget(
        output.place,
        private=options.get("private"),
        create_pr=options.get("create_pr", False),
        commit_message=options.get("commit_message", ""),
        overwrite=run.overwrite,
    )


def _model(persona: Persona, model: PersonaBase) -> ModelName:
    if model.path:
        path = _located(persona, model.path, always=True)
        return ModelName(path, "gguf" if is_gguf(path) else "folder", None, model.id)
    return ModelName(model.id, "hub", model.revision or None)


def _located(persona: Persona, name: str, *, always: bool = False) -> str:
    """A name in a persona: a path below the folder of its file, if it is one (`always`, or because it is there)."""
    path = os.path.join(_shown(persona.folder), name)  # noqa: PTH118 - a name of a set is none
    return path if always or name.startswith(_HERE) or os.path.lexists(path) else name


def _shown(folder: str) -> str:
    """A folder as a user in the current one would type it."""
    if not folder:
        return ""
    relative = os.path.relpath(folder)
    return "" if relative == "." else folder if relative.startswith("..") else relative
