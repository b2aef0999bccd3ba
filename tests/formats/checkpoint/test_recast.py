"""Checkpoints that are saved as another class: every tensor of the output, value by value, and what is refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.checkpoints import tree
from support.tiny import write_vectors

import emobake
from emobake.core.tensors import decode
from emobake.errors import BrokenFileError, EmobakeError, InputError, UnsupportedModelError
from emobake.formats.checkpoint import families as table
from emobake.formats.checkpoint.open import open_folder
from emobake.formats.safetensors import NewTensor, serialize_bytes

LAYERS, HIDDEN, HEADS, KEYS, HEAD, FFN, VOCAB = 2, 8, 4, 2, 2, 6, 5
SIZES = {
    "num_hidden_layers": LAYERS,
    "hidden_size": HIDDEN,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KEYS,
    "intermediate_size": FFN,
    "vocab_size": VOCAB,
    "torch_dtype": "float32",
}
Q, KV = HEADS * HEAD, KEYS * HEAD
SHARED = {"model.embed_tokens": (VOCAB, HIDDEN), "model.norm": (HIDDEN,), "lm_head": (VOCAB, HIDDEN)}
QKVO = {
    "self_attn.q_proj": (Q, HIDDEN),
    "self_attn.k_proj": (KV, HIDDEN),
    "self_attn.v_proj": (KV, HIDDEN),
    "self_attn.o_proj": (HIDDEN, Q),
}
MLP = {"mlp.gate_proj": (FFN, HIDDEN), "mlp.up_proj": (FFN, HIDDEN), "mlp.down_proj": (HIDDEN, FFN)}
NORMS = {"input_layernorm": (HIDDEN,), "post_attention_layernorm": (HIDDEN,)}
PHI3 = {
    "self_attn.qkv_proj": (Q + 2 * KV, HIDDEN),
    "self_attn.o_proj": (HIDDEN, Q),
    "mlp.gate_up_proj": (2 * FFN, HIDDEN),
    "mlp.down_proj": (HIDDEN, FFN),
    **NORMS,
}
Values = dict[str, np.ndarray]


def values_of(shared: Mapping[str, tuple[int, ...]], block: Mapping[str, tuple[int, ...]]) -> Values:
    """Different numbers in every element of every tensor."""
    shapes = {f"{name}.weight": shape for name, shape in shared.items()}
    shapes |= {f"model.layers.{n}.{name}.weight": shape for n in range(LAYERS) for name, shape in block.items()}
    generator = np.random.default_rng(0)
    return {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def write(folder: Path, model_type: str, architecture: str, values: Values, *, shards: int = 1, **fields: Any) -> Path:
    """A checkpoint of float32 `values`, every second tensor in the second shard."""
    folder.mkdir(parents=True)
    config = {"model_type": model_type, "architectures": [architecture], **SIZES, **fields}
    (folder / "config.json").write_text(json.dumps(config))
    names = [f"model-{i:05d}-of-{shards:05d}.safetensors" for i in range(1, shards + 1)]
    names = names if shards > 1 else ["model.safetensors"]
    where = {name: names[i % shards] for i, name in enumerate(values)}
    for file in names:
        tensors = {n: NewTensor("F32", v.shape, (v.tobytes(),)) for n, v in values.items() if where[n] == file}
        (folder / file).write_bytes(serialize_bytes(tensors, {"format": "pt"}))
    if shards > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return folder


def baked(tmp_path: Path, base: Path, **options: Any) -> tuple[Values, dict[str, Any], emobake.BakeResult]:
    """Tensors and config of the output, which `verify` accepts."""
    write_vectors(tmp_path / "ev", LAYERS, HIDDEN)
    result = emobake.bake(base, tmp_path / "ev", times=(0, 0, 0, 1, 0), out=tmp_path / "out", **options)
    checks = emobake.verify(tmp_path / "out", base=base, vectors=tmp_path / "ev")
    assert not [check for check in checks if check.ok is False], checks
    opened = open_folder(tmp_path / "out")
    return {n: decode(t, opened.read(t)) for n, t in opened.tensors.items()}, dict(opened.config), result


def assert_llama(found: Values, expected: Values) -> None:
    """Every tensor of a Llama, and the biases of attention besides."""
    biases = {name for name in found if name.endswith(".bias")}
    assert biases == {f"model.layers.{n}.{m}.bias" for n in range(LAYERS) for m in QKVO}
    assert found.keys() - biases == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize("shards", [1, 2])
def test_fused_rows_are_split(shards: int, tmp_path: Path) -> None:
    values = values_of(SHARED, PHI3)
    base = write(tmp_path / "base", "phi3", "Phi3ForCausalLM", values, shards=shards, sliding_window=None)
    found, config, result = baked(tmp_path, base)
    expected = {name: v for name, v in values.items() if "qkv" not in name and "gate_up" not in name}
    for n in range(LAYERS):
        block = f"model.layers.{n}."
        qkv, gate_up = values[f"{block}self_attn.qkv_proj.weight"], values[f"{block}mlp.gate_up_proj.weight"]
        for name, rows in zip("qkv", np.split(qkv, [Q, Q + KV]), strict=True):
            expected[f"{block}self_attn.{name}_proj.weight"] = rows
        for name, rows in zip(("gate", "up"), np.split(gate_up, 2), strict=True):
            expected[f"{block}mlp.{name}_proj.weight"] = rows
    assert_llama(found, expected)
    assert config["model_type"] == "llama" and config["attention_bias"] is True
    assert (result.plan.route, len(result.plan.rewritten)) == ("llama", 5 * LAYERS)


def test_a_shard_without_rewritten_tensors_is_carried_as_it_is(tmp_path: Path) -> None:
    values = values_of(SHARED, PHI3)
    fused = {name: v for name, v in values.items() if "qkv" in name or "gate_up" in name}
    others = {name: v for name, v in values.items() if name not in fused}
    order = [name for pair in zip(others, fused, strict=False) for name in pair]
    order += [name for name in others if name not in order]
    # Every second tensor is a fused one as long as there are any; move the rest to the first shard.
    base = write(tmp_path / "base", "phi3", "Phi3ForCausalLM", {n: values[n] for n in order}, shards=2)
    _, _, result = baked(tmp_path, base)
    actions = {file.name: file.action for file in result.plan.files if file.weights}
    assert actions == {"model-00001-of-00003.safetensors": "carry", "model-00002-of-00003.safetensors": "assemble"}


def test_rows_of_neighbouring_pairs_become_halves(tmp_path: Path) -> None:
    values = values_of(SHARED, QKVO | MLP | NORMS)
    base = write(tmp_path / "base", "ernie4_5", "Ernie4_5ForCausalLM", values, head_dim=HEAD, use_bias=False)
    found, _, result = baked(tmp_path, base)
    expected = dict(values)
    for name, value in values.items():
        if "q_proj" in name or "k_proj" in name:
            heads = value.reshape(-1, HEAD // 2, 2, HIDDEN)
            expected[name] = heads.transpose(0, 2, 1, 3).reshape(value.shape)
    assert_llama(found, expected)
    assert result.plan.route == "llama"


def test_grouped_rows_and_old_names(tmp_path: Path) -> None:
    names = {
        "attention_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
        "attention.wo": "self_attn.o_proj",
        "feed_forward.w1": "mlp.gate_proj",
        "feed_forward.w2": "mlp.down_proj",
        "feed_forward.w3": "mlp.up_proj",
    }
    shapes = QKVO | MLP | NORMS
    block = {old: shapes[new] for old, new in names.items()} | {"attention.wqkv": (Q + 2 * KV, HIDDEN)}
    shared = {"model.tok_embeddings": (VOCAB, HIDDEN), "model.norm": (HIDDEN,), "output": (VOCAB, HIDDEN)}
    values = values_of(shared, block)
    base = write(tmp_path / "base", "internlm2", "InternLM2ForCausalLM", values, bias=False)
    found, _, _ = baked(tmp_path, base)
    expected = {
        "model.embed_tokens.weight": values["model.tok_embeddings.weight"],
        "lm_head.weight": values["output.weight"],
        "model.norm.weight": values["model.norm.weight"],
    }
    for n in range(LAYERS):
        at = f"model.layers.{n}."
        expected |= {f"{at}{new}.weight": values[f"{at}{old}.weight"] for old, new in names.items()}
        groups = values[f"{at}attention.wqkv.weight"].reshape(KEYS, HEADS // KEYS + 2, HEAD, HIDDEN)
        expected[f"{at}self_attn.q_proj.weight"] = groups[:, :-2].reshape(Q, HIDDEN)
        expected[f"{at}self_attn.k_proj.weight"] = groups[:, -2].reshape(KV, HIDDEN)
        expected[f"{at}self_attn.v_proj.weight"] = groups[:, -1].reshape(KV, HIDDEN)
    assert_llama(found, expected)


@pytest.fixture
def small_baichuan(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The sizes of Baichuan's 7B, which tell it apart, are those of the tests; 5 tokens are the second one's."""
    changed = copy.deepcopy(table.tables())
    form = changed["baichuan"]["as_llama"]
    form["require"] |= {"hidden_size": [HIDDEN], "vocab_size": [VOCAB, VOCAB + 1]}
    assert [rule.get("when") for rule in form["tensors"]] == [None, {"vocab_size": 125696}]
    form["tensors"][1]["when"] = {"vocab_size": VOCAB}
    monkeypatch.setattr(table, "tables", lambda: changed)
    table.families.cache_clear()
    yield
    table.families.cache_clear()


