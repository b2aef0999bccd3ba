"""Finding the vector set that is meant: a path, a registered name, a Hub repository, or the one for a model."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib import resources
from pathlib import Path
from urllib.parse import quote

from ..core.vector_set import VectorSet, require_site
from ..errors import BrokenFileError, EmobakeError, InputError, OutputError, VectorError
from ..storage.files import cached_id, git_blob_id, read_small
from ..storage.model_name import is_local
from .formats.own import parse_published
from .open import open_vectors
from .registry import RegisteredSet, RemoteFile, find_by_model, find_by_name, registry
from .write import write_set

MAX_DOWNLOAD = 256 * 2**20
"""Bytes of one published file; the largest known has 6 MB."""


def find_vectors(
    given: str | os.PathLike[str] | None,
    emotions: Iterable[str] | None,
    *,
    model: str,
    ids: Iterable[str] = (),
    site: str = "",
) -> VectorSet:
    """Open the set that a user means, with the given `emotions` or all there are.

    `given` is a path, a name in the registry, or a Hub repository ``owner/name[@revision]`` with a
    ``vectors.safetensors``, in this order. None is the set registered for the first of the model's Hub `ids` that has
    one; `model` is how the user called it. `site` is for a file that does not say where its vectors act.

    Raises:
        InputError: none of these; no set for the model; not in the cache while offline.
        VectorError, BrokenFileError: what is found is malformed, or not what was published.
        EmobakeError: the network failed.
    """
    if given is None:
        entry = find_by_model(ids)
        if entry is None:
            raise InputError(_no_set(model, tuple(ids)))
        return _registered(entry, emotions)
    path, name = Path(given), os.fspath(given)
    if os.path.lexists(path):
        return open_vectors(path, emotions, site=site if _is_foreign(path) else "")
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


class SetOpener:
    """Opens the set that a user means, once and when it is needed."""

    def __init__(
        self, given: str | os.PathLike[str] | VectorSet | None, model: str, vectors_for: str, site: str
    ) -> None:
        """Remember what was asked for: see `emobake.bake`, whose arguments these are."""
        if given is not None and vectors_for and not isinstance(given, VectorSet):
            raise InputError("--vectors and --vectors-for are two ways to name a set; give one")
        self.given, self.model, self.vectors_for, self.site = given, model, vectors_for, site
        self._opened: VectorSet | None = None

    @property
    def paths(self) -> list[Path]:
        """The file or folder that was given, if it was one."""
        given = self.given
        return [Path(given)] if isinstance(given, str | os.PathLike) and Path(given).exists() else []

    def open(self, emotions: Iterable[str], ids: Callable[[], Iterable[str]]) -> VectorSet:
        """The set with these `emotions`; `ids` tells the Hub ids that the model goes by, and is asked if need be.

        Raises:
            InputError: as `find_vectors`, and a set that acts at another site than was asked for.
        """
        if self._opened is None:
            if isinstance(self.given, VectorSet):
                self._opened = self.given
            else:
                known = tuple(ids()) if self.given is None else ()
                self._opened = find_vectors(self.given, emotions, model=self.model, ids=known, site=self.site)
            require_site(self._opened, self.site)
        return self._opened


def _is_foreign(path: Path) -> bool:
    """Whether the file's form may leave open where its vectors act; ours, and the published JSON, say it."""
    return path.suffix.lower() not in (".safetensors", "")


def _no_set(model: str, ids: tuple[str, ...]) -> str:
    file = re.sub(r"[^\w.-]+", "-", Path(model).name.lower()) or "vectors"
    if model.lower().endswith(".gguf"):
        return (
            f"{model}: no vectors are known for it; name them with --vectors, or the model that it was made of with "
            "--vectors-for, e.g. --vectors-for HuggingFaceTB/SmolLM2-135M-Instruct"
        )
    known = f" (known as {', '.join(ids)})" if ids and ids != (model,) else ""
    return (
        f"{model}{known}: no vectors are published for it. Make them: emobake vectors extract --model "
        f"{shlex.quote(model)} --out {shlex.quote(file)}.safetensors; or name them with --vectors, or with "
        "--vectors-for the model whose weights it shares"
    )


def _registered(entry: RegisteredSet, emotions: Iterable[str] | None) -> VectorSet:
    return replace(open_vectors(pull(entry), emotions), name=entry.name)


def model_ids(model_id: str, card: str) -> tuple[str, ...]:
    """The Hub ids that a model's vectors go by: its own (if it has one), and those that its `card` names as its base.

    The card's ``base_model`` is read; a list is of models that were merged, which share the weights of each in part.
    """
    from ..formats.checkpoint.card import card_metadata

    base = card_metadata(card).get("base_model")
    bases = base if isinstance(base, list) else [base]
    return tuple(dict.fromkeys(name for name in (model_id, *bases) if isinstance(name, str) and name))


# --- what is published ------------------------------------------------------------------------------------------


