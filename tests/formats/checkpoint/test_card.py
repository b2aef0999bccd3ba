import json

import numpy as np
import pytest
from huggingface_hub import ModelCard
from support.headers import CONFIG, ROWS, checkpoint

from emobake import InputError, Record, VectorSet, make_plan
from emobake.core.steering import steering
from emobake.formats.adapter.plan import make_adapter_plan
from emobake.formats.checkpoint.card import card_metadata

VECTORS = VectorSet(("joy",), ROWS, "ev", {"m_joy.json": "0" * 64})
BASE_CARD = (
    "---\nlicense: other\nlicense_name: llama3.1\nlicense_link: LICENSE\nlanguage:\n- en\npipeline_tag: x\n---\n# Base"
)


def documents(base, maker=make_plan, base_model="owner/model"):
    plan = maker(base, VECTORS, steering(None, {"joy": 2.0}, scale=0.5), base_model=base_model)
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


def test_a_base_with_a_record_that_is_none_is_refused():
    """The sum of its bakes would be unknown."""
    with pytest.raises(InputError, match=r"base/emobake.json: is not a record"):
        documents(checkpoint(record={"weights": {"fear": 1.0}}))


@pytest.mark.parametrize(
    "card", ["", "# no front matter", "---\n- a list\n---\n", "---\n: [\n---\n", "---\nunfinished: x\n"]
)
def test_cards_without_usable_metadata(card):
    assert card_metadata(card) == {}
