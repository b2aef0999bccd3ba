"""Queries of an extraction: per emotion under two conditions, or pairs of texts, or recorded answers.

The paper (arXiv 2502.04075) lets a model answer each query under an emotional and under a neutral condition; its
condition prompts are not published, so the defaults here are our own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import PurePath
from typing import Any

from ..core.names import EMOTION_RULE, emotion_name, is_emotion_name
from ..core.spelling import did_you_mean
from ..core.strict_json import parse_json
from ..errors import BrokenFileError, InputError

EMOTIONAL = "Answer as a person who is overwhelmed by {emotion}. Let {emotion} show in every sentence.\n\n{query}"
"""Default emotional condition; ``{emotion}`` and ``{query}`` are filled in."""
NEUTRAL = "Answer as a person who is calm and neutral. Show no emotion at all.\n\n{query}"
"""Default neutral condition."""
MAX_QUERIES = 1_000_000


@dataclass(frozen=True)
class Answer:
    """A recorded answer: its text, and its token ids where the model's own are known."""

    text: str
    tokens: tuple[int, ...] = ()


@dataclass(frozen=True)
class Contrast:
    """One difference to measure: two answers, each with its prompt.

    The answers are given, or (None) generated from the prompts.
    """

    emotion: str
    number: int
    """Number among the contrasts of one emotion, from 0."""
    query: str
    """The user's text, for records; empty if there is none."""
    positive_prompt: str | None
    """User message before the emotional answer; None for a text without a prompt."""
    negative_prompt: str | None
    positive: Answer | None = None
    negative: Answer | None = None


@dataclass(frozen=True)
class Questionnaire:
    """All contrasts of an extraction."""

    contrasts: tuple[Contrast, ...]
    record: Mapping[str, Any] = field(default_factory=dict)
    """Origin of the contrasts as JSON data: names, digests, condition prompts."""

    @property
    def emotions(self) -> tuple[str, ...]:
        """Emotions in the order of their first contrast."""
        return tuple(dict.fromkeys(contrast.emotion for contrast in self.contrasts))

    def of(self, emotions: Iterable[str]) -> Questionnaire:
        """Keep the contrasts of these emotions.

        Raises:
            InputError: an emotion without contrasts.
        """
        wanted = list(emotions)
        missing = [emotion for emotion in wanted if emotion not in self.emotions]
        if missing:
            like = did_you_mean(missing[0], self.emotions)
            raise InputError(
                f"no queries for {', '.join(missing)}; there are some for {', '.join(self.emotions)}{like}"
            )
        kept = tuple(contrast for contrast in self.contrasts if contrast.emotion in wanted)
        return Questionnaire(kept, {**self.record, "emotions": wanted})

    def limited(self, limit: int | None) -> Questionnaire:
        """Keep at most the first `limit` contrasts of each emotion."""
        if limit is None:
            return self
        kept = tuple(contrast for contrast in self.contrasts if contrast.number < limit)
        return Questionnaire(kept, {**self.record, "limit": limit})

    def scenarios(self) -> list[list[int]]:
        """Group the contrasts that ask the same query, one of each emotion: their indices.

        Raises:
            InputError: there is one emotion only, or a query that not every emotion is asked in the same place.
        """
        groups: dict[int, list[int]] = {}
        for i, contrast in enumerate(self.contrasts):
            groups.setdefault(contrast.number, []).append(i)
        if len(self.emotions) < 2:
            raise InputError("`subtract_mean` needs two emotions: the mean over one is that emotion itself")
        for group in groups.values():
            queries = {self.contrasts[i].query for i in group}
            if len(group) < len(self.emotions) or len(queries) > 1 or not all(queries):
                raise InputError(
                    "`subtract_mean` needs the same queries under each emotion, in the same order; query "
                    f"{self.contrasts[group[0]].number + 1} of {self.contrasts[group[0]].emotion} is not asked of all"
                )
        return list(groups.values())


