"""Options of every command: none is dropped, none silently replaced, and several numbers follow one."""

import json

import click
import pytest
from support.checkpoints import write_vectors
from support.running import TIMES

from emobake.cli.app import cli as group


def commands(command=group, path=()):
    """Words of every command -> the command."""
    found = {path: command} if not isinstance(command, click.Group) else {}
    for name, sub in getattr(command, "commands", {}).items():
        found |= commands(sub, (*path, name))
    return found


# --- the short form -------------------------------------------------------------------------------------------


def test_bake_is_a_command_and_may_be_left_out(cli, base, vectors, tmp_path):
    words = ("--model", base, "--vectors", vectors, *TIMES)
    cli("bake", *words, "--out", tmp_path / "a", "-q").ok()
    cli(*words, "--out", tmp_path / "b", "-q").ok()
    assert (tmp_path / "a" / "emobake.json").read_bytes() == (tmp_path / "b" / "emobake.json").read_bytes()
    assert "--link-mode" in cli("bake", "--help").ok().out and "--link-mode" in cli("--model", "x", "-h").ok().out


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (("--dry-run",), ("push", "OUT", "me/x")),
        (("--private",), ("push", "OUT", "me/x", "--report", "r")),
        (("--model", "x", "-q"), ("verify", "OUT")),
        (("--times", "1", "0", "0", "0", "0"), ("chat", "--model", "x")),
        (("--overwrite",), ("vectors", "pull", "minicpm3-4b")),
    ],
    ids=" ".join,
)
def test_an_option_in_front_of_a_command_is_refused_and_not_dropped(
    online, hub, base, vectors, tmp_path, before, after
):
    out = tmp_path / "out"
    online("--model", base, "--vectors", vectors, *TIMES, "--out", out, "-q").ok()
    after = [out if word == "OUT" else word for word in after]
    line = online(*before, *after).one_line(before[0], f"in front of the command {after[0]}")
    assert line.rstrip().endswith(before[-1]) or "--times=" in line, "it says what to type instead"
    assert not hub.repos, "nothing was pushed"


def test_debug_may_stand_anywhere(run_cli, tmp_path):
    for words in (("--debug", "verify", tmp_path), ("verify", tmp_path, "--debug"), ("verify", "--debug", tmp_path)):
        ran = run_cli(*words)
        assert ran.code == 2 and "Traceback" in ran.err and ran.err.splitlines()[-1].startswith("emobake: ")


# --- given twice ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_an_option_of_which_only_the_last_would_count_is_refused(cli, words):
    command = commands()[words]
    for option in command.params:
        if isinstance(option, click.Option) and not option.multiple and (not option.is_flag or option.secondary_opts):
            value = {"--times": ("1",) * 5, "--strengths": ("1",)}.get(option.opts[0], ("1",))
            once = option.opts[:1] if option.is_flag else (option.opts[0], *value)
            again = option.secondary_opts[:1] if option.secondary_opts else once
            cli(*words, *once, *again).one_line(option.opts[0], "more than once")


def test_the_same_flag_twice_says_no_more_than_once(cli, base, vectors):
    cli("--model", base, "--vectors", vectors, *TIMES, "--dry-run", "--dry-run").ok()


def test_mixes_add_up(cli, base, vectors, tmp_path):
    words = ("--model", base, "--vectors", vectors, "--out", tmp_path / "out")
    ran = cli(*words, "--mix", "joy=1", "--mix", "anger=0.5,fear=2", "--json").ok()
    assert json.loads(ran.out)["weights"] == {"joy": 1.0, "anger": 0.5, "fear": 2.0}
    cli(*words, "--mix", "joy=1", "--mix", "joy=2").one_line("--mix", "'joy' is given twice")
    cli(*words, "--mix", "").one_line("--mix")


def test_mixes_add_up_in_a_new_emotion(cli, tmp_path):
    write_vectors(tmp_path / "ev")
    out = tmp_path / "out.npz"
    cli("vectors", "mix", tmp_path / "ev", "--name", "x", "--mix", "joy=1", "--mix", "fear=-1", "--out", out).ok()
    assert "x = 1 x joy + -1 x fear" in cli("vectors", "show", out).ok().out


# --- numbers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("1", "0", "0"), "here are 3"),
        (("1", "0", "0", "0", "0", "0"), "here are 6"),
        ((), "here are 0"),
        (("1", "0", "joy", "0", "0"), "'joy' is not a number"),
        (("1,0,0",), "here are 3"),
    ],
)
@pytest.mark.parametrize("command", [(), ("bake",), ("chat",), ("tune",), ("eval",)], ids=" ".join)
def test_times_takes_five_numbers(cli, command, given, said, tmp_path):
    line = cli(*command, "--times", *given, "--model", "x").one_line("--times takes five numbers", said)
    assert "anger, disgust, fear, joy and sadness in this order" in line
    assert cli(*command, "--model", "x", "--times", *given).one_line() == line


def test_numbers_with_commas_are_numbers_too(cli, base, vectors):
    words = ("--model", base, "--vectors", vectors, "--dry-run", "--json")
    found = [json.loads(cli(*words, "--times", *times).ok().out) for times in (("-1,0,0,1e-1,0",), (-1, 0, 0, 0.1, 0))]
    assert found[0] == found[1] and found[0]["weights"]["joy"] == 0.1


def test_strengths_are_numbers(cli):
    words = ("eval", "--model", "x", "--out", "y")
    cli(*words, "--strengths").one_line("--strengths takes numbers")
    cli(*words, "--strengths", "a").one_line("--strengths takes numbers", "'a' is not a number")
