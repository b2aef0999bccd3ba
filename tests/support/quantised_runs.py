"""Quantised checkpoints, baked and run in every stack: tiny models with random weights against the hook on their base.

transformers, vLLM and mlx-lm run the base, under a hook and without, and the baked one (`hooked_in_stack.py`).
llama.cpp takes no hook, and is held against transformers with one, on the weights that the quantised ones stand for.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from emobake.core.stacks import USUAL
from emobake.formats.checkpoint.quantisation.methods import METHODS as KNOWN

from . import matrix
from .matrix import PROMPTS, TIMES
from .paths import ENVS, TESTS
from .quantised import METHODS, SIZES, VARIANTS, write_quantised
from .quantised.layout import FLOATS, NAMES
from .tiny import LAYERS, write_vectors

FORMS: Mapping[str, tuple[str, Mapping[str, Any]]] = {**{name: (name, {}) for name in METHODS}, **VARIANTS}
"""Label -> method of `support.quantised`, and its options."""
FAMILIES: Mapping[str, tuple[str, ...]] = {"mxfp4": ("gpt_oss",)}
"""Families of a method, where they are not `USUAL_FAMILIES`."""
USUAL_FAMILIES = ("qwen2", "llama3.1")
WITHOUT_NUMBERS = frozenset({"ct-sparse", "aqlm", "vptq", "spqr", "exl2", "exl3", "marlin", "marlin-24"})
"""Methods whose tiny weights stand for nothing: no stack runs them."""
_INTEGERS = ("w4a16", "w4a16-act-order", "w4a16-channel", "w4a8", "w8a8", "w8a8-tensor", "ct-mixed")
FLOAT32 = {
    "transformers": frozenset({*_INTEGERS, "fp8-channel", "fp8-tensor"}),
    "vllm": frozenset(),
    "mlx": frozenset(METHODS) - {"mxfp4"},
}
"""Stack -> methods that it computes in float32, where a difference of rounding does not grow from layer to layer."""
ENVIRONMENTS = {"transformers": "quantised"}
"""Stack -> environment of `scripts/envs`, where it is another name."""
ROUNDING = 2.0
"""Bound of methods that emobake does not know."""
_BAKE = """
import json, sys
from pathlib import Path
import emobake
model, vectors, times, out = sys.argv[1:]
def bake(out):
    return emobake.bake(model, vectors, json.loads(times), emobake.Folder(out, link_mode="hardlink"))
def read():
    return int(Path("/proc/self/io").read_text().split()[1])
bake(out + "-first")  # imports what it needs
before = read()
plan = bake(out).plan
print(json.dumps({"read": read() - before, "said": {name: each.status for name, each in plan.stacks.items()}}))
"""


NOTED = {
    *((form, "qwen2", "llama.cpp") for form in ("nvfp4", "modelopt-nvfp4", "modelopt-mixed")),
    *((form, "llama3.1", "vllm") for form in ("ct-fp8-block", "fp8-block", "modelopt-fp8-block")),
}
"""Form, family and stack where the base or the baked model does not run, as the note of the method tells."""


@dataclass(frozen=True)
class Pair:
    """A quantised base and its baked form."""

    form: str
    """One of `FORMS`."""
    family: str
    base: Path
    baked: Path
    rows: Path
    """File of float32 ``[layers, hidden]``: what was baked."""
    plain: Path | None = None
    """The float32 checkpoint that the base stands for."""
    readable: Path | None = None
    """The base with its weights in model.safetensors, if they are not: stacks find no others."""
    read: int = 0
    """Bytes that the bake read."""
    size: int = 0
    """Bytes of the base's weight files."""
    said: Mapping[str, str] = field(default_factory=dict)
    """Stack -> status, as the bake says it."""
    error: str = ""
    """Why it was not baked."""

    @property
    def method(self) -> str:
        """Name of the method, as emobake has it."""
        return FORMS[self.form][0]