@pytest.mark.usefixtures("small_baichuan")
@pytest.mark.parametrize("vocabulary", [VOCAB, VOCAB + 1])
def test_the_head_of_the_second_baichuan_has_rows_of_length_one(vocabulary: int, tmp_path: Path) -> None:
    shapes = {**QKVO, **MLP, **NORMS, "self_attn.W_pack": (3 * HEADS * HEAD, HIDDEN)}
    block = {name: shape for name, shape in shapes.items() if name[-6:-5] not in "qkv"}
    shared = {name: (vocabulary, *shape[1:]) if len(shape) == 2 else shape for name, shape in SHARED.items()}
    values = values_of(shared, block)
    values["lm_head.weight"][2] = 0
    more = {"vocab_size": vocabulary, "num_key_value_heads": None}
    base = write(tmp_path / "base", "baichuan", "BaichuanForCausalLM", values, **more)
    found, _, result = baked(tmp_path, base)
    expected = {name: v for name, v in values.items() if "W_pack" not in name}
    for n in range(LAYERS):
        at = f"model.layers.{n}.self_attn."
        parts = np.split(values[f"{at}W_pack.weight"], 3)
        expected |= {f"{at}{name}_proj.weight": rows for name, rows in zip("qkv", parts, strict=True)}
    card = (tmp_path / "out" / "README.md").read_text()
    if vocabulary == VOCAB:
        norms = np.linalg.norm(values["lm_head.weight"], axis=1, keepdims=True)
        head = values["lm_head.weight"] / np.maximum(norms, np.float32(1e-12))
        np.testing.assert_allclose(found["lm_head.weight"], head, rtol=1e-6)
        expected["lm_head.weight"] = found["lm_head.weight"]
        with pytest.raises(InputError, match="because rows of a matrix were divided by their norms, which rounds them"):
            emobake.unbake(tmp_path / "out", tmp_path / "again")
    else:
        emobake.unbake(tmp_path / "out", tmp_path / "again")
        assert tree(tmp_path / "again") == tree(base)
    assert ("divided by their norms" in card) == (vocabulary == VOCAB) != ("no value was changed" in card)
    assert_llama(found, expected)
    assert result.plan.route == "llama"


