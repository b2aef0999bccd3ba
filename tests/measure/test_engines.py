"""An evaluation whose answers come from vLLM, in its own environment (``scripts/envs vllm``)."""

import json

import pytest
from support.checkpoints import tree
from support.paths import SMOLLM2_VECTORS
from support.stacks import interpreter

from emobake.models.stacks.launcher import run_stack

pytestmark = pytest.mark.cross


def test_vllm_answers_as_transformers(smollm2, tmp_path):
    """Greedily, of the base and of a direction that is baked for the while: what is said is the same."""
    from emobake.measure.engines import EvaluationSettings
    from emobake.measure.evaluation import evaluate
    from emobake.models.sampling import Sampling

    (tmp_path / "q.json").write_text(json.dumps(["How was your day?", "How do you feel about growing old?"]))
    common = {
        "vectors": SMOLLM2_VECTORS,
        "emotions": ["joy"],
        "strengths": [1],
        "questions": str(tmp_path / "q.json"),
        "scorers": ["lexicon"],
        "control": False,
    }
    found = {}
    for engine, python in (("transformers", None), ("vllm", interpreter("vllm"))):
        settings = EvaluationSettings(
            Sampling(24, temperature=0), engine=engine, engine_python=python, behaviour=False, samples=0
        )
        data = evaluate(smollm2, tmp_path / engine, settings=settings, **common)
        found[engine] = tree(tmp_path / engine / "results")
        assert data["engine"] == engine
    assert found["vllm"] == found["transformers"]
    assert len(found["vllm"]) == 2


def test_vllm_draws_by_the_seed(smollm2):

    prompts = [[1, 4093, 198, 18, 1], [1, 4093, 198, 18, 1]]
    python = interpreter("vllm")
    tokens = [
        run_stack("vllm", smollm2, prompts, max_new_tokens=12, python=python, options={"drawing": drawing}).tokens
        for drawing in ({"temperature": 1.5, "top_p": 0.95, "seeds": seeds} for seeds in ((1, 2), (2, 1)))
    ]
    assert tokens[0] == tokens[1][::-1] and tokens[0][0] != tokens[0][1]


def test_an_interpreter_without_vllm(cli, smollm2, tmp_path):
    (tmp_path / "q.json").write_text('["Hi?"]')
    words = ("eval", "--model", smollm2, "--vectors", SMOLLM2_VECTORS)
    words += ("--mix", "joy=1", "--queries", tmp_path / "q.json", "--scorer", "lexicon", "--engine", "vllm")
    cli(*words, "--out", tmp_path / "r").one_line("vllm is not installed", "pip install vllm", code=1)
