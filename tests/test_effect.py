"""The set that comes along does to SmolLM2's answers what it says, on queries that it was not extracted from."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

import emobake
from emobake.vectors import EMOTIONS

pytest.importorskip("torch")
pytestmark = pytest.mark.real

ROOT = Path(__file__).parent.parent
SET = ROOT / "vectors" / "smollm2-135m-instruct.safetensors"


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_held_out_queries_are_held_out():
    extracted = json.loads((ROOT / "vectors" / "queries" / "emotions.json").read_text())
    held_out = script("effect").QUERIES
    assert len(set(held_out)) == len(held_out) >= 40
    assert not set(held_out) & {query for queries in extracted.values() for query in queries}
    assert list(extracted) == list(EMOTIONS) and all(len(set(q)) == len(q) >= 40 for q in extracted.values())


def test_each_emotion_raises_its_own_words(smollm2):
    """25 words of each emotion, counted in 40 greedy answers of 32 tokens, twice the vector."""
    effect = script("effect")
    found = {
        emotion: {name: effect.rate(texts, words) for name, words in effect.WORDS.items()}
        for emotion, texts in effect.all_answers(smollm2, SET, 2.0, effect.QUERIES[:40], 32)
    }
    base = found.pop("")
    for emotion, rates in found.items():
        assert rates[emotion][0] > base[emotion][0], (emotion, rates, base)
        assert max(rates, key=lambda name: rates[name][0]) == emotion, (emotion, rates)
    assert found["joy"]["joy"][0] > 5 * base["joy"][0] and found["joy"]["joy"][1] > 2 * base["joy"][1]


def test_the_emotions_point_apart():
    """Without what they share, no two emotions point the same way, and each is pinned down better than it is near."""
    from emobake.vector_math import describe, remove_common

    vectors = emobake.open_vectors(SET)
    apart = describe(remove_common(vectors)).cosines[~np.eye(5, dtype=bool)]
    assert apart.max() < 0.5 and apart.mean() < 0
    for i, emotion in enumerate(vectors.emotions):
        near = np.delete(describe(vectors).cosines[i], i)
        assert vectors.statistics[emotion].split_half_cosine > near.mean(), emotion
