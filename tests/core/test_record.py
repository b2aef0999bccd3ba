"""Records: written, read back, and refused when they are not ours."""

from __future__ import annotations

import json

import pytest

from emobake import InputError, Record, Steering
from emobake.core.record import RecordedBase, RecordedBias, RecordedVectors, history_of
from emobake.core.tensors import WeightFile

WHOLE = Record(
    form="checkpoint",
    base=RecordedBase(
        "owner/base", "c" * 40, (WeightFile("a.safetensors", 10, "d" * 64), WeightFile("b.safetensors", 2**40))
    ),
    vectors=RecordedVectors(
        "ev",
        "layer_output",
        "owner/base",
        "here",
        "mit",
        {"queries": "q.json"},
        {"joy.json": "e" * 64},
        {"joy": "a" * 64},
    ),
    steering=Steering((("joy", 1.5), ("anger", -0.25)), 0.5, (0, 2)),
    branch_scale=0.25,
    route="flag",
    model_type="granite",
    files={"model-00001-of-00002.safetensors": "a.safetensors"},
    added=("x.bias",),
    digests={"config.json": "b" * 64, "tokenizer.json": "c" * 64},
    biases=(RecordedBias(0, "x.bias", "BF16", 1.25, "f" * 64), RecordedBias(2, "y.bias", "F32", 0.0, "0" * 64)),
)


@pytest.mark.parametrize(
    "record", [WHOLE, Record("peft", steering=Steering((("joy", 1.0),))), Record("peft-each", adapters=("joy", "fear"))]
)
def test_there_and_back(record: Record):
    stored = json.loads(json.dumps(record.to_json()))
    assert Record.from_json(stored, "f") == record


def test_the_bakes_before_it_are_records_too():
    first = WHOLE.to_json()
    second = Record("checkpoint", steering=Steering((("fear", 1.0),)), earlier=history_of(first, "f"))
    third = Record("checkpoint", steering=Steering((("joy", 1.0),)), earlier=history_of(second.to_json(), "f"))
    read = Record.from_json(json.loads(json.dumps(third.to_json())), "f")
    assert [record.steering.recipe for record in read.history] == [WHOLE.steering.recipe, "1 x fear"]
    assert history_of(None, "f") == ()


@pytest.mark.parametrize(
    "change",
    [
        {"format": "onnx"},
        {"weights": {"joy": True}},
        {"weights": {"joy": "1"}},
        {"steered_layers": [-1]},
        {"steered_layers": [1024]},
        {"biases": {}},
        {"biases": [{"layer": 0}]},
        {"base": None},
        {"vectors": {"name": "ev", "site": "elsewhere", "sha256": {}}},
        {"files": {"a": 1}},
        {"history": [1]},
        {"history": [{"format": "checkpoint"}]},
        {"format": "peft-each", "adapters": ["../joy"]},
    ],
)
def test_what_is_no_record(change: dict[str, object]):
    with pytest.raises(InputError, match=r"emobake\.json: is not a record that this version of emobake writes"):
        Record.from_json(json.loads(json.dumps(WHOLE.to_json() | change)), "out/emobake.json")
