"""Kills, faults, power cuts and full disks at every change to the file system, for every kind of output.

After each run that was stopped, the rule is checked: the older output or the new one is there, whole, once the next run
has been asked for anything at all.
"""

from __future__ import annotations

import errno
import itertools
import os
import pickle
import random
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .disks import LIMITS, Disk
from .kinds import Place

_CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.truncate")
_FAULTS = {"no space": errno.ENOSPC, "I/O error": errno.EIO}


# --- changes to the file system -------------------------------------------------------------------------------


def watch(told: Callable[[str, tuple[Any, ...]], None]) -> None:
    """Call `told` right before each change of this process to the file system, and before each sync."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        opens = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if event in _CHANGES or (opens and not str(arguments[0]).startswith("/dev/")):
            told(event, arguments)

    sync, copy = os.fsync, os.copy_file_range

    def fsync(descriptor: int) -> None:
        told("fsync", (descriptor,))
        sync(descriptor)

    def copy_file_range(*arguments: Any, **options: Any) -> int:
        told("copy", arguments)
        return copy(*arguments, **options)

    os.fsync, os.copy_file_range = fsync, copy_file_range
    sys.addaudithook(hook)


def at(n: int, act: Callable[[], None]) -> Callable[[], None]:
    """For a child: `act` right before its n-th change, counted from 0."""

    def install() -> None:
        count = itertools.count()
        watch(lambda event, arguments: act() if next(count) == n else None)

    return install


def kill() -> None:
    """End this process, as a power cut or the kernel's out-of-memory killer would."""
    os.kill(os.getpid(), signal.SIGKILL)


def fail(number: int) -> Callable[[], None]:
    """Let the change fail with a system error."""

    def act() -> None:
        raise OSError(number, os.strerror(number))

    return act


def fail_for_good(n: int, number: int) -> Callable[[], None]:
    """For a child: its n-th change and all later ones fail, those that would clean up as well."""

    def install() -> None:
        count = itertools.count()

        def told(event: str, arguments: tuple[Any, ...]) -> None:
            if next(count) >= n:
                raise OSError(number, os.strerror(number))

        watch(told)

    return install


def changes(place: Place, existing: bool) -> int:
    """Number of changes of a whole run."""
    reader, writer = os.pipe()

    def install() -> None:
        watch(lambda event, arguments: os.write(writer, b"."))

    place.reset(place.trees["old"] if existing else None)
    assert place.write(existing, install).code == 0
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        return len(stream.read())


def _spread(total: int, limit: int | None) -> list[int]:
    """Moments before each of `total` changes, or `limit` of them at equal distances, with the first and the last."""
    if limit is None or limit >= total:
        return list(range(total))
    return sorted({round(i * (total - 1) / max(1, limit - 1)) for i in range(limit)})


def _moments(place: Place, existing: bool, limit: int | None) -> Iterator[int]:
    for n in _spread(changes(place, existing), limit):
        place.reset(place.trees["old"] if existing else None)
        yield n


def kills(place: Place, existing: bool, limit: int | None = None) -> Counter[str]:
    """Kill a run right before each change."""
    seen: Counter[str] = Counter()
    for n in _moments(place, existing, limit):
        assert place.write(existing, at(n, kill)).code == -signal.SIGKILL
        seen[place.check(existing, f"killed at change {n}")] += 1
    return seen


def faults(place: Place, existing: bool, limit: int | None = None) -> Counter[str]:
    """Let each change fail, alone and with all later ones."""
    seen: Counter[str] = Counter()
    for name, number in _FAULTS.items():
        for n in _moments(place, existing, limit):
            code = place.write(existing, at(n, fail(number))).code
            where, state = f"{name} at change {n}, exit code {code}", place.state(hidden=False)
            # The older output, or none, is back at once; or the new one is there, and only its last sync failed.
            allowed = {"new"} if code == 0 else {"new", "old" if existing else "absent"}
            assert code in (0, 1) and state in allowed, f"{where}: {state}"
            seen[place.check(existing, where)] += 1
        for n in _moments(place, existing, limit):
            code = place.write(existing, fail_for_good(n, number)).code
            seen[place.check(existing, f"{name} from change {n} on, exit code {code}")] += 1
    return seen


# --- power cuts -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """One change to names: an entry of a folder is taken away, put in, or both (a rename). Folders are numbers."""

    removed: tuple[int, str] | None
    added: tuple[int, str] | None
    inode: int