def parse_queries(content: bytes, file: str) -> dict[str, list[str]]:
    """Parse queries by emotion from JSON or JSONL.

    JSON: an object ``{"joy": ["...", ...]}``, a list of ``{"emotion": ..., "query": ...}``, or a list of strings,
    whose emotion is the file's name. JSONL: one element of such a list per line. A query that occurs twice counts
    twice; the published EmotionQuery has some.

    Raises:
        BrokenFileError: another form, an empty query, or an invalid name of an emotion.
    """
    parsed = _json_or_lines(content, file)
    if isinstance(parsed, dict):
        pairs = [(emotion, query) for emotion, queries in parsed.items() for query in _strings(queries, emotion, file)]
    else:
        pairs = [
            (_stem(file), entry)
            if isinstance(entry, str)
            else (_text(entry, "emotion", i, file), _text(entry, "query", i, file))
            for i, entry in enumerate(parsed, 1)
        ]
    found: dict[str, list[str]] = {}
    for emotion, query in pairs:
        queries = found.setdefault(_name(emotion, file), [])
        if not query.strip():
            raise BrokenFileError(f"{file}: has an empty query for {emotion!r}; remove it")
        queries.append(query)
    if not found:
        raise BrokenFileError(f"{file}: holds no queries")
    return found


def parse_questions(content: bytes, file: str) -> dict[str, list[str]]:
    """Parse queries by group for an evaluation: a list of strings (one group, ``""``), or as `parse_queries`.

    Raises:
        BrokenFileError: another form, or an empty query.
    """
    parsed = _json_or_lines(content, file)
    if isinstance(parsed, dict) or not all(isinstance(entry, str) for entry in parsed):
        return parse_queries(content, file)
    if not parsed:
        raise BrokenFileError(f"{file}: holds no queries")
    if not all(entry.strip() for entry in parsed):
        raise BrokenFileError(f"{file}: has an empty query; remove it")
    return {"": parsed}


def ask(
    queries: Mapping[str, Iterable[str]],
    content: bytes,
    name: str,
    emotional: str = EMOTIONAL,
    neutral: str = NEUTRAL,
    *,
    every_emotion: bool = False,
) -> Questionnaire:
    """Ask each query under both conditions; `content` is the file of the queries, `name` its name.

    With `every_emotion` each emotion is asked the queries of all emotions, in turn one of each, so that the first N
    are of all kinds. That is as many times the contrasts as there are emotions.

    Raises:
        InputError: a condition prompt without ``{query}``, or an emotional one that equals the neutral one.
    """
    for argument, template in (("emotional", emotional), ("neutral", neutral)):
        if "{query}" not in template:
            raise InputError(f"`{argument}` has no {{query}} in it, the place of the query")
    if emotional == neutral:
        raise InputError("`emotional` and `neutral` are the same: there would be nothing to subtract")
    if every_emotion:
        mixed = [query for turn in zip_longest(*queries.values()) for query in turn if query is not None]
        queries = dict.fromkeys(queries, mixed)
    contrasts = tuple(
        Contrast(emotion, i, query, _fill(emotional, emotion, query), _fill(neutral, emotion, query))
        for emotion, texts in queries.items()
        for i, query in enumerate(texts)
    )
    return Questionnaire(
        contrasts,
        {
            "queries": name,
            "queries_sha256": hashlib.sha256(content).hexdigest(),
            "emotional_prompt": emotional,
            "neutral_prompt": neutral,
            **({"every_emotion": True} if every_emotion else {}),
        },
    )


def _fill(template: str, emotion: str, query: str) -> str:
    # The query last, so that braces in it stay what they are.
    return template.replace("{emotion}", emotion).replace("{query}", query)


def parse_contrasts(content: bytes, file: str) -> Questionnaire:
    """Parse pairs of texts: ``{"positive": ..., "negative": ..., "emotion": ..., "prompt": ...}`` per line of JSONL.

    A JSON list of such objects will do as well. Without ``emotion`` the file's name is the emotion. With ``prompt``
    both texts are answers to that user message; without it, each is a text outside of any chat template.

    Raises:
        BrokenFileError: another form, or an empty text.
    """
    parsed = _json_or_lines(content, file)
    if isinstance(parsed, dict):
        raise BrokenFileError(f"{file}: holds one object, not a list of pairs; write one pair per line")
    contrasts = []
    counts: dict[str, int] = {}
    for i, entry in enumerate(parsed, 1):
        texts = [_text(entry, key, i, file) for key in ("positive", "negative")]
        prompt = _text(entry, "prompt", i, file) if "prompt" in entry else None
        emotion = _name(_text(entry, "emotion", i, file) if "emotion" in entry else _stem(file), file)
        if not all(text.strip() for text in texts):
            raise BrokenFileError(f"{file}: pair {i} has an empty text; remove it")
        number = counts.setdefault(emotion, 0)
        counts[emotion] += 1
        contrasts.append(Contrast(emotion, number, prompt or "", prompt, prompt, Answer(texts[0]), Answer(texts[1])))
    if not contrasts:
        raise BrokenFileError(f"{file}: holds no pairs")
    return Questionnaire(tuple(contrasts), _record("contrast", content, file))


