"""Chat templates in a process of their own: the texts of transformers, within limits."""

from __future__ import annotations

import json
import time

import pytest
from support.templates import CHATML, FLOODS, GEMMA, LLAMA2, LLAMA3, MISTRAL, PARTS

from emobake.formats.chat_template import render_chats

TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "additional_special_tokens": ["<a>", "<b>"]}
ASKED = [{"role": "user", "content": 'Is 1 < 2 & "so on"?'}]
TALK = [
    {"role": "system", "content": "Be kind."},
    *ASKED,
    {"role": "assistant", "content": " Sí ✓ "},
    {"role": "user", "content": "And\nthen?"},
]
TEMPLATES = {
    "chatml": CHATML,
    "llama3": LLAMA3,
    "mistral": MISTRAL,
    "gemma": GEMMA,
    "llama2": LLAMA2,
    "parts": PARTS,
    "trimmed blocks": "  {% for m in messages %}\n  {{ m.content }}\n  {% endfor %}\n",
    "break": "{% for m in messages %}{% if loop.index0 == 1 %}{% break %}{% endif %}{{ m.content }}{% endfor %}",
    "json": "{{ messages | tojson }}{{ messages | tojson(indent=2) }}",
    "sorted json": "{{ {'b': 1, 'a': 'é'} | tojson(sort_keys=true) }}",
    "generation": "{% set x = 1 %}{% for m in messages %}{% generation %}{% set x = 2 %}{{ m.content }}{{ loop.index }}"
    "{{ x }}{% endgeneration %}{{ x }}{% endfor %}",
    "namespace": "{% set n = namespace(a=1) %}{% for m in messages %}{% set n.a = n.a + 1 %}{% endfor %}{{ n.a }}",
    "no tools": "{% if tools is none and documents is none and not undefined %}{{ dict(a=1).a }}{% endif %}",
    "list of tokens": "{{ additional_special_tokens[1] }}{{ bos_token }}",
    "day": "{{ strftime_now('%Y') | length }}",
    "class": "{{ ''.__class__ }}|{{ messages.append(1) }}",
    "wrong": "{% for m in messages %}",
    "refuses": "{{ raise_exception('Roles must alternate') }}",
    "no such function": "{{ open('/etc/passwd') }}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_text_is_that_of_transformers(name):
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    asked = [(talk, generation) for talk in (ASKED, TALK) for generation in (True, False)]
    for (talk, generation), own in zip(asked, render_chats(TEMPLATES[name], TOKENS, asked), strict=True):
        try:
            texts, _ = utils.render_jinja_template(
                conversations=[talk], chat_template=TEMPLATES[name], add_generation_prompt=generation, **TOKENS
            )
        except Exception:
            assert own.text is None and own.reason
        else:
            assert own == (texts[0], "")


def test_most_of_them_say_something():
    """What fails in both would pass the comparison."""
    silent = {
        name for name, template in TEMPLATES.items() if not render_chats(template, TOKENS, [(ASKED, True)])[0].text
    }
    assert silent == {"class", "wrong", "refuses", "no such function"}


def test_the_reason_is_one_line():
    assert render_chats("{{ raise_exception('Roles\nmust\x1b[31m alternate') }}", {}, [(ASKED, True)]) == [
        (None, "Roles must\x1b[31m alternate")
    ]


def test_without_a_clock_no_text_depends_on_the_day():
    template = "{{ 'a day' if strftime_now is defined else 'no day' }}"
    assert [render_chats(template, {}, [(ASKED, True)], clock=clock)[0].text for clock in (True, False)] == [
        "a day",
        "no day",
    ]


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_is_one_reason(name):
    begun = time.monotonic()
    for text, reason in render_chats(FLOODS[name], {}, [(ASKED, True)] * 2):
        assert text is None and 0 < len(reason) <= 200
    assert time.monotonic() - begun < 40


def test_a_long_conversation_is_no_flood():
    talk = [{"role": "user", "content": "x" * 300_000}]
    assert render_chats("{{ messages[0].content }}", {}, [(talk, True)])[0].text == "x" * 300_000


def test_variables_cannot_stand_for_the_conversation():
    hostile = {"messages": [], "add_generation_prompt": False, "self": 1, "asked": 2}
    template = "{{ messages[0].role }} {{ add_generation_prompt }}"
    assert render_chats(template, hostile, [(ASKED, True)])[0].text == "user True"


def test_surrogates_survive():
    text = json.loads('"\\ud800"')
    assert render_chats("{{ messages[0].content }}", {}, [([{"role": "user", "content": text}], True)])[0].text == text
