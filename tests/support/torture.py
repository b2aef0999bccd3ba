"""Kills, faults and power cuts at every change to the file system, for every kind of output.

A run is a forked child of a process that has emobake loaded already, so that thousands take minutes. Each run writes a
new output over an older one, or where there is none. After it, the rule is checked: the older output or the new one is
there, whole, once the next run has been asked for anything at all.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import pickle
import random
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emobake.cli.app import main

from .checkpoints import tree, write_checkpoint, write_json, write_vectors

_CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.truncate")
_FAULTS = {"no space": errno.ENOSPC, "I/O error": errno.EIO}


@dataclass(frozen=True)
class Kind:
    """A kind of output, as the command line that makes it from the files of `prepare`."""

    words: tuple[str, ...]
    """Arguments; ``{out}`` is the folder of outputs, ``{in}`` that of inputs."""
    old: tuple[str, ...] = ("--mix", "anger=1")
    new: tuple[str, ...] = ("--mix", "joy=0.5,fear=0.25")
    overwrite: tuple[str, ...] = ("--overwrite",)
    """Nothing for an output that is always replaced."""
    between: tuple[str, ...] = ("old", "new")
    """States in which a killed run may leave an older output, before the next run; empty: any part of them."""
    resumes: bool = False
    """A run without --overwrite ends what a killed one with it has begun."""
    slow: bool = False
    """Takes seconds for each run: left to `scripts/torture`."""


_FOLDER = ("old", "new", "absent")
_GGUF = ("--vectors", "{in}/wide", "-q", "--out", "{out}/out.gguf")
_CHECKPOINT = ("--model", "{in}/base", "--vectors", "{in}/ev", "-q", "--out", "{out}/o")
_VECTORS = {"old": ("{in}/ev",), "new": ("{in}/ev2",)}
KINDS: Mapping[str, Kind] = {
    "checkpoint": Kind((*_CHECKPOINT, "--link-mode", "copy"), between=_FOLDER),
    "checkpoint by links": Kind((*_CHECKPOINT, "--link-mode", "hardlink"), between=_FOLDER),
    "adapter": Kind((*_CHECKPOINT, "--format", "peft"), between=_FOLDER),
    "adapters": Kind((*_CHECKPOINT, "--format", "peft", "--each"), between=_FOLDER),
    "GGUF": Kind(("--model", "{in}/model.gguf", *_GGUF)),
    "GGUF and Modelfile": Kind(("--model", "{in}/model.gguf", *_GGUF, "--modelfile"), between=()),
    "split GGUF": Kind(("--model", "{in}/split-00001-of-00005.gguf", *_GGUF, "--keep-split"), between=()),
    "vectors, .safetensors": Kind(("vectors", "convert", "{out}/o.safetensors"), **_VECTORS),
    "vectors, .npz": Kind(("vectors", "convert", "{out}/o.npz"), **_VECTORS),
    "vectors, folder": Kind(("vectors", "convert", "{out}/o"), between=_FOLDER, **_VECTORS),
    "report": Kind(
        ("eval", "-q", "--scorer", "lexicon", "--queries", "{in}/queries.json", "--out", "{out}/report"),
        old=("--answers", "{in}/answers"),
        new=("--answers", "{in}/answers2"),
        between=(),
        resumes=True,
        slow=True,
    ),
}


def prepare(folder: Path) -> None:
    """Make the inputs of all kinds in `folder`."""
    from . import gguf_files

    write_checkpoint(folder / "base", shards=2)
    write_vectors(folder / "ev")
    write_vectors(folder / "ev2", seed="2")
    write_vectors(folder / "wide", layers=gguf_files.LAYERS, hidden=gguf_files.HIDDEN)
    gguf_files.write_model(folder / "model.gguf")
    gguf_files.write_model(folder / "split.gguf", split=5)
    write_json(folder / "queries.json", ["How are you?", "What is new?"])
    for name, answer in (("answers", "I am so happy and glad."), ("answers2", "I am furious and angry.")):
        for strength in ("0", "1"):
            file = folder / name / "results" / "emotion" / "m" / strength / "joy.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, [answer, "It rains."])


@dataclass
class Place:
    """A folder of outputs of one kind, and what whole outputs look like."""

    kind: Kind
    inputs: Path
    outs: Path
    trees: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make the older and the new output once, in this process: children then begin with all modules loaded."""
        for which in ("old", "new"):
            self.reset(None)
            with contextlib.suppress(SystemExit):
                self.main(which)
            self.trees[which] = tree(self.outs)
            assert self.trees[which], f"{self.kind.words}: nothing was written"
        assert self.trees["old"] != self.trees["new"]

    def main(self, which: str, *more: str) -> None:
        words = (*self.kind.words[:2], *getattr(self.kind, which), *self.kind.words[2:], *more)
        main([word.replace("{in}", str(self.inputs)).replace("{out}", str(self.outs)) for word in words])

    def reset(self, before: Mapping[str, bytes] | None) -> None:
        """Begin with the files `before`."""
        shutil.rmtree(self.outs, ignore_errors=True)
        self.outs.mkdir()
        for name, content in (before or {}).items():
            file = self.outs / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)

    def run(
        self,
        which: str,
        *more: str,
        before: Callable[[], object] = lambda: None,
        after: Callable[[], object] = lambda: None,
    ) -> int:
        """Make an output in a child; its exit code, or minus the signal that ended it."""
        pid = os.fork()
        if pid == 0:
            code = 99
            try:
                silent = os.open(os.devnull, os.O_WRONLY)
                os.dup2(silent, 1)
                os.dup2(silent, 2)
                before()
                self.main(which, *more)
            except SystemExit as stop:
                code = int(stop.code or 0)
            finally:
                after()
                os._exit(code)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def write(self, existing: bool, before: Callable[[], object], after: Callable[[], object] = lambda: None) -> int:
        """Make the new output, over an older one if there is one."""
        return self.run("new", *(self.kind.overwrite if existing else ()), before=before, after=after)

    def state(self, *, hidden: bool = True) -> str:
        """``absent``, ``old``, ``new``, or what else is there; without `hidden`, dot names do not count."""
        found = {name: data for name, data in tree(self.outs).items() if hidden or not _is_hidden(name)}
        if not found:
            return "absent"
        return next((name for name, files in self.trees.items() if files == found), str(sorted(found)))

    def check(self, existing: bool, where: str) -> str:
        """Check the rule; the state that the next run finds or makes."""
        state = self.state(hidden=False)
        allowed = self.kind.between if existing else ("absent", "new")
        assert state in allowed or not self.kind.between, f"{where}: {state}"
        if existing and self.kind.overwrite:
            # Not told to replace anything, the next run puts in order what it finds, and refuses.
            code = self.run("new")
            state = self.state(hidden=False)
            refuses = code == 2 and state in ("old", "new")
            assert refuses or (self.kind.resumes and code == 0 and state == "new"), f"{where}: {code}, {state}"
        code = self.run("new", *self.kind.overwrite)
        assert (code, self.state()) == (0, "new"), f"{where}: exit code {code}, {self.state()}"
        return state


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


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
    assert place.write(existing, install) == 0
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
        assert place.write(existing, at(n, kill)) == -signal.SIGKILL
        seen[place.check(existing, f"killed at change {n}")] += 1
    return seen


