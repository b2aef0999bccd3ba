"""Conversations of several turns: does the emotion last, with a prompt and with the vectors?

A scripted user sends the shipped messages, which do not depend on the answers. Several conversations begin at different
messages, so that a turn is not one message. Each is held twice: as it is, and under a system prompt of the user's own,
which follows the baseline's. Needs torch and transformers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from ..errors import InputError
from ..formats.chat_template import Message
from ..models.loading import encode_chats
from .experiment import Variant
from .query_sets import open_shipped
from .scorers.base import Scorer
from .stages import Stages, key_of, score

MOST = 10
"""Turns at most: the number of the messages."""
CONVERSATIONS = 5
TOKENS = 96
"""Tokens of an answer at most; fewer if the evaluation allows fewer."""
OWN = "You are a concise assistant."
"""System prompt of the user's own."""


@dataclass(frozen=True, eq=False)
class Turns:
    """The answers of all conversations, and their scores. Keys are `Variant.key`, then plain (0) or under `OWN` (1)."""

    variants: Sequence[Variant]
    answers: Mapping[str, Sequence[Sequence[Sequence[str]]]]
    """Key -> plain and own -> conversation -> turn."""
    scores: Mapping[str, Mapping[str, Sequence[Sequence[Sequence[Mapping[str, float]]]]]]
    """Scorer -> as `answers`."""
    system_tokens: Mapping[str, int]
    """Key -> tokens of its system prompt, which stands before every request."""


@cache
def messages() -> tuple[str, ...]:
    """The shipped messages of the scripted user; written for this project."""
    return open_shipped("turns.json").texts


def scripts(turns: int) -> list[list[str]]:
    """The user's messages in each conversation, ``[conversation][turn]``."""
    every = messages()
    step = len(every) // CONVERSATIONS
    return [[every[(turn + step * i) % len(every)] for turn in range(turns)] for i in range(CONVERSATIONS)]


def converse(stages: Stages, variants: Sequence[Variant], scorers: Sequence[Scorer]) -> Turns:
    """Hold all conversations with each of `variants`, and score every answer.

    Raises:
        InputError: the model's context is too small. ModelError, HubError: a model or scorer failed.
    """
    script = scripts(stages.settings.turns)

    def work(variant: Variant, places: list[int]) -> dict[str, Any]:
        return {key_of(variant, own): _talk(stages, variant, script, own=bool(own)) for own in places}

    found = stages.run("turns", variants, 2, lambda _, todo: [[own] for own in todo], work)
    answers = {v.key: [found[key_of(v, own)] for own in (0, 1)] for v in variants}
    flat = {key: [text for own in said for talk in own for text in talk] for key, said in answers.items()}
    asked = [text for _ in (0, 1) for talk in script for text in talk]
    scores = {one.name: score(stages, one, asked, flat, variants, "turn-scores") for one in scorers}
    return Turns(
        variants,
        answers,
        {
            name: {v.key: _folded([figures[key_of(v, i)] for i in range(len(asked))], script) for v in variants}
            for name, figures in scores.items()
        },
        {v.key: _system_tokens(stages, v) for v in variants},
    )


def _talk(stages: Stages, variant: Variant, script: Sequence[Sequence[str]], *, own: bool) -> list[list[str]]:
    base, settings = stages.base, stages.settings
    sampling = replace(settings.sampling, max_new_tokens=min(TOKENS, settings.sampling.max_new_tokens))
    system = "\n\n".join(filter(None, (stages.experiment.system(variant), OWN if own else "")))
    chats: list[list[Message]] = [[] for _ in script]
    for turn in range(len(script[0])):
        for chat, own_script in zip(chats, script, strict=True):
            chat.append({"role": "user", "content": own_script[turn]})
        prompts = encode_chats(base.tokenizer, [base.under(system, chat) for chat in chats], base.name)
        longest = max(map(len, prompts)) + sampling.max_new_tokens
        if base.context is not None and longest > base.context:
            raise InputError(
                f"{base.name}: its context of {base.context} is full at turn {turn + 1}; ask for fewer `turns`"
            )
        names = [f"turn/{turn}/{i}" for i in range(len(chats))]
        for chat, said in zip(chats, stages.live.answer_here(variant, prompts, names, sampling), strict=True):
            text = str(base.tokenizer.decode(said, skip_special_tokens=True))
            chat.append({"role": "assistant", "content": text})
    return [[str(message["content"]) for message in chat if message["role"] == "assistant"] for chat in chats]


def _folded(flat: Sequence[Any], script: Sequence[Sequence[str]]) -> list[list[list[Any]]]:
    """`flat` as plain and own -> conversation -> turn."""
    rest = iter(flat)
    return [[[next(rest) for _ in talk] for talk in script] for _ in (0, 1)]


def _system_tokens(stages: Stages, variant: Variant) -> int:
    return len(stages.base.tokenizer(stages.experiment.system(variant), add_special_tokens=False)["input_ids"])
