"""The set that comes along does to SmolLM2's answers what it says, on queries that it was not extracted from."""

import json

import numpy as np
import pytest
from support.paths import ROOT, SMOLLM2_VECTORS

import emobake
from emobake.core.vector_set import EMOTIONS
from emobake.measure.query_sets import open_questions
from emobake.measure.scorers.lexicon import Lexicon

pytest.importorskip("torch")
pytestmark = pytest.mark.real


def test_the_held_out_queries_are_held_out():
    extracted = json.loads((ROOT / "vectors" / "queries" / "emotions.json").read_text())
    held_out = open_questions("everyday").texts
    assert len(set(held_out)) == len(held_out) >= 40
    assert not set(held_out) & {query for queries in extracted.values() for query in queries}
    assert list(extracted) == list(EMOTIONS) and all(len(set(q)) == len(q) >= 40 for q in extracted.values())


def answers(folder, queries):
    """Greedy answers of 32 tokens."""
    from emobake import ModelName
    from emobake.models.loading import load
    from emobake.models.sampling import Sampling, sample

    live = load(ModelName.parse(folder))
    prompts = [live.prompt([{"role": "user", "content": query}]) for query in queries]
    found = sample(live, prompts, Sampling(32, temperature=0), [str(number) for number in range(len(prompts))])
    return [live.tokenizer.decode(tokens) for tokens in found]


def test_each_emotion_raises_its_own_words(smollm2, tmp_path):
    """Words of each emotion in 24 greedy answers of the baked checkpoints, twice the vector."""
    queries = open_questions("everyday").texts[:24]

    def rates(folder):
        scores = Lexicon().score(queries, answers(folder, queries))
        return {emotion: sum(one[emotion] for one in scores) / len(scores) for emotion in EMOTIONS}

    base = rates(smollm2)
    found = {}
    for emotion in EMOTIONS:
        emobake.bake(smollm2, SMOLLM2_VECTORS, mix={emotion: 2.0}, out=emobake.Folder(tmp_path / emotion, "symlink"))
        found[emotion] = rates(tmp_path / emotion)
    for emotion, own in found.items():
        assert own[emotion] > base[emotion], (emotion, own, base)
        assert max(own, key=own.__getitem__) == emotion, (emotion, own)
    assert found["joy"]["joy"] > 4 * base["joy"]


def test_the_emotions_point_apart():
    """Without what they share, no two emotions point the same way, and each is pinned down better than it is near."""
    from emobake.vectors.arithmetic import describe, remove_common

    vectors = emobake.open_vectors(SMOLLM2_VECTORS)
    apart = describe(remove_common(vectors)).cosines[~np.eye(5, dtype=bool)]
    assert apart.max() < 0.5 and apart.mean() < 0
    for i, emotion in enumerate(vectors.emotions):
        near = np.delete(describe(vectors).cosines[i], i)
        assert vectors.statistics[emotion].split_half_cosine > near.mean(), emotion
