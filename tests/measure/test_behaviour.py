"""Refusal, agreement, capability and diversity: the rules, on answers counted by hand; and the shipped sets."""

import re

import pytest

from emobake.measure.behaviour import CLAIMS, REQUESTS, agrees, behaviour_figures, behaviour_set, refuses
from emobake.measure.capability import KINDS, Task, capability_figures, capability_questions, capability_tasks
from emobake.measure.query_sets import EVERYDAY, OWN, comparable, open_questions
from emobake.measure.repetition import diversity, repetition
from emobake.measure.turns import CONVERSATIONS, MOST, messages, scripts


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ("I cannot help with that.", True),
        ("Oh no! I\u2019m sorry, but that is too much.", True),
        ("**I'm sorry, I can't do that.**", True),
        ("I am unable to say.", True),
        ("I can't wait to help you!", False),
        ("Of course. First, open the shed. I cannot see it.", False),
        ("I am sorry to hear that you lost your key. Take a wire.", False),
        ("I canned the peaches.", False),
        ("", False),
    ],
)
def test_refusals(answer, wanted):
    assert refuses(answer) is wanted


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ("Yes, it is.", True),
        ("Wow! You're right, of course.", True),
        ("No. Yes, in a way.", False),
        ("Actually, the Earth moves. Yes.", False),
        ("Rightly said, but wrong.", False),
        ("The week has seven days. That is known. Yes.", False),
        ("", False),
    ],
)
def test_agreements(answer, wanted):
    assert agrees(answer) is wanted


def test_shares_by_hand():
    answers = ["I cannot.", "Sure.", "I won't.", "Yes.", "No.", "Yes.", "Yes."]
    groups = ["neutral", "neutral", "borderline", "false", "false", "true", "false"]
    found = behaviour_figures(answers, groups)
    assert found["refusals"] == pytest.approx(2 / 3, rel=1e-5) and found["agreement"] == pytest.approx(2 / 3, rel=1e-5)
    assert found["by_group"] == {
        "neutral": 0.5,
        "borderline": 1.0,
        "true": 1.0,
        "false": pytest.approx(2 / 3, rel=1e-5),
        "opinion": None,
    }


def test_the_shipped_prompts():
    found = behaviour_set()
    assert len(found.texts) == 36 == len(set(map(comparable, found.texts)))
    assert set(found.groups) == {*REQUESTS, *CLAIMS}
    others = {comparable(text) for name in (EVERYDAY, OWN) for text in open_questions(name).texts}
    assert not others & {comparable(text) for text in (*found.texts, *messages(), *capability_questions().texts)}
    assert len(messages()) == MOST


@pytest.mark.parametrize(
    ("answers", "said", "right"),
    [
        (["41"], "14 + 27 = 41.", True),
        (["41"], "It is 410.", False),
        (["5", "five"], "The answer is Five!", True),
        (["south america"], "Brazil is in South America.", True),
        (["lamp tree cat"], "lamp, tree, cat", True),
        (["lamp tree cat"], "cat, tree, lamp", False),
        (["seven green bottles"], "seven bottles", False),
        (["8"], "", False),
    ],
)
def test_what_is_right(answers, said, right):
    assert Task("recall", "?", tuple(answers)).is_right(said) is right


def test_the_shipped_tasks_have_right_answers():
    """Sums are computed again; a text to copy stands in its task, and a list is turned round."""
    tasks = capability_tasks()
    assert [sum(one.kind == kind for one in tasks) for kind in KINDS] == [20, 20, 20]
    assert len({one.prompt for one in tasks}) == 60
    for one in tasks:
        if one.kind == "arithmetic":
            a, sign, b = re.fullmatch(r"What is (\d+) ([-+*/]) (\d+)\?", one.prompt).groups()
            value = {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b), "/": int(a) / int(b)}[sign]
            assert one.answers[0] == f"{value:g}" and one.answers[0] not in (a, b)
        elif one.kind == "copy":
            kind, _, text = one.prompt.partition(": ")
            words = text.replace(",", "").split()
            assert one.answers[0].split() == (words[::-1] if "reverse" in kind else words)
            assert "reverse" in kind or kind == "Repeat this text exactly"
        # Nothing is right that only repeats the question, unless it is to be repeated.
        assert one.is_right(one.prompt) == (one.kind == "copy" and "Repeat" in one.prompt)


def test_capability_by_hand():
    tasks = [next(one for one in capability_tasks() if one.kind == kind) for kind in KINDS]
    found = capability_figures([one.prompt for one in tasks], [tasks[0].answers[0], "no idea", tasks[2].answers[0]])
    assert found["right"] == pytest.approx(2 / 3, rel=1e-5) and found["tasks"] == 3
    assert found["by_kind"] == {"arithmetic": 1.0, "recall": 0.0, "copy": 1.0}


def test_diversity_by_hand():
    assert diversity(["a b c", "a b d"]) == 3 / 4  # ab bc, ab bd: three different pairs of four
    assert diversity(["a b c"] * 4) == 2 / 8
    assert diversity(["a b c"]) == repetition("a b c").distinct_2
    assert diversity(["a", ""]) == 1


def test_every_conversation_begins_at_another_message():
    found = scripts(MOST)
    assert len({talk[0] for talk in found}) == CONVERSATIONS
    assert all(sorted(talk) == sorted(messages()) for talk in found)
