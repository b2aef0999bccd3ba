"""Completion of words in a shell: sets, emotions and models. Nothing here asks the network."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


def sets(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of sets, or files."""
    from ..vectors.registry import set_names as names

    return _or_files(names(), incomplete)


def set_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of sets, and ids of the models that have one."""
    from ..vectors import registry

    return _items((*registry.set_names(), *registry.models_with_sets()), incomplete)


def models(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Files and folders; or, once its first letters are there, the id of a model that has a set."""
    from ..vectors.registry import models_with_sets

    return _or_files(models_with_sets() if incomplete else (), incomplete)


def known_models(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Ids of models that have a set."""
    from ..vectors.registry import models_with_sets

    return _items(models_with_sets(), incomplete)


def personas(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of shipped personas, or files."""
    from ..actions.personas import shipped_personas

    return _or_files(shipped_personas(), incomplete)


def emotions(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Emotions in a list, those of the set that the line names."""
    before, last = _last(incomplete)
    return _items((before + name for name in _emotions(context) if name not in before.split(",")), before + last)


def weights(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Emotions with a weight of 1, those of the set that the line names."""
    before, last = _last(incomplete)
    given = {part.partition("=")[0] for part in before.split(",")}
    return _items((f"{before}{name}=1" for name in _emotions(context) if name not in given), before + last)


def _last(incomplete: str) -> tuple[str, str]:
    """A list that is being typed: what is complete, with its comma, and the last part."""
    before, comma, last = incomplete.rpartition(",")
    return before + comma, last


def _items(names: Iterable[str], incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def _or_files(names: Iterable[str], incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    # The file first: bash forgets what came before it.
    return ([] if incomplete and _items(names, incomplete) else [CompletionItem(incomplete, type="file")]) + _items(
        names, incomplete
    )


def _emotions(context: click.Context) -> tuple[str, ...]:
    """Emotions of the sets that the line names so far; the paper's if it names none that can be read here."""
    from ..core.vector_set import EMOTIONS

    given = context.params.get("vectors") or context.params.get("set_") or ()
    found = [name for one in ((given,) if isinstance(given, str) else given) for name in _emotions_of(one)]
    return tuple(dict.fromkeys(found)) or EMOTIONS


def _emotions_of(given: str) -> tuple[str, ...]:
    from ..errors import EmobakeError
    from ..vectors.fetch import is_cached, pull
    from ..vectors.open import open_vectors
    from ..vectors.registry import find_by_name

    entry = find_by_name(given)
    try:
        if os.path.lexists(given):
            return open_vectors(given).emotions
        if entry is not None and is_cached(entry):
            return open_vectors(pull(entry)).emotions
    except (EmobakeError, OSError):
        return ()  # A completion has nobody to tell.
    return tuple(entry.files) if entry is not None else ()
