"""Stacks that the families' tables have no column for: what they do follows from the biases that they add."""

from __future__ import annotations

import pytest
from support.paths import ROOT

from emobake.core import elsewhere as module
from emobake.core.elsewhere import LETTERS, Biases, beware, elsewhere, letters_of
from emobake.core.stacks import ALL, STACKS, USUAL, Support, parse_stacks

STEERED = dict.fromkeys(USUAL, Support("steered", run=True))
ATTENTION = Biases("o", zero="qkv")


def stacks(**tables: dict[str, object]) -> dict[str, object]:
    """A table of stacks, of which each one reads checkpoints."""
    return {"examined": ["llama", "qwen3", "gpt2"]} | {name: {"checkpoint": table} for name, table in tables.items()}


@pytest.fixture
def treat(monkeypatch: pytest.MonkeyPatch):
    """Treatment of a result by one stack that has a table."""

    def treat(
        table: dict[str, object], model_type: str = "llama", biases: Biases = ATTENTION, *, is_quantised: bool = False
    ) -> Support:
        monkeypatch.setattr(module, "STACKS", parse_stacks(stacks(x=table)))
        return elsewhere("checkpoint", model_type, biases, STEERED, is_quantised=is_quantised)["x"]

    return treat


@pytest.mark.parametrize(
    ("adds", "biases", "status"),
    [
        ("qkvo", ATTENTION, "steered"),
        ("o", ATTENTION, "steered"),
        ("qkv", ATTENTION, "unsteered"),
        ("none", ATTENTION, "unsteered"),
        ("qkvo", Biases("d", zero="gu"), "unsteered"),
        ("o", Biases("o", own="qkv"), "wrong"),
        ("qkvo", Biases("o", own="qkv"), "steered"),
        ("v", Biases("v"), "steered"),
        ("qkvo", Biases("qkv", is_reshaped=True), "unknown"),
    ],
)
def test_what_is_added_decides(treat, adds: str, biases: Biases, status: str):
    assert treat({"adds": {adds: ["llama"]}}, biases=biases).status == status


def test_a_strict_stack_refuses_what_another_one_drops(treat):
    assert treat({"adds": {"none": ["llama"]}, "strict": ["*"]}).status == "refuses"
    assert treat({"adds": {"o": ["llama"]}, "strict": ["llama"]}).status == "refuses", "zeros have no place, either"
    assert treat({"adds": {"o": ["llama"]}, "strict": ["qwen3"]}).status == "steered"


def test_a_type_that_was_looked_for_and_one_that_was_not(treat):
    table = {"adds": {"qkvo": ["llama"]}}
    assert treat(table, "gpt2").status == "refuses"
    assert treat(table, "new").status == "unknown"
    assert treat({"adds": {"o": ["*"]}}, "new").status == "steered"


def test_a_stack_that_runs_another_one_does_as_that_does(monkeypatch: pytest.MonkeyPatch):
    tables = stacks(
        x={"like": "transformers", "ran": ["llama"], "note": "with its loader"},
        y={"through": "vllm", "adds": {"o": ["llama"]}},
    )
    monkeypatch.setattr(module, "STACKS", parse_stacks(tables))
    usual = STEERED | {"vllm": Support("unsteered")}
    found = elsewhere("checkpoint", "llama", ATTENTION, usual)
    assert found["x"] == Support("steered", run=True, note="with its loader")
    assert found["y"] == Support("unsteered")
    usual = STEERED | {"transformers": Support("wrong")}
    assert elsewhere("checkpoint", "llama", ATTENTION, usual)["x"] == Support("wrong", run=True)


def test_nothing_is_known_of_quantised_weights(treat):
    assert treat({"adds": {"qkvo": ["llama"]}}, is_quantised=True).status == "unknown"
    assert treat({"like": "transformers", "ran": ["llama"]}, is_quantised=True) == Support("steered")


def test_a_stack_refuses_the_form_that_it_does_not_load():
    found = elsewhere("checkpoint", "llama", ATTENTION, STEERED)
    assert found["koboldcpp"] == Support("refuses", note="it loads GGUF files")
    found = elsewhere("gguf", "llama", ATTENTION, {"llama.cpp": Support("steered")})
    assert found["sglang"] == Support("refuses", note="it loads folders")
    assert found["koboldcpp"].status == "steered"
    assert found["tinygrad"].status == "unsteered"


def test_beware_names_who_runs_it_unsteered_and_who_reads_a_gguf():
    found = elsewhere("checkpoint", "llama", ATTENTION, STEERED)
    (sentence,) = beware(found, "llama")
    assert sentence.startswith("mistral.rs, ")
    assert sentence.endswith("would run it UNSTEERED, without a word; give mistral.rs a .gguf")
    assert beware(found, "")[0].endswith("without a word")
    assert beware({"sglang": Support("steered"), "candle": Support("refuses")}) == ()
    assert beware({"candle": Support("wrong")}) == ("Candle would answer WRONGLY, without a word",)


def test_letters_of_modules():
    assert letters_of(["model.layers.{layer}.self_attn.q_proj", "mlp.down_proj", "mlp.c_fc"]) == "qd"
    assert set(ALL) == set(LETTERS)


def test_the_shipped_table():
    for name, stack in STACKS.items():
        assert stack.usual != bool(stack.readings), name
        assert stack.loads <= {"checkpoint", "gguf"}, name
        assert stack.loads, name
        for form, reading in stack.readings.items():
            assert form in stack.loads, name
            assert reading.adds or reading.like, name
            assert all(set(letters) <= set(LETTERS) for letters in reading.adds.values()), name
            assert {reading.like, reading.through} <= {"", *USUAL}, name
            assert reading.strict <= {*reading.adds, "*"}, name
            assert bool(reading.ran) <= bool(stack.ran), name


def test_the_evidence_is_what_the_table_says():
    """docs/stacks.tsv names the lines that were read, type by type."""
    lines = (ROOT / "docs" / "stacks.tsv").read_text(encoding="utf-8").splitlines()
    entries = [dict(zip(lines[0].split("\t"), line.split("\t"), strict=True)) for line in lines[1:]]
    seen = set()
    for entry in entries:
        reading = STACKS[entry["stack"]].readings[entry["form"]]
        if entry["form"] == "gguf" or entry["adds"].startswith("as "):  # By architecture, and by the usual stack.
            assert reading.like or reading.adds, entry
            continue
        adds = {"none": "", "no class": None}.get(entry["adds"], entry["adds"])
        assert reading.letters(entry["type"]) == adds, entry
        assert adds is None or reading.is_strict(entry["type"]) == (entry["other biases"] == "refused"), entry
        assert entry["where"], entry
        seen.add((entry["stack"], entry["type"]))
    told = {
        (name, model_type)
        for name, stack in STACKS.items()
        if "checkpoint" in stack.readings and not stack.readings["checkpoint"].like
        for model_type in stack.readings["checkpoint"].adds
    }
    assert told <= seen


def test_what_was_seen_of_a_baked_llama():
    """Runs of SmolLM2 in the versions of the table, docs/stacks.md."""
    found = elsewhere("checkpoint", "llama", ATTENTION, STEERED)
    ran = {name: support.status for name, support in found.items() if support.run}
    assert ran == {
        "ctranslate2": "steered",
        "onnxruntime-genai": "steered",
        "optimum-onnx": "steered",
        "openvino": "steered",
        "transformers.js": "steered",
        "node-llama-cpp": "steered",
        "mistral.rs": "unsteered",
        "litgpt": "refuses",
    }
