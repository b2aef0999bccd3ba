"""Parts of the queries: disjoint, deterministic, and nothing of the extraction in the test."""

from emobake.measure.queries import parse_queries
from emobake.measure.query_sets import EVERYDAY, OWN, comparable, open_queries, open_questions
from emobake.measure.search.parts import split


def shipped(seed):
    return split(open_questions(EVERYDAY).texts, parse_queries(*open_queries(OWN)), seed)


def texts(part):
    return [*part.everyday, *(text for queries in part.emotional.values() for text in queries)]


def test_parts_are_disjoint_and_whole():
    parts = shipped(0)
    every = [comparable(text) for part in (parts.train, parts.validation, parts.test) for text in texts(part)]
    assert len(set(every)) == len(every) == 60 + 5 * 48
    assert [len(p.everyday) for p in (parts.train, parts.validation, parts.test)] == [10, 14, 36]
    assert len(parts.train.emotional["joy"]) == 32 and len(parts.validation.emotional["joy"]) == 16


def test_the_test_has_no_query_of_the_extraction():
    made = {comparable(text) for queries in parse_queries(*open_queries(OWN)).values() for text in queries}
    assert not made & {comparable(text) for text in texts(shipped(3).test)}


def test_the_seed_decides():
    assert shipped(1) == shipped(1) != shipped(2)


def test_a_text_that_occurs_twice_is_taken_once():
    parts = split(["A?", "a? ", "B?", "C?", "D?"], {"joy": ["b?", "E?", "F?"]}, 0)
    assert sorted(map(comparable, [t for p in (parts.train, parts.validation, parts.test) for t in texts(p)])) == [
        "a?",
        "b?",
        "c?",
        "d?",
        "e?",
        "f?",
    ]