@dataclass(frozen=True)
class Cell:
    """A form in a stack."""

    form: str
    family: str
    stack: str
    found: str
    """``steered``, ``unsteered``, ``wrong``, ``refuses``; ``no base``: the stack does not run the base either;
    ``not baked``. ``wrong`` is also a base of which the stack leaves tensors out."""
    said: str = ""
    """Status by the table of methods; empty if emobake does not know the method."""
    is_run: bool = False
    """True if that table says that it was run."""
    planned: str = ""
    """Status by the bake."""
    layer: float | None = None
    """Largest difference of an output projection from the hook, in roundings of its dtype; None in llama.cpp."""
    end: float | None = None
    """Largest difference of a log-probability from the hook."""
    effect: float | None = None
    """The same of the unsteered base from the hook."""
    read: int = 0
    size: int = 0
    error: str = ""

    @property
    def agrees(self) -> bool:
        """True if the run shows what the table says, and the bake says the same."""
        if not self.said:
            return self.found not in ("unsteered", "wrong")
        if self.found == "not baked":  # A bake that no stack would load steered is refused.
            return self.said not in ("steered", "option")
        if self.planned != self.said:
            return False
        noted = (self.form, self.family, self.stack) in NOTED
        if self.found == "refuses" and noted:
            return True
        if self.found == "no base":  # Forms of a method have conditions of their own, which its notes tell.
            # A package that the environment leaves out, because of what it brings along.
            is_missing = "pip install" in self.error
            return self.said == "refuses" or not self.is_run or self.form in VARIANTS or noted or is_missing
        if self.said in ("option", "unsteered"):
            return self.found in ("unsteered", "refuses")
        return self.found == self.said


def _write_rows(folder: Path, vectors: Path) -> None:
    """The vectors, and what they sum to, rounded to the dtypes that a bias may have."""
    of_emotions = write_vectors(vectors, LAYERS, SIZES["hidden_size"], scale=1.0)
    sums = sum(np.float32(weight) * row for weight, row in zip(TIMES, of_emotions, strict=True))
    for name, dtype in FLOATS.items():
        np.save(folder / f"rows-{NAMES[name]}.npy", np.asarray(sums).astype(dtype).astype(np.float32))


def _bias_dtype(folder: Path) -> str:
    """The dtype of the bias of the first output projection."""
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "numpy") as opened:
            for name in opened.keys():  # noqa: SIM118
                if name.endswith("layers.0.self_attn.o_proj.bias"):
                    return str(opened.get_slice(name).get_dtype())
    raise ValueError(f"{folder}: no bias of an output projection")


