"""What is printed fits into a terminal of 60, 80 and 120 columns: nothing is cut, no word is broken."""

import io
import sys

import numpy as np
import pytest
from rich.console import Console

from emobake.cli import terminal
from emobake.cli.evaluation_tables import show_evaluation
from emobake.cli.vector_tables import show_set
from emobake.core.vector_set import Statistics, VectorSet
from emobake.vectors.arithmetic import describe

WIDTHS = pytest.mark.parametrize("width", [60, 80, 120, 200])


def printed(width, show, *arguments):
    """Lines on a terminal of `width` columns; none is longer, and the words are whole."""
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    show(console, *arguments)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    return lines


def words_of(lines):
    return {word for line in lines for word in line.split()}


def point(strength):
    group = {"scores": {"SamLowe/roberta-base-go_emotions": {"joy": 0.125 * strength}, "lexicon": {"joy": strength}}}
    group |= {"collapsed": 0.0125, "perplexity": 1234.5, "topic": 0.975, "distinct_2": 0.912, "words": 78.25}
    return {"strength": strength, "kl": 0.0441, "kl_worst": 0.312, "groups": {"all": group | {"unended": 0.5}}}


def data(strengths):
    curve = {"name": "joy", "kind": "emotion", "emotions": ["joy"], "like": None, "points": [*map(point, strengths)]}
    prompt = {"name": "prompt like joy", "kind": "prompt", "like": "joy", "system_prompt": "Answer with joy. " * 9}
    return {
        "questions": {"shown": "all"},
        "scorers": [
            {"name": "SamLowe/roberta-base-go_emotions", "unit": "probability", "note": "", "main": True},
            {
                "name": "lexicon",
                "unit": "words per 100, weak",
                "note": "a weak measure, counting words " * 4,
                "main": False,
            },
        ],
        "directions": [curve, curve | {"name": "random like joy", "kind": "control", "like": "joy"}, curve | prompt],
        "best": {
            "joy": {"strength": 1.0, "why": "lexicon: 0.123 at 0, 2.34 here; within bounds: " + "collapsed, " * 9}
        },
    }


@WIDTHS
@pytest.mark.parametrize("strengths", [[-1.0, 0.0, 1.0, 2.0, 4.0], [x / 4 for x in range(16)]], ids=["few", "many"])
def test_an_evaluation(width, strengths):
    lines = printed(width, show_evaluation, data(strengths), "./report")
    want = {"SamLowe/roberta-base-go_emotions", "(probability)", "collapsed", "perplexity", "distinct-2", "worst", "KL"}
    want |= {
        "unended",
        "within",
        "bounds:",
        "measure,",
        "random",
        "prompt",
        "system",
        "vector",
        *(f"{x:g}" for x in strengths),
    }
    assert want <= words_of(lines)


@WIDTHS
@pytest.mark.parametrize("count", [5, 12])
def test_a_set(width, count):
    names = tuple(f"feeling-{i}" if i else "melancholy" for i in range(count))
    rows = np.random.default_rng(0).normal(size=(count, 3, 8)).astype(np.float32)
    statistics = {name: Statistics(10, (0.1,) * 3, 0.9) for name in names}
    found = VectorSet(names, rows, statistics=statistics, source="a long story of where it comes from " * 4)
    lines = printed(width, show_set, found, describe(found))
    heads = [line.split() for line in lines if line.startswith("layer")]
    assert heads[0][1:-1] == list(names[: len(heads[0]) - 2]) and heads[0][-1] == "shared"
    assert {"split-half", "cosine", "standard", "error"} <= words_of(lines)
    assert (f"The first {len(heads[0]) - 2} of {count}" in " ".join(lines)) == (len(heads[0]) - 2 < count)
    if width >= 80:
        assert len(heads[0]) >= 6


@WIDTHS
def test_the_list_of_sets(width, monkeypatch, capsys):
    from emobake.cli.vectors import list_sets
    from emobake.vectors.registry import registry

    monkeypatch.setattr(
        "emobake.cli.vectors.console", lambda: Console(width=width, force_terminal=True, color_system=None)
    )
    capsys.readouterr()
    list_sets.main([], standalone_mode=False)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines[:-1])) <= width and "emobake vectors extract --model MODEL" in lines[-1]
    assert {e.name for e in registry().sets} | {e.base_model for e in registry().sets} <= words_of(lines)


@WIDTHS
def test_a_bake(width, base, vectors, tmp_path):
    import emobake
    from emobake.cli.summary import show

    result = emobake.bake(base, vectors, mix={"joy": 1.0}, out=tmp_path / "out")
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    show(console, result, "./out")
    told, _, following = console.file.getvalue().partition("Next:\n")
    assert max(len(line) for line in told.splitlines() if not line.startswith("model ")) <= width
    left_out = told.partition("Left out:\n")[2].splitlines()
    assert left_out and all(line.startswith("  ") for line in left_out)
    assert {"attention_bias:", "pytorch_model.bin,", "transformers", "overwritten,"} <= words_of(told.splitlines())
    assert f"  emobake verify ./out --base {base} --stack transformers" in following.splitlines(), "in one piece"


@WIDTHS
def test_the_commands(width, monkeypatch):
    from click.testing import CliRunner

    from emobake.cli.app import cli

    for words in ([], ["vectors"]):
        ran = CliRunner().invoke(cli, [*words, "--help"], env={"COLUMNS": str(width)}, terminal_width=width)
        commands = ran.output.partition("Commands:\n")[2].partition("\n\n")[0]
        assert "..." not in commands and max(map(len, commands.splitlines())) <= width
    assert "statistics" in commands


def test_a_warning_breaks_between_words_on_a_terminal_only(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    text = "extraordinarily long words follow one another here " * 4
    terminal.warn(text)
    assert len(capsys.readouterr().err.splitlines()) == 1
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    terminal.warn(text)
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(lines) > 3 and "extraordinarily" in words_of(lines)
    assert all(len(line) <= 80 for line in lines)
