"""Written replies: queries that are each answered neutrally and with each of the paper's emotions.

A small model is no good example of an emotion: asked to be angry, SmolLM2-135M says that it is here to help. These
replies are shipped, so that vectors can be made for what people mean by an emotion, and measured by it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..core.strict_json import parse_json
from ..core.vector_set import EMOTIONS
from .queries import Questionnaire, parse_answers
from .query_sets import REPLIES, shipped

NEUTRAL = "neutral"
FOR_VECTORS = 32
"""Vectors are made from the first so many queries; the others are kept for measuring."""


@dataclass(frozen=True)
class Written:
    """A query and its replies."""

    query: str
    neutral: str
    emotional: Mapping[str, str]
    """Emotion -> reply, for the paper's five emotions."""


def written_replies() -> tuple[Written, ...]:
    """Read the replies that are shipped with emobake."""
    found = parse_json(shipped(REPLIES), REPLIES)
    return tuple(Written(one["query"], one[NEUTRAL], {e: one[e] for e in EMOTIONS}) for one in found)


def written_answers(emotional_prompt: str, neutral_prompt: str) -> Questionnaire:
    """Recorded answers for an extraction: the replies to the first `FOR_VECTORS` queries, under these conditions."""
    lines = [
        {"emotion": emotion, "query": one.query, "emotional": one.emotional[emotion], "neutral": one.neutral}
        for one in written_replies()[:FOR_VECTORS]
        for emotion in EMOTIONS
    ]
    content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    found = parse_answers(content.encode(), "written.jsonl", emotional_prompt, neutral_prompt)
    file = {"queries": REPLIES, "queries_sha256": hashlib.sha256(shipped(REPLIES)).hexdigest()}
    return replace(found, record={**found.record, **file})