def cache_folder() -> Path:
    """Where fetched sets are kept: ``$EMOBAKE_CACHE``, else ``emobake`` in the user's cache folder."""
    if given := os.environ.get("EMOBAKE_CACHE"):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "emobake"


def _cached(entry: RegisteredSet) -> Path:
    # The name changes with the content, so another version of the registry does not take it for its own.
    state = hashlib.sha256(repr(sorted((e, f.blob) for e, f in entry.files.items())).encode()).hexdigest()
    return cache_folder() / f"{entry.name}-{state[:8]}.safetensors"


def is_cached(entry: RegisteredSet) -> bool:
    """Whether `pull` need not fetch anything."""
    return bool(entry.shipped) or _cached(entry).is_file()


def pull(entry: RegisteredSet) -> Path:
    """The set's file in our single-file form: shipped, in the cache, or fetched into it.

    Every file is fetched from where its authors publish it, at a pinned commit, and must have the git blob id that
    the registry lists.

    Raises:
        InputError: neither in the cache nor to be fetched, because ``HF_HUB_OFFLINE`` is set.
        BrokenFileError, VectorError: what came is not what was published.
        EmobakeError: the network failed.
        OutputError: the cache cannot be written.
    """
    if entry.shipped:
        return Path(str(resources.files("emobake.vectors_data") / entry.shipped))
    path = _cached(entry)
    if path.is_file():
        return path
    files = ((emotion, file.path.rpartition("/")[2], _fetch(file)) for emotion, file in entry.files.items())
    found = parse_published(files, entry.name)
    if (found.layers, found.hidden) != (entry.layers, entry.hidden_size):
        raise VectorError(f"{entry.name}: has {found.layers} layers x {found.hidden}, not as the registry says")
    found = replace(found, base_model=entry.base_model, source=entry.source, license=entry.license)
    _make(path.parent)
    write_set(found, path, overwrite=True)
    return path


def pull_queries(name: str) -> bytes:
    """The content of the published query set `name`, from the cache or fetched as in `pull`."""
    entry = next(entry for entry in registry().queries if entry.name == name)
    path = cache_folder() / f"{entry.name}-{entry.file.blob[:8]}.json"
    if path.is_file():
        return read_small(path, str(path))
    content = _fetch(entry.file)
    _make(path.parent)
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(content)
        Path(file.name).replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})") from None
    return content


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made ({error.strerror}); set EMOBAKE_CACHE to another folder") from None


def _fetch(file: RemoteFile) -> bytes:
    from huggingface_hub.constants import HF_HUB_OFFLINE
    from huggingface_hub.utils import http_stream_backoff  # type: ignore[attr-defined]

    from ..storage.hub.errors import quiet_library, reason

    quiet_library()
    name = f"{file.repository}/{file.path}"
    if HF_HUB_OFFLINE:
        raise InputError(f"{name}: is not in the cache ({cache_folder()}), and HF_HUB_OFFLINE is set")
    endpoint = os.environ.get("EMOBAKE_RAW_ENDPOINT") or "https://raw.githubusercontent.com"
    url = f"{endpoint.rstrip('/')}/{file.repository}/{file.commit}/{quote(file.path)}"
    content = bytearray()
    try:
        # No token goes along: this is not the Hub.
        with http_stream_backoff("GET", url, timeout=30, max_retries=3) as response:
            response.raise_for_status()
            for chunk in response.iter_bytes():
                content += chunk
                if len(content) > MAX_DOWNLOAD:
                    raise BrokenFileError(f"{name}: is larger than {MAX_DOWNLOAD} bytes; it is not what was published")
    except EmobakeError:
        raise
    except Exception as error:  # of the HTTP library
        raise EmobakeError(f"{name}: could not be fetched from {endpoint} ({reason(error)}); try again later") from None
    if git_blob_id(bytes(content)) != file.blob:
        raise BrokenFileError(f"{name}: what {endpoint} sent is not the file that was published (its git id differs)")
    return bytes(content)


def known_ids(
    model: str | os.PathLike[str], revision: str | None, base_model: str, vectors_for: str
) -> tuple[str, ...]:
    """The Hub ids by which a model's vectors are looked up, most specific first.

    Raises:
        InputError: a Hub id whose card cannot be read, because there is no such repository or access to it.
    """
    from ..vectors.find import model_ids
    from ..vectors.registry import find_by_model

    if vectors_for:
        return (vectors_for,)
    if find_by_model([str(model)]) and not is_local(model, revision):
        return (str(model),)  # The card could add nothing.
    if is_local(model, revision):
        folder = Path(model)
        card = folder / "README.md"
        text = read_small(card, str(card)).decode("utf-8", "replace") if card.is_file() else ""
        return model_ids(base_model or cached_id(folder)[0], text)
    from ..storage.hub.download import card_text

    return model_ids(str(model), card_text(str(model), revision))
