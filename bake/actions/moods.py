"""`bake_moods`: several bakes of one base into one folder, which share its weights."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..core.names import is_inside
from ..core.outputs import Folder, GgufFile, LinkMode
from ..core.record import difference
from ..core.steering import Steering, steering
from ..errors import EmobakeError, InputError
from ..formats.gguf.model import split_path
from ..formats.output import read_record
from ..storage.files import reading
from ..storage.model_name import ModelName
from ..vectors.find import Vectors, VectorSource
from .bake import bake
from .request import BakeResult

_SHARING: tuple[LinkMode, ...] = ("link", "reflink", "hardlink", "symlink")


@dataclass(frozen=True, eq=False)
class Mood:
    """A mood that is there, or the one that was not written."""

    name: str
    place: Path
    """The folder, or the first file of the set: what a stack is given."""
    result: BakeResult | None = None
    """Its bake, with files that have no bytes; None if it failed."""
    own: int = 0
    """Bytes of its own."""
    shared: Mapping[str, int] = field(default_factory=dict)
    """Files that other moods have, too -> bytes."""
    kept: bool = False
    """True if it was there before."""
    error: EmobakeError | None = None
    """The reason why it was not written."""

    def baked(self, result: BakeResult, *, kept: bool = False) -> Mood:
        """The mood with its bake. The metadata of a GGUF file are megabytes, which no list of moods needs."""
        files, shared = result.plan.files, result.shared
        linked = {file.source: file.size for file in files if file.weights and file.action == "carry"}
        found = linked if shared is None else {shared.name: shared.size}
        own = sum(file.size for file in files if file.name not in found and file.source not in found)
        plan = replace(result.plan, files=tuple(replace(file, pieces=()) for file in files))
        return replace(self, result=replace(result, plan=plan), own=own, shared=found, kept=kept)


@dataclass(frozen=True, eq=False)
class Moods:
    """The moods in a folder, in the order in which they were asked for."""

    moods: tuple[Mood, ...] = field(default=())

    @property
    def there(self) -> tuple[Mood, ...]:
        """The moods that are there."""
        return tuple(mood for mood in self.moods if mood.error is None)

    @property
    def failed(self) -> tuple[Mood, ...]:
        """The moods that were not written."""
        return tuple(mood for mood in self.moods if mood.error is not None)

    @property
    def shared(self) -> Mapping[str, int]:
        """Files that moods share -> bytes, each once."""
        return {name: size for mood in self.there for name, size in mood.shared.items()}


def mood_name(mix: Mapping[str, float]) -> str:
    """The name of a mood after its weights: ``joy-0.5-fear-1``."""
    return "-".join(f"{name.replace(' ', '_')}-{weight:g}" for name, weight in steering(mix=mix).weights)


def bake_moods(
    model: str | os.PathLike[str] | ModelName,
    vectors: Vectors | VectorSource | None,
    folder: str | os.PathLike[str],
    mixes: Mapping[str, Mapping[str, float]],
    *,
    link_mode: LinkMode = "link",
    overwrite: bool = False,
    scale: float = 1.0,
    layers: str | None = None,
    **options: Any,
) -> Moods:
    """Bake moods of one base into a folder, one after another; a mood of the same recipe that is there stays.

    Of a GGUF file, each is a set whose second file they share; of a checkpoint, a folder with links to its weights.

    Args:
        model: as for `emobake.bake`.
        vectors: as for `emobake.bake`.
        folder: the folder of the moods.
        mixes: name of a mood -> its weights by name.
        link_mode: ``link``, ``reflink``, ``hardlink`` or ``symlink``; of a checkpoint.
        overwrite: replace moods of another recipe.
        scale: factor for all weights.
        layers: as for `emobake.bake`.
        options: further arguments of `emobake.bake`.

    Raises:
        InputError: a name that no file can have, or weights that are none. What fails later is in the result.
    """
    name = ModelName.parse(model)
    if link_mode not in _SHARING:
        raise InputError(f"`link_mode` {link_mode}: moods share their weights by one of {', '.join(_SHARING)}")
    if not mixes:
        raise InputError("give `mix`, the weights of a mood")
    recipes = {mood: steering(mix=mix, scale=scale, layers=layers) for mood, mix in mixes.items()}
    for mood in recipes:
        if not is_inside(mood) or "/" in mood or mood.startswith(".") or mood.lower().endswith(".gguf"):
            raise InputError(f"{mood[:60]!r} cannot be the name of a mood; use letters, digits, '_' and '-'")
    home = Path(os.path.abspath(folder))  # noqa: PTH100 - Path.resolve() would follow links

    def made() -> Iterator[Mood]:
        for mood, recipe in recipes.items():
            out: Folder | GgufFile = Folder(home / mood, link_mode, overwrite)
            place = home / mood
            if name.kind == "gguf":
                out = GgufFile(home / f"{mood}.gguf", overwrite, share="keep")
                place = split_path(out.target, 1, 2)
            arguments = {"mix": mixes[mood], "scale": scale, "layers": layers, **options}
            try:
                yield _made(Mood(mood, place), name, vectors, out, recipe, arguments)
            except EmobakeError as error:
                yield Mood(mood, place, error=error)

    return Moods(tuple(made()))


def _made(
    mood: Mood,
    model: ModelName,
    vectors: Vectors | VectorSource | None,
    out: Folder | GgufFile,
    recipe: Steering,
    arguments: Mapping[str, Any],
) -> Mood:
    """The mood, once it is there."""
    with reading():
        is_there = os.path.lexists(mood.place)
    if is_there:
        planned = bake(model, vectors, out=out, dry_run=True, **arguments)
        if _is_the_same(mood.place, planned, recipe):
            return mood.baked(planned, kept=True)
        if not out.overwrite:
            raise InputError(
                f"{mood.place}: is there already, and is another bake; choose another name or give `overwrite`"
            )
    return mood.baked(bake(model, vectors, out=out, **arguments))


def _is_the_same(place: Path, planned: BakeResult, recipe: Steering) -> bool:
    """True if the record of the mood that is there says what the planned one says."""
    try:
        with reading():
            record = read_record(place)
    except InputError:
        return False
    return record.steering == recipe and not difference(record, planned.plan.record)
