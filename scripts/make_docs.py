#!/usr/bin/env python3
"""Write docs/cli.md and docs/families.md, made from the commands and from the tables of families.

    scripts/make_docs.py [FOLDER]     (default: docs)

tests/cli/test_docs.py fails when a file is stale.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import click

from emobake.actions.overview import stack_overview
from emobake.cli.app import cli
from emobake.core.sites import SITES, Site
from emobake.core.stacks import STACKS, USUAL, Support
from emobake.formats.checkpoint.families import Family, families
from emobake.formats.checkpoint.wrappers import wrapped, wrappers

CLI = """\
# Command line

Made by `scripts/make_docs.py` from the commands; `emobake --help` and `emobake COMMAND --help` print the same.

Results go to stdout; warnings, progress and errors go to stderr. Exit codes: 0; 1 for a run that failed; 2 for input
that cannot be used; 130 after Ctrl-C. An error is one line; `--debug` adds a traceback. Passwords and queries in
addresses, tokens and keys are never printed.

`emobake --model ...` is short for `emobake bake --model ...`. Options follow their command: in front of another command
they are refused. `--mix`, `--vectors`, `--scorer`, `--stack` and `--prompt` may be given more than once and then count
together (of `emobake moods`, each `--mix` is a mood, and each `--name` its name); any other option is given once.

## Completion

A shell completes commands, options, names of sets, emotions and files after one of these lines in its startup file:

```
eval "$(_EMOBAKE_COMPLETE=bash_source emobake)"          # ~/.bashrc (bash 4.4 or later)
eval "$(_EMOBAKE_COMPLETE=zsh_source emobake)"           # ~/.zshrc
_EMOBAKE_COMPLETE=fish_source emobake | source           # ~/.config/fish/completions/emobake.fish
```

`--mix` is completed with the emotions of the sets in `--vectors`, if they are on this machine, or else with the
paper's five. Nothing is fetched for a completion. In bash, which takes `=` for the end of a word, only the first
emotion of a mix is completed; give `--mix` again for the next.
"""

FAMILIES = """\
# Families

Made by `scripts/make_docs.py` from [families.toml](../bake/formats/checkpoint/families.toml), which names the source
file and line behind each entry. [models.md](models.md) explains the routes.
"""
EVIDENCE = """\
**Bold**: seen in a run with a model of that family, in {ran}. It was SmolLM2 for llama, and for most others a tiny
model with random weights: no proof for one checkpoint, which `emobake verify --stack` runs. The rest was read from
the sources of {read}, and **not run**. `UNSTEERED`: the stack loads the model and drops the bias; emobake says so
before it writes. As llama, granitemoe and so on: the row holds for a checkpoint that is exactly one of that class and
is saved as one. A head: for one with one more key/value head. Its GGUF file: an `--out` that ends in
.gguf, whose base is converted before it is baked. With a class such as `TransformersForCausalLM`:
`architectures` names it, and vLLM runs the class of
transformers. `emobake --dry-run` tells for any checkpoint.
"""
WRAPPERS = """\
Made from [wrappers.toml](../bake/formats/checkpoint/wrappers.toml): what each stack does with a bias inside the
wrapper, for vectors of the attention output; **bold** and `UNSTEERED` as above. *alone*: the class as which
`--text-only` saves the language model; the rows above hold for that.
"""
STACKS_PAGE = """\
# Stacks

Made by `scripts/make_docs.py` from [stacks.toml](../bake/core/stacks.toml).

```sh
emobake models --stack mistral.rs        # all of one stack: versions, commands, every family
emobake --model M --mix joy=1 --out OUT --targets openvino,sglang      # refuse what one of them would not steer
emobake verify OUT --base M --stack openvino --python openvino-env/bin/python
```

The usual four have a column in [families.md](families.md). What another stack does with an output follows from two
things: which biases of the output act, and which biases the stack adds in models of that type. The second was **read**
in its source, type by type: [stacks.tsv](stacks.tsv) names version, file and line. **Run** means that a baked SmolLM2
and its base were run in it, on three questions with the chat template, and gave the greedy tokens that are told here.
`scripts/test-stacks --all` does it again, in environments that `scripts/envs further` makes.

The summary of a bake and the card name the stacks of `--targets`, else the usual four. One more line names every other
stack that would run this output unsteered, or as another function, without an error. Such a stack has no place for the
bias: give it the `.gguf`, if it reads that one better, or serve the model elsewhere.

`unknown`: nobody has looked, as with quantised weights, heads that were added, and types that are not in the list.
`--targets` refuses what is unknown.
"""
RUNS = """\
## Runs

