"""Every kind of output: the command line that makes it, and a place where an older and a new one are known."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from emobake import VectorSet
from emobake.vectors.write import write_set

from .checkpoints import tree, write_checkpoint, write_json, write_vectors
from .forked import Child, run_forked
from .running import run_silently


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
_BAKED = {"old": ("{in}/first.2", "--last"), "new": ("{in}/second.2", "--last")}
"""The last of two bakes is undone: what comes of it is an output, which may be replaced."""
KINDS: Mapping[str, Kind] = {
    "checkpoint": Kind((*_CHECKPOINT, "--link-mode", "copy"), between=_FOLDER),
    "checkpoint by links": Kind((*_CHECKPOINT, "--link-mode", "hardlink"), between=_FOLDER),
    "adapter": Kind((*_CHECKPOINT, "--format", "peft"), between=_FOLDER),
    "adapters": Kind((*_CHECKPOINT, "--format", "peft", "--each"), between=_FOLDER),
    "GGUF": Kind(("--model", "{in}/model.gguf", *_GGUF)),
    "GGUF and Modelfile": Kind(("--model", "{in}/silent.gguf", *_GGUF, "--modelfile"), between=()),
    "split GGUF": Kind(("--model", "{in}/split-00001-of-00005.gguf", *_GGUF, "--keep-split"), between=()),
    "GGUF that shares": Kind(("--model", "{in}/model.gguf", *_GGUF, "--share"), between=()),
    "base of a checkpoint": Kind(("unbake", "-q", "--out", "{out}/o"), between=_FOLDER, **_BAKED),
    "base of a GGUF file": Kind(
        ("unbake", "-q", "--out", "{out}/out.gguf"),
        old=("{in}/first.2.gguf", "--last"),
        new=("{in}/second.2.gguf", "--last"),
    ),
    "vectors, .safetensors": Kind(("vectors", "convert", "{out}/o.safetensors"), **_VECTORS),
    "vectors, .npz": Kind(("vectors", "convert", "{out}/o.npz"), **_VECTORS),
    "vectors, .gguf": Kind(
        ("vectors", "convert", "{out}/o.gguf", "--emotion", "joy"),
        old=("{in}/deep.safetensors",),
        new=("{in}/deep2.safetensors",),
    ),
    "vectors, folder": Kind(("vectors", "convert", "{out}/o"), between=_FOLDER, **_VECTORS),
    "picture": Kind(("vectors", "show", "--plot", "{out}/o.png"), overwrite=(), slow=True, **_VECTORS),
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
    gguf_files.write_model(folder / "silent.gguf", template="")  # A template would be rendered in every run.
    gguf_files.write_model(folder / "split.gguf", split=5)
    for model, vectors, end in (("base", "ev", ""), ("model.gguf", "wide", ".gguf")):
        for name, mix in (("first", "anger=1"), ("second", "joy=0.5")):
            one, two = folder / f"{name}{end}", folder / f"{name}.2{end}"
            given = ("--vectors", folder / vectors, "--mix", mix, "-q")
            run_silently(["--model", folder / model, *given, "--out", one])
            run_silently(["--model", one, *given, "--out", two])
    for name, seed in (("deep", 1), ("deep2", 2)):
        rows = np.random.default_rng(seed).standard_normal((1, 3, 8)).astype(np.float32)
        rows[:, 0] = 0  # A control vector has no row for layer 0.
        write_set(VectorSet(("joy",), rows, site="layer_output"), folder / f"{name}.safetensors")
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
            run_silently(self.words(which))
            self.trees[which] = tree(self.outs)
            assert self.trees[which], f"{self.kind.words}: nothing was written"
        assert self.trees["old"] != self.trees["new"]

    def words(self, which: str, *more: str) -> list[str]:
        """The command line of the ``old`` or the ``new`` output."""
        words = (*self.kind.words[:2], *getattr(self.kind, which), *self.kind.words[2:], *more)
        return [word.replace("{in}", str(self.inputs)).replace("{out}", str(self.outs)) for word in words]

    def reset(self, before: Mapping[str, bytes] | None) -> None:
        """Begin with the files `before`."""
        shutil.rmtree(self.outs, ignore_errors=True)
        self.outs.mkdir()
        for name, content in (before or {}).items():
            file = self.outs / name
            file.parent.mkdir(parents=True, exist_ok=True)
            if content.startswith(b"-> "):
                file.symlink_to(content[3:].decode())
            else:
                file.write_bytes(content)

    def run(
        self,
        which: str,
        *more: str,
        before: Callable[[], object] = lambda: None,
        after: Callable[[], object] = lambda: None,
    ) -> Child:
        """Make an output in a child."""
        return run_forked(self.words(which, *more), before=before, after=after).clean()

    def write(self, existing: bool, before: Callable[[], object], after: Callable[[], object] = lambda: None) -> Child:
        """Make the new output, over an older one if there is one."""
        return self.run("new", *(self.kind.overwrite if existing else ()), before=before, after=after)

    def state(self, *, hidden: bool = True) -> str:
        """``absent``, ``old``, ``new``, or what else is there; without `hidden`, dot names do not count."""
        found = {name: data for name, data in tree(self.outs).items() if hidden or not _is_hidden(name)}
        if hidden and any(_is_hidden(path.name) for path in self.outs.iterdir()):
            return str(sorted(path.name for path in self.outs.iterdir()))
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
            code = self.run("new").code
            state = self.state(hidden=False)
            refuses = code == 2 and state in ("old", "new")
            assert refuses or (self.kind.resumes and code == 0 and state == "new"), f"{where}: {code}, {state}"
        code = self.run("new", *self.kind.overwrite).code
        assert (code, self.state()) == (0, "new"), f"{where}: exit code {code}, {self.state()}"
        return state


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))
