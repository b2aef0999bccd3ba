"""Ollama's Modelfile: the chat template found in the Jinja of the file, and what is left to Ollama."""

from __future__ import annotations

import re
import resource
import time
from pathlib import Path

import numpy as np
import pytest
from support.gguf_files import HIDDEN, LAYERS, write_model
from support.templates import CHATML, FLOODS, GEMMA, LLAMA2, LLAMA3, MISTRAL

from emobake import GgufFile, VectorSet, bake
from emobake.formats.gguf.header import Field, GgufHeader, text_field, uint32_field
from emobake.formats.gguf.modelfile import go_template, read_template, write_modelfile

TALK = [
    {"role": "user", "content": "Hello?"},
    {"role": "assistant", "content": "Hi."},
    {"role": "user", "content": "How are you?"},
]


def header(template: str, **more: str) -> GgufHeader:
    """A file's metadata with this template, and tokens <s>, </s> and <pad>."""
    tokens = b"".join(len(t).to_bytes(8, "little") + t for t in (b"<s>", b"</s>", b"<pad>"))
    fields = (
        text_field("general.name", "Tiny"),
        text_field("tokenizer.chat_template", template),
        Field("tokenizer.ggml.tokens", 9, (8).to_bytes(4, "little") + (3).to_bytes(8, "little") + tokens),
        uint32_field("tokenizer.ggml.bos_token_id", 0),
        uint32_field("tokenizer.ggml.eos_token_id", 1),
        Field("tokenizer.ggml.add_bos_token", 7, b"\1"),
        *(text_field(key, value) for key, value in more.items()),
    )
    return GgufHeader("x.gguf", 0, 3, 32, fields, ())


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        (
            CHATML,
            "<|im_start|>system\nYou are tiny.<|im_end|>\n<|im_start|>user\nHello?<|im_end|>\n<|im_start|>assistant\n"
            "Hi.<|im_end|>\n<|im_start|>user\nHow are you?<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            LLAMA3,
            "<|start_header_id|>user<|end_header_id|>\n\nHello?<|eot_id|><|start_header_id|>assistant<|end_header_id|>"
            "\n\nHi.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHow are you?<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        (MISTRAL, "[INST] Hello? [/INST]Hi.</s>[INST] How are you? [/INST]"),
        (
            GEMMA,
            "<start_of_turn>user\nHello?<end_of_turn>\n<start_of_turn>model\nHi.<end_of_turn>\n<start_of_turn>user\n"
            "How are you?<end_of_turn>\n<start_of_turn>model\n",
        ),
    ],
    ids=["chatml", "llama3", "mistral", "gemma"],
)
def test_a_template_is_found_and_says_the_same(template, prompt):
    found = read_template(header(template))
    assert found is not None
    assert found.render(TALK) == prompt, "without the BOS token, which the runner puts in front"
    assert go(go_template(found), found.system, TALK) == prompt


def test_what_a_template_assumes_becomes_the_system_message():
    found = read_template(header(CHATML))
    assert found is not None and (found.begin, found.system) == ("", "You are tiny.")
    text, notes = write_modelfile(header(CHATML), "joyful.gguf", "2 x joy")
    assert not notes and text.startswith("# Made by emobake: Tiny, steered: 2 x joy\nFROM ./joyful.gguf\n")
    assert 'SYSTEM """You are tiny."""' in text
    assert re.findall(r'PARAMETER stop "(.*)"', text) == ["<|im_end|>", "<|im_start|>user", "</s>"]


@pytest.mark.parametrize(
    "template",
    [
        LLAMA2,
        "",
        "{{ messages[0]['content'] }}",
        "{% for m in messages %}{{ m.content | upper }}{% endfor %}",
        "{% for m in messages %}{{ m.role }}{{ m.content }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ 1 / 0 }}",
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ '{{' }}{% endfor %}",
        '{% for m in messages %}<{{ m.role }}>{{ m.content }}"""{% endfor %}',
        "{% for m in messages %}<{{ loop.index }} {{ m.role }}>{{ m.content }}{% endfor %}",
        "x" * 300_000,
        # The day of the bake has no place in a Modelfile.
        "{{ strftime_now('%d %b %Y') }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}",
    ],
)
def test_a_template_that_does_more_is_left_to_ollama(template):
    assert read_template(header(template)) is None
    text, notes = write_modelfile(header(template), "m.gguf", "1 x joy")
    assert "TEMPLATE" not in text and len(notes) == 1 and "no TEMPLATE" in notes[0]