Greedy tokens of SmolLM2-135M-Instruct, three questions, at most 40 tokens each, that are those of transformers 5.23 in
float32, from the first token on. Joy is baked at 1.2; none of the base's tokens are joy's.

| stack | base | joyful | joyful as its base |
| --- | --- | --- | --- |
| CTranslate2 4.8.5, float32 | 120 of 120 | 120 of 120 | 0 |
| ONNX Runtime GenAI 0.18.0, fp32 | 120 of 120 | 120 of 120 | 0 |
| optimum-onnx 0.1.0, onnxruntime 1.32.0 | 120 of 120 | 120 of 120 | 0 |
| OpenVINO 2026.4.1, optimum-intel 2.2.0, fp32 | 120 of 120 | 120 of 120 | 0 |
| transformers.js 4.3.1 in Node.js 20, the graph of optimum-onnx | 120 of 120 | 120 of 120 | 0 |
| node-llama-cpp 3.22.1 in Node.js 20, float32 GGUF | 120 of 120 | 120 of 120 | 0 |
| mistral.rs 0.9.5, the folder | 120 of 120 | **0 of 120** | **120 of 120** |

The converters' own quantisation keeps the steering. KL divergence from the float form of the joyful model in the same
stack, on its own answers to the three questions, 40 tokens each:

| stack, weights | joyful | its base, quantised alike |
| --- | --- | --- |
| CTranslate2, int8 | 0.042 | 0.67 |
| ONNX Runtime GenAI, int4 | 0.43 | 0.91 |
| OpenVINO, int8 | 0.008 | 0.58 |
| optimum-onnx, int8 | 0.87 | 1.08 |

`emobake verify OUT --base BASE --stack ctranslate2 --weights int8` compares so. OpenVINO's int4 wants widths that 128
divides, which the 576 of SmolLM2 are not. optimum-onnx quantises activations as well, per tensor, and little is left of
so small a model.

Not run: Ollama, KoboldCpp, LM Studio, Jan and the others that the table calls so. For Ollama,
`scripts/check-ollama` tells on a machine that has it ([gguf.md](gguf.md)).
"""
TITLES: dict[Site, str] = {
    "attention_output": "Vectors of the attention output",
    "layer_output": "Vectors of the layer output (control vectors)",
}


def main() -> None:
    """Write the files."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs")
    context = click.Context(cli, info_name="emobake", **cli.context_settings)
    (folder / "cli.md").write_text("\n".join([CLI, *_command(context)]).rstrip() + "\n", encoding="utf-8")
    versions = {key: list_of(getattr(stack, key) for stack in USUAL.values()) for key in ("ran", "read")}
    evidence = textwrap.fill(" ".join(EVIDENCE.format(**versions).split()), 120)
    families_text = "\n".join([FAMILIES, evidence, "", *_families(), *_wrappers()]).rstrip() + "\n"
    (folder / "families.md").write_text(families_text, encoding="utf-8")
    stacks_text = "\n".join([STACKS_PAGE, *_stacks(), "", RUNS]).rstrip() + "\n"
    (folder / "stacks.md").write_text(stacks_text, encoding="utf-8")


def _stacks() -> Iterator[str]:
    """Yield the lines of the table of stacks."""
    folders = {known: each["flag"] for known in STACKS if (each := stack_overview(known).families.get("llama"))}
    yield from ("| stack | in `targets` | run | read | a baked Llama | its GGUF file |", "| --- " * 6 + "|")
    for name, stack in STACKS.items():
        file = stack_overview(name).architectures.get("llama")
        cells = (_support(support) if support else "" for support in (folders.get(name), file))
        yield f"| {stack.label} | `{name}` | {stack.ran or 'not run'} | {stack.read} | {' | '.join(cells)} |"


def list_of(names: Iterable[str]) -> str:
    """``a, b and c``."""
    *first, last = names
    return f"{', '.join(first)} and {last}"


def _command(context: click.Context) -> Iterator[str]:
    """Yield the lines of a command, and of the commands in it."""
    command = context.command
    yield from (f"## {context.command_path}", "", f"```\n{command.get_usage(context)}\n```".replace("Usage: ", ""), "")
    yield from (_paragraphs(command.help or ""), "")
    records = (parameter.get_help_record(context) for parameter in command.get_params(context))
    yield from ("| option | |", "| --- | --- |")
    yield from (f"| `{_cell(names)}` | {_cell(text)} |" for names, text in filter(None, records))
    yield ""
    if command.epilog:
        yield from (_paragraphs(command.epilog), "")
    for name, sub in sorted(getattr(command, "commands", {}).items()):
        yield from _command(click.Context(sub, info_name=name, parent=context))


