"""Strangers' text where it leaves: on the terminal, in Markdown, in pictures."""

from __future__ import annotations

import ast
import io
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.checkpoints import write_checkpoint, write_vectors
from support.headers import ROWS, checkpoint
from support.paths import ROOT

import emobake
from emobake import VectorSet, make_plan
from emobake.cli.terminal import console, styled
from emobake.core.steering import steering
from emobake.core.tensors import TensorHeader
from emobake.core.text import code, markdown, one_line, printable
from emobake.core.vector_set import Statistics
from emobake.formats.adapter.plan import make_adapter_plan
from emobake.measure.report import write_report
from emobake.measure.summary import definitions
from emobake.vectors.share import vector_card
from emobake.vectors.write import write_set

NASTY = (
    "a\x1b]0;title\x07\x9b31m\u202egnp\u2028\n# Heading\n---\n<script>alert(1)</script> `tick` [x](http://evil) [/x] "
    "| \"'"
)
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def test_text_stays_readable():
    assert printable("naïve \u200d日本語\tx\ny") == "naïve \u200d日本語\tx\ny"
    assert printable("\x1b[31m\x9b\u202e\udcff") == "\\x1b[31m\\x9b\\u202e\\udcff"
    assert one_line("a\r\n  b\u2028c\x85d") == "a b c d"
    assert markdown("my_model_v2 #1 a-b 0.5 x joy") == "my_model_v2 #1 a-b 0.5 x joy"
    assert markdown("_a_ # <b>") == "\\_a\\_ # &lt;b&gt;" and markdown("# x") == "\\# x" and markdown("- x") == "\\- x"
    assert code("a`b``c") == "``` a`b``c ```" and code("a") == "`a`"


@settings(max_examples=300, derandomize=True, database=None, deadline=None)
@given(st.text(st.one_of(st.characters(), st.sampled_from("\x1b\x9b\u202e\n`|<[*_#\\")), max_size=60))
def test_nothing_unsafe_comes_through(text):
    for made in (one_line(text), markdown(text), code(text)):
        assert not UNSAFE.search(made) and "\n" not in made
        made.encode()
    assert "<" not in markdown(text)
    assert not re.search(r"(?<!\\)(\\\\)*[`|*\[\]]", markdown(text)), "all escaped"


def test_a_console_knows_no_markup():
    from rich.table import Table

    table = Table("[bold]head[/x]", title="[/x]\x1b[0m")
    table.add_row("[red]cell\x1b]2;x\x07[/y]", styled(("[/z]\x9b", "bold")))
    made = console()
    made.file = io.StringIO()
    made.print(table, "[/a] :smile: \x1b[2J")
    text = made.file.getvalue()
    for words in (
        "[bold]head[/x]",
        "[/x]\\x1b[0m",
        "[red]cell\\x1b]2;x\\x07[/y]",
        "[/z]\\x9b",
        "[/a] :smile: \\x1b[2J",
    ):
        assert words in text, words
    assert "\x1b" not in text


@pytest.mark.parametrize("path", sorted((ROOT / "bake" / "cli").glob("*.py")), ids=lambda path: path.name)
def test_the_command_line_speaks_by_one_module(path):
    if path.name == "terminal.py":
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {f"{n.module}.{a.name}" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names}
    assert not {"rich.text.Text", "rich.markup.escape", "rich.print"} & imported
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        said = ast.unparse(call.func)
        assert said not in ("print", "Console")
        if said == "click.echo" and call.args:
            assert ast.unparse(call.args[0]).startswith("json.dumps("), ast.unparse(call)


# --- the command line -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["[/x]", "[bold]", "a\x1b[31mb", "a\u202eb", "a\nemobake: done", "`a` $b$ <i>"])
def test_a_folder_of_any_name_is_baked(tmp_path, cli, name):
    model, vectors = write_checkpoint(tmp_path / name, "llama"), write_vectors(tmp_path / ("v" + name))
    for more in ((), ("-v",), ("--dry-run",)):
        out = tmp_path / f"out{len(more)}{name}"
        ran = cli("--model", model, "--vectors", vectors, "--mix", "joy=1", "--out", out, *more).ok()
        assert not UNSAFE.search(ran.out.replace("\n", "")) and not UNSAFE.search(ran.err.replace("\n", ""))
        assert "\nemobake: done" not in ran.out
        shutil.rmtree(out, ignore_errors=True)
    cli("--model", tmp_path / f"none{name}", "--vectors", vectors, "--mix", "joy=1", "--out", out).one_line("no such")
    ran = cli("verify", tmp_path / f"none{name}")
    assert ran.code == 2 and ran.err.count("\n") == 1 and not UNSAFE.search(ran.err.strip())


def nasty_set() -> VectorSet:
    return VectorSet(
        ("joy", "fear"),
        np.concatenate([ROWS, ROWS + 1]),
        name=NASTY,
        base_model=NASTY,
        source=NASTY,
        license=NASTY,
        extraction={NASTY: NASTY, "queries": NASTY},
        statistics={"joy": Statistics(2, (0.1, 0.2), 0.1)},
    )


