"""Chat templates that assume a system prompt, beside the same templates with a system message."""

from __future__ import annotations

import pytest
from support.templates import CHATML, FLOODS, GEMMA, LLAMA2, LLAMA3, MISTRAL, PARTS

from emobake.formats.chat_template import render_chats
from emobake.formats.system_prompt import assuming, find_form, find_forms, without_assumed

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
PROMPT = "You're \"it\" \\ \\n {% x %} {{ y }} {# z #} \U0001f600 %} }}\nSecond\tline \u00e9 '''"
SPACED = "\n\n  {% for m in messages %}\n  <{{ m.role }}>{{ m.content }}\n  {% endfor %}\n"


def said(text: str, form: str) -> object:
    return text if form == "text" else [{"type": "text", "text": text}]


@pytest.mark.parametrize(
    ("template", "form"),
    [(CHATML, "text"), (LLAMA3, "text"), (LLAMA2, "text"), (PARTS, "parts"), (SPACED, "text")],
    ids=["chatml", "llama3", "llama2", "parts", "spaced"],
)
def test_it_renders_as_with_a_system_message(template, form):
    assert find_form(template, TOKENS, PROMPT) == (form, "")
    wrapped = assuming(template, PROMPT, form)
    user = {"role": "user", "content": said("Hello?", form)}
    answer = {"role": "assistant", "content": said("Hi.", form)}
    own = {"role": "system", "content": said("Be terse.", form)}
    prompt = {"role": "system", "content": said(PROMPT, form)}
    for talk, like in (
        ([user], [prompt, user]),
        ([user, answer, user], [prompt, user, answer, user]),
        ([own, user], [own, user]),
        ([], []),
    ):
        for generation in (True, False):
            (found,) = render_chats(wrapped, TOKENS, [(talk, generation)])
            (wanted,) = render_chats(template, TOKENS, [(like, generation)])
            assert found == wanted
            if talk == [user]:
                assert PROMPT in found.text


def test_transformers_renders_it_alike():
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    wrapped, talk = assuming(CHATML, PROMPT), [{"role": "user", "content": "Hello?"}]
    texts, _ = utils.render_jinja_template(conversations=[talk], chat_template=wrapped, **TOKENS)
    assert texts[0] == f"<|im_start|>system\n{PROMPT}<|im_end|>\n<|im_start|>user\nHello?<|im_end|>\n"
    mine = [{"role": "system", "content": "Mine."}, *talk]
    texts, _ = utils.render_jinja_template(conversations=[mine], chat_template=wrapped, **TOKENS)
    assert texts[0].startswith("<|im_start|>system\nMine.") and PROMPT not in texts[0]


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (MISTRAL, "alternate!"),
        (GEMMA, "no system"),
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", "does not write"),
        ("{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}", "does not write"),
        ("{{ messages | tojson }}", "does not write"),
        ("{% for m in messages %}", ""),
        (FLOODS["product"], ""),
        ("x" * 1_000_001, "characters"),
    ],
    ids=["mistral", "gemma", "upper", "dropped", "json", "broken", "flood", "long"],
)
def test_a_template_without_a_place_is_told(template, reason):
    form, why = find_form(template, TOKENS, 'Be kind and "bold".')
    assert form is None and reason in why and why


def test_it_is_done_once_and_can_be_undone():
    once = assuming(CHATML, PROMPT)
    assert assuming(once, PROMPT) == once and without_assumed(once, PROMPT, "text") == CHATML
    twice = assuming(once, "Another.")
    (found,) = render_chats(twice, TOKENS, [([{"role": "user", "content": "x"}], False)])
    assert "Another." in found.text and "Second" not in found.text


def test_what_is_said_of_several_templates():
    forms, notes = find_forms({"a": CHATML, "b": MISTRAL}, TOKENS, "Be kind.")
    assert forms == {"a": "text"} and len(notes) == 1
    assert "SYSTEM PROMPT" in notes[0] and "NOT in all chat templates" in notes[0] and "b has no place" in notes[0]
    assert "NOT in the output" in find_forms({"b": MISTRAL}, TOKENS, "Be kind.")[1][0]
    assert "no chat template" in find_forms({}, TOKENS, "Be kind.")[1][0]
