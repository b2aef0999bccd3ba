"""Bakes of a persona: all of its outputs, each checked and planned before the first one is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..core.outputs import Folder, GgufFile
from ..core.persona import Persona, PersonaOutput
from ..errors import EmobakeError, HubError, InputError, MissingPackageError, ModelError, OutputError, UnplannedError
from ..storage.files import reading
from ..storage.local import check_files, check_folder
from ..storage.model_name import ModelName
from .bake import bake
from .bake_gguf import recognisers, targets_of
from .personas import PersonaRun, arguments_of
from .request import BakeResult

Scale = float | Literal["auto"]


@dataclass(frozen=True, eq=False)
class PersonaBaked:
    """One output of a persona, finished or planned."""

    output: PersonaOutput
    place: Path | None
    """Its path; None for a push."""
    result: BakeResult | None
    """Its bake; None if a dry run cannot plan it."""
    unplanned: str = ""
    """The reason why."""

    @property
    def name(self) -> str:
        """Path or repository, as the user would type it."""
        return self.output.place if self.place is None else str(self.place)


def plan_outputs(persona: Persona, run: PersonaRun, scale: Scale, *, places: bool = True) -> tuple[PersonaBaked, ...]:
    """Plan every output of a persona, and with `places` look whether each may be written where it shall be.

    Raises:
        InputError: one of them cannot be made as it is described; HubError: the Hub failed.
    """
    jobs = [(output, arguments_of(persona, output, run)) for output in persona.outputs]
    if places:
        for output, arguments in jobs:
            with reading(), _named(output, persona):
                _check_place(arguments)
    return tuple(_planned(persona, run, output, arguments, scale) for output, arguments in jobs)


def bake_outputs(persona: Persona, run: PersonaRun, scale: Scale) -> tuple[PersonaBaked, ...]:
    """Bake every output of a persona, one after another; each is whole or absent.

    Raises:
        EmobakeError: one failed; the line tells which ones are complete.
    """
    done: list[PersonaBaked] = []
    for output in persona.outputs:
        with _after(done), _named(output, persona):
            result = bake(scale=scale, **arguments_of(persona, output, run))
        done.append(PersonaBaked(output, _place(persona, run, output), result))
    return tuple(done)


def _planned(
    persona: Persona, run: PersonaRun, output: PersonaOutput, arguments: Mapping[str, Any], scale: Scale
) -> PersonaBaked:
    place = _place(persona, run, output)
    silent = {name: value for name, value in arguments.items() if name not in ("notice", "progress")}
    try:
        with _named(output, persona):
            return PersonaBaked(output, place, bake(scale=scale, dry_run=True, **silent))
    except UnplannedError as error:
        return PersonaBaked(output, place, None, str(error))


def _place(persona: Persona, run: PersonaRun, output: PersonaOutput) -> Path | None:
    return None if output.kind == "push" else run.folder(persona) / output.place


def _check_place(arguments: Mapping[str, Any]) -> None:
    """Look whether an output may be written where it shall be, and a push be made."""
    model, out, push = arguments["model"], arguments.get("out"), arguments.get("push")
    local = [name.path for name in (model, arguments.get("base")) if isinstance(name, ModelName) and name.is_local]
    inputs = [*local, *arguments["vectors"].paths]
    if push is not None:
        from ..storage.hub.target import parse_target, settle

        settle(parse_target(push), need_token=True)
    if isinstance(out, Folder):
        check_folder(out, inputs)
    elif isinstance(out, GgufFile):
        targets = [out.target]
        if model.kind == "gguf":
            from ..formats.gguf.model import open_gguf

            opened = open_gguf(model.path)
            targets, inputs = targets_of(opened, out), [*opened.paths]
        check_files(out, recognisers(targets, out), inputs if model.kind == "gguf" else ())


@contextmanager
def _named(output: PersonaOutput, persona: Persona) -> Iterator[None]:
    """Name the output in an error, where there are several."""
    try:
        yield
    except EmobakeError as error:
        if len(persona.outputs) == 1 or isinstance(error, UnplannedError):
            raise
        raise _like(error)(f"output {output.kind} {output.place}: {error}") from None


@contextmanager
def _after(done: list[PersonaBaked]) -> Iterator[None]:
    """Add to an error which outputs are complete."""
    rest = f"complete: {', '.join(one.name for one in done)}"
    try:
        yield
    except EmobakeError as error:
        if not done:
            raise
        raise _like(error)(f"{error}. {rest}") from None
    except KeyboardInterrupt:
        if not done:
            raise
        raise OutputError(f"interrupted; {rest}") from None


def _like(error: EmobakeError) -> type[EmobakeError]:
    """A class for an error with more words."""
    return next(
        (kind for kind in (InputError, HubError, ModelError, MissingPackageError) if isinstance(error, kind)),
        OutputError,
    )