def faults(place: Place, existing: bool, limit: int | None = None) -> Counter[str]:
    """Let each change fail, alone and with all later ones."""
    seen: Counter[str] = Counter()
    for name, number in _FAULTS.items():
        for n in _moments(place, existing, limit):
            code = place.write(existing, at(n, fail(number)))
            where, state = f"{name} at change {n}, exit code {code}", place.state(hidden=False)
            # The older output, or none, is back at once; or the new one is there, and only its last sync failed.
            allowed = {"new"} if code == 0 else {"new", "old" if existing else "absent"}
            assert code in (0, 1) and state in allowed, f"{where}: {state}"
            seen[place.check(existing, where)] += 1
        for n in _moments(place, existing, limit):
            code = place.write(existing, fail_for_good(n, number))
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
        self._numbers = itertools.count()
        self.top = self._scan(root)
        self.live: dict[int, dict[str, int]] = {}
        """Names in the folders, as the run sees them."""
        self.before = {inode: dict(names) for inode, names in self.folders.items()}

    @property
    def results(self) -> tuple[Any, ...]:
        """What the child must tell its parent."""
        return self.steps, self.folders, self.contents

    @results.setter
    def results(self, told: tuple[Any, ...]) -> None:
        self.steps, self.folders, self.contents = told

    def _scan(self, path: Path) -> int:
        inode = next(self._numbers)
        if path.is_dir() and not path.is_symlink():
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

    def _made(self, path: Path, *, is_folder: bool) -> None:
        place = self.find(path)
        if place is None or path == self.root or place[1] in self.live[place[0]]:
            return
        inode = next(self._numbers)
        if is_folder:
            self.folders[inode], self.live[inode] = {}, {}
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
    assert place.write(existing, recorder.start, lambda: told.write_bytes(pickle.dumps(recorder.results))) == 0
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


TORTURES: Mapping[str, Callable[..., Counter[str]]] = {"kills": kills, "faults": faults, "power cuts": power_cuts}
