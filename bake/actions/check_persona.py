"""`check_persona`: what a persona would make, as far as it can be told without its base."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..core.persona import Persona
from ..core.spelling import did_you_mean
from ..core.steering import Steering
from ..core.strengths import Strength, measured_scale
from ..core.vector_set import VectorSet
from ..errors import InputError, VectorError
from ..formats.adapter.detect import is_adapter
from ..storage.files import reading
from ..storage.model_name import ModelName
from ..vectors.fetch import is_cached, pull
from ..vectors.find import VectorSource, model_ids
from ..vectors.open import open_vectors
from ..vectors.registry import RegisteredSet, find_by_model, find_by_name
from .personas import PersonaRun, arguments_of, base_of, source_of


@dataclass(frozen=True)
class PersonaCheck:
    """The findings on a persona in which nothing is wrong."""

    recipe: str
    """The weights in words."""
    base: str
    sets: str
    strength: str
    outputs: tuple[str, ...]
    open: tuple[str, ...] = ()
    """Sentences on what only a bake can tell."""


@dataclass(frozen=True)
class _KnownSet:
    """A set as far as it is known without fetching it."""

    name: str
    emotions: tuple[str, ...]
    strengths: Mapping[str, Strength]


def check_persona(persona: Persona, run: PersonaRun | None = None) -> PersonaCheck:
    """Look up the sets and emotions of a persona, and its base if that is here. Nothing is fetched.

    Raises:
        InputError: a set or base is missing, an emotion is in none of the sets, or no strength is known for `auto`.
    """
    run = run or PersonaRun()
    base, source = base_of(persona, run), source_of(persona, run)
    with reading():
        for output in persona.outputs:
            _check_local(arguments_of(persona, output, run)["model"])
        _check_local(base)
        sets, left = _sets(persona, base, source)
    recipe = Steering(persona.mix).recipe
    if not left:
        _check_emotions(persona, sets)
    return PersonaCheck(
        recipe=recipe if persona.layers is None else f"{recipe}, layers {persona.layers}",
        base=str(base) + (f" ({base.base_model})" if base.base_model else ""),
        sets=", ".join(f"{one.name} ({', '.join(one.emotions)})" for one in sets) or "not known yet",
        strength=_strength(persona, sets, known=not left),
        outputs=tuple(_described(one.data) for one in persona.outputs),
        open=left,
    )


def _check_local(model: ModelName) -> None:
    """Refuse a local model that is not there, or is no model."""
    if not model.is_local:
        return
    path = model.path
    if model.kind == "gguf":
        if not path.is_file():
            raise InputError(f"{path}: no such file")
    elif not path.is_dir():
        raise InputError(f"{path}: no such folder")
    elif not (path / "config.json").is_file() and not is_adapter(model):
        raise InputError(f"{path}: holds no config.json; it is not a Hugging Face checkpoint")


def _sets(persona: Persona, base: ModelName, source: VectorSource) -> tuple[tuple[_KnownSet, ...], tuple[str, ...]]:
    """The sets that are known here, and sentences on those that a bake will fetch or look up."""
    if source.vectors_for or source.vectors is None:
        ids = (source.vectors_for,) if source.vectors_for else _ids(persona, base)
        entry = find_by_model(ids)
        if entry is not None:
            return (_registered(entry),), ()
        if source.vectors_for:
            raise InputError(f"{persona.label}: vectors_for {source.vectors_for}: no set is published for this model")
        return (), (f"the set of {base} is looked up when it is baked: no published one is known for its id",)
    given = source.vectors if isinstance(source.vectors, list | tuple) else (source.vectors,)
    found, left = [], []
    for one in given:
        if isinstance(one, VectorSet):
            found.append(_KnownSet(one.name, one.emotions, one.strengths))
            continue
        name = os.fspath(one)
        entry = find_by_name(name)
        if os.path.lexists(name):
            opened = open_vectors(Path(name), site=source.site if Path(name).suffix not in (".safetensors", "") else "")
            found.append(_KnownSet(name, opened.emotions, opened.strengths))
        elif entry is not None:
            found.append(_registered(entry))
        elif name.count("/") == 1 and not name.startswith((".", "/", "~")):
            left.append(f"{name} is fetched from the Hub when it is baked; its emotions were not looked up")
        else:
            from ..vectors.find import find_vectors

            find_vectors(name)  # It says what is wrong.
    return tuple(found), tuple(left)


def _ids(persona: Persona, base: ModelName) -> tuple[str, ...]:
    """Hub ids of the base, as far as they are known here."""
    known = [base.base_model, "" if base.is_local else base.name, "" if persona.base is None else persona.base.id]
    if base.kind == "folder":
        known += model_ids(base)
    return tuple(dict.fromkeys(name for name in known if name))


def _registered(entry: RegisteredSet) -> _KnownSet:
    if entry.shipped or is_cached(entry):
        opened = open_vectors(pull(entry))
        return _KnownSet(entry.name, opened.emotions, {**opened.strengths, **entry.strengths})
    return _KnownSet(entry.name, tuple(entry.files), entry.strengths)


def _check_emotions(persona: Persona, sets: tuple[_KnownSet, ...]) -> None:
    known = [emotion for one in sets for emotion in one.emotions]
    for emotion, _ in persona.mix:
        if emotion not in known:
            names = ", ".join(one.name for one in sets)
            raise VectorError(
                f"{persona.label}: mix.{emotion}: {names} has no such emotion; it has {', '.join(known)}"
                f"{did_you_mean(emotion, known)}"
            )


def _strength(persona: Persona, sets: tuple[_KnownSet, ...], *, known: bool) -> str:
    """The strength in words."""
    strength = persona.strength
    if strength.kl is not None:
        return f"searched for when it is baked, for a KL of {strength.kl:g} nats per token"
    if not strength.auto:
        return f"{strength.scale:g}"
    if not known:
        return "the one that the set tells"
    strengths = {emotion: each for one in sets for emotion, each in one.strengths.items()}
    scale = measured_scale(Steering(persona.mix), strengths, ", ".join(one.name for one in sets))
    return f"{scale:.4g}, by the measured strengths"


def _described(output: Mapping[str, object]) -> str:
    """An output in words: ``folder joyful (link_mode hardlink)``."""
    (kind, place), *options = output.items()
    said = ", ".join(_option(name, value) for name, value in options)
    return f"{kind} {place}" + (f" ({said})" if said else "")


def _option(name: str, value: object) -> str:
    if isinstance(value, list):
        return f"{name} {', '.join(map(str, value))}"
    return name if value is True else f"{name} {str(value).lower() if isinstance(value, bool) else value}"