def make(form: str, family: str, space: Path) -> Pair:
    """Write a base of `form` into `space`, and bake it in a process of its own."""
    method, options = FORMS[form]
    name = f"{form.replace(' ', '-')}-{family}"
    base, baked, vectors = space / name, space / f"{name}-baked", space / "ev"
    plain = None if method in WITHOUT_NUMBERS else space / f"{name}-plain"
    if not vectors.exists():
        _write_rows(space, vectors)
    write_quantised(base, method, family, plain=plain, options=options)
    size = sum(file.stat().st_size for file in base.glob("*.safetensors"))
    done = subprocess.run(
        [sys.executable, "-c", _BAKE, base, vectors, json.dumps(TIMES), baked],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if done.returncode:
        return Pair(form, family, base, baked, space, plain, size=size, error=_last_line(done.stderr))
    answer = json.loads(done.stdout)
    rows = space / f"rows-{_bias_dtype(baked)}.npy"
    readable = None
    usual = {name: value for name, value in options.items() if name not in ("file", "config_file")}
    if usual != options:
        readable = write_quantised(space / f"{name}-usual", method, family, options=usual)
    return Pair(form, family, base, baked, rows, plain, readable, answer["read"], size, answer["said"])


def cells(pairs: Sequence[Pair], stacks: Iterable[str], space: Path) -> Iterator[Cell]:
    """Run all pairs in `stacks`."""
    baked = [pair for pair in pairs if not pair.error]
    for stack in stacks:
        run = _in_llama_cpp if stack == "llama.cpp" else _beside_hooks
        found = run(stack, baked, space) if baked else {}
        for pair in pairs:
            answer = {"not baked": pair.error} if pair.error else found[pair.baked]
            yield _cell(pair, stack, answer)


def _cell(pair: Pair, stack: str, answer: Mapping[str, Any]) -> Cell:
    known = KNOWN.get(pair.method)
    support = None if known is None else known.stacks[stack]
    common: dict[str, Any] = {
        "form": pair.form,
        "family": pair.family,
        "stack": stack,
        "said": "" if support is None else support.status,
        "is_run": support is not None and support.run,
        "planned": pair.said.get(stack, ""),
        "read": pair.read,
        "size": pair.size,
    }
    for kind in ("not baked", "no base", "refuses", "wrong"):
        if kind in answer:
            return Cell(**common, found=kind, error=answer[kind])
    numbers = {name: answer[name] for name in ("layer", "end", "effect")}
    return Cell(**common, **numbers, found=verdict(answer, ROUNDING if known is None else known.rounding))


def verdict(answer: Mapping[str, Any], rounding: float) -> str:
    """``steered`` if each projection is within the rounding, and the end nearer to the hook than to the base.

    Where no projection was looked at, four times as near.
    """
    is_equal = answer["layer"] is None or answer["layer"] <= min(rounding, answer["dropped"] / 2)
    share = 4 if answer["layer"] is None else 1
    if is_equal and answer["end"] <= max(answer["bound"], answer["unsteered"] / share):
        return "steered"
    return "unsteered" if answer["unsteered"] <= max(answer["bound"], answer["effect"] / 2) else "wrong"


def _beside_hooks(stack: str, pairs: Sequence[Pair], space: Path) -> dict[Path, Mapping[str, Any]]:
    request, response = space / "request.json", space / "response.json"
    listed = [
        {
            "base": str(pair.readable or pair.base),
            "baked": str(pair.baked),
            "rows": str(pair.rows),
            "dtype": "float32" if pair.method in FLOAT32[stack] else "auto",
        }
        for pair in pairs
    ]
    request.write_text(json.dumps({"stack": stack, "pairs": listed, "prompts": PROMPTS}))
    response.unlink(missing_ok=True)
    python = interpreter(stack)
    done = subprocess.run(
        [python, TESTS / "support" / "hooked_in_stack.py", request, response],
        capture_output=True,
        text=True,
        check=False,
        timeout=3600,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    answers = json.loads(response.read_text()) if response.exists() else {}
    failed = {"no base": _last_line(done.stderr)}
    return {pair.baked: {"bound": 0.0, **answers.get(str(pair.baked), failed)} for pair in pairs}


def _in_llama_cpp(_stack: str, pairs: Sequence[Pair], space: Path) -> dict[Path, Mapping[str, Any]]:
    tables = matrix.run(
        "llama.cpp", [folder for pair in pairs for folder in (pair.readable or pair.base, pair.baked)], space, {}
    )
    found: dict[Path, Mapping[str, Any]] = {}
    for pair in pairs:
        own, got = tables[pair.readable or pair.base], tables[pair.baked]
        if isinstance(own, str) or pair.plain is None:
            found[pair.baked] = {"no base": own if isinstance(own, str) else "its weights are noise"}
        elif isinstance(got, str):
            found[pair.baked] = {"refuses": got}
        else:
            hooked, plain = matrix.reference(pair.plain, pair.family, dict(enumerate(np.load(pair.rows))))
            found[pair.baked] = _beside_floats(own, got, hooked, plain)
    return found


def _beside_floats(own: np.ndarray, got: np.ndarray, hooked: np.ndarray, plain: np.ndarray) -> Mapping[str, Any]:
    """Distances of the stack's base, `own`, and of the baked form, `got`, from transformers' two tables."""
    bound, effect = (float(np.abs(each.astype(np.float64) - plain).max()) for each in (own, hooked))
    if not bound <= effect / 4:  # Nor is it a number where the stack's own is none.
        return {"no base": "its own base is another function"}
    got = got.astype(np.float64)
    ends = {"end": float(np.abs(got - hooked).max()), "unsteered": float(np.abs(got - plain).max())}
    return {"layer": None, "effect": effect, "bound": bound, **ends}


def interpreter(stack: str) -> Path:
    """The python of the environment that has a stack."""
    return ENVS / ENVIRONMENTS.get(stack, stack) / "bin" / "python"


def known_stacks() -> tuple[str, ...]:
    """The stacks that are installed."""
    return tuple(stack for stack in USUAL if interpreter(stack).exists())


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no word"])[-1][:300]
