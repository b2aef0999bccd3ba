"""Token ids of conversations: which texts a template gets, and what its failures become."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from support.templates import CHATML, FLOODS, PARTS

from emobake import InputError
from emobake.models.loading import encode_chats

ASKED = [{"role": "user", "content": " Hello? "}]
TALK = [*ASKED, {"role": "assistant", "content": "Hi."}, {"role": "user", "content": "How are you?"}]


@dataclass
class Letters:
    """A tokenizer whose ids are the letters, with a BOS token where special tokens are asked for."""

    chat_template: str | None
    special_tokens_map: dict[str, Any] = field(default_factory=lambda: {"bos_token": "^"})

    def get_chat_template(self) -> str | None:
        return self.chat_template

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": list(map(ord, "^" * add_special_tokens + text))}


def encoded(template: str | None, *talks: list[dict[str, str]]) -> list[str]:
    return ["".join(map(chr, ids)) for ids in encode_chats(Letters(template), talks, "some/model")]


def test_a_plain_template_gets_plain_texts():
    first, second = encoded(CHATML, TALK, ASKED)
    assert first.endswith("<|im_start|>user\nHow are you?<|im_end|>\n<|im_start|>assistant\n") and "^" not in first
    assert second.endswith("<|im_start|>user\n Hello? <|im_end|>\n<|im_start|>assistant\n") and "Hi." not in second


def test_a_template_of_parts_gets_parts():
    assert encoded(PARTS, TALK) == ["<user> Hello? <assistant>Hi.<user>How are you?<assistant>"]


def test_a_template_that_fails_on_plain_texts_gets_parts():
    template = "{% for m in messages %}{{ m.content[0].text | trim + '|' }}{% endfor %}"
    assert encoded(template, ASKED) == ["Hello?|"]


def test_without_a_template_texts_come_one_after_another():
    assert encoded(None, TALK) == ["^ Hello? \n\nHi.\n\nHow are you?\n\n"]


@pytest.mark.parametrize("flood", ["loop", "nested"])
def test_a_template_cannot_hang_or_flood(flood):
    with pytest.raises(InputError, match=r"^some/model: its chat template fails \("):
        encoded(FLOODS[flood], ASKED)


def test_the_reason_of_a_template_is_said():
    with pytest.raises(InputError, match=r"^some/model: its chat template fails \(no system message\)$"):
        encoded("{{ raise_exception('no system message') }}", ASKED)


def test_several_templates_without_one_for_talk():
    class Several(Letters):
        def get_chat_template(self) -> str:
            raise ValueError("This model has multiple chat templates")

    with pytest.raises(InputError, match="some/model: has no chat template for talk"):
        encode_chats(Several(CHATML), [ASKED], "some/model")
