"""README and help cannot drift apart: what one names, the other has."""

import re
import shlex

import pytest
from click.testing import CliRunner
from support.paths import ROOT

import emobake
from emobake.cli.app import cli
from emobake.formats.checkpoint.families import families

README = (ROOT / "README.md").read_text(encoding="utf-8")
SHELL = "".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL))
COMMANDS = re.findall(r"^emobake .*$", SHELL, re.MULTILINE)


def all_commands(command, name="emobake"):
    """Name -> command, for the group and everything in it."""
    found = {name: command}
    for sub in getattr(command, "commands", {}).values():
        found |= all_commands(sub, f"{name} {sub.name}")
    return found


ALL = all_commands(cli)


def test_every_command_stands_in_the_readme():
    assert set(ALL) >= {"emobake verify", "emobake chat", "emobake vectors extract"}
    for name, command in ALL.items():
        assert command.help, name
        assert name in README, name


@pytest.mark.parametrize("command", ALL.values(), ids=ALL)
def test_every_option_has_help_and_stands_in_the_readme(command):
    for parameter in command.params:
        for name in parameter.opts:
            if name.startswith("--"):
                assert parameter.help, name
                assert f"`{name}" in README or f" {name} " in README, name


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_in_the_readme_parses(line):
    words = shlex.split(line.split("  #")[0])[1:]
    command = cli
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    command.make_context("emobake", words, resilient_parsing=False)


def test_readme_has_commands():
    assert len(COMMANDS) >= 5


def test_the_version_stands_in_the_changelog():
    assert f"## {emobake.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_model_families_that_the_readme_names_are_in_the_table():
    for model_type in (
        "llama",
        "qwen2",
        "mistral",
        "qwen3",
        "gemma",
        "gemma2",
        "gemma3_text",
        "granite",
        "olmo2",
        "cohere",
    ):
        assert model_type in families()


def test_help_shows_worked_examples():
    result = CliRunner().invoke(cli, ["--help"])
    assert result.exit_code == 0
    assert result.output.count("emobake --model") >= 3


def test_no_leftover_placeholder():
    assert not re.findall(r"\b[A-Z]+_(?:OUTPUT|TABLE|LAST|SESSION)\b", README)
