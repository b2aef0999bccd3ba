"""Comparing the files of a commit on the Hub with planned ones, by the digests that the Hub keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ...core.plan import PlannedFile
from ...core.side_files import is_housekeeping
from ..comparing import Comparison
from ..files import read_small, sha256_of
from .contents import Contents, items_of
from .errors import fetching
from .snapshot import Snapshot, fetch


@dataclass(frozen=True, eq=False)
class CommitFiles:
    """Files of a commit, and the base's commit or folder that their bytes are compared with."""

    snapshot: Snapshot
    source: Snapshot | None = None
    folder: Path | None = None
    means: str = ", by the digests that the Hub keeps"

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        """Path with ``/`` -> bytes."""
        return {name: file.size for name, file in self.snapshot.files.items() if not is_housekeeping(name)}

    def read(self, name: str) -> bytes:
        """Read a small file whole, by way of the Hub's cache."""
        return read_small(self._fetch(name), f"{self.snapshot.repo_id}/{name}")

    def digest(self, name: str) -> str:
        """sha256 of a small file."""
        return self.weight_digest(name) or sha256_of(self._fetch(name))

    def weight_digest(self, name: str) -> str:
        """sha256 of a large file; empty for one that git itself stores."""
        return self.snapshot.files[name].sha256

    def compare(self, file: PlannedFile) -> Comparison:
        """Compare by digests; an assembled file, whose digest nobody knows, by its size."""
        there = self.snapshot.files[file.name]
        with fetching(self.snapshot.repo_id, self.snapshot.commit, "a listed file is no longer there; run again"):
            (item,) = items_of([file], self.snapshot.repo_id, folder=self.folder, source=self.source)
            if item.pieces:
                return Comparison(None if item.size == there.size else False)
            return Comparison(Contents([item], self.source).is_same(item, there))

    def _fetch(self, name: str) -> Path:
        with fetching(self.snapshot.repo_id, self.snapshot.commit, "a listed file is no longer there; run again"):
            return fetch(self.snapshot, name)
