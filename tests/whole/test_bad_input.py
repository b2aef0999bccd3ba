"""Every bad input gets one clear line with the file and the remedy, and exit code 2; nothing is written."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from support.checkpoints import (
    NUMPY,
    edit_json,
    raw_safetensors,
    read_tensors,
    vector_rows,
    write_checkpoint,
    write_json,
    write_safetensors,
    write_vectors,
)
from support.running import TIMES, Ran, run_process

from emobake.core.vector_set import EMOTIONS, VectorSet
from emobake.vectors.formats.single_file import to_single_file

SHARD = "model-00002-of-00003.safetensors"
INDEX = "model.safetensors.index.json"


# --- the vector set -------------------------------------------------------------------------------------------


def test_vectors_for_another_number_of_layers(refused, base, tmp_path):
    ev = write_vectors(tmp_path / "other", layers=3)
    refused(base, ev, "other", "3 layers x hidden size 8", "2 layers x 8", "use the vectors of that model")


def test_vectors_for_another_hidden_size(refused, base, tmp_path):
    ev = write_vectors(tmp_path / "other", hidden=16)
    refused(base, ev, "other", "2 layers x hidden size 16", "2 layers x 8", "use the vectors of that model")


def test_a_missing_emotion_file(refused, base, vectors):
    (vectors / "ev_tiny_fear.json").unlink()
    refused(base, vectors, str(vectors), "_fear.json", "anger, disgust, joy, sadness", "--mix")


def test_an_emotion_that_the_set_does_not_have(refused, base, vectors):
    words = (str(vectors), "_hope.json", "it has anger", "--mix")
    refused(base, vectors, *words, times=("--mix", "joy=1,hope=1"))


def test_an_emotion_that_a_single_file_does_not_have(refused, cli, base, tmp_path):
    meta = {"format": "emobake-vectors-1", "site": "attention_output"}
    joy = vector_rows("joy", 2, 8)
    header = {"__metadata__": meta, "joy": {"dtype": "F32", "shape": [2, 8], "data_offsets": [0, 64]}}
    file = tmp_path / "set.safetensors"
    file.write_bytes(raw_safetensors(header, joy.tobytes()))
    refused(base, file, "set.safetensors", "fear", "it has joy", "--mix", times=("--mix", "joy=1,fear=1"))
    cli("--model", base, "--vectors", file, "--mix", "joy=1", "--out", tmp_path / "fine", "-q").ok()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 1e39], ids=str)
def test_a_value_that_is_not_finite(refused, base, vectors, value):
    file = vectors / "ev_tiny_joy.json"
    table = json.loads(file.read_text())
    table["1"][0][3] = value
    file.write_text(json.dumps(table))
    refused(base, vectors, "ev/ev_tiny_joy.json", "layer 1", "NaN or infinity", "fetch it again")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", ("not valid JSON", "fetch")),
        ("[]", ("JSON list",)),
        ("{}", ("0 layers",)),
        ('{"0": [[1, 2]], "2": [[1, 2]]}', ("layer 1 of 2 is missing", "keys must be 0 to 1")),
        ('{"0": [["a"]]}', ("layer 0", "not a list of numbers")),
        ('{"0": [[1, true]]}', ("layer 0", "not a list of numbers")),
        ('{"0": [[1, 2]], "1": [[1]]}', ("layer 1 has 1 floats", "layer 0 has 2")),
        ('{"0": [[1' + "0" * 400 + "]]}", ("layer 0", "beyond float32")),
        ('{"0": [[1]], "0": [[1]]}', ("not valid JSON", "twice")),
        ('{"0":' + "[" * 100_000, ("not valid JSON",)),
        ("\udcff", ("not valid JSON",)),
    ],
)
def test_a_malformed_vector_file(refused, base, vectors, content, words):
    (vectors / "ev_tiny_anger.json").write_bytes(content.encode(errors="surrogateescape"))
    refused(base, vectors, "ev_tiny_anger.json", *words)


def test_two_files_for_one_emotion(refused, base, vectors):
    (vectors / "again_joy.json").write_text("{}")
    refused(base, vectors, str(vectors), "again_joy.json and ev_tiny_joy.json", "keep one")


def test_no_vectors_at_all(refused, base, tmp_path):
    refused(base, tmp_path / "nowhere", "nowhere", "no such vector set", "folder of JSON files")


def test_a_single_file_for_another_site(refused, base, tmp_path):
    header = {"__metadata__": {"format": "emobake-vectors-1", "site": "residual"}}
    (tmp_path / "set.safetensors").write_bytes(raw_safetensors(header))
    refused(base, tmp_path / "set.safetensors", "set.safetensors", "'residual'", "attention_output")


def test_vectors_of_the_layer_output_are_not_baked_where_nothing_acts_on_it_alone(refused, tmp_path):
    base = write_checkpoint(tmp_path / "m", "qwen3", architectures=["Qwen3ForCausalLM"])
    other = VectorSet(EMOTIONS, np.ones((5, 2, 8), np.float32), site="layer_output")
    (tmp_path / "set.safetensors").write_bytes(to_single_file(other))
    refused(base, tmp_path / "set.safetensors", "qwen3 cannot be baked", "no bias on down_proj", "--format peft")
    gemma = write_checkpoint(tmp_path / "g", "gemma2", architectures=["Gemma2ForCausalLM"])
    refused(gemma, tmp_path / "set.safetensors", "no bias is known that acts on its layers' output alone")
    peft = ("--format", "peft")
    refused(gemma, tmp_path / "set.safetensors", "no bias is known that acts on the layer output", more=peft)


def test_a_site_that_contradicts_the_set(refused, base, vectors, tmp_path):
    refused(base, vectors, "acts at the attention output, not at the layer output", more=("--site", "layer_output"))


def test_a_single_file_that_is_something_else(refused, base):
    refused(base, base / "model.safetensors", "model.safetensors", "not a set of emotion vectors")


# --- weights and options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "weight"), [("F16", "1e6"), ("BF16", "3e38"), ("F32", "3e38")])
def test_a_value_that_overflows_the_dtype(refused, tmp_path, vectors, dtype, weight):
    model = write_checkpoint(tmp_path / "m", dtype=dtype)
    line = refused(model, vectors, "use smaller weights", times=("--mix", f"joy={weight},anger={weight}"))
    assert dtype in line or "float32" in line


def test_a_sum_with_an_existing_bias_that_overflows(refused, tmp_path, vectors):
    model = write_checkpoint(tmp_path / "m", "gpt2", dtype="F16")
    tensors = {n: (d, np.frombuffer(b, np.float16).reshape(s)) for n, (d, s, b) in read_tensors(model).items()}
    full = {n: ("F16", np.full_like(v, 65504) if n.endswith("c_proj.bias") else v) for n, (_, v) in tensors.items()}
    write_safetensors(model / "model.safetensors", full)
    refused(model, vectors, "layer 0", "F16", "use smaller weights", times=("--mix", "joy=500"))


def test_an_existing_bias_that_is_not_finite(refused, biased, vectors):
    tensors = {n: ("F32", np.frombuffer(b, np.float32).reshape(s)) for n, (_, s, b) in read_tensors(biased).items()}
    bad = {n: (d, np.full_like(v, np.nan) if n == "h.1.attn.c_proj.bias" else v) for n, (d, v) in tensors.items()}
    write_safetensors(biased / "model.safetensors", bad)
    refused(biased, vectors, "model.safetensors", "h.1.attn.c_proj.bias", "NaN or infinity")


@pytest.mark.parametrize("weights", [("--times", *"00000"), ("--mix", "joy=0"), ("--mix", "joy=1", "--scale", "0")])
def test_all_weights_zero(refused, cli, base, vectors, tmp_path, weights):
    refused(base, vectors, "all weights are zero", "--force", times=weights)
    ran = cli("--model", base, "--vectors", vectors, *weights, "--force", "--out", tmp_path / "out", "-q").ok()
    assert ran.err.count("\n") == 1 and "Warning" in ran.err and "behaves as its base" in ran.err
    biases = [data for name, (_, _, data) in read_tensors(tmp_path / "out").items() if name.endswith(".bias")]
    assert biases and not any(np.frombuffer(data, NUMPY["BF16"]).any() for data in biases)


@pytest.mark.parametrize("weight", ["8", "1e4", "1e25"])
def test_weights_far_beyond_usual_warn_with_the_strength(refused, cli, base, vectors, tmp_path, weight):
    some, more = ("--model", base, "--vectors", vectors, "--mix", f"joy={weight}", "--out", tmp_path / "out", "-q"), ()
    if float(weight) > 10:
        refused(base, vectors, "destroys the model", "--force", times=("--mix", f"joy={weight}"))
        more = ("--force",)
    ran = cli(*some, *more).ok()
    assert ran.err.count("\n") == (2 if float(weight) > 1e6 else 1), ran.err
    assert "Warning: strength " in ran.err and "beyond a layer's usual change" in ran.err
    number = float(ran.err.split("strength ")[1].split()[0])
    assert number > float(weight) / 4
    assert cli("--model", base, "--vectors", vectors, "--mix", "joy=1", "--dry-run", "-q").ok().err == ""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--times", "1", "0", "0", "0"), ("--times",)),
        (("--times", "nan", "0", "0", "0", "0"), ("finite",)),
        (("--times", *"10000", "--scale", "inf"), ("--scale", "finite")),
        (("--times", *"10000", "--mix", "joy=1"), ("--times", "--mix")),
        ((), ("--times", "--mix")),
        (("--mix", "joy"), ("'joy'", "emotion=number")),
        (("--mix", "joy=1,joy=2"), ("'joy'", "twice")),
        (("--mix", "joy=1e999"), ("finite",)),
        (("--mix", "joy=1", "--layers", "3-1"), ("--layers", "backwards")),
        (("--mix", "joy=1", "--layers", "x"), ("--layers", "8-27")),
        (("--mix", "joy=1", "--layers", "2"), ("--layers", "layer 2", "0 to 1")),
        (("--mix", "joy=1", "--targets", "vlm"), ("--targets", "'vlm'", "transformers, vllm")),
        (("--mix", "joy=1", "--each"), ("--each", "--format peft")),
        (("--mix", "joy=1", "--revision", "main"), ("--revision", "Hub id")),
        (("--mix", "joy=1", "--link-mode", "bind"), ("--link-mode", "reflink")),
        (("--mix", "joy=1", "--nonsense"), ("--nonsense",)),
    ],
)
def test_bad_options(refused, base, vectors, options, words):
    refused(base, vectors, *words, times=options)


def test_what_must_be_given(cli, base, vectors):
    cli("--vectors", vectors, *TIMES).one_line("--model")
    cli("--model", base, *TIMES, "--dry-run").one_line(str(base), "--vectors", "--vectors-for", "vectors extract")
    cli("--model", base, "--vectors", vectors, *TIMES).one_line("--out", "--dry-run")


# --- the checkpoint's files -----------------------------------------------------------------------------------


def test_only_pickled_weights(refused, base, vectors):
    (base / "model.safetensors").unlink()
    refused(base, vectors, str(base), "pickled weights", "convert them to safetensors")


def test_no_weights_at_all(refused, tmp_path, vectors):
    model = write_checkpoint(tmp_path / "m", extra_files=False)
    (model / "model.safetensors").unlink()
    refused(model, vectors, str(model), "neither model.safetensors nor")


def test_an_index_that_names_a_missing_shard(refused, sharded, vectors):
    (sharded / SHARD).unlink()
    refused(sharded, vectors, INDEX, SHARD, "missing", "fetch")


@pytest.mark.parametrize(
    "name", ["../stolen.safetensors", "/etc/passwd", "a/b.safetensors", "..", ".hidden.safetensors", "x.bin", 7, None]
)
def test_an_index_that_leads_out_of_the_folder(refused, sharded, vectors, name, tmp_path):
    (tmp_path / "stolen.safetensors").write_bytes((sharded / SHARD).read_bytes())
    index = json.loads((sharded / INDEX).read_text())
    index["weight_map"]["lm_head.weight"] = name
    write_json(sharded / INDEX, index)
    refused(sharded, vectors, INDEX, "lm_head.weight", repr(str(name)), "not a shard in this folder")


def test_an_index_that_names_a_tensor_that_is_not_there(refused, sharded, vectors):
    index = json.loads((sharded / INDEX).read_text())
    index["weight_map"]["model.phantom"] = SHARD
    write_json(sharded / INDEX, index)
    refused(sharded, vectors, INDEX, SHARD, "model.phantom", "does not")


def test_a_tensor_in_two_shards(refused, sharded, vectors):
    index = json.loads((sharded / INDEX).read_text())
    index["weight_map"]["lm_head.weight"] = SHARD
    tensors = {"lm_head.weight": ("F32", np.zeros((2, 2), np.float32))}
    write_safetensors(sharded / SHARD, tensors)
    write_json(sharded / INDEX, index)
    refused(sharded, vectors, str(sharded), SHARD, "lm_head.weight")


@pytest.mark.parametrize("index", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}, "metadata": 3}'])
def test_a_malformed_index(refused, sharded, vectors, index):
    (sharded / INDEX).write_text(index)
    refused(sharded, vectors, INDEX)


@pytest.mark.parametrize(
    "config", ["", "{", "[]", '{"model_type": 3}', '{"model_type": "llama"}', '{"architectures": ["LlamaForCausalLM"]}']
)
def test_a_malformed_config(refused, base, vectors, config):
    (base / "config.json").write_text(config)
    refused(base, vectors, "config.json")


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_hidden_layers", None), ("num_hidden_layers", "2"), ("hidden_size", -8), ("hidden_size", 8.0)],
)
def test_a_config_without_dimensions(refused, base, vectors, field, value):
    edit_json(base / "config.json", **{field: value})
    refused(base, vectors, "config.json", field)


def test_no_config(refused, base, vectors):
    (base / "config.json").unlink()
    refused(base, vectors, str(base), "no config.json", "not a Hugging Face checkpoint")


def test_weights_of_another_model(refused, base, biased, vectors):
    (base / "model.safetensors").write_bytes((biased / "model.safetensors").read_bytes())
    refused(base, vectors, str(base), "self_attn.o_proj.weight", "not the weights of llama")


def test_weights_of_another_width(refused, tmp_path, vectors):
    model = write_checkpoint(tmp_path / "m", hidden=12)
    edit_json(model / "config.json", hidden_size=8)
    refused(model, vectors, "o_proj has 12 outputs", "the hidden size is 8")


@pytest.mark.parametrize("what", ["nowhere", "model.safetensors", "owner/name/more", "./nowhere"])
def test_no_such_model(refused, base, vectors, what):
    refused(base / what, vectors, str(base / what))


# --- safetensors headers --------------------------------------------------------------------------------------

ONE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ("too few", "fetch")),
        (b"\0" * 7, ("too few", "fetch")),
        (b"version https://git-lfs.github.com/spec/v1\n", ("truncated, or not safetensors",)),
        (raw_safetensors({}, length=2**62), ("truncated, or not safetensors",)),
        (raw_safetensors({}, length=3), ("truncated, or not safetensors",)),
        (raw_safetensors(b"\xff\xfe{}"), ("not valid JSON", "fetch")),
        (raw_safetensors({"a": ONE}), ("describes", "fetch")),
        (raw_safetensors({"a": ONE}, b"\0" * 9), ("describes", "fetch")),
        (raw_safetensors({"a": ONE | {"data_offsets": [4, 12]}}, b"\0" * 12), ("'a'", "hole")),
        (raw_safetensors({"a": ONE, "b": ONE}, b"\0" * 8), ("overlaps",)),
        (raw_safetensors({"a": ONE | {"shape": [2**40, 4]}}, b"\0" * 8), ("'a'", "8 bytes of data")),
        (raw_safetensors({"a": ONE | {"shape": [-2]}}, b"\0" * 8), ("'a'", "shape")),
        (raw_safetensors({"a": ONE | {"dtype": "Q4"}}, b"\0" * 8), ("'a'", "unknown dtype", "Q4")),
    ],
)
def test_a_lying_header(refused, base, vectors, content, words):
    (base / "model.safetensors").write_bytes(content)
    refused(base, vectors, "model.safetensors", *words)


def test_a_truncated_shard(refused, sharded, vectors):
    whole = (sharded / SHARD).read_bytes()
    (sharded / SHARD).write_bytes(whole[:-5])
    refused(sharded, vectors, SHARD, "describes", "fetch")


PEAK = """
import resource, sys
from emobake.cli.app import main
try:
    main(sys.argv[1:])