@pytest.mark.usefixtures("small_baichuan")
def test_an_empty_head_is_refused(tmp_path: Path) -> None:
    block = {"self_attn.W_pack": (3 * HEADS * HEAD, HIDDEN), "self_attn.o_proj": (HIDDEN, Q), **MLP, **NORMS}
    values = values_of(SHARED | {"lm_head": (VOCAB, 0)}, block)
    base = write(tmp_path / "base", "baichuan", "BaichuanForCausalLM", values, num_key_value_heads=None)
    write_vectors(tmp_path / "ev", LAYERS, HIDDEN)
    with pytest.raises(BrokenFileError, match=r"lm_head.weight is empty"):
        emobake.bake(base, tmp_path / "ev", times=(0, 0, 0, 1, 0), out=tmp_path / "out")


@pytest.mark.parametrize("shards", [1, 2])
def test_experts_are_stacked(shards: int, tmp_path: Path) -> None:
    moe = "block_sparse_moe"
    experts = {
        f"{moe}.experts.{e}.{w}": shape
        for e in range(3)
        for w, shape in (("w1", (FFN, HIDDEN)), ("w2", (HIDDEN, FFN)), ("w3", (FFN, HIDDEN)))
    }
    values = values_of(SHARED, QKVO | NORMS | {f"{moe}.gate": (3, HIDDEN)} | experts)
    base = write(
        tmp_path / "base", "mixtral", "MixtralForCausalLM", values, shards=shards, num_local_experts=3,
        sliding_window=None,
    )  # fmt: skip
    found, config, result = baked(tmp_path, base)
    for n in range(LAYERS):
        at = f"model.layers.{n}.{moe}."
        one = [values[f"{at}experts.{e}.w1.weight"] for e in range(3)]
        three = [values[f"{at}experts.{e}.w3.weight"] for e in range(3)]
        both = np.stack([np.concatenate(pair) for pair in zip(one, three, strict=True)])
        np.testing.assert_array_equal(found[f"{at}input_linear.weight"], both)
        two = np.stack([values[f"{at}experts.{e}.w2.weight"] for e in range(3)])
        np.testing.assert_array_equal(found[f"{at}output_linear.weight"], two)
        np.testing.assert_array_equal(found[f"{at}router.layer.weight"], values[f"{at}gate.weight"])
    assert not [name for name in found if "experts" in name or name.endswith("gate.weight")]
    assert config["model_type"] == "granitemoe" and config["attention_multiplier"] == pytest.approx(HEAD**-0.5)
    assert (config["embedding_multiplier"], config["logits_scaling"], config["residual_multiplier"]) == (1, 1, 1)
    assert result.plan.route == "granitemoe"


