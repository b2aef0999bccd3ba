import json

import pytest

from emobake import BrokenFileError, InputError
from emobake.measure.queries import (
    EMOTIONAL,
    NEUTRAL,
    Answer,
    answer_line,
    ask,
    parse_answers,
    parse_contrasts,
    parse_queries,
)


def lines(*entries):
    return "\n".join(map(json.dumps, entries)).encode() + b"\n"


def test_queries_in_every_form_give_the_same():
    wanted = {"joy": ["A?", "B?"], "fear": ["C?"]}
    entries = [{"emotion": e, "query": q} for e, queries in wanted.items() for q in queries]
    assert parse_queries(json.dumps(wanted).encode(), "q.json") == wanted
    assert parse_queries(json.dumps(entries).encode(), "q.json") == wanted
    assert parse_queries(lines(*entries), "q.jsonl") == wanted


@pytest.mark.parametrize("content", [b'["A?", "B?"]', b'"A?"\n\n"B?"\n'])
def test_bare_strings_take_the_files_name(content):
    name = "some/Nostalgia.json" + "l" * content.startswith(b'"')
    assert parse_queries(content, name) == {"nostalgia": ["A?", "B?"]}


def test_one_object_in_a_jsonl_file_is_one_line():
    assert parse_queries(b'{"emotion": "joy", "query": "A?"}', "q.jsonl") == {"joy": ["A?"]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not valid JSON"),
        (b"{}", "holds no queries"),
        (b"3", "holds a JSON int"),
        (b'{"joy": "A?"}', "'joy' is not a list of strings"),
        (b'{"joy": [1]}', "'joy' is not a list of strings"),
        (b'{"joy": [" "]}', "empty query for 'joy'"),
        (b'{"joy": ["A?"], "joy": ["B?"]}', "a key occurs twice"),
        (b'{"../joy": ["A?"]}', "cannot be the name of an emotion"),
        (b'{"__metadata__": ["A?"]}', "cannot be the name of an emotion"),
        (b'[{"emotion": "joy"}]', "entry 1 has no text 'query'"),
        (b'[{"query": "A?"}]', "entry 1 has no text 'emotion'"),
        (b"[" * 100_000, "not valid JSON"),
    ],
)
def test_malformed_queries(content, words):
    with pytest.raises(BrokenFileError, match=words):
        parse_queries(content, "q.json")


def test_a_bad_line_is_named():
    with pytest.raises(BrokenFileError, match="line 2"):
        parse_queries(b'"A?"\n{"emotion": \n', "q.jsonl")


def test_conditions_are_filled_in_and_braces_of_a_query_stay():
    asked = ask({"joy": ["What is {emotion}?"]}, b"x", "q.json", "Feel {emotion}: {query}", "Be calm: {query}")
    (contrast,) = asked.contrasts
    assert contrast.positive_prompt == "Feel joy: What is {emotion}?"
    assert contrast.negative_prompt == "Be calm: What is {emotion}?"
    assert asked.record["emotional_prompt"] == "Feel {emotion}: {query}"
    assert len(asked.record["queries_sha256"]) == 64


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        (("no place", NEUTRAL), "`emotional` has no {query}"),
        ((EMOTIONAL, "no place"), "`neutral` has no {query}"),
        (("{query}", "{query}"), "nothing to subtract"),
    ],
)
def test_useless_conditions(prompts, words):
    with pytest.raises(InputError, match=words):
        ask({"joy": ["A?"]}, b"x", "q.json", *prompts)


def test_limit_and_choice_of_emotions():
    asked = ask({"joy": ["A?", "B?", "C?"], "fear": ["D?"]}, b"x", "q.json")
    assert [c.query for c in asked.limited(2).contrasts] == ["A?", "B?", "D?"]
    assert asked.of(["fear"]).emotions == ("fear",)
    assert asked.of(["fear"]).record != asked.record != asked.limited(2).record
    assert asked.limited(None) is asked
    with pytest.raises(InputError, match="no queries for awe; there are some for joy, fear"):
        asked.of(["awe"])


def test_pairs_of_texts():
    content = lines(
        {"positive": "Hooray!", "negative": "I see.", "prompt": "We won."},
        {"positive": "So good.", "negative": "Fine.", "emotion": "Calm"},
    )
    first, second = parse_contrasts(content, "dir/joy.jsonl").contrasts
    assert (first.emotion, first.positive_prompt, first.negative_prompt) == ("joy", "We won.", "We won.")
    assert (first.positive, first.negative) == (Answer("Hooray!"), Answer("I see."))
    assert (second.emotion, second.positive_prompt, second.number) == ("calm", None, 0)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"positive": "a", "negative": "b"}', "one object"),
        (b'[{"positive": "a"}]', "entry 1 has no text 'negative'"),
        (b'[{"positive": "a", "negative": " "}]', "pair 1 has an empty text"),
        (b"[]", "holds no pairs"),
        (b'[{"positive": "a", "negative": "b", "prompt": 3}]', "no text 'prompt'"),
    ],
)
def test_malformed_pairs(content, words):
    with pytest.raises(BrokenFileError, match=words):
        parse_contrasts(content, "joy.json")


def test_recorded_answers_come_back():
    (contrast,) = ask({"joy": ["A?"]}, b"x", "q.json").contrasts
    line = answer_line(contrast, Answer("Yes\u2028!", (1, 2)), Answer("No", (3,)))
    (read,) = parse_answers(line.encode(), "a.jsonl").contrasts
    assert (read.positive, read.negative) == (Answer("Yes\u2028!", (1, 2)), Answer("No", (3,)))
    assert (read.positive_prompt, read.negative_prompt) == (contrast.positive_prompt, contrast.negative_prompt)


def test_malformed_answers():
    entry = {"emotion": "joy", "query": "A?", "emotional": "a", "neutral": "b"}
    assert parse_answers(lines(entry), "a.jsonl").contrasts[0].positive == Answer("a")
    with pytest.raises(BrokenFileError, match="not a list of ids"):
        parse_answers(lines(entry | {"neutral_tokens": [-1]}), "a.jsonl")
    with pytest.raises(BrokenFileError, match="no text 'neutral'"):
        parse_answers(lines({k: v for k, v in entry.items() if k != "neutral"}), "a.jsonl")


def test_every_emotion_is_asked_every_query_in_turn():
    asked = ask({"joy": ["A?", "B?"], "fear": ["C?"]}, b"x", "q.json", every_emotion=True)
    assert [(c.emotion, c.number, c.query) for c in asked.contrasts] == [
        (emotion, i, query) for emotion in ("joy", "fear") for i, query in enumerate(["A?", "C?", "B?"])
    ]
    assert asked.record["every_emotion"] is True
    assert [c.query for c in asked.limited(2).contrasts] == ["A?", "C?", "A?", "C?"], "some of each kind"
    assert asked.scenarios() == [[0, 3], [1, 4], [2, 5]]
    recorded = "".join(answer_line(c, Answer("a"), Answer("b")) for c in asked.contrasts)
    assert parse_answers(recorded.encode(), "a.jsonl").scenarios() == asked.scenarios()


@pytest.mark.parametrize(
    ("queries", "words"),
    [
        ({"joy": ["A?"]}, "needs two emotions"),
        ({"joy": ["A?", "B?"], "fear": ["A?"]}, "query 2 of joy is not asked of all"),
        ({"joy": ["A?", "B?"], "fear": ["A?", "C?"]}, "query 2 of joy is not asked of all"),
    ],
)
def test_scenarios_need_every_query_under_every_emotion(queries, words):
    with pytest.raises(InputError, match=words):
        ask(queries, b"x", "q.json").scenarios()
