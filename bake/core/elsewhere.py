"""Treatment of a result by the stacks that the families' tables have no column for.

What such a stack does follows from two things: which biases of the result act (`Biases`), and which ones the stack adds
in models of its type (`emobake.core.stacks.Reading`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from .stacks import STACKS, Loaded, Reading, Support, worse

LETTERS = {
    "q": "q_proj",
    "k": "k_proj",
    "v": "v_proj",
    "o": "o_proj",
    "g": "gate_proj",
    "u": "up_proj",
    "d": "down_proj",
}
"""Letter of a projection in ``stacks.toml`` -> its module; classes that fuse or rename them have the same letters."""


@dataclass(frozen=True)
class Biases:
    """The biases of a result, as letters of `LETTERS`."""

    steering: str
    """The biases that steer it."""
    own: str = ""
    """Biases of the base that the result's class must add as well, where the base's class always had them."""
    zero: str = ""
    """Biases of zeros, which must only load."""
    is_recast: bool = False
    """True if the base is of another class, so that the very model was not run."""
    is_reshaped: bool = False
    """True if attention has another shape than in any model of the class, so that nothing is known of other stacks."""


def letters_of(modules: Iterable[str]) -> str:
    """Letters of the modules, or of their templates, that have one."""
    names = {module.rpartition(".")[2] for module in modules}
    return "".join(letter for letter, name in LETTERS.items() if name in names)


def elsewhere(
    form: Loaded, model_type: str, biases: Biases, usual: Mapping[str, Support], *, is_quantised: bool = False
) -> dict[str, Support]:
    """Treatment of a result by each stack that loads its `form` and is not `usual`.

    Args:
        form: that of the result.
        model_type: that of the result; of a GGUF file the architecture.
        biases: those of the result.
        usual: treatment by the usual stacks.
        is_quantised: True if the checkpoint's weights are.
    """
    found = {}
    for name, stack in STACKS.items():
        if form in stack.readings:
            found[name] = _treatment(stack.readings[form], form, model_type, biases, usual, is_quantised)
        elif stack.readings:
            found[name] = Support("refuses", note="it loads GGUF files" if form == "checkpoint" else "it loads folders")
    return found


def _treatment(
    reading: Reading,
    form: Loaded,
    model_type: str,
    biases: Biases,
    usual: Mapping[str, Support],
    is_quantised: bool,
) -> Support:
    letters = reading.letters(model_type)
    run = model_type in reading.ran and not (is_quantised or biases.is_recast or biases.is_reshaped)
    if letters is None:
        # GGUF files name architectures, of which none was looked for in particular.
        return Support("refuses" if form == "checkpoint" and model_type in reading.examined else "unknown")
    first = usual[reading.like or reading.through] if reading.like or reading.through else Support("steered")
    if reading.like:
        own = Support("steered")
    elif biases.is_reshaped or is_quantised:
        own = Support("unknown")
    else:
        own = _added(set(letters), biases, is_strict=reading.is_strict(model_type))
    found = worse(first, own)
    steers = found.status in ("steered", "option")
    return replace(found, run=run, note="; ".join(filter(None, (found.note, reading.note if steers else ""))))


def _added(letters: set[str], biases: Biases, *, is_strict: bool) -> Support:
    """Treatment by code that adds the biases of some `letters`."""
    if is_strict and {*biases.steering, *biases.own, *biases.zero} - letters:
        return Support("refuses")
    if set(biases.own) - letters:
        return Support("wrong", note="the base's own biases do not act as they should, either")
    return Support("steered" if set(biases.steering) <= letters else "unsteered")


def beware(stacks: Mapping[str, Support], architecture: str = "") -> tuple[str, ...]:
    """Sentences that name the `stacks` that run a result unsteered, or as another function, without an error.

    `architecture` is that of the GGUF file that llama.cpp's converter would make of it, for the stacks that read that
    one better; empty for such a file itself.
    """
    said = {"unsteered": "would run it UNSTEERED, without a word", "wrong": "would answer WRONGLY, without a word"}
    found = []
    for status, what in said.items():
        names = [name for name, support in stacks.items() if support.status == status]
        if names:
            found.append(f"{list_titles(names)} {what}{_way_out(names, architecture)}")
    return tuple(found)


def list_titles(names: Iterable[str]) -> str:
    """The names of stacks in text: ``A, B and C``."""
    *first, last = [STACKS[name].label for name in names]
    return f"{', '.join(first)} and {last}" if first else last


def _way_out(names: Iterable[str], architecture: str) -> str:
    """The advice to give some of the stacks a GGUF file."""
    read = [name for name in names if architecture and reads_gguf(name, architecture)]
    return f"; give {list_titles(read)} a .gguf" if read else ""


def reads_gguf(stack: str, architecture: str) -> bool:
    """True if a stack is known to add the bias of the attention's output in GGUF files of an architecture."""
    reading = STACKS[stack].readings.get("gguf")
    return reading is not None and "o" in (reading.letters(architecture) or "")
