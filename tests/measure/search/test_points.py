"""The front, the rule and the comparison, on figures made by hand."""

import json

import pytest

from emobake.measure.search.points import (
    Figures,
    Point,
    SearchBounds,
    candidates,
    chosen,
    compare,
    front,
    kl_at,
    plain_name,
    sane_front,
    shortfall,
    violations,
)
from emobake.measure.search.shape import Shape

BASE = Figures({"likelihood": 0.0, "probe": 0.0}, 0.0, 0.0, 0.0, 0.95, 2.0, 0.5)


def point(name, emotion, kl, collapsed=0.0, distinct_2=0.95, perplexity=3.0, lexicon=None):
    figures = Figures({"likelihood": emotion, "probe": emotion}, kl, 4 * kl, collapsed, distinct_2, perplexity, lexicon)
    return Point(name, Shape(left_out=(1, 2)), figures, {"kl": kl})


def names(points):
    return [p.name for p in points]


def test_json_there_and_back():
    one = point("7", 1.5, 0.3)
    assert Point.from_json(json.loads(json.dumps(one.to_json()))) == one
    assert one.to_json()["figures"]["emotion"] == 1.5


def test_the_front():
    points = [point("a", 1, 0.1), point("b", 0.9, 0.2), point("c", 2, 0.5), point("d", 1.5, 0.5), point("e", 2, 0.9)]
    assert names(front(points)) == ["a", "c"]
    assert front([]) == []


def test_repetition_is_left_out_of_the_sane_front():
    points = [point("a", 1, 0.1), point("b", 3, 0.2, collapsed=0.1), point("c", 4, 0.3, distinct_2=0.84)]
    stopped = Point("d", Shape(), Figures({"likelihood": 9.0}, 0.2, 1.0, shortfall=0.1), {})
    assert names(sane_front([*points, stopped], BASE)) == ["a"]


def test_candidates_come_by_emotion_and_the_front_first():
    points = [point("a", 1, 0.1), point("behind", 1.9, 0.5), point("c", 2, 0.4), point("near", 3, 0.54)]
    found = candidates([*points, point("far", 9, 0.6), point("loops", 8, 0.2, collapsed=1)], BASE, SearchBounds(0.5))
    assert names(found) == ["near", "c", "a", "behind"]


@pytest.mark.parametrize("broken", [{"kl": 0.51}, {"collapsed": 0.06}, {"perplexity": 8.1}])
def test_the_rule_takes_the_most_emotional_within_all_bounds(broken):
    good = point("good", 1, 0.5, collapsed=0.05, perplexity=8.0)
    bad = point("bad", **{"emotion": 5, "kl": 0.1, **broken})
    assert chosen([point("weak", 0.5, 0.1), good, bad], BASE, SearchBounds(0.5)) == good
    assert chosen([bad], BASE, SearchBounds(0.5)) is None
    assert "0.5 nats" in SearchBounds(0.5).rule and "5%" in SearchBounds(0.5).rule


def test_what_promises_nothing_is_stopped():
    plain = [point(plain_name(0.5), 1, 0.2), point(plain_name(1), 2, 0.4)]

    def lacks(likelihood, kl):
        return shortfall(Figures({"likelihood": likelihood}, kl, kl), [*plain, point("7", 9, 0.1)], 0.5)

    assert lacks(1.51, 0.3) <= 0 and lacks(1.25, 0.3) == pytest.approx(0.25), "the line between two strengths decides"
    assert lacks(0.51, 0.1) <= 0 and lacks(0.25, 0.1) == pytest.approx(0.25), "from the base on"
    assert lacks(2.1, 1.5) <= 0 and lacks(9, 1.51) == 1, "three times the budget is too far"
    stopped = Figures({"likelihood": 1.25}, 0.3, 0.3, shortfall=0.25)
    assert max(violations(stopped, BASE).values()) == 0.25 and not SearchBounds(0.5).holds(stopped, BASE)


def test_kl_at_equal_rise():
    plain = [point("p1", 1, 0.2), point("p2", 2, 0.6), point("p3", 1.5, 1.0)]
    assert kl_at(plain, 0.5) == pytest.approx(0.1) and kl_at(plain, 1.5) == pytest.approx(0.4)
    assert kl_at(plain, 2.1) is None


def test_the_comparison_with_plain_strengths():
    plain = [point("plain 0.5", 0.5, 0.1, lexicon=0.7), point("plain 1", 2, 0.4, collapsed=0.2, lexicon=3.0)]
    tuned = [point("tuned 0.5", 0.75, 0.06, lexicon=0.9), point("tuned 1", 1.5, 0.2, lexicon=1.5)]
    found = compare(plain, tuned, BASE, SearchBounds(0.5))
    assert found["best_plain"] == "plain 0.5" and found["rise_ratio"] == 3 and found["best_tuned"] == "tuned 1"
    assert found["lexicon_ratio"] == pytest.approx(5.0)
    assert found["kl_at_equal_rise"] == pytest.approx(0.04) and found["kl_of_best_plain"] == 0.1
    assert found["kl_ratio_at_equal_rise"] == pytest.approx(0.4)
    assert found["least_lead"] == pytest.approx(0.75 - 0.3), "at 0.06 the plain rows reach 0.3"
    beyond = [*tuned, point("tuned 2", 3, 0.4, collapsed=0.1, lexicon=3.0)]
    assert compare(plain, beyond, BASE, SearchBounds(0.5))["rise_ratio"] == 3, "not the one beyond the bounds"
    nothing = compare(plain, beyond[2:], BASE, SearchBounds(0.5))
    assert nothing["best_tuned"] is None and nothing["rise_ratio"] == 6
    none = compare([plain[1]], tuned, BASE, SearchBounds(0.5))
    assert none["best_plain"] is None and none["rise_ratio"] is None and none["kl_ratio_at_equal_rise"] is None


def test_a_ratio_to_nothing_is_none():
    plain = [point("plain 0.5", 0.0, 0.1, lexicon=0.5)]
    found = compare(plain, [point("7", 1.5, 0.2, lexicon=1.5)], BASE, SearchBounds(0.5))
    assert found["rise_ratio"] is None and found["lexicon_ratio"] is None
