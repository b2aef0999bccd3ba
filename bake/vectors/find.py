"""Finding a vector set: a path, a registered name, a Hub repository, or the set for a model."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.vector_set import VectorSet, require_site
from ..errors import InputError, NoVectorsError
from ..formats.front_matter import read_front_matter, read_start
from ..storage.files import cached_id, leads_out, read_at
from ..storage.model_name import ModelName
from .fetch import pull
from .open import open_vectors
from .registry import RegisteredSet, find_by_model, find_by_name, registry

if TYPE_CHECKING:
    from ..formats.gguf.model import GgufModel

_HUB = re.compile(r"https://huggingface\.co/([\w.-]+/[\w.-]+)")
_GGUF_SOURCES = (
    "general.source.url",
    "general.repo_url",
    "general.source.repo_url",
    "general.base_model.0.repo_url",
)


@dataclass(frozen=True, eq=False)
class VectorSource:
    """The vector set that a user means."""

    vectors: str | os.PathLike[str] | VectorSet | None = None
    """A path, a registered name, a Hub repository, or an open set; None: the set for the model."""
    vectors_for: str = ""
    """Hub id of another model whose set is meant, for a fine-tune of it."""
    site: str = ""
    """Site of the vectors, for a file that does not name it; a file that names another one is refused."""

    @classmethod
    def parse(cls, vectors: str | os.PathLike[str] | VectorSet | VectorSource | None) -> VectorSource:
        """Parse the argument `vectors`.

        Raises:
            InputError: `vectors` and `vectors_for` name two sets.
        """
        source = vectors if isinstance(vectors, VectorSource) else cls(vectors)
        if source.vectors is not None and source.vectors_for and not isinstance(source.vectors, VectorSet):
            raise InputError("`vectors` and `vectors_for` are two ways to name a set; give one")
        return source

    @property
    def paths(self) -> list[Path]:
        """The file or folder of the set, if it is on this disk."""
        given = self.vectors
        return [Path(given)] if isinstance(given, str | os.PathLike) and Path(given).exists() else []


class SetOpener:
    """Opens the set that a user means, once and when it is needed."""

    def __init__(self, source: VectorSource, model: ModelName) -> None:
        self.source, self.model = source, model
        self._opened: VectorSet | None = None

    @property
    def by_model(self) -> bool:
        """True if the set is looked up by the model."""
        return self.source.vectors is None

    def open(self, emotions: Iterable[str] | None, ids: Callable[[], Iterable[str]] | None = None) -> VectorSet:
        """Open the set with these `emotions` (None: all).

        `ids` returns the Hub ids of the model; default: `model_ids`.

        Raises:
            InputError: as `find_vectors`; the set acts at another site than was asked for.
        """
        if self._opened is None:
            given = self.source.vectors
            if isinstance(given, VectorSet):
                self._opened = given
            else:
                known: Iterable[str] = ()
                if self.source.vectors_for:
                    known = (self.source.vectors_for,)
                elif given is None:
                    known = ids() if ids is not None else model_ids(self.model)
                self._opened = find_vectors(given, emotions, model=self.model.name, ids=known, site=self.source.site)
            require_site(self._opened, self.source.site)
        return self._opened


def find_vectors(
    given: str | os.PathLike[str] | None,
    emotions: Iterable[str] | None = None,
    *,
    model: str = "",
    ids: Iterable[str] = (),
    site: str = "",
) -> VectorSet:
    """Open a vector set.

    Args:
        given: a path, a registered name, or a Hub repository ``owner/name[@revision]`` with a ``vectors.safetensors``,
            tried in this order. None: the set that is registered for the first of `ids` that has one.
        emotions: the emotions to read; None: all.
        model: the model's name in messages.
        ids: Hub ids of the model.
        site: where the vectors act, for a file that does not say it.

    Raises:
        InputError: none of these, or not in the cache while offline. NoVectorsError: no set for the model.
        VectorError, BrokenFileError: malformed, or not what was published.
        HubError: the network failed.
    """
    if given is None:
        known = tuple(ids)
        entry = find_by_model(known)
        if entry is None:
            raise _no_vectors(model, known)
        return _registered(entry, emotions)
    path, name = Path(given), os.fspath(given)
    if os.path.lexists(path):
        return open_vectors(path, emotions, site=site if _may_lack_site(path) else "")
    if entry := find_by_name(name):
        return _registered(entry, emotions)
    repo_id, at, revision = name.partition("@")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", repo_id, re.ASCII) and not repo_id.startswith(".") and (revision or not at):
        from ..storage.hub.download import download_file

        file = download_file(repo_id, "vectors.safetensors", revision or None, kind="set of vectors")
        return replace(open_vectors(file, emotions), name=repo_id)
    names = ", ".join(entry.name for entry in registry().sets)
    raise InputError(
        f"{name}: no such vector set; give a file, a folder of JSON files, a Hub repository (owner/name), or one of "
        f"{names}"
    )


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


def _bases(card: str) -> list[str]:
    base = read_front_matter(card).values.get("base_model")
    return [name for name in (base if isinstance(base, list) else [base]) if isinstance(name, str)]


def _distinct(names: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for name in names if name))


def _may_lack_site(path: Path) -> bool:
    """True if a file of this form may leave its site open; our files and the published JSON do not."""
    return path.suffix.lower() not in (".safetensors", "")


def _no_vectors(model: str, ids: tuple[str, ...]) -> NoVectorsError:
    if model.lower().endswith(".gguf"):
        return NoVectorsError(
            f"{model}: no vectors are known for it; name them with `vectors`, or the model that it was made of with "
            "`vectors_for`, e.g. `vectors_for` HuggingFaceTB/SmolLM2-135M-Instruct",
            model,
        )
    known = f" (known as {', '.join(ids)})" if ids and ids != (model,) else ""
    return NoVectorsError(
        f"{model}{known}: no vectors are published for it; name a set with `vectors`, or the model whose weights it "
        "shares with `vectors_for`, or extract a set",
        model,
    )


def _registered(entry: RegisteredSet, emotions: Iterable[str] | None) -> VectorSet:
    return replace(open_vectors(pull(entry), emotions), name=entry.name)
