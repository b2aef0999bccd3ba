"""Personas of the desk: files in the folder of the bakes, and those that are shipped for its model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..actions.personas import PersonaRun, load_persona, shipped_personas, source_of
from ..core.names import is_inside
from ..core.persona import Persona
from ..core.persona_table import persona_of
from ..core.steering import steering
from ..core.strengths import at_measured_strength
from ..core.vector_set import VectorSet
from ..errors import EmobakeError, InputError
from ..formats.persona_file import SUFFIXES, persona_text
from ..storage.files import reading
from ..storage.publish import write_all
from .order import Bench
from .setting import Setting


@dataclass(frozen=True, eq=False)
class PersonaFolder:
    """A `PersonaStore` in the folder of a bench. Nothing is read or written outside of it."""

    bench: Bench
    vectors: VectorSet
    """The set of the sliders, which tells strengths."""

    def names(self) -> Sequence[str]:
        """Names of the files, and of the shipped personas for this model."""
        with reading():
            folder = Path(self.bench.folder)
            files = [entry for entry in folder.iterdir() if entry.is_file()] if folder.is_dir() else []
        found = {file.stem for file in files if file.name.endswith(SUFFIXES) and not file.name.startswith(".")}
        for name in shipped_personas():
            persona = load_persona(name)
            if persona.base is not None and persona.base.id == self._base_id and self._has_set_of(persona):
                found.add(name)
        return sorted(found)

    def load(self, name: str) -> Setting:
        """The weights, scale and layers of a persona, at every position.

        Raises:
            InputError: there is none of this name, its file is wrong, it is made for other vectors than the sliders',
                or its strength is a budget of KL.
        """
        persona = self._open(name)
        self._check_set(name, persona)
        strength, scale = persona.strength, persona.strength.scale
        if strength.kl is not None:
            raise InputError(
                f"{name}: its strength is found by a budget of KL when it is baked; give `strength` a number"
            )
        if strength.auto:
            scale = at_measured_strength(steering(mix=dict(persona.mix), layers=persona.layers), self.vectors).scale
        return Setting(dict(persona.mix), scale, persona.layers or "")

    def save(self, name: str, setting: Setting, *, overwrite: bool) -> None:
        """Write the persona ``<name>.yaml``, which bakes a folder of its name.

        What an earlier file says beside weights, scale and layers is kept.

        Raises:
            InputError: the name cannot be one, all weights are zero, the positions are not all, the file exists and not
                `overwrite`, or it is made for other vectors. OutputError: it cannot be written.
        """
        target = self._file(name)
        if setting.scope != "every":
            raise InputError("a persona is baked, and so acts at every position; choose that")
        if setting.steering.is_zero:
            raise InputError("all weights are zero, there is nothing to keep; move a slider")
        with reading():
            there = os.path.lexists(target)
        if there and not overwrite:
            raise InputError(f"{target.name}: exists; choose another name, or `overwrite`")
        if there:
            earlier = load_persona(target)
            self._check_set(name, earlier)
        data = earlier.data if there else self._new(name)
        data |= {"mix": setting.mix, "strength": setting.scale, "layers": setting.layers or None}
        text = persona_text(persona_of({key: value for key, value in data.items() if value is not None}, name).data)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_all(target, {target.name: text.encode()}, overwrite=overwrite)

    def _open(self, name: str) -> Persona:
        for suffix in SUFFIXES:
            file = self._file(name, suffix)
            with reading():
                there = os.path.lexists(file)
            if there:
                return load_persona(file)
        with suppress(EmobakeError):
            return load_persona(name)
        raise InputError(f"{name[:120]}: no persona of this name in {self.bench.folder}, and none is shipped")

    def _file(self, name: str, suffix: str = ".yaml") -> Path:
        if not is_inside(name) or "/" in name or name.startswith("."):
            raise InputError(f"{name[:120]!r}: give a name without folders, such as sunny")
        return self.bench.place(f"{name}{suffix}")

    def _check_set(self, name: str, persona: Persona) -> None:
        """Refuse a persona of another set: the same weights would be another mood."""
        if not self._has_set_of(persona):
            asked = ", ".join(os.fspath(one) for one in source_of(persona, PersonaRun()).named)
            raise InputError(
                f"{name}: is made for {asked}, and the sliders are of {self.vectors.name}; start the desk with those "
                "`vectors`"
            )

    def _has_set_of(self, persona: Persona) -> bool:
        """True if the sliders are of the sets that a persona names, or if it names none."""
        own = [*self.bench.vectors.named, *(one.name for one in self.vectors.parts or (self.vectors,))]
        return all(any(_is_same(one, each) for each in own) for one in source_of(persona, PersonaRun()).named)

    @property
    def _base_id(self) -> str:
        model = self.bench.model
        return model.base_model or ("" if model.is_local else model.name)

    def _new(self, name: str) -> dict[str, Any]:
        """The data of a persona that was not there before."""
        model, source = self.bench.model, self.bench.vectors
        base = {"id": self._base_id, "revision": model.revision or ""}
        if model.is_local:
            base["path"] = self._relative(model.path)
        vectors = [os.fspath(one) for one in source.named]
        data: dict[str, Any] = {
            "name": name,
            "base": {key: value for key, value in base.items() if value},
            "vectors": [self._relative(one) if os.path.lexists(one) else one for one in vectors],
            "vectors_for": source.vectors_for,
            "site": source.site,
            "outputs": [{"folder": name}],
        }
        return {key: value for key, value in data.items() if value}

    def _relative(self, path: str | os.PathLike[str]) -> str:
        """A path as a file in the folder names it."""
        relative = os.path.relpath(path, self.bench.folder)
        return relative if relative.startswith("..") else f"./{relative}"


def _is_same(one: str | os.PathLike[str], other: str | os.PathLike[str]) -> bool:
    """True if two names of sets are the same, or paths of the same file."""
    if os.fspath(one) == os.fspath(other):
        return True
    with reading():
        return Path(one).exists() and Path(other).exists() and Path(one).samefile(other)