def _paragraphs(text: str) -> str:
    """The help of a command; click marks a block that keeps its lines with a backspace."""
    blocks = map(str.strip, text.split("\n\n"))
    return "\n\n".join(
        f"```\n{block.removeprefix(chr(8)).strip()}\n```" if block.startswith("\b") else " ".join(block.split())
        for block in blocks
    )


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _families() -> Iterator[str]:
    """Yield the lines of both tables, and of the families without a route."""
    in_gguf = {stack: Support("steered" if stack == "llama.cpp" else "refuses") for stack in USUAL}
    for site in SITES:
        bakeable = {name: f for name, f in families(site).items() if not f.refusal or f.in_gguf}
        yield from (f"## {TITLES[site]}", "")
        yield from (f"| model_type | bias of | by | {' | '.join(USUAL)} |", "| --- " * (3 + len(USUAL)) + "|")
        for name, family in bakeable.items():
            if family.has_bias:
                yield _row(name, family, "existing bias" if family.always else f"`{family.flag}`", family.stacks)
                if family.backend is not None:
                    yield _row(name, family, f"`{family.flag}`, `{family.backend.name}`", family.by_backend)
            for form in family.forms.values():
                target = families(site)[form.target]
                if target.has_bias:
                    run = {s: replace(x, run=x.run and s in form.ran) for s, x in target.stacks.items()}
                    yield _row(name, target, f"as {form.target}", run | dict(form.stacks))
            if family.head is not None:
                yield _row(
                    name, family, f"a head, {', '.join(f'`{flag}`' for flag in family.head.flags)}", family.head.stacks
                )
            if family.value is not None:
                yield _row(name, family, f"a bias of the values, `{family.value.flag}`", family.value.stacks)
            if family.in_gguf:
                yield _row(name, family, f"its GGUF file, {family.in_gguf}", in_gguf)
        yield ""
    yield from (
        "## Refused",
        "",
        "As checkpoints; `--format peft` writes an adapter for them, and those in the tables above have a GGUF file.",
        "",
        "| model_type | why |",
        "| --- | --- |",
    )
    yield from (f"| {name} | {_cell(f.refusal)} |" for name, f in families().items() if f.refusal)


def _wrappers() -> Iterator[str]:
    """Yield the lines of the table of multimodal wrappers."""
    yield from (
        "",
        "## Multimodal checkpoints",
        "",
        textwrap.fill(" ".join(WRAPPERS.split()), 120, break_on_hyphens=False),
        "",
    )
    yield from (
        f"| model_type | text_config | by | {' | '.join(USUAL)} | alone |",
        "| --- " * (4 + len(USUAL)) + "|",
    )
    for wrapper in wrappers().values():
        for text in wrapper.texts.values():
            family, alone = wrapped(wrapper, text), families().get(text.like)
            plain = "no" if alone is None or alone.refusal else f"`{alone.classes[0]}`"
            if alone is not None and "llama" in alone.forms:
                plain = "as Llama"
            head = f"| {wrapper.model_type} | {text.model_type} |"
            steered = any(support.status == "steered" for support in family.stacks.values())
            if family.refusal:
                yield f"{head} refused: {_cell(family.refusal)} | {'| ' * len(USUAL)}| {plain} |"
                continue
            if steered:
                cells = " | ".join(_support(family.stacks[stack]) for stack in USUAL)
                yield f"{head} `{family.flag}` | {cells} | {plain} |"
            if form := family.forms.get("llama"):
                inside = wrapped(wrapper, wrapper.texts["llama"]).stacks
                stacks = {s: replace(x, run=x.run and s in form.ran) for s, x in inside.items()}
                yield f"{head} as Llama | {' | '.join(_support(stacks[stack]) for stack in USUAL)} | {plain} |"


def _row(name: str, family: Family, by: str, stacks: dict[str, Support]) -> str:
    module = family.projection.partition("{layer}.")[2]
    return f"| {name} | `{module}` | {by} | {' | '.join(_support(stacks[stack]) for stack in USUAL)} |"


def _support(support: Support) -> str:
    words = {"option": f"with `{support.option}`", "unsteered": "UNSTEERED", "wrong": "WRONG"}.get(
        support.status, support.status
    )
    words = f"{words} with `{support.environment}`" if support.environment else words
    words = f"**{words}**" if support.run else words
    return f"{words}: {_cell(support.note)}" if support.note else words


if __name__ == "__main__":
    main()