finally:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_a_header_of_terabytes_allocates_nothing(base, vectors, tmp_path):
    """Checked in a process of its own: the peak of this one was reached long ago."""
    command = ("-c", PEAK, "--model", base, "--vectors", vectors, *TIMES, "-q", "--out")
    honest = int(run_process(*command, tmp_path / "honest").ok().out)
    (base / "model.safetensors").write_bytes(raw_safetensors({}, length=5 * 10**12))
    # A file that is that large, as far as its size goes, so that only the limit of a header is in the way.
    os.truncate(base / "model.safetensors", 6 * 10**12)
    ran = run_process(*command, tmp_path / "out")
    Ran(ran.code, "", ran.err).one_line("model.safetensors", "5000000000000 bytes")
    assert int(ran.out) < honest + 20_000, "kilobytes"


# --- models that cannot be baked ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, ("BertForMaskedLM", "not a causal")),
        ({"architectures": ["LlamaForSequenceClassification"]}, ("LlamaForSequenceClassification", "LlamaForCausalLM")),
        ({"model_type": "t5", "is_encoder_decoder": True}, ("encoder-decoder", "not a causal")),
        ({"model_type": "llava", "text_config": {}}, ("LlamaForCausalLM", "llava")),
        ({"model_type": "newest", "architectures": ["NewestForCausalLM"]}, ("newest", "NewestForCausalLM", "peft")),
        ({"model_type": "gptj", "architectures": ["GPTJForCausalLM"]}, ("gptj", "peft")),
        (
            {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "use_sliding_window": True},
            ("qwen2", "use_sliding_window", "peft"),
        ),
    ],
)
def test_an_unsuitable_architecture(refused, base, vectors, fields, words):
    edit_json(base / "config.json", **fields)
    refused(base, vectors, *words)