def parse_answers(content: bytes, file: str, emotional: str = EMOTIONAL, neutral: str = NEUTRAL) -> Questionnaire:
    """Parse recorded answers, as `answer_line` writes them; nothing is generated.

    Raises:
        BrokenFileError: another form.
    """
    parsed = _json_or_lines(content, file)
    if isinstance(parsed, dict):
        parsed = [parsed]
    contrasts = []
    counts: dict[str, int] = {}
    for i, entry in enumerate(parsed, 1):
        emotion, query = _name(_text(entry, "emotion", i, file), file), _text(entry, "query", i, file)
        answers = [
            Answer(_text(entry, side, i, file), _tokens(entry.get(f"{side}_tokens", []), i, file))
            for side in ("emotional", "neutral")
        ]
        number = counts.setdefault(emotion, 0)
        counts[emotion] += 1
        prompts = _fill(emotional, emotion, query), _fill(neutral, emotion, query)
        contrasts.append(Contrast(emotion, number, query, *prompts, *answers))
    if not contrasts:
        raise BrokenFileError(f"{file}: holds no answers")
    record = {**_record("answers", content, file), "emotional_prompt": emotional, "neutral_prompt": neutral}
    return Questionnaire(tuple(contrasts), record)


def answer_line(contrast: Contrast, positive: Answer, negative: Answer) -> str:
    """One recorded contrast as a line of JSONL."""
    entry = {
        "emotion": contrast.emotion,
        "query": contrast.query,
        "emotional": positive.text,
        "neutral": negative.text,
        "emotional_tokens": positive.tokens,
        "neutral_tokens": negative.tokens,
    }
    return json.dumps(entry, ensure_ascii=False) + "\n"


def _record(kind: str, content: bytes, file: str) -> dict[str, Any]:
    return {kind: PurePath(file).name, f"{kind}_sha256": hashlib.sha256(content).hexdigest()}


def _stem(file: str) -> str:
    return PurePath(file).stem.lower()


def _name(emotion: str, file: str) -> str:
    name = emotion_name(emotion)
    if not is_emotion_name(name):
        raise BrokenFileError(f"{file}: {emotion[:60]!r} cannot be the name of an emotion; {EMOTION_RULE}")
    return name


def _json_or_lines(content: bytes, file: str) -> dict[str, Any] | list[Any]:
    try:
        parsed: Any = parse_json(content, file)
        if isinstance(parsed, dict) and file.endswith((".jsonl", ".ndjson")):
            parsed = [parsed]
    except BrokenFileError:
        if not file.endswith((".jsonl", ".ndjson")):
            raise
        if content.count(b"\n") > 2 * MAX_QUERIES:
            raise BrokenFileError(f"{file}: holds more than {MAX_QUERIES} entries") from None
        lines = enumerate(content.split(b"\n"), 1)
        parsed = [parse_json(line, f"{file}, line {i}") for i, line in lines if line.strip()]
    if not isinstance(parsed, dict | list):
        raise BrokenFileError(f"{file}: holds a JSON {type(parsed).__name__}; expected an object or a list")
    if len(parsed) > MAX_QUERIES:
        raise BrokenFileError(f"{file}: holds more than {MAX_QUERIES} entries")
    return parsed


def _strings(value: Any, emotion: str, file: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise BrokenFileError(f"{file}: {emotion[:60]!r} is not a list of strings")
    return value


def _text(entry: Any, key: str, i: int, file: str) -> str:
    if not isinstance(entry, dict) or not isinstance(entry.get(key), str):
        raise BrokenFileError(f"{file}: entry {i} has no text {key!r}")
    return str(entry[key])


def _tokens(value: Any, i: int, file: str) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(item) is int and 0 <= item < 2**31 for item in value):
        raise BrokenFileError(f"{file}: entry {i} has tokens that are not a list of ids")
    return tuple(value)