@pytest.mark.parametrize("template", ["loop", "product", "nested"])
def test_a_template_cannot_hang_or_flood(template):
    """All of them are in tests/formats/test_chat_template.py."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.monotonic()
    assert read_template(header(FLOODS[template])) is None
    assert time.monotonic() - begun < 40, "5 seconds of computing; 30 in all on a machine with much to do"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "kilobytes, in this process"


def test_a_template_that_waits_is_given_up(monkeypatch):
    monkeypatch.setattr("emobake.formats.chat_template.SECONDS", -1)
    assert read_template(header(CHATML)) is None


def test_quotes_and_control_characters_stay_out_of_the_modelfile():
    for system in ('a "quote"', "a \x1b[31m b"):
        assert read_template(header(CHATML.replace("You are tiny.", system))) is None
    text, _ = write_modelfile(header("", **{"general.license": "MIT \x1b[31m"}), "m.gguf", "1 x joy")
    assert 'LICENSE """MIT \\x1b[31m"""' in text
    text, _ = write_modelfile(header("", **{"general.license": 'the "MIT"'}), "m.gguf", "1 x joy")
    assert "LICENSE" not in text


def test_a_name_cannot_become_a_directive():
    fields = (text_field("general.name", "x\nADAPTER ./evil"), *header(CHATML).fields[1:])
    text, _ = write_modelfile(GgufHeader("x", 0, 3, 32, fields, ()), "m.gguf", "1 x joy")
    assert text.startswith("# Made by emobake: x ADAPTER ./evil, steered") and "\nADAPTER" not in text


def test_sampling_and_licence_are_handed_on():
    more = (Field("general.sampling.temp", 6, np.float32(0.7).tobytes()), uint32_field("general.sampling.top_k", 20))
    base = header(CHATML, **{"general.license": "apache-2.0"})
    text, _ = write_modelfile(GgufHeader("x", 0, 3, 32, (*base.fields, *more), ()), "m.gguf", "1 x joy")
    assert "PARAMETER temperature 0.7\nPARAMETER top_k 20\n" in text and 'LICENSE """apache-2.0"""' in text


def test_the_file_lies_beside_the_output(tmp_path: Path, cli):
    write_model(tmp_path / "base.gguf")
    vectors = VectorSet(("joy",), np.ones((1, LAYERS, HIDDEN), np.float32))
    result = bake(
        tmp_path / "base.gguf", vectors, mix={"joy": 1}, out=GgufFile(tmp_path / "Joyful.gguf", modelfile=True)
    )
    text = (tmp_path / "Joyful.Modelfile").read_text()
    assert "FROM ./Joyful.gguf" in text and "<user>{{ .Content }}<end>" in text
    assert [f.name for f in result.plan.files] == ["Joyful.gguf", "Joyful.Modelfile"]
    from emobake.vectors.write import write_set

    write_set(vectors, tmp_path / "v.safetensors")
    some = ("--model", tmp_path / "base.gguf", "--vectors", tmp_path / "v.safetensors", "--mix", "joy=1", "--modelfile")
    (tmp_path / "two.Modelfile").write_text("mine")
    cli(*some, "--out", tmp_path / "two.gguf", "--overwrite").one_line("two.Modelfile", "is not an earlier output")
    assert not (tmp_path / "two.gguf").exists()
    ran = cli(*some, "--out", tmp_path / "Joyful.gguf", "--overwrite").ok()
    assert f"ollama create joyful -f {tmp_path / 'Joyful.Modelfile'}" in ran.out and "ollama run joyful" in ran.out


def go(template: str, system: str, messages: list[dict[str, str]]) -> str:
    """Render as Go's text/template does, for the few forms that are written here; Ollama puts SYSTEM in front."""
    if system:
        messages = [{"role": "system", "content": system}, *messages]
    begin, _, rest = template.partition(
        "{{ range $i, $_ := .Messages }}{{ $last := eq (len (slice $.Messages $i)) 1 }}"
    )
    assert rest.endswith("{{ end }}"), "of the range"
    tokens = re.split(r"(\{\{ .*? \}\})", rest.removesuffix("{{ end }}"))
    out = begin
    for number, message in enumerate(messages):
        out += _run(tokens, message, number == len(messages) - 1)
    return out


def _run(tokens: list[str], message: dict[str, str], last: bool) -> str:
    """The body of the range: texts and actions; a stack of (a branch was taken, this branch is on)."""
    out, stack = "", [(True, True)]

    def holds(condition: str) -> bool:
        if role := re.fullmatch(r'eq \.Role "(\w+)"', condition):
            return message["role"] == role[1]
        if condition == "not $last":
            return not last
        assert condition == 'and $last (ne .Role "assistant")', condition
        return last and message["role"] != "assistant"

    for token in tokens:
        action = re.fullmatch(r"\{\{ (.*) \}\}", token, re.DOTALL)
        on = all(branch for _, branch in stack)
        if action is None:
            out += token if on else ""
        elif action[1] == ".Content":
            out += message["content"] if on else ""
        elif action[1] == "end":
            stack.pop()
        elif action[1].startswith("else if "):
            taken, _ = stack.pop()
            now = not taken and holds(action[1][8:])
            stack.append((taken or now, now))
        else:
            assert action[1].startswith("if "), action[1]
            now = holds(action[1][3:])
            stack.append((now, now))
    assert len(stack) == 1, "every if has its end"
    return out


def test_a_model_that_is_the_base_again_is_not_called_steered():
    assert write_modelfile(header(CHATML), "m.gguf", "")[0].splitlines()[0].endswith(", not steered")
