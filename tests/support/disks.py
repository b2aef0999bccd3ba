"""Real small disks: a tmpfs of a few pages, which is mounted in a namespace of a process of its own and goes with it.

Root needs nothing else for that, and an ordinary user gets it with a user namespace.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

PAGE = 4096
LIMITS = ("size", "nr_inodes")
"""What a disk can run out of: pages and files."""


def alone() -> list[str]:
    """The beginning of a command line whose process may mount a disk."""
    return ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]


class Disk:
    """A disk that is filled up by files in ``ballast``."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ballast = folder, folder / "ballast"
        self.ballast.mkdir(exist_ok=True)

    @classmethod
    def mount(cls, folder: Path, *, pages: int, files: int) -> Disk:
        """Mount a new one over `folder`."""
        folder.mkdir(exist_ok=True)
        limits = f"size={pages * PAGE},nr_inodes={files}"
        subprocess.run(["mount", "-t", "tmpfs", "-o", limits, "emobake-test", str(folder)], check=True)
        return cls(folder)

    def unmount(self) -> None:
        """Take it away, with all that is on it."""
        subprocess.run(["umount", str(self.folder)], check=True)

    def room(self, limit: str) -> int:
        """Pages, or files, that are left."""
        state = os.statvfs(self.folder)
        return state.f_bfree if limit == "size" else state.f_ffree

    def leave(self, limit: str, n: int) -> None:
        """Fill the disk up until `n` pages, or `n` files, are left."""
        self.free()
        if limit == "size":
            with (self.ballast / "full").open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, (self.room(limit) - n) * PAGE)
        else:
            for i in range(self.room(limit) - n):
                (self.ballast / str(i)).touch()
        assert self.room(limit) == n

    def free(self) -> None:
        """Give all room back."""
        for file in list(self.ballast.iterdir()):
            file.unlink()
