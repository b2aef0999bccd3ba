"""Opening an adapter of PEFT: a folder, or a Hub repository in the cache. Its weights are never loaded whole."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...core.names import is_plain
from ...core.record import RECORD_FILE, AdapterUse, RecordedAdapter
from ...core.side_files import is_carried
from ...core.stacks import Support
from ...core.strict_json import parse_json_object
from ...core.tensors import TensorHeader
from ...errors import BrokenFileError, InputError
from ...storage.files import (
    Stamps,
    advertised,
    cached_id,
    check_content,
    read_at,
    read_json,
    read_small,
    sha256_of,
)
from ...storage.model_name import ModelName
from ..checkpoint.model import Checkpoint
from ..checkpoint.open import list_files, refuse_link
from ..front_matter import FrontMatter, read_front_matter, read_start
from ..safetensors import parse_header, parse_metadata
from .detect import CONFIG_FILE

WEIGHTS_FILE = "adapter_model.safetensors"
IN_PEFT = Support("option", run=True, option="PEFT (PeftModel.from_pretrained)")
"""Treatment of an adapter with biases by transformers."""
_PICKLE = "adapter_model.bin"
_READ = 2**22
"""Bytes of a tensor that are read at once."""


@dataclass(frozen=True, eq=False)
class Adapter:
    """An adapter whose config and header were read."""

    name: str
    """Name in messages: the folder or the Hub id as the user gave it."""
    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorHeader]
    metadata: Mapping[str, str] = field(default_factory=dict)
    """``__metadata__`` of its weights."""
    side_files: Mapping[str, int] = field(default_factory=dict)
    """Path with ``/`` -> bytes, for every file but the config and the weights."""
    unfollowed: tuple[str, ...] = ()
    """Links out of the folder, which are not followed."""
    record: Mapping[str, Any] | None = None
    """JSON of ``emobake.json``, if the adapter was baked before."""
    card: str = ""
    """Text of README.md; of a long one, the beginning."""
    repo_id: str = ""
    revision: str = ""
    """Commit on the Hub, if the adapter came from there."""
    stamps: Stamps = field(default_factory=Stamps)
    """Stamps of its files from before they were read."""

    @property
    def kind(self) -> str:
        """``peft_type``.

        Raises:
            BrokenFileError: it is no name.
        """
        kind = self.config.get("peft_type")
        if not isinstance(kind, str) or not re.fullmatch(r"[A-Z0-9_]{1,40}", kind):
            raise BrokenFileError(f"{self.name}/{CONFIG_FILE}: peft_type is {kind!r:.60}, not the name of a kind")
        return kind

    @property
    def front_matter(self) -> FrontMatter:
        """Metadata of the card."""
        return read_front_matter(self.card)

    def read(self, tensor: TensorHeader) -> bytes:
        """Read the bytes of one tensor."""
        return read_at(self.folder / tensor.file)(tensor.start, tensor.size)

    def read_column(self, tensor: TensorHeader, column: int) -> bytes:
        """An adapter has no columns that store a bias.

        Raises:
            BrokenFileError: always.
        """
        raise BrokenFileError(f"{self.name}: {tensor.name} stores no bias in column {column}")

    def digest(self, name: str) -> str:
        """Digest of one of its files."""
        return sha256_of(self.folder / name)

    def digest_of(self, names: Iterable[str]) -> str:
        """Digest of the tensors `names`: of each, in the order of the names, its description and its bytes."""
        digest, read = hashlib.sha256(), read_at(self.folder / WEIGHTS_FILE)
        for name in sorted(names):
            tensor = self.tensors[name]
            digest.update(f"{name} {tensor.dtype} {tensor.shape} ".encode())
            for start in range(tensor.start, tensor.end, _READ):
                digest.update(read(start, min(_READ, tensor.end - start)))
        return digest.hexdigest()

    def recorded(self, use: AdapterUse, *, without: Iterable[str] = ()) -> RecordedAdapter:
        """The part that a record keeps; the tensors `without` are those that a bake changes."""
        tensors = self.tensors.keys() - frozenset(without)
        return RecordedAdapter(use, self.repo_id, self.revision, self.kind, self.digest_of(tensors))


def fetch_adapter(model: ModelName) -> Adapter:
    """Open an adapter; that of a Hub repository is fetched first.

    Raises:
        InputError: no such folder or repository, a pickle, a link out of the folder; BrokenFileError: a malformed file.
        HubError: the network failed.
    """
    if model.is_local:
        return open_adapter(model.path)
    from ...storage.hub.download import download_adapter

    folder = download_adapter(model.name, model.revision)
    return replace(open_adapter(folder), name=model.name)


def base_of(adapter: Adapter, given: ModelName | None) -> ModelName:
    """The base of an adapter: the one that is `given`, or else the one that its config names.

    Raises:
        InputError: neither is there.
    """
    file = f"{adapter.name}/{CONFIG_FILE}"
    if given is not None:
        if given.kind == "gguf":
            raise InputError(f"`base` {given}: a GGUF file is baked by itself; the adapter is served on the result")
        return given
    named, revision = adapter.config.get("base_model_name_or_path"), adapter.config.get("revision")
    if not isinstance(named, str | None) or not isinstance(revision, str | None):
        raise BrokenFileError(f"{file}: base_model_name_or_path and revision are no names; give `base`")
    if not named:
        raise InputError(f"{file}: names no base; give `base`, its folder or Hub id")
    if Path(named).is_absolute() and not adapter.repo_id:
        if not Path(named).is_dir():
            raise InputError(f"{file}: names the base {named[:200]}, which is not here; give `base`")
        return ModelName.parse(named)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", named, re.ASCII) or named.startswith("."):
        # A path is relative to a folder that nobody knows, or of a stranger's machine.
        raise InputError(
            f"{file}: names the base {named[:200]!r}, which is no Hub id; give `base`, its folder or Hub id"
        )
    return ModelName(named, "hub", revision or None)


def other_base(adapter: Adapter, base: Checkpoint) -> Iterator[str]:
    """Warn of a base on the Hub that is not the one that the adapter names, or another commit of it."""
    named, revision = adapter.config.get("base_model_name_or_path"), adapter.config.get("revision")
    if isinstance(named, str) and named and base.repo_id not in ("", named):
        yield f"the adapter was trained on {named[:120]!r}, not on {base.repo_id}"
    elif isinstance(revision, str) and re.fullmatch(r"[0-9a-f]{40}", revision) and base.revision not in ("", revision):
        yield f"the adapter was trained on the commit {revision[:12]} of its base, not on {base.revision[:12]}"


def open_adapter(folder: Path) -> Adapter:
    """Open the adapter in `folder`.

    Raises:
        InputError: a file is missing, or is a link out of the folder; BrokenFileError: a file is malformed.
    """
    file, stamps = folder / WEIGHTS_FILE, Stamps()
    if not file.is_file():
        if (folder / _PICKLE).exists():
            raise InputError(
                f"{folder / _PICKLE}: is a pickle, which is never loaded; save the adapter as safetensors "
                "(PeftModel.from_pretrained and save_pretrained)"
            )
        raise InputError(f"{file}: {'is not a file' if file.exists() else 'not found'}")
    sizes, unfollowed = list_files(folder)
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        refuse_link(folder / name, folder)
    for name in sizes:
        if name in (CONFIG_FILE, WEIGHTS_FILE) or is_carried(name):
            check_content(folder / name, advertised(folder / name), f"{folder}/{name}")
            stamps |= Stamps.of([folder / name])
    read, size = read_at(file), file.stat().st_size
    tensors = {header.name: replace(header, file=WEIGHTS_FILE) for header in parse_header(str(file), size, read)}
    strange = next((name for name in tensors if not is_plain(name)), None)
    if strange is not None:
        raise BrokenFileError(f"{file}: {strange[:120]!r} has control characters")
    repo_id, revision = cached_id(folder)
    return Adapter(
        str(folder),
        folder,
        read_json(folder / CONFIG_FILE),
        tensors,
        parse_metadata(str(file), size, read),
        {name: size for name, size in sizes.items() if name not in (CONFIG_FILE, WEIGHTS_FILE)},
        unfollowed,
        _record(folder) if RECORD_FILE in sizes else None,
        read_start(read_at(folder / "README.md")) if "README.md" in sizes else "",
        repo_id,
        revision,
        stamps,
    )


def _record(folder: Path) -> dict[str, Any]:
    return parse_json_object(read_small(folder / RECORD_FILE), f"{folder}/{RECORD_FILE}")
