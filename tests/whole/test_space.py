"""The Space: its metadata, and a command line that the program takes. No image is built here."""

import json
import re
import shlex
from pathlib import Path

from emobake.cli import cli as program
from emobake.formats.front_matter import read_front_matter

SPACE = Path(__file__).parents[2] / "space"
DOCKERFILE = (SPACE / "Dockerfile").read_text(encoding="utf-8")


def command(**environment):
    """The words of the image's command, as a shell with this environment gives them to the program."""
    shell, flag, line = json.loads(re.search(r"^CMD (.*)$", DOCKERFILE, re.MULTILINE).group(1))
    assert (shell, flag) == ("sh", "-c")
    line = line.replace(
        '${MODEL:+--model "$MODEL"}', f"--model {environment['MODEL']}" if "MODEL" in environment else ""
    )
    line = line.replace("$SPACE_HOST", environment["SPACE_HOST"])
    assert "$" not in line
    return shlex.split(line)[2:]


def test_the_command_line_is_one():
    for more in ({}, {"MODEL": "Qwen/Qwen2.5-7B-Instruct"}):
        name, *words = command(SPACE_HOST="me-desk.hf.space", **more)
        given = program.commands[name].make_context("emobake", words, **program.context_settings).params
        assert given["host"] == "0.0.0.0" and given["behind"] == "https://me-desk.hf.space"
        assert str(given["model"] or "") == more.get("MODEL", "")


def test_the_metadata_fits_the_image():
    data = read_front_matter((SPACE / "README.md").read_text(encoding="utf-8")).values
    assert data["sdk"] == "docker" and len(data["short_description"]) <= 60
    port = str(data["app_port"])
    assert f"EXPOSE {port}" in DOCKERFILE and f"--port {port} " in DOCKERFILE
    assert "EMOBAKE_DESK_PASSWORD" in (SPACE / "README.md").read_text(encoding="utf-8")
