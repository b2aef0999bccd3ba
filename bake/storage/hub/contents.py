"""Files that a repository shall hold, and where their bytes come from."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from huggingface_hub import CommitOperationAdd

from ...core.plan import CARD_FILE, PLACEHOLDER_NOTE, REPO_PLACEHOLDER, Piece, PlannedFile, sources_of
from ...errors import HubError, OutputError
from ..copying import write_pieces
from ..files import git_blob_id, sha256_of
from .snapshot import COPIES, RemoteFile, Snapshot, fetch

Action = Literal["copy", "send", "relay"]


@dataclass(frozen=True)
class Item:
    """One file of the result. Its bytes are `data`, a `local` file, a `remote` file of the base, or `pieces`."""

    name: str
    size: int
    data: bytes | None = None
    local: Path | None = None
    remote: RemoteFile | None = None
    pieces: tuple[Piece, ...] = ()
    """Assembled here from files of the base, in `folder` or fetched from its commit."""
    folder: Path | None = None
    here: bool = False
    """Sent from here in earnest, though a dry run looks at its `remote` or its `pieces` from afar."""

    @property
    def action(self) -> Action:
        """``copy`` on the Hub's server, ``send`` from here, or ``relay``: fetch here and send."""
        if self.here or self.folder is not None:
            return "send"
        if self.pieces:
            return "relay"
        if self.remote is None:
            return "send"
        return "copy" if self.remote.sha256 else "relay"


def items_of(
    files: Sequence[PlannedFile], repo_id: str, *, folder: Path | None, source: Snapshot | None, here: bool = False
) -> tuple[Item, ...]:
    """Turn planned files into items. Bytes of the base come from its commit `source`, else from its `folder`.

    Where huggingface_hub cannot have files copied, the `folder` comes first. A dry run, which has none, says by `here`
    that the base will be here in earnest.

    Raises:
        HubError: a file of the base is in neither.
    """
    return tuple(_item(file, repo_id, folder, source, here) for file in files)


def _item(file: PlannedFile, repo_id: str, folder: Path | None, source: Snapshot | None, here: bool) -> Item:
    if file.action == "write":
        data = addressed(file.data, repo_id, file.name) if Path(file.name).name == CARD_FILE else file.data
        return Item(file.name, len(data), data=data)
    missing = sources_of(file.pieces)
    if source is not None:
        missing -= source.files.keys()
    if folder is None and missing:
        raise HubError(f"{repo_id}: {min(missing)} is not in the base's commit; run again")
    if file.action != "carry":
        return Item(file.name, file.size, pieces=file.pieces, folder=folder, here=here)
    remote = source.files.get(file.source) if source is not None else None
    if remote is not None and remote.size == file.size and (COPIES or folder is None):
        return Item(file.name, file.size, remote=remote, here=here and not COPIES)
    if folder is None:
        raise HubError(f"{repo_id}: {file.source} changed in the base's commit; run again")
    return Item(file.name, file.size, local=folder / file.source)


def addressed(card: bytes, repo_id: str, name: str) -> bytes:
    """Put the repository's id into the commands of the model card `name`."""
    folder = name.rpartition("/")[0]
    card = card.replace(PLACEHOLDER_NOTE.encode(), b"")
    if folder:
        card = card.replace(f'"{REPO_PLACEHOLDER}"'.encode(), f'"{repo_id}", subfolder="{folder}"'.encode())
    return card.replace(REPO_PLACEHOLDER.encode(), repo_id.encode())


class Contents:
    """The items of one push with their bytes and digests."""

    def __init__(self, items: Sequence[Item], source: Snapshot | None) -> None:
        self.items = tuple(items)
        self.source = source
        self._digests: dict[str, str] = {}
        """sha256 of files that were read or sent, by their names in the repository."""

    def is_same(self, item: Item, file: RemoteFile) -> bool:
        """True if the file on the Hub has the item's bytes."""
        if item.size != file.size:
            return False
        if file.sha256:
            return file.sha256 == self._sha256(item)
        if item.remote is not None:
            return item.remote.blob == file.blob
        data = item.data if item.data is not None else self.path(item).read_bytes()
        return file.blob == git_blob_id(data)

    def _sha256(self, item: Item) -> str:
        """Digest of the item's bytes; empty for an assembled file that was not sent yet."""
        if item.data is not None:
            return hashlib.sha256(item.data).hexdigest()
        if item.remote is not None and item.remote.sha256:
            return item.remote.sha256
        if item.name not in self._digests and not item.pieces:
            self._digests[item.name] = sha256_of(self.path(item))
        return self._digests.get(item.name, "")

    def remember(self, operation: CommitOperationAdd) -> None:
        """Note the digest of a file that was sent."""
        self._digests[operation.path_in_repo] = operation.upload_info.sha256.hex()

    def path(self, item: Item) -> Path:
        """Path of the item's whole file here, fetched if need be."""
        if item.local is not None:
            return item.local
        if self.source is None or item.remote is None:
            raise HubError(f"{item.name}: has no file of its own; run again")
        return fetch(self.source, item.remote.path)

    def addition(self, item: Item, preupload: Callable[[CommitOperationAdd], object]) -> CommitOperationAdd:
        """Add `item` to a commit. An assembled file is made, handed to `preupload` and removed: one at a time.

        Raises:
            HubError: a local file changed; OutputError: there is no room for an assembled file.
        """
        if item.data is not None:
            return CommitOperationAdd(item.name, item.data)
        if item.pieces:
            with self._assembled(item) as path:
                operation = CommitOperationAdd(item.name, path)
                preupload(operation)
            return operation
        path = self.path(item)
        if path.stat().st_size != item.size:
            raise HubError(f"{path}: changed meanwhile; run again")
        return CommitOperationAdd(item.name, path)

    @contextlib.contextmanager
    def _assembled(self, item: Item) -> Iterator[Path]:
        def locate(source: str) -> Path:
            if item.folder is not None:
                return item.folder / source
            assert self.source is not None  # `items_of` has looked.
            return fetch(self.source, source)

        paths = {source: locate(source) for source in sources_of(item.pieces)}
        with tempfile.TemporaryDirectory(prefix="emobake-") as folder:
            path = Path(folder, Path(item.name).name)
            try:
                write_pieces(item.pieces, path, paths.__getitem__)
            except OSError as error:
                raise OutputError(
                    f"{path}: {error.strerror}; set TMPDIR to a folder with room for {item.name}"
                ) from None
            yield path
