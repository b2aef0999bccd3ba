"""Help, README and documents cannot drift apart: what one names, the others have."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from importlib.metadata import version

import pytest
from click.testing import CliRunner
from support.paths import ROOT, SCRIPTS

import emobake
from emobake.cli.app import cli
from emobake.core.toml import parse_toml

README = ROOT / "README.md"
DOCUMENTS = [README, ROOT / "CONTRIBUTING.md", ROOT / "vectors" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
HOME = parse_toml((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Homepage"]


def all_commands(command, name="emobake"):
    """Name -> command, for the group and everything in it."""
    found = {name: command}
    for sub in getattr(command, "commands", {}).values():
        found |= all_commands(sub, f"{name} {sub.name}")
    return found


ALL = all_commands(cli)


def typed(document):
    """Lines of shell blocks that run emobake."""
    blocks = re.findall(r"```sh\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL)
    return re.findall(r"^emobake .*$", "".join(blocks), re.MULTILINE)


LINES = [(document.name, line) for document in DOCUMENTS for line in typed(document)]


@pytest.mark.parametrize("name", ["cli.md", "families.md"])
def test_generated_documents_are_fresh(name, tmp_path):
    if name == "cli.md" and version("click").startswith("8.1."):
        pytest.skip("click 8.1 writes usage lines in another way")
    subprocess.run([sys.executable, SCRIPTS / "make_docs.py", tmp_path], check=True)
    fresh, ours = ((folder / name).read_text(encoding="utf-8") for folder in (tmp_path, ROOT / "docs"))
    assert ours == fresh, f"docs/{name} is stale: run scripts/make_docs.py"


@pytest.mark.parametrize("command", ALL.values(), ids=ALL)
def test_every_command_and_option_has_help(command):
    assert command.help
    for parameter in command.params:
        assert not any(name.startswith("--") for name in parameter.opts) or parameter.help, parameter.opts


@pytest.mark.parametrize(("document", "line"), LINES)
def test_every_command_in_a_document_parses(document, line):
    words = shlex.split(line.split("  #")[0])[1:]
    words = ["bake", *words] if words[0].startswith("-") else words
    command = cli
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    # click keeps the help option that a command had first, so that it must be the program's own.
    command.make_context("emobake", words, resilient_parsing=False, **cli.context_settings)


def test_the_documents_have_commands():
    assert {document for document, _ in LINES} >= {"README.md", "hub.md", "gguf.md", "vectors.md", "evaluation.md"}
    assert len(LINES) > 40


def test_the_readme_is_short_and_names_what_exists():
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 160
    for name in re.findall(r"emobake\.([A-Za-z_]+)\(", text):
        assert name in emobake.__all__, name


def anchors(text):
    """Anchors of the headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(document):
    """Links are whole addresses in the README and in vectors/, which are read outside the repository."""
    outside = document in (README, ROOT / "vectors" / "README.md")
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        if path.startswith(HOME):
            target = ROOT / re.sub(r"^(blob|tree)/main/", "", path.removeprefix(HOME).strip("/"))
        elif link.startswith("http"):
            continue
        else:
            assert not outside, f"{link}: PyPI does not resolve it"
            target = (document.parent / path).resolve() if path else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), link


def test_the_version_is_in_the_changelog():
    assert f"## {emobake.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_help_shows_worked_examples():
    result = CliRunner().invoke(cli, ["--help"])
    assert result.exit_code == 0
    assert result.output.count("emobake --model") >= 3
