import ast
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from huggingface_hub import ModelCard
from support.headers import CONFIG, ROWS, checkpoint

from emobake import InputError, Record, VectorSet, make_plan
from emobake.core.record import RecordedVectors
from emobake.core.steering import steering
from emobake.formats.adapter.plan import make_adapter_plan
from emobake.formats.front_matter import read_front_matter
from emobake.storage.hub.contents import addressed
from emobake.vectors.share import vector_card

VECTORS = VectorSet(("joy",), ROWS, "ev", {"m_joy.json": "0" * 64})
BASE_CARD = (
    "---\nlicense: other\nlicense_name: llama3.1\nlicense_link: LICENSE\nlanguage:\n- en\npipeline_tag: x\n---\n# Base"
)


def documents(base, maker=make_plan, base_model="owner/model", vectors=VECTORS):
    plan = maker(base, vectors, steering(None, {"joy": 2.0}, scale=0.5), base_model=base_model)
    files = {f.name: f for f in plan.files}
    return files["README.md"].data.decode(), json.loads(files["emobake.json"].data)


def test_the_card_has_valid_metadata_and_the_bases_licence():
    text, _ = documents(checkpoint(card=BASE_CARD))
    data = ModelCard(text).data.to_dict()
    assert data["base_model"] == "owner/model"
    assert (data["license"], data["license_name"], data["license_link"]) == ("other", "llama3.1", "LICENSE")
    assert (data["library_name"], data["pipeline_tag"]) == ("transformers", "text-generation")
    assert data["tags"] == ["emotion-vectors", "emobake"]


def test_the_card_says_what_a_reader_needs():
    text, _ = documents(checkpoint(card=BASE_CARD))
    for words in ("0.5 x (2 x joy)", "every position", "arxiv.org/abs/2502.04075", "vllm serve", "| 1 | 1.4"):
        assert words in text, words


def test_an_adapters_card_shows_how_peft_loads_it():
    text, record = documents(checkpoint(card=BASE_CARD), make_adapter_plan)
    assert ModelCard(text).data.library_name == "peft"
    assert "PeftModel.from_pretrained" in text and "cannot merge" in text
    assert record["format"] == "peft"


def test_an_unknown_base_is_not_invented():
    text, record = documents(checkpoint(), base_model="")
    assert "base_model" not in ModelCard(text).data.to_dict()
    assert record["base"]["model"] is None


def test_the_record():
    _, record = documents(checkpoint(revision="c" * 40))
    assert record["base"]["revision"] == "c" * 40
    assert record["weights"] == {"joy": 2.0} and record["scale"] == 0.5
    assert record["vectors"]["sha256"] == {"m_joy.json": "0" * 64}
    assert [b["norm"] for b in record["biases"]] == pytest.approx([np.linalg.norm(r) for r in ROWS[0]], abs=1e-5)
    assert record["files"] == {"model-00001-of-00002.safetensors": "model.safetensors"}
    assert "history" not in record


def test_history_is_a_flat_list_oldest_first():
    first = Record("checkpoint", steering=steering(None, {"anger": 1.0})).to_json()
    second = Record("checkpoint", steering=steering(None, {"fear": 1.0}), earlier=(first,)).to_json()
    biases = {f"model.layers.{i}.self_attn.o_proj.bias": [0.0] * 4 for i in range(2)}
    _, record = documents(checkpoint({**CONFIG, "attention_bias": True}, biases=biases, record=second))
    assert [earlier["weights"] for earlier in record["history"]] == [{"anger": 1.0}, {"fear": 1.0}]
    assert all("history" not in earlier for earlier in record["history"])


def test_a_strangers_history_begins_no_code_and_no_line():
    named = RecordedVectors(name="a`\n# <b>x")
    hostile = Record("checkpoint", vectors=named, steering=steering(None, {"fear": 1.0})).to_json()
    biases = {f"model.layers.{i}.self_attn.o_proj.bias": [0.0] * 4 for i in range(2)}
    text, _ = documents(checkpoint({**CONFIG, "attention_bias": True}, biases=biases, record=hostile))
    assert "1. 1 x fear (set `` a` # <b>x ``)" in text and "\n# <b>" not in text


def test_a_base_with_a_record_that_is_none_is_refused():
    """The sum of its bakes would be unknown."""
    with pytest.raises(InputError, match=r"base/emobake.json: is not a record"):
        documents(checkpoint(record={"weights": {"fear": 1.0}}))