def test_a_set_is_shown_harmlessly(tmp_path, cli):
    write_set(nasty_set(), tmp_path / "v.safetensors")
    ran = cli("vectors", "show", tmp_path / "v.safetensors").ok()
    assert "\\x1b]0;title\\x07" in ran.out and not UNSAFE.search(ran.out.replace("\n", ""))
    assert not [line for line in ran.out.splitlines() if line.startswith(("# Heading", "---"))]


# --- pages ----------------------------------------------------------------------------------------------------


def prose(card: str) -> str:
    """A card without its front matter, code blocks and inline code."""
    text = card.split("\n---\n", 1)[1] if card.startswith("---\n") else card
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"(?<![\\`])(`+)(?!`).*?[^`]\1(?!`)", "", text)


def check_page(card: str) -> None:
    assert not UNSAFE.search(card.replace("\n", ""))
    assert "<script" not in prose(card) and "](http://evil)" not in prose(card).replace("\\](", "")
    assert not re.search(r"^# Heading", card, re.MULTILINE)
    assert len(re.findall("^---$", card, re.MULTILINE)) in (0, 2)


@pytest.mark.parametrize("maker", [make_plan, make_adapter_plan])
@pytest.mark.parametrize("site", ["attention_output", "layer_output"])
def test_cards_of_models(maker, site):
    vectors = VectorSet(("joy",), ROWS, NASTY, {NASTY: "0" * 64}, site, base_model=NASTY, source=NASTY, license=NASTY)
    base = checkpoint(
        card=f"---\nlicense: other\nlicense_name: {NASTY!r}\nlicense_link: {NASTY!r}\n---\n",
        side_files={"LICENSE" + NASTY: 3, "tokenizer.json": 2},
    )
    mlp = {f"model.layers.{i}.mlp.{name}_proj.weight": (4, 4) for i in (0, 1) for name in ("gate", "up", "down")}
    more = {name: TensorHeader(name, "F32", shape, "model.safetensors", 0, 64) for name, shape in mlp.items()}
    base = replace(base, tensors={**base.tensors, **more})
    plan = maker(base, vectors, steering(None, {"joy": 1}), base_model=NASTY)
    card = next(file for file in plan.files if file.name == "README.md").data.decode()
    check_page(card)
    for code_block in re.findall(r"^```python\n(.*?)^```$", card, re.MULTILINE | re.DOTALL):
        compile(code_block, "card", "exec")


def test_cards_of_sets():
    check_page(vector_card(nasty_set(), "me/x"))


def test_reports():
    point = {"strength": 1.0, "kl": 0.1, "kl_worst": None}
    measures = dict.fromkeys(("perplexity", "topic", "collapsed", "unended", "distinct_2", "words"), 0.5)
    point["groups"] = {group: {**measures, "scores": {NASTY: {"joy": 0.5}}} for group in ("all", NASTY)}
    direction = {"name": NASTY, "like": NASTY, "kind": "mix", "emotions": ["joy"], "points": [point]}
    scorer = {"name": NASTY, "unit": "probability", "note": NASTY, "main": True}
    data = {
        "definitions": definitions(),
        "warnings": [NASTY], "scorers": [scorer], "directions": [direction], "layers": {}, "best": {}, "engine": "x",
        "questions": {"name": NASTY, "count": 1, "shown": NASTY, "groups": {NASTY: 1}, "held_out": None},
        "sampling": None, "model": NASTY, "vectors": NASTY, "emobake": "1",
    }  # fmt: skip
    data["best"] = {NASTY: {"strength": None, "why": NASTY}}
    check_page(write_report(data, [{"query": NASTY, "answers": {NASTY: {"1": NASTY}}}]))


def test_a_picture_of_a_set_with_dollars(tmp_path: Path):
    pytest.importorskip("matplotlib")
    from emobake.vectors.arithmetic import describe
    from emobake.vectors.plot import plot_set

    made = VectorSet(("joy", "fear"), np.concatenate([ROWS, ROWS + 1]), name=r"$\nonsense{$ and $x^$")
    plot_set(made, describe(made), tmp_path / "v.png")
    assert (tmp_path / "v.png").stat().st_size > 1000


def test_a_modelfile_names_nothing_raw(tmp_path: Path):
    pytest.importorskip("gguf")
    from support.gguf_files import HIDDEN, LAYERS, write_model

    write_model(tmp_path / "base.gguf", fields={"general.name": NASTY})
    vectors = VectorSet(("joy",), np.ones((1, LAYERS, HIDDEN), np.float32), name=NASTY)
    out = emobake.GgufFile(tmp_path / "o.gguf", modelfile=True)
    emobake.bake(tmp_path / "base.gguf", vectors, mix={"joy": 1}, out=out)
    text = (tmp_path / "o.Modelfile").read_text(encoding="utf-8")
    assert not UNSAFE.search(text.replace("\n", "")) and "\n# Heading" not in text
