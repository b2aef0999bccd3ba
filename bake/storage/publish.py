"""Publishing: outputs are written beside their place, synced, and then take the place of older ones, all or nothing.

A stage is a locked folder beside the output. ``new/`` in it holds the new entries (files or folders), ``old/`` the
older ones that were put aside. Its own name tells a later run, after a kill or a power cut, what is left to do:

``.NAME.emobake-new-*``
    the new entries are being written, or all is done: remove the stage.
``.NAME.emobake-old-*``
    older entries are being put aside: put them back.
``.NAME.emobake-due-*``
    all older entries are aside, and the new ones take their places: finish that.

Each step is synced before the next, so a power cut leaves one of these states, too.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from ..core.outputs import LinkMode
from ..errors import OutputError

try:
    import fcntl
except ImportError:  # Windows: runs to the same output at the same time are not told apart there.
    fcntl = None  # type: ignore[assignment]

State = Literal["new", "old", "due"]
_STATES: tuple[State, ...] = ("new", "old", "due")
# Answers of a file system that cannot sync a folder.
_CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)


class Stage:
    """A stage of one output, locked by this process."""

    def __init__(self, folder: Path, out: Path, descriptor: int) -> None:
        self._folder, self._out, self._descriptor = folder, out, descriptor
        self.state = next(state for state in _STATES if folder.name.startswith(_prefix(out, state)))

    @property
    def new(self) -> Path:
        """Folder of the new entries."""
        return self._folder / "new"

    @property
    def old(self) -> Path:
        """Folder of the entries that were put aside."""
        return self._folder / "old"

    @property
    def parent(self) -> Path:
        """Folder in which the entries appear."""
        return self._out.parent

    def enter(self, state: State) -> None:
        """Go into another state, and make that last."""
        folder = staged_name(self._out, state)
        self._folder.rename(folder)
        self._folder, self.state = folder, state
        sync_folder(self.parent)

    def publish(self, *, overwrite: bool, outdated: Iterable[str] = (), first: str = "") -> None:
        """Give all new entries their places. At a failure the older entries are in their places again.

        With `overwrite`, entries with the names `outdated` go, even if no new ones take their places. `first` is the
        entry that a loader opens, by default the first by name.

        Raises:
            OSError: as the system raises it; `FileExistsError` if a name is taken and `overwrite` is not given.
            OutputError: all is in its place, but the disk did not confirm it.
        """
        # Of a set of files, a loader opens the first: it goes first and comes last.
        names = sorted((entry.name for entry in self.new.iterdir()), key=lambda name: (name != first, name))
        self.old.mkdir()
        sync_tree(self._folder)
        taken = [name for name in dict.fromkeys((*names, *sorted(outdated))) if os.path.lexists(self.parent / name)]
        if taken and not overwrite:
            raise FileExistsError(errno.EEXIST, "exists already", str(self.parent / taken[0]))
        if len(names) == 1 and taken in ([], names) and not any((self.parent / name).is_dir() for name in taken):
            self._place_one(names[0], overwrite=overwrite)
            return
        try:
            self.enter("old")
            for name in taken:
                (self.parent / name).rename(self.old / name)
            self._sync(self.old)
            self.enter("due")
            for name in reversed(names):
                _appear(self.new / name, self.parent / name)
            self._sync(self.new)
        except BaseException:
            self._undo(names)
            raise
        # All is in its place, and a stage that still says "due" says nothing wrong.
        with contextlib.suppress(OSError):
            self.enter("new")

    def finish(self) -> None:
        """Bring the stage of a killed run to its end: the older entries are back, or the new ones are all there.

        Raises:
            OSError: as the system raises it; `FileExistsError` if something else took a place meanwhile.
        """
        if self.state == "due":
            for entry in sorted(self.new.iterdir(), reverse=True):
                _appear(entry, self.parent / entry.name)
            self._sync(self.new)
            self.enter("new")
        elif self.state == "old":
            self._put_back()
        self.clear()

    def clear(self) -> None:
        """Remove the stage, unless it holds what a later run must put in its place."""
        if self.state == "new":
            shutil.rmtree(self._folder, ignore_errors=True)

    def close(self) -> None:
        """Give up the lock."""
        if fcntl and self._descriptor >= 0:
            os.close(self._descriptor)

    def _place_one(self, name: str, *, overwrite: bool) -> None:
        """Publish the only entry by one rename, which needs no second step."""
        if overwrite and not (self.new / name).is_dir():
            (self.new / name).replace(self.parent / name)
        else:
            _appear(self.new / name, self.parent / name)
        try:
            sync_folder(self.parent)
        except OSError as error:
            raise OutputError(
                f"{self.parent / name}: is written, but the disk did not confirm it ({error.strerror}); a power cut "
                "may undo that"
            ) from None

    def _undo(self, names: Sequence[str]) -> None:
        """Take the new entries back and put the older ones back; what fails is left to the next run."""
        with contextlib.suppress(OSError):
            if self.state == "due":
                for name in names:
                    _withdraw(self.new / name, self.parent / name)
                self._sync(self.new)
                self.enter("old")
            if self.state == "old":
                self._put_back()

    def _put_back(self) -> None:
        for entry in sorted(self.old.iterdir(), reverse=True):
            _appear(entry, self.parent / entry.name)
        self._sync(self.old)
        self.enter("new")

    def _sync(self, folder: Path) -> None:
        """Make moves between `folder` and the place of the output last."""
        sync_folder(folder)
        sync_folder(self.parent)


@contextlib.contextmanager
def staging(out: Path) -> Iterator[Stage]:
    """A new stage for the output `out`; it is gone at the end, unless a failure left older entries in it."""
    while True:
        folder = staged_name(out, "new")
        folder.mkdir()
        stage = _lock(folder, out, wait=True)
        # Another run may clear the folder before it is locked; then start over.
        if stage is not None:
            break
    try:
        stage.new.mkdir()
        yield stage
    finally:
        stage.clear()
        stage.close()


def recover(out: Path) -> None:
    """Finish or undo what killed runs to `out` have begun, and remove their stages; a living run's stage stays.

    Raises:
        OutputError: the disk refuses, or something else took a place meanwhile.
    """
    for folder in staged(out):
        stage = None
        with contextlib.suppress(OSError):  # Of another user, for example.
            stage = _lock(folder, out)
        if stage is None:
            continue
        try:
            stage.finish()
        except FileExistsError as error:
            raise OutputError(
                f"{error.filename}: was put there after a run had been killed; move it away, or remove {folder}, "
                "which holds what that run has left"
            ) from None
        except OSError as error:
            raise OutputError(explain(error, out)) from None
        finally:
            stage.close()


def write_file(path: Path, content: bytes, *, overwrite: bool = True) -> None:
    """Write one file whole, in a folder that exists.

    Raises:
        OSError: as the system raises it; `FileExistsError` if it exists and `overwrite` is not given.
        OutputError: what a killed run has left cannot be cleared.
    """
    write_all(path, {path.name: content}, overwrite=overwrite)


def write_all(path: Path, files: Mapping[str, bytes], *, overwrite: bool = True, outdated: Iterable[str] = ()) -> None:
    """Write files together into the folder of `path`, which names the stage.

    A name may lead into a folder: that is then new as a whole. `outdated` is as for `Stage.publish`.

    Raises:
        OSError, OutputError: as `write_file`.
    """
    path = Path(os.path.abspath(path))  # noqa: PTH100 - Path.resolve() would follow links
    recover(path)
    with staging(path) as stage:
        for name, content in files.items():
            target = stage.new / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        stage.publish(overwrite=overwrite, outdated=outdated)


@contextlib.contextmanager
def parents(out: Path) -> Iterator[None]:
    """Make the folders above `out`; folders that were new are removed again if the run fails."""
    made = [parent for parent in out.parents if not parent.exists()]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        for folder in made:
            sync_folder(folder.parent)
        yield
    except BaseException:
        for parent in made:
            with contextlib.suppress(OSError):
                parent.rmdir()
        raise


def staged_name(out: Path, state: State) -> Path:
    """A fresh path for a stage of `out`."""
    return out.parent / f"{_prefix(out, state)}{secrets.token_hex(4)}"


def staged(out: Path, states: Sequence[State] = _STATES) -> list[Path]:
    """Stages of `out` in any of `states`."""
    prefixes = tuple(_prefix(out, state) for state in states)
    try:
        names = sorted(os.listdir(out.parent))  # noqa: PTH208 - Path.iterdir() fails later, while it is read
    except OSError:
        return []
    return [out.parent / name for name in names if name.startswith(prefixes)]


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last through a power cut, where the file system can.

    Raises:
        OSError: as the system raises it.
    """
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Make the files and names below a folder last through a power cut; links are not followed.

    Raises:
        OSError: as the system raises it.
    """
    for root, _, names in os.walk(folder, topdown=False):
        for name in names:
            path = Path(root, name)
            if not path.is_symlink():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        sync_folder(Path(root))


def explain(error: OSError, out: Path, link_mode: LinkMode | None = None) -> str:
    """Explain a failed write in one line; `link_mode` is the way in which weights were carried over, if any were."""
    kept = "the next run to it finishes or undoes the rest" if staged(out, ("old", "due")) else "nothing was kept"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = ", or try `link_mode` hardlink" if link_mode else ""
        return f"`out` {out}: the disk is full; {kept}. Free some space{hint}"
    if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
        return f"`out` {out}: something else was put there meanwhile; {kept}. Choose another name"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"`out` {out}: no permission ({error.strerror}: {error.filename}); {kept}"
    if link_mode and error.errno in (errno.EXDEV, errno.EOPNOTSUPP, errno.EMLINK):
        return f"`link_mode` {link_mode} does not work here ({error.strerror}); {kept}. Use `link_mode` copy"
    return f"`out` {out}: {error.strerror or error} ({error.filename}); {kept}"


def _prefix(out: Path, state: State) -> str:
    return f".{out.name}.emobake-{state}-"


def _lock(folder: Path, out: Path, *, wait: bool = False) -> Stage | None:
    """Lock a stage of `out`; None if it is gone or, without `wait`, in use.

    Raises:
        OSError: as the system raises it.
    """
    if fcntl is None:
        return Stage(folder, out, -1)
    descriptor = -1
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        if os.path.samestat(os.fstat(descriptor), folder.stat()):
            stage, descriptor = Stage(folder, out, descriptor), -1
            return stage
    except (BlockingIOError, FileNotFoundError):
        pass  # In use, or cleared by another run between two of these lines.
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    return None


def _appear(written: Path, target: Path) -> None:
    """Give an entry a name that is free. A file keeps its first name: two changes would not be one step.

    Raises:
        FileExistsError: something is there.
    """
    # Of a link, some systems would make a hard link to what it leads to.
    if not written.is_dir() and not written.is_symlink():
        try:
            target.hardlink_to(written)
            return
        except FileExistsError:
            if _is_same(written, target):
                return  # A killed run has done it.
            raise
        except OSError:
            pass  # A file system without hard links.
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, "exists already", str(target))
    written.rename(target)


def _withdraw(written: Path, target: Path) -> None:
    """Undo `_appear`."""
    if not os.path.lexists(written):
        target.rename(written)
    elif os.path.lexists(target) and _is_same(written, target):
        target.unlink()


def _is_same(one: Path, other: Path) -> bool:
    return os.path.samestat(one.lstat(), other.lstat())