# --- the same, as a user sees it ------------------------------------------------------------------------------


def test_in_a_process_of_its_own(run_cli, base, vectors, tmp_path):
    (base / "model.safetensors").write_bytes(b"\0")
    ran = run_cli("--model", base, "--vectors", vectors, *TIMES, "--out", tmp_path / "out")
    ran.one_line("model.safetensors", "fetch it again")
    assert "Traceback" in run_cli("--model", base, "--vectors", vectors, *TIMES, "--out", "x", "--debug").err


def test_a_message_stays_on_one_line(refused, tmp_path, vectors):
    model = write_checkpoint(tmp_path / "two\nlines [bold]", extra_files=False)
    (model / "model.safetensors").write_bytes(b"\0")
    refused(model, vectors, "two lines [bold]", "too few")


# --- allowed input --------------------------------------------------------------------------------------------


def test_a_baked_checkpoint_can_be_baked_again(cli, base, vectors, tmp_path):
    for model, out, mix in ((base, "one", "joy=1"), (tmp_path / "one", "two", "anger=0.5,fear=-1")):
        cli("--model", model, "--vectors", vectors, "--mix", mix, "--out", tmp_path / out, "-q").ok()
    one, two = read_tensors(tmp_path / "one"), read_tensors(tmp_path / "two")
    added = np.float32(0.5) * vector_rows("anger", 2, 8) - vector_rows("fear", 2, 8)
    for layer in range(2):
        name = f"model.layers.{layer}.self_attn.o_proj.bias"
        first = np.frombuffer(one[name][2], NUMPY["BF16"]).astype(np.float32)
        assert two[name][2] == (first + added[layer]).astype(NUMPY["BF16"]).tobytes()
    record = json.loads((tmp_path / "two" / "emobake.json").read_text())
    assert [h["weights"] for h in record["history"]] == [{"joy": 1.0}]
    assert record["weights"] == {"anger": 0.5, "fear": -1.0} and record["route"] == "existing"