PAPERS = replace(VECTORS, source="https://github.com/xuanfengzu/EmotionVector (arXiv 2502.04075)")
OWN = replace(VECTORS, source="made at home")


@pytest.mark.parametrize("maker", [make_plan, make_adapter_plan])
@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        (PAPERS, "the emotion vectors of *Controllable Emotion Generation"),
        (OWN, "vectors of the set `ev` (made at home), weighted"),
        (VECTORS, "vectors of the set `ev`, weighted"),
    ],
)
def test_the_card_says_whose_vectors_they_are(maker, vectors, said):
    text, _ = documents(checkpoint(card=BASE_CARD), maker, vectors=vectors)
    assert said in text
    assert ("the emotion vectors of *Controllable" in text) == (vectors is PAPERS)
    assert "## Citation" in text and ("by the method of" in text) == (vectors is not PAPERS)


def test_a_set_of_the_layers_output_cites_nothing():
    acting = replace(OWN, site="layer_output")
    base = checkpoint(modules={"down_proj": (4, 8)})
    tensors = {name.replace("self_attn", "mlp"): tensor for name, tensor in base.tensors.items()}
    text, _ = documents(replace(base, tensors=tensors), vectors=acting)
    assert "vectors of the layers' output of the set `ev`" in text and "2502.04075" not in text
    assert "2502.04075" not in vector_card(acting, "me/x") and "2502.04075" in vector_card(OWN, "me/x")


def test_the_card_of_an_adapter_says_that_the_base_stays_as_it_is():
    text, _ = documents(checkpoint(card=BASE_CARD), make_adapter_plan)
    assert "part of the weights" not in text and "No hooks and no code" not in text
    assert "are the bias that PEFT adds while the base runs" in text and "stay as they are" in text
    whole, _ = documents(checkpoint(card=BASE_CARD))
    assert "are part of the weights" in whole


def test_an_adapter_without_a_base_model_says_so_and_what_to_do():
    plan = make_adapter_plan(checkpoint(), VECTORS, steering(None, {"joy": 1.0}))
    assert any("names no base model" in warning and "`base_model`" in warning for warning in plan.warnings)
    text, _ = documents(checkpoint(), make_adapter_plan, base_model="")
    assert "in place of `BASE`" in text and "--base-model ID" in text
    named, _ = documents(checkpoint(), make_adapter_plan)
    assert "BASE" not in named and 'from_pretrained("owner/model")' in named


@pytest.mark.parametrize("maker", [make_plan, make_adapter_plan])
def test_the_title_is_the_name_that_is_known(maker, tmp_path):
    (tmp_path / "Tiny-1B").mkdir()
    (tmp_path / "[x](y)").mkdir()
    for folder, base_model, title in (
        (tmp_path / "Tiny-1B", "", "# Tiny-1B, steered"),
        (tmp_path / "Tiny-1B", "owner/model", "# model, steered"),
        (tmp_path / "[x](y)", "", "# llama, steered"),
        (None, "", "# llama, steered"),
    ):
        text, _ = documents(checkpoint(folder=folder), maker, base_model=base_model)
        assert title in text and str(tmp_path) not in text


def test_the_card_does_not_claim_that_this_model_was_run():
    text, _ = documents(checkpoint(card=BASE_CARD))
    assert "seen in a run" not in text
    assert "| vllm | loads steered (seen with a llama model in vLLM 0.32.0; this one was not run) |" in text


def test_a_push_puts_the_repository_into_the_card():
    text, _ = documents(checkpoint(card=BASE_CARD))
    assert "`THIS_REPO` stands for the path of this folder." in text
    pushed = addressed(text.encode(), "me/joyful", "README.md").decode()
    assert "THIS_REPO" not in pushed and "stands for" not in pushed and 'from_pretrained("me/joyful")' in pushed


@pytest.mark.parametrize("templated", [False, True])
@pytest.mark.parametrize("maker", [make_plan, make_adapter_plan])
def test_the_python_on_a_card_is_complete(maker, templated):
    """`tests/whole/test_real.py` runs it on a real model."""
    text, _ = documents(checkpoint(tokenizer_config={"chat_template": "x"} if templated else {}), maker)
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    ast.parse(code)
    assert "generate(" in code and "print(" in code and ("apply_chat_template" in code) == templated


@pytest.mark.parametrize(
    "card", ["", "# no front matter", "---\n- a list\n---\n", "---\n: [\n---\n", "---\nunfinished: x\n"]
)
def test_cards_without_usable_metadata(card):
    assert read_front_matter(card).values == {}