@dataclass(frozen=True)
class Sync:
    """A sync of a folder's names, or of a file, which had this content."""

    inode: int
    content: bytes | None


class Recorder:
    """The changes and syncs of a run below a folder, in their order.

    Inodes are numbers of its own, because the file system uses its numbers again.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.steps = root, list[Change | Sync]()
        self.folders: dict[int, dict[str, int]] = {}
        self.contents: dict[int, bytes] = {}
        """Content of files that were there before the run."""
        self.links: dict[int, str] = {}
        """Text of the symbolic links."""
        self._numbers = itertools.count()
        self.top = self._scan(root)
        self.live: dict[int, dict[str, int]] = {}
        """Names in the folders, as the run sees them."""
        self.before = {inode: dict(names) for inode, names in self.folders.items()}

    @property
    def results(self) -> tuple[Any, ...]:
        """What the child must tell its parent."""
        return self.steps, self.folders, self.contents, self.links

    @results.setter
    def results(self, told: tuple[Any, ...]) -> None:
        self.steps, self.folders, self.contents, self.links = told

    def _scan(self, path: Path) -> int:
        inode = next(self._numbers)
        if path.is_symlink():
            self.links[inode] = str(path.readlink())
        elif path.is_dir():
            self.folders[inode] = {}
            for entry in sorted(path.iterdir()):
                self.folders[inode][entry.name] = self._scan(entry)
        else:
            self.contents[inode] = path.read_bytes()
        return inode

    def find(self, path: Path) -> tuple[int, str] | None:
        """Folder and name of a path below the root, as the run left it so far; None if there is no such folder."""
        try:
            parts = path.relative_to(self.root).parts
        except ValueError:
            return None
        inode = self.top
        for part in parts[:-1]:
            if part not in self.live[inode]:
                return None  # It will fail.
            inode = self.live[inode][part]
        return inode, parts[-1] if parts else ""

    def start(self) -> None:
        """Begin to listen, in the child."""
        self.live = {inode: dict(names) for inode, names in self.folders.items()}
        watch(self._told)

    def _told(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "os.symlink":
            self._made(self._path(arguments[1], arguments[2]), link=os.fsdecode(arguments[0]))
            return
        path = self._path(arguments[0], arguments[-1] if event in ("os.remove", "os.rmdir", "os.mkdir") else -1)
        if event == "fsync":
            self._synced(path)
        elif event in ("os.rename", "os.link"):
            source, target = self._path(arguments[0], arguments[2]), self._path(arguments[1], arguments[3])
            self._moved(source, target, keep=event == "os.link")
        elif event in ("os.remove", "os.rmdir"):
            if (place := self.find(path)) is not None and place[1] in self.live[place[0]]:
                self._apply(Change(place, None, self.live[place[0]][place[1]]))
        elif event in ("os.mkdir", "open"):
            self._made(path, is_folder=event == "os.mkdir")

    @staticmethod
    def _path(name: Any, folder: Any = -1) -> Path:
        if isinstance(name, int):
            return Path(f"/proc/self/fd/{name}").readlink()
        beside = Path(f"/proc/self/fd/{folder}").readlink() if isinstance(folder, int) and folder >= 0 else Path.cwd()
        return beside / os.fsdecode(name)

    def _moved(self, source: Path, target: Path, *, keep: bool) -> None:
        there = self.find(target)
        if there is None:
            return
        place = self.find(source)
        if place is None:
            # A link to a file elsewhere, which is there whatever happens.
            inode = next(self._numbers)
            self.contents[inode] = source.read_bytes()
        else:
            inode = self.live[place[0]][place[1]]
        if keep and there[1] in self.live[there[0]]:
            return  # It will fail.
        self._apply(Change(None if keep else place, there, inode))

    def _made(self, path: Path, *, is_folder: bool = False, link: str = "") -> None:
        place = self.find(path)
        if place is None or path == self.root or place[1] in self.live[place[0]]:
            return
        inode = next(self._numbers)
        if is_folder:
            self.folders[inode], self.live[inode] = {}, {}
        if link:
            self.links[inode] = link
        self._apply(Change(None, place, inode))

    def _synced(self, path: Path) -> None:
        place = self.find(path)
        if place is None:
            return
        inode = self.top if path == self.root else self.live[place[0]].get(place[1], -1)
        self.steps.append(Sync(inode, None if path.is_dir() else path.read_bytes()))

    def _apply(self, change: Change) -> None:
        apply(self.live, change)
        self.steps.append(change)


def apply(folders: dict[int, dict[str, int]], change: Change) -> None:
    """Carry out a change of names; one that cannot be carried out, because an earlier one was lost, is lost, too."""
    if change.added is not None and change.added[0] not in folders:
        return
    if change.removed is not None:
        folder, name = change.removed
        if folders.get(folder, {}).get(name) != change.inode:
            return
        del folders[folder][name]
    if change.added is not None:
        folder, name = change.added
        folders[folder][name] = change.inode


def cut(recorder: Recorder, moment: int, keeps: Callable[[Change], bool], place: Path) -> None:
    """Put into the empty folder `place` what is found when the power fails before step `moment`.

    A change of names lasts once one of its folders is synced; an unsynced one lasts if `keeps` says so. A file has the
    content of its last sync, and is empty without one.
    """
    steps = recorder.steps[:moment]
    folders = {inode: dict(recorder.before.get(inode, {})) for inode in recorder.folders}
    contents = dict(recorder.contents)
    for i, step in enumerate(steps):
        if isinstance(step, Sync):
            if step.content is not None:
                contents[step.inode] = step.content
            continue
        touched = {place[0] for place in (step.removed, step.added) if place is not None}
        lasts = any(isinstance(later, Sync) and later.inode in touched for later in steps[i + 1 :])
        if lasts or keeps(step):
            apply(folders, step)
    written: dict[int, Path] = {}

    def write(inode: int, folder: Path) -> None:
        for name, entry in folders[inode].items():
            path = folder / name
            if entry in folders:
                path.mkdir()
                write(entry, path)
            elif entry in recorder.links:
                path.symlink_to(recorder.links[entry])
            elif entry in written:
                path.hardlink_to(written[entry])
            else:
                path.write_bytes(contents.get(entry, b""))
                written[entry] = path

    write(recorder.top, place)


def power_cuts(place: Place, existing: bool, limit: int | None = None, draws: int = 2) -> Counter[str]:
    """Cut the power before each step: all unsynced changes last, none, or some of them by chance."""
    place.reset(place.trees["old"] if existing else None)
    recorder = Recorder(place.outs)
    told = place.outs.parent / "steps"
    keep = lambda: told.write_bytes(pickle.dumps(recorder.results))  # noqa: E731
    assert place.write(existing, recorder.start, keep).code == 0
    recorder.results = pickle.loads(told.read_bytes())
    rng = random.Random(20250204)
    seen: Counter[str] = Counter()
    for moment in _spread(len(recorder.steps) + 1, limit):
        for draw in range(2 + draws):
            place.reset(None)
            share = (1, 0, 0.5)[min(draw, 2)]
            cut(recorder, moment, lambda change, share=share: rng.random() < share, place.outs)
            seen[place.check(existing, f"cut before step {moment} of {len(recorder.steps)}, draw {draw}")] += 1
    return seen


# --- full disks -----------------------------------------------------------------------------------------------


def full_disks(place: Place, existing: bool, limit: int | None = None) -> Counter[str]:
    """Leave each number of pages, and of files, that is too small: on the real disk that `Place.outs` lies on."""
    seen: Counter[str] = Counter()
    disk = Disk(place.outs.parent)

    def run(which: str, n: int) -> int:
        place.reset(place.trees["old"] if existing else None)
        disk.leave(which, n)
        ran = place.write(existing, lambda: None)
        # A report keeps the answers that are scored, in a hidden folder, for the run that ends it.
        where, state = f"{n} left by {which}", place.state(hidden=not place.kind.resumes)
        if ran.code == 0:
            assert state == "new", f"{where}: {state}"
        else:
            said = ran.err.splitlines()
            assert ran.code == 1 and said[1:] == [] and ("disk is full" in said[0] or "No space" in said[0]), ran.err
            assert state == ("old" if existing else "absent"), f"{where}: {state}"
        disk.free()
        return ran.code

    for which in LIMITS:
        least, enough = 0, disk.room(which)
        while least < enough:
            middle = (least + enough) // 2
            if run(which, middle):
                least = middle + 1
            else:
                enough = middle
        assert enough, f"no {which} is needed"
        for n in _spread(enough, limit):
            assert run(which, n) != 0, f"{n} left by {which} is enough, {n + 1} was not"
            seen[place.check(existing, f"after {n} left by {which}")] += 1
    return seen


TORTURES: Mapping[str, Callable[..., Counter[str]]] = {
    "kills": kills,
    "faults": faults,
    "power cuts": power_cuts,
    "full disks": full_disks,
}
