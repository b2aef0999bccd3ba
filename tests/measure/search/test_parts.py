"""Parts of the queries: disjoint, deterministic, and nothing of an extraction in any of them."""

from emobake.measure.queries import parse_queries
from emobake.measure.query_sets import EVERYDAY, OWN, comparable, open_queries, open_questions
from emobake.measure.search.parts import shipped_parts, split
from emobake.measure.written import FOR_VECTORS, Written, written_replies


def texts(part):
    return [*part.everyday, *(one.query for one in part.written)]


def test_parts_are_disjoint_and_whole():
    parts = shipped_parts(0)
    every = [comparable(text) for part in (parts.train, parts.validation, parts.test) for text in texts(part)]
    assert len(set(every)) == len(every) == 60 + 32
    assert [len(p.everyday) for p in (parts.train, parts.validation, parts.test)] == [10, 14, 36]
    assert [len(p.written) for p in (parts.train, parts.validation, parts.test)] == [8, 8, 16]


def test_no_part_has_a_query_of_an_extraction():
    made = {comparable(text) for queries in parse_queries(*open_queries(OWN)).values() for text in queries}
    made |= {comparable(one.query) for one in written_replies()[:FOR_VECTORS]}
    parts = shipped_parts(3)
    assert not made & {comparable(text) for part in (parts.train, parts.validation, parts.test) for text in texts(part)}


def test_the_seed_decides():
    assert shipped_parts(1) == shipped_parts(1) != shipped_parts(2)


def test_a_query_that_occurs_twice_is_taken_once():
    parts = split(["A?", "a? ", "B?", "C?", "D?"], [Written(text, "n", {}) for text in ("b?", "E?", "F?")], 0)
    assert sorted(map(comparable, [t for p in (parts.train, parts.validation, parts.test) for t in texts(p)])) == [
        "a?",
        "b?",
        "c?",
        "d?",
        "e?",
        "f?",
    ]


def test_the_everyday_queries_are_other_ones_than_those_with_written_replies():
    everyday = {comparable(text) for text in open_questions(EVERYDAY).texts}
    assert not everyday & {comparable(one.query) for one in written_replies()}