def refused(tmp_path: Path, values: Values, **fields: Any) -> EmobakeError:
    base = write(tmp_path / "base", "phi3", "Phi3ForCausalLM", values, **fields)
    write_vectors(tmp_path / "ev", LAYERS, HIDDEN)
    with pytest.raises(EmobakeError) as caught:
        emobake.bake(base, tmp_path / "ev", times=(0, 0, 0, 1, 0), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    return caught.value


def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    error = refused(tmp_path, values_of(SHARED, PHI3), quantization_config={"quant_method": "gptq", "bits": 4})
    assert isinstance(error, UnsupportedModelError) and "its weights are quantised (GPTQ)" in str(error)


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ({**PHI3, "self_attn.qkv_proj": (Q + 2 * KV + 1, HIDDEN)}, "17 rows, which do not fit 4 heads of 2"),
        ({**PHI3, "mlp.gate_up_proj": (2 * FFN + 1, HIDDEN)}, "rows, which do not fit"),
        ({**PHI3, "self_attn.qkv_proj": (0, HIDDEN)}, "0 rows"),
        ({**PHI3, "self_attn.qkv_proj": (Q + 2 * KV,)}, "not a matrix of floats"),
        ({**PHI3, "self_attn.q_proj": (Q, HIDDEN)}, "which phi3 does not have"),
        ({n: s for n, s in PHI3.items() if "gate_up" not in n}, "no tensor model.layers.0.mlp.gate_up_proj.weight"),
    ],
)
def test_tensors_that_are_not_the_classs_own_are_refused(
    block: dict[str, tuple[int, ...]], said: str, tmp_path: Path
) -> None:
    error = refused(tmp_path, values_of(SHARED, block))
    assert isinstance(error, BrokenFileError) and said in str(error)


def test_a_bias_that_the_class_lacks_is_refused(tmp_path: Path) -> None:
    values = values_of(SHARED, PHI3)
    values["model.layers.0.self_attn.qkv_proj.bias"] = np.ones(Q + 2 * KV, np.float32)
    assert "qkv_proj.bias, which phi3 does not have" in str(refused(tmp_path, values))
