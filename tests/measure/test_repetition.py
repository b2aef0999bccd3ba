"""Collapse: by hand, on answers that were read and labelled, and on the published generations."""

import json
from pathlib import Path

import pytest
from support.paths import SHARED

from emobake.measure.repetition import distinct, repetition

RESULTS = SHARED / "seed" / "results"
LABELS = json.loads((Path(__file__).parent / "collapse_labels.json").read_text())
"""Answers at strength 2, drawn at random and labelled by reading their beginning, middle and end."""

PROSE = (
    "Bread wants flour, water, salt and time. Mix the first three until no dry spots are left, cover the bowl, and let "
    "it stand in a warm corner while you do something else. After an hour fold the dough over itself from every side; "
    "wait again, shape a loaf, and bake it hot under a lid. Lift that lid towards the end so a brown crust can form."
)


def published(name):
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def test_distinct_by_hand():
    words = ["a", "b", "a", "b", "c"]
    assert distinct(words, 1) == 3 / 5
    assert distinct(words, 2) == 3 / 4  # ab ba ab bc
    assert distinct(words, 3) == 3 / 3
    assert distinct(["a"], 2) == distinct([], 1) == 1.0


def test_a_sound_answer():
    found = repetition(PROSE)
    assert not found.collapsed and found.loop == 0
    assert found.distinct_2 == found.worst_distinct_2 > 0.95


@pytest.mark.parametrize(
    "end",
    ["no, " * 80, "and on and " * 40, "ha" * 300, "D" * 400, "快" * 300, "😱" * 120, "I can fly with the stars! " * 20],
)
def test_a_sound_beginning_saves_nothing(end):
    assert repetition(PROSE * 3 + " " + end).collapsed


def test_the_loop_counts_what_goes_round():
    assert repetition("one two three " * 5).loop == 15
    assert repetition("one two three one two three").loop == 0  # twice is no loop
    assert repetition(PROSE + " never, never, never, no!").loop == 6


@pytest.mark.parametrize("text", ["", "Yes.", "No no no!", "No, no, no, no!", "1. a\n2. b\n3. c"])
def test_short_answers_are_sound(text):
    assert not repetition(text).collapsed


@pytest.mark.published
@pytest.mark.parametrize(
    ("strength", "low", "high"), [("-1", 0, 0.005), ("0", 0, 0.005), ("1", 0, 0.005), ("4", 0.85, 1)]
)
def test_published_generations_of_the_base_set(strength, low, high):
    answers = published(f"base/qwen2.5/{strength}.json")
    assert low <= sum(repetition(text).collapsed for text in answers) / len(answers) <= high


@pytest.mark.published
@pytest.mark.parametrize("emotion", ["anger", "joy"])
def test_published_generations_of_single_emotions(emotion):
    shares = {
        strength: sum(repetition(text).collapsed for text in answers) / len(answers)
        for strength in (0, 1, 2, 4)
        for answers in [published(f"emotion/Qwen2_5/{strength}/{emotion}.json")]
    }
    assert max(shares[0], shares[1]) <= 0.005 < 0.2 < shares[2] < 0.7 < 0.85 <= shares[4], shares


@pytest.mark.published
def test_answers_that_were_read():
    """No sound answer is flagged; what is missed is where it only begins to go round."""
    pairs = [
        (repetition(answers[i]).collapsed, label == "collapsed")
        for file, labels in LABELS.items()
        for answers in [published(file)]
        for label, places in labels.items()
        for i in places
    ]
    assert len(pairs) == 48 and sum(truth for _, truth in pairs) == 24
    assert not [truth for flagged, truth in pairs if flagged and not truth]
    assert sum(flagged for flagged, _ in pairs) >= 21
