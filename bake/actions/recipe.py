"""`recipe_of`: the persona that would make an output again, by the record that the output keeps."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..core.persona import (
    Persona,
    PersonaAdapter,
    PersonaBase,
    PersonaOutput,
    PersonaStrength,
)
from ..core.persona_table import persona_of
from ..core.record import Record, RecordedVectors
from ..core.recorded_persona import RecordedPersona
from ..core.sites import SITE
from ..errors import InputError
from ..formats.output import read_record
from ..formats.persona_file import persona_text
from ..storage.files import reading
from ..storage.model_name import is_gguf
from ..vectors.find import is_named_set


@dataclass(frozen=True, eq=False)
class Recipe:
    """A persona, with remarks on what a record does not tell."""

    persona: Persona
    remarks: tuple[str, ...] = ()
    """Sentences; the text has them as comments."""

    @property
    def text(self) -> str:
        """The file of the persona."""
        return persona_text(self.persona.data, {"": ("The recipe of an output, by its record.", *self.remarks)})


def recipe_of(out: str | os.PathLike[str]) -> Recipe:
    """Make the persona that would make the output `out` again, a folder or a GGUF file.

    Baked from the same base, it gives the same bytes. An output that was made without a persona is described as far as
    its record goes.

    Raises:
        InputError: no such output, or its record says something that no persona can.
    """
    place = Path(out)
    with reading():
        record = read_record(place)
        each = [read_record(place / name) for name in record.adapters]
        first = each[0] if each else record
        output = _output(place, first, each=bool(each))
    if each:
        weights = tuple(weight for one in each for weight in one.steering.weights)
        first = replace(first, steering=replace(first.steering, weights=weights))
    persona = _persona(place, first, output)
    # What strangers have written into a record is held to the rules for a file.
    checked = persona_of(persona.data, f"{place} (its record)")
    return Recipe(checked, tuple(_remarks(first)))


def _persona(place: Path, record: Record, output: PersonaOutput) -> Persona:
    steering, kept = record.steering, record.persona or RecordedPersona()
    named = _are_named(record.vectors)
    return Persona(
        name=kept.name,
        description=kept.description,
        license=kept.license,
        base=_base(record),
        adapter=_adapter(record),
        vectors=tuple(one.name for one in record.vectors.origins) if named else (),
        site="" if named or record.vectors.site == SITE else record.vectors.site,
        mix=steering.weights,
        layers=None if steering.layers is None else _ranges(steering.layers),
        strength=PersonaStrength(steering.scale),
        targets=kept.targets,
        tensor_parallel=record.tensor_parallel,
        system_prompt=kept.system_prompt,
        sampling=kept.sampling,
        examples=kept.examples,
        receipt=kept.receipt,
        outputs=(output,),
    )


def _base(record: Record) -> PersonaBase | None:
    base = record.base
    file = next((weight.name for weight in base.weights if is_gguf(weight.name)), "")
    if not (base.model or file):
        return None
    return PersonaBase(base.model, "" if file else base.revision, file)


def _adapter(record: Record) -> PersonaAdapter | None:
    adapter = record.adapter
    if adapter is None:
        return None
    if not adapter.model:
        raise InputError(
            "the output was made of a local adapter, which its record does not name: no recipe tells of it"
        )
    return PersonaAdapter(adapter.model, adapter.revision, merge=adapter.how == "merged")


def _output(place: Path, record: Record, *, each: bool) -> PersonaOutput:
    """The output, in the words of a persona."""
    name = place.resolve().name
    hashed = any(weight.sha256 and not weight.advertised for weight in record.base.weights)
    options: dict[str, Any] = {} if record.persona is None else _options(record.persona)
    if record.persona is None:
        options |= {"hash_files": True} if hashed else {}
        options |= {"text_only": True} if record.text_only else {}
    if record.form == "peft":
        return PersonaOutput("peft", name, options | ({"each": True} if each else {}))
    if record.form != "gguf":
        return PersonaOutput("folder", name, options)
    from ..formats.gguf.model import SPLIT, open_gguf
    from ..formats.gguf.modelfile import modelfile_path
    from ..formats.gguf.share import is_shared

    model, split = open_gguf(place), SPLIT.fullmatch(name)
    if record.persona is None:
        options |= {"modelfile": True} if modelfile_path(place).is_file() else {}
        if len(model.files) > 1:
            options |= {"share" if is_shared(model) else "keep_split": True}
    return PersonaOutput("gguf", f"{split[1]}.gguf" if split else name, options)


def _options(persona: RecordedPersona) -> dict[str, Any]:
    return {} if persona.output is None else dict(persona.output.options)


def _remarks(record: Record) -> Iterator[str]:
    """Sentences on what the record leaves open."""
    if record.history:
        before = "; then ".join(each.steering.recipe for each in record.history)
        yield f"The base was itself baked before: {before}. This is the last bake alone, of that base."
    if not record.base.model:
        yield "The record names no Hub id of the base: emobake bake FILE --model BASE"
    if not _are_named(record.vectors):
        names = ", ".join(one.name for one in record.vectors.origins)
        yield f"The vectors are {names}, a set without a public name: emobake bake FILE --vectors SET"
    if record.persona is None and record.form == "gguf" and not any(is_gguf(w.name) for w in record.base.weights):
        yield "The record does not tell the outtype of the converted file."


def _are_named(vectors: RecordedVectors) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return all(is_named_set(one.name) for one in vectors.origins)
    return False


def _ranges(layers: Sequence[int]) -> str:
    """Layers as `emobake.core.steering.parse_layers` reads them: ``0,4-6``."""
    parts: list[list[int]] = []
    for layer in layers:
        if parts and layer == parts[-1][1] + 1:
            parts[-1][1] = layer
        else:
            parts.append([layer, layer])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)
