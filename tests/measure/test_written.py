"""The written replies that are shipped: whole, and an extraction gets one half of them."""

import pytest

from emobake.core.vector_set import EMOTIONS
from emobake.measure.queries import EMOTIONAL, NEUTRAL
from emobake.measure.query_sets import EVERYDAY, comparable, extraction_queries, open_questions
from emobake.measure.written import FOR_VECTORS, written_answers, written_replies


def test_every_query_has_all_replies_and_none_twice():
    replies = written_replies()
    assert len({one.query for one in replies}) == len(replies) == 2 * FOR_VECTORS
    texts = [text for one in replies for text in (one.neutral, *one.emotional.values())]
    assert len(set(texts)) == len(texts) == len(replies) * 6
    # Of like length, so that no measure can tell an emotion by it.
    means = {e: sum(len(one.emotional[e].split()) for one in replies) / len(replies) for e in EMOTIONS}
    assert max(means.values()) < 1.3 * min(means.values()), means


def test_an_extraction_gets_the_first_half():
    asked = written_answers(EMOTIONAL, NEUTRAL)
    assert len(asked.contrasts) == FOR_VECTORS * len(EMOTIONS) and asked.record["answers"] == "written.jsonl"
    assert {one.query for one in asked.contrasts} == {one.query for one in written_replies()[:FOR_VECTORS]}
    questions = open_questions(EVERYDAY)
    seen = extraction_queries("", asked.record, questions)
    assert seen.texts == {comparable(one.query) for one in written_replies()}, "an evaluation knows them"
    assert not seen.texts & {comparable(text) for text in questions.texts}
    first = asked.contrasts[0]
    assert first.positive.text != first.negative.text and "anger" in first.positive_prompt


@pytest.mark.parametrize("other", [("--queries", "emobake"), ("--reuse-answers", "a.jsonl"), ("--contrast", "a.jsonl")])
def test_written_goes_alone(cli, tmp_path, other):
    words = ("vectors", "extract", "--model", tmp_path, "--out", tmp_path / "a.safetensors", "--written")
    cli(*words, *other).one_line("--written exclude one another")
    cli(*words, "--every-emotion").one_line("--written bring answers along")


@pytest.mark.real
def test_vectors_of_written_replies(cli, tiny_chat, tmp_path):
    pytest.importorskip("torch")
    from emobake import open_vectors

    out = tmp_path / "joy.safetensors"
    cli("vectors", "extract", "--model", tiny_chat, "--written", "--emotions", "joy", "--limit", 3, "--out", out).ok()
    found = open_vectors(out)
    assert found.emotions == ("joy",) and found.rows.any() and found.extraction["answers"] == "written.jsonl"
