"""Finding a vector set: a path, a registered name, a Hub repository, or the set for a model."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.spelling import did_you_mean
from ..core.vector_set import VectorSet, require_site
from ..errors import InputError, NoVectorsError
from ..formats.front_matter import read_front_matter, read_start
from ..storage.files import cached_id, leads_out, read_at
from ..storage.model_name import ModelName
from .fetch import pull
from .likeness import Likeness, find_like
from .merge import merge_sets
from .open import open_vectors
from .registry import RegisteredSet, find_by_model, find_by_name, models_with_sets, set_names

if TYPE_CHECKING:
    from ..formats.gguf.model import GgufModel

_HUB = re.compile(r"https://huggingface\.co/([\w.-]+/[\w.-]+)")
_GGUF_SOURCES = (
    "general.source.url",
    "general.repo_url",
    "general.source.repo_url",
    "general.base_model.0.repo_url",
)


OneSet = str | os.PathLike[str] | VectorSet
"""A path, a registered name, a Hub repository, or an open set."""
Vectors = OneSet | Sequence[OneSet]
"""One set, or several that are used together."""


@dataclass(frozen=True, eq=False)
class VectorSource:
    """The vector set that a user means."""

    vectors: Vectors | None = None
    """A path, a registered name, a Hub repository, an open set, or several of these for the emotions of all of them;
    None: the set for the model."""
    vectors_for: str = ""
    """Hub id of another model whose set is meant, for a fine-tune of it."""
    site: str = ""
    """Site of the vectors, for a file that does not name it; a file that names another one is refused."""

    @classmethod
    def parse(cls, vectors: Vectors | VectorSource | None) -> VectorSource:
        """Parse the argument `vectors`.

        Raises:
            InputError: another type; `vectors` and `vectors_for` name two sets.
        """
        source = vectors if isinstance(vectors, VectorSource) else cls(vectors)
        _each(source.vectors)
        if source.vectors is not None and source.vectors_for and not isinstance(source.vectors, VectorSet):
            raise InputError("`vectors` and `vectors_for` are two ways to name a set; give one")
        return source

    @property
    def named(self) -> list[str | os.PathLike[str]]:
        """The sets that are not open: paths, registered names and Hub repositories."""
        return [one for one in _each(self.vectors) if not isinstance(one, VectorSet)]

    @property
    def paths(self) -> list[Path]:
        """Files and folders of the sets, those that are on this disk."""
        return [Path(one) for one in self.named if Path(one).exists()]


class SetOpener:
    """Opens the set that a user means, once and when it is needed."""

    def __init__(self, source: VectorSource, model: ModelName) -> None:
        self.source, self.model = source, model
        self._opened: VectorSet | None = None

    @property
    def by_model(self) -> bool:
        """True if the set is looked up by the model."""
        return self.source.vectors is None

    def open(self, emotions: Iterable[str] | None, gguf: GgufModel | None = None) -> VectorSet:
        """Open the set with these `emotions` (None: all).

        `gguf` is the opened model, if it is a GGUF file.

        Raises:
            InputError: as `find_vectors`; the set acts at another site than was asked for.
        """
        if self._opened is None:
            source, known = self.source, tuple[str, ...]()
            if source.vectors_for:
                known = (source.vectors_for,)
            elif source.vectors is None:
                known = model_ids(self.model, gguf)
            self._opened = find_vectors(
                source.vectors,
                emotions,
                model=self.model.name,
                ids=known,
                site=source.site,
                like=lambda: find_like(self.model, gguf),
            )
            require_site(self._opened, self.source.site)
        return self._opened


def find_vectors(
    given: Vectors | None,
    emotions: Iterable[str] | None = None,
    *,
    model: str = "",
    ids: Iterable[str] = (),
    site: str = "",
    like: Callable[[], Likeness | None] = lambda: None,
) -> VectorSet:
    """Open a vector set.

    Args:
        given: a path, a registered name, or a Hub repository ``owner/name[@revision]`` with a ``vectors.safetensors``,
            tried in this order; or an open set; or a list of all these, for the emotions of all of them. None: the
            set that is registered for the first of `ids` that has one.
        emotions: the emotions to read; None: all.
        model: the model's name in messages.
        ids: Hub ids of the model.
        site: where the vectors act, for a file that does not say it.
        like: finds a model that has a set and that this one may be, for the message when there is no set.

    Raises:
        InputError: none of these, or not in the cache while offline. NoVectorsError: no set for the model.
        VectorError, BrokenFileError: malformed, or not what was published; or sets that do not go together.
        HubError: the network failed.
    """
    if isinstance(given, list | tuple):
        # Which set has which emotion is known once all are open.
        wanted = emotions if len(given) == 1 else None
        return merge_sets([find_vectors(one, wanted, site=site) for one in _each(given)])
    if given is None:
        known = tuple(ids)
        entry = find_by_model(known)
        if entry is None:
            raise _no_vectors(model, known, like())
        return _registered(entry, emotions)
    (one,) = _each(given)
    if isinstance(one, VectorSet):
        return one
    path, name = Path(one), os.fspath(one)
    if os.path.lexists(path):
        return open_vectors(path, emotions, site=site if _may_lack_site(path) else "")
    if entry := find_by_name(name):
        return _registered(entry, emotions)
    repo_id, at, revision = name.partition("@")
    if _is_repository(repo_id) and (revision or not at):
        from ..storage.hub.download import download_file

        file = download_file(repo_id, "vectors.safetensors", revision or None, kind="set of vectors")
        return replace(open_vectors(file, emotions), name=repo_id)
    names = set_names()
    raise InputError(
        f"{name}: no such vector set; give a file, a folder of JSON files, a Hub repository "
        f"(owner/name), or one of {', '.join(names)}{did_you_mean(name, names)}"
    )


def is_named_set(name: str) -> bool:
    """True if `name` can be that of a set in the registry or on the Hub, and not a path here."""
    return not os.path.lexists(name) and (find_by_name(name) is not None or _is_repository(name))


def model_ids(model: ModelName, gguf: GgufModel | None = None) -> tuple[str, ...]:
    """Hub ids by which a model's vectors are looked up, the most specific first.

    A checkpoint's card names its base; a list of bases is of a merged model, which shares the weights of each in part.
    A GGUF model, opened as `gguf`, names where it comes from.

    Raises:
        InputError: a Hub id whose card cannot be read, because there is no such repository or access to it.
    """
    if model.kind == "gguf":
        named = [_HUB.match(gguf.header.text(key)) for key in _GGUF_SOURCES] if gguf is not None else []
        return _distinct([model.base_model, *(match[1] for match in named if match)])
    if model.kind == "hub":
        if find_by_model([model.name]):
            return (model.name,)  # The card could add nothing.
        from ..storage.hub.download import card_text

        return _distinct([model.name, *_bases(card_text(model.name, model.revision))])
    card = model.path / "README.md"
    is_own = card.is_file() and not leads_out(card, model.path)
    text = read_start(read_at(card)) if is_own else ""
    return _distinct([model.base_model or cached_id(model.path)[0], *_bases(text)])


def _each(given: Vectors | None) -> tuple[OneSet, ...]:
    """The sets that are named, one by one; empty for None.

    Raises:
        InputError: one of another type.
    """
    sets = tuple(given) if isinstance(given, list | tuple) else () if given is None else (given,)
    for one in sets:
        if not isinstance(one, str | os.PathLike | VectorSet):
            raise InputError(
                f"`vectors` takes a path, a name, an open set, or a list of these, not {type(one).__name__}"
            )
    return sets


def _is_repository(name: str) -> bool:
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name, re.ASCII) is not None and not name.startswith(".")


def _bases(card: str) -> list[str]:
    base = read_front_matter(card).values.get("base_model")
    return [name for name in (base if isinstance(base, list) else [base]) if isinstance(name, str)]


def _distinct(names: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for name in names if name))


def _may_lack_site(path: Path) -> bool:
    """True if a file of this form may leave its site open; our files and the published JSON do not."""
    return path.suffix.lower() not in (".safetensors", "")


def _no_vectors(model: str, ids: tuple[str, ...], like: Likeness | None) -> NoVectorsError:
    known = ""
    if ids and ids != (model,):
        known = f" (known as {', '.join(ids)}{did_you_mean(ids[0], models_with_sets())})"
    if like is not None:
        entry = like.entry.base_model
        text = (
            f"no vectors are published for it, but {like.why}: give `vectors_for` {entry} if it is that model or a "
            "fine-tune of it; otherwise name a set with `vectors`, or extract one"
        )
    elif model.lower().endswith(".gguf"):
        text = (
            "no vectors are known for it; name them with `vectors`, or the model that it was made of with "
            "`vectors_for`, e.g. `vectors_for` HuggingFaceTB/SmolLM2-135M-Instruct"
        )
    else:
        text = (
            "no vectors are published for it; name a set with `vectors`, or the model whose weights it shares with "
            "`vectors_for`, or extract a set"
        )
    return NoVectorsError(f"{model}{known}: {text}", model)


def _registered(entry: RegisteredSet, emotions: Iterable[str] | None) -> VectorSet:
    found = open_vectors(pull(entry), emotions)
    known = {emotion: entry.strengths[emotion] for emotion in found.emotions if emotion in entry.strengths}
    return replace(found, name=entry.name, strengths=known or found.strengths)
