"""Names that strangers choose: what an emotion may be called, and where a file of an output may lie."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest

from emobake import InputError, VectorError
from emobake.core.names import emotion_name, is_emotion_name, is_inside
from emobake.core.steering import Steering, steering
from emobake.core.vector_set import VectorSet

GOOD = [
    "joy",
    "joy 2",
    "half-joy",
    "a_b",
    "v1.5",
    "freude",
    "ärger",
    "радость",
    "喜び",
    "आनंद",
    "2nd",
    "joy_",
    "a" * 128,
]
BAD = [
    "",
    " ",
    ".",
    "..",
    "../../x",
    "/abs/x",
    "a/b",
    "a\\b",
    "C:x",
    ".joy",
    "_joy",
    "-joy",
    "joy.",
    "joy ",
    "joy-",
    "Joy",
    "joy\n",
    "jo\ny",
    "joy\x1b[31m",
    "joy\x00",
    "joy\u202e",
    "joy=1",
    "joy,fear",
    "joy*",
    'joy"',
    "con",
    "nul.txt",
    "com1",
    "emobake.json",
    "readme.md",
    "__metadata__",
    "joy\ud800",
    "a" * 129,
    "喜" * 64,
    unicodedata.normalize("NFD", "ärger"),
]


@pytest.mark.parametrize("name", GOOD)
def test_names_of_emotions(name: str):
    assert is_emotion_name(name)
    assert Steering(((name, 1.0),)).weights and VectorSet((name,), np.zeros((1, 1, 1), np.float32)).emotions


@pytest.mark.parametrize("name", BAD, ids=ascii)
def test_no_names_of_emotions(name: str):
    assert not is_emotion_name(name)
    with pytest.raises(InputError, match="cannot be the name of an emotion"):
        Steering(((name, 1.0),))
    with pytest.raises(VectorError, match="cannot be the name of an emotion"):
        VectorSet((name,), np.zeros((1, 1, 1), np.float32))


def test_a_name_is_meant_in_any_case_and_composition():
    assert emotion_name(" Joy ") == "joy"
    assert emotion_name(unicodedata.normalize("NFD", "Ärger")) == "ärger"


def test_an_emotion_is_given_once():
    with pytest.raises(InputError, match="the same emotion is given twice"):
        steering(None, {"joy": 1.0, "Joy": 2.0})
    with pytest.raises(VectorError, match="occurs twice"):
        VectorSet(("joy", "joy"), np.zeros((2, 1, 1), np.float32))


def test_paths_in_an_output():
    assert all(map(is_inside, ["a", "a/b.json", "joy 2/emobake.json", "喜び/x", "..a", "a..b"]))
    outside = ["", "/a", "a/", "a//b", "..", "../a", "a/../b", "./a", "a\\b", "..\\a", "C:a", "C:/a", "a\nb", "a\x00"]
    assert not any(map(is_inside, outside))
