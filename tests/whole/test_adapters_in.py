"""Adapters as the model: steered themselves, beside, under or merged into their base; against hooks, in PEFT."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tiny import FAMILIES, HIDDEN, LAYERS, write_tiny, write_vectors

import emobake
from emobake.errors import InputError, MissingPackageError
from emobake.formats.checkpoint.families import families

peft = pytest.importorskip("peft")
torch = pytest.importorskip("torch")
from support.loras import with_adapter, write_lora  # noqa: E402
from support.tiny_runs import assert_same, hooked_logits, load, logits  # noqa: E402

pytestmark = [
    pytest.mark.torch,
    pytest.mark.usefixtures("quiet"),
    pytest.mark.filterwarnings("ignore:.*merging LoRA weights"),
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing"),
    pytest.mark.filterwarnings("ignore:.*fan_in_fan_out"),
    pytest.mark.filterwarnings("ignore:PiSSA changes the base weights"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`"),
    pytest.mark.filterwarnings("ignore:.*LoRA tensor.* have invalid shape"),
]

MIX = {"joy": 1.0, "anger": -0.5}
QV = ["q_proj", "v_proj"]
LORAS: dict[str, tuple[str, dict[str, Any]]] = {
    "without o_proj": ("qwen3", {"r": 4, "lora_alpha": 8, "target_modules": QV}),
    "with o_proj": ("qwen2", {"r": 4, "lora_alpha": 12, "target_modules": [*QV, "o_proj"]}),
    "rsLoRA": ("llama2", {"r": 4, "lora_alpha": 7, "use_rslora": True, "target_modules": ["o_proj", "down_proj"]}),
    "patterns": (
        "llama2",
        {
            "r": 4,
            "lora_alpha": 8,
            "target_modules": ["q_proj", "o_proj"],
            "rank_pattern": {"layers.1.self_attn.o_proj": 2, r"layers\.\d+\.self_attn\.q_proj": 3},
            "alpha_pattern": {"^model.layers.0.self_attn.o_proj": 5, "o_proj": 3},
        },
    ),
    "some layers": ("llama2", {"target_modules": ["q_proj", "o_proj"], "layers_to_transform": [1]}),
    "a container": (
        "llama2",
        {"target_modules": ["o_proj"], "layers_to_transform": [0, 2], "layers_pattern": "layers"},
    ),
    "a pattern": ("qwen3", {"target_modules": r".*\.(q_proj|gate_proj)"}),
    "a pattern of o_proj": ("qwen3", {"r": 2, "target_modules": r"model\.layers\.[02]\.self_attn\.(q|o)_proj"}),
    "all-linear": ("qwen3", {"r": 3, "lora_alpha": 5, "target_modules": "all-linear"}),
    "Conv1D": ("gpt2", {"r": 4, "lora_alpha": 6, "target_modules": ["c_attn"], "fan_in_fan_out": True}),
    "Conv1D with it": ("gpt2", {"r": 4, "target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
    "gaussian": ("llama2", {"init_lora_weights": "gaussian", "target_modules": QV}),
    "its own bias": ("gpt2", {"lora_bias": True, "target_modules": ["c_proj"], "fan_in_fan_out": True}),
    "a saved head": ("llama2", {"target_modules": ["o_proj"], "modules_to_save": ["lm_head"]}),
    "trained biases": ("qwen2", {"target_modules": QV, "bias": "lora_only"}),
}


class Case:
    """A base, an adapter of it and vectors."""

    def __init__(self, folder: Path, name: str, **fields: Any) -> None:
        self.folder, self.name = folder, name
        self.base = write_tiny(name, folder / "base")
        self.adapter = write_lora(self.base, folder / "lora", **fields)
        rows = write_vectors(folder / "ev", LAYERS, HIDDEN)
        self.rows = rows[3] - np.float32(0.5) * rows[0]
        self.out = folder / "out"

    def bake(self, **options: Any) -> emobake.BakeResult:
        given = {"model": self.adapter, "vectors": self.folder / "ev", "mix": MIX, "out": self.out} | options
        return emobake.bake(**given)

    def expected(self, times: float = 1) -> tuple[np.ndarray, np.ndarray]:
        """Logits of base and adapter with the vectors by hooks, and without them."""
        model, _ = with_adapter(self.base, self.adapter)
        o_proj = families()[FAMILIES[self.name].model_type].projection
        rows = {layer: np.float32(times) * row for layer, row in enumerate(self.rows)}
        return hooked_logits(model, o_proj, rows), logits(model)

    def failed(self, **options: Any) -> list[str]:
        """Checks of `verify` that fail."""
        given = {"base": self.base, "adapter": self.adapter, "vectors": str(self.folder / "ev")} | options
        return [f"{c.name}: {c.detail}" for c in emobake.verify(self.out, **given) if c.ok is False]


@pytest.fixture
def qwen3(tmp_path: Path) -> Case:
    """A LoRA of a Qwen3."""
    return Case(tmp_path, "qwen3", r=4, lora_alpha=8, target_modules=QV)


@pytest.mark.parametrize("kind", LORAS)
def test_a_steered_lora_equals_the_hook_on_base_and_lora(kind: str, tmp_path: Path):
    name, fields = LORAS[kind]
    case = Case(tmp_path, name, **fields)
    if kind == "all-linear":
        edit(case.adapter, target_modules="all-linear")
    result = case.bake()
    assert result.plan.route == "lora" and result.plan.record.adapter.how == "steered"
    expected, plain = case.expected()
    model, _ = with_adapter(case.base, case.out)
    assert_same(logits(model), expected, plain)
    assert not case.failed()
    assert not case.failed(base=None, adapter=None)


def test_a_lora_is_carried_byte_for_byte(qwen3: Case):
    from safetensors import deserialize

    (qwen3.adapter / "tokenizer.json").write_text('{"version": "1.0"}')
    (qwen3.adapter / "LICENSE").write_text("Do as you like.")
    (qwen3.adapter / "optimizer.pt").write_text("pickle")
    result = qwen3.bake()
    old, new = (dict(deserialize((f / "adapter_model.safetensors").read_bytes())) for f in (qwen3.adapter, qwen3.out))
    assert {name: new[name] for name in old} == old
    added = set(new) - set(old)
    assert all(not any(new[n]["data"]) for n in added if not n.endswith("o_proj.lora_B.bias"))
    assert len(added) == LAYERS * (2 + 3) and set(result.plan.added) == added
    assert (qwen3.out / "tokenizer.json").read_text() == '{"version": "1.0"}'
    assert (qwen3.out / "LICENSE").exists() and not (qwen3.out / "optimizer.pt").exists()
    assert [left.name for left in result.plan.left_out] == ["optimizer.pt"]


def test_bakes_of_an_adapter_add_up(qwen3: Case):
    qwen3.bake(out=qwen3.folder / "first")
    result = qwen3.bake(model=qwen3.folder / "first", mix={name: 2 * weight for name, weight in MIX.items()})
    assert len(result.plan.record.history) == 1
    expected, plain = qwen3.expected(3)
    model, _ = with_adapter(qwen3.base, qwen3.out)
    assert_same(logits(model), expected, plain)
    assert not qwen3.failed(adapter=qwen3.folder / "first")
    with pytest.raises(InputError, match="the result is the base again"):
        qwen3.bake(model=qwen3.folder / "first", mix={"joy": -1.0, "anger": 0.5}, out=qwen3.folder / "undone")


def test_one_adapter_per_emotion(qwen3: Case):
    qwen3.bake(format="peft-each", mix={"joy": 1.0, "fear": 0.5})
    assert sorted(p.name for p in qwen3.out.iterdir()) == ["README.md", "emobake.json", "fear", "joy"]
    assert not qwen3.failed()
    model, _ = with_adapter(qwen3.base, qwen3.out / "fear")
    assert np.abs(logits(model) - qwen3.expected()[1]).max() > 0.1


BESIDE = {
    "dora": {"r": 4, "use_dora": True, "target_modules": ["q_proj", "o_proj"]},
    "pissa": {"r": 4, "init_lora_weights": "pissa", "target_modules": ["q_proj", "o_proj"]},
    "excluded": {"target_modules": "all-linear", "exclude_modules": ["o_proj"]},
    "parameters": {"r": 2, "target_modules": ["o_proj"], "target_parameters": ["mlp.experts.gate_up_proj"]},
    "embedding": {"r": 2, "target_modules": ["q_proj", "embed_tokens"]},
    "loha": {"kind": "LoHaConfig", "target_modules": ["q_proj", "o_proj"]},
    "lokr": {"kind": "LoKrConfig", "target_modules": ["q_proj", "o_proj"]},
    "oft": {"kind": "OFTConfig", "oft_block_size": 4, "use_cayley_neumann": False, "target_modules": ["o_proj"]},
}


@pytest.mark.parametrize("kind", BESIDE)
def test_a_second_adapter_beside_one_that_takes_no_bias(kind: str, tmp_path: Path):
    case = Case(tmp_path, "qwen3_moe" if kind == "parameters" else "qwen3", **BESIDE[kind])
    result = case.bake()
    assert result.plan.route == "adapter" and result.plan.record.adapter.how == "beside"
    expected, plain = case.expected()
    # By the card's own lines.
    card = (case.out / "README.md").read_text()
    lines = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1].splitlines()
    names: dict[str, Any] = {}
    text = "\n".join(line for line in lines if "tokenizer" not in line and not line.startswith("inputs"))
    text = (
        text.replace("THIS_REPO", str(case.out)).replace("ADAPTER", str(case.adapter)).replace("BASE", str(case.base))
    )
    exec(text[: text.index("output = ")], names)
    assert_same(logits(names["model"].eval()), expected, plain)
    assert not case.failed(stack=["transformers"], max_new_tokens=3)
    assert not case.failed(base=None, adapter=None)


SERVED = {
    "llama2": {"r": 4, "lora_alpha": 8, "target_modules": [*QV, "o_proj"]},
    "qwen2": {"r": 4, "target_modules": "all-linear"},
    "qwen3": {"r": 4, "use_dora": True, "target_modules": [*QV, "o_proj"]},
    "gpt2": {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True},
}


@pytest.mark.parametrize("name", SERVED)
def test_a_baked_base_serves_the_lora(name: str, tmp_path: Path):
    case = Case(tmp_path, name, **SERVED[name])
    result = case.bake(format="checkpoint")
    expected, plain = case.expected()
    model, _ = with_adapter(case.out, case.out, subfolder="adapter")
    assert_same(logits(model), expected, plain)
    config = json.loads((case.out / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] is None
    weights = "adapter_model.safetensors"
    assert (case.out / "adapter" / weights).read_bytes() == (case.adapter / weights).read_bytes()
    assert any("--enable-lora" in line for line in result.plan.serving) is (name != "qwen3")
    assert not case.failed(stack=["transformers"], max_new_tokens=3)
    assert not case.failed(base=None, adapter=None)


@pytest.mark.parametrize("name", ["qwen3", "qwen2"])
def test_a_lora_is_merged_first(name: str, tmp_path: Path):
    case = Case(tmp_path, name, r=4, lora_alpha=8, target_modules=[*QV, "o_proj"])
    result = case.bake(merge=True)
    assert result.plan.record.adapter.how == "merged" and result.model == str(case.base)
    expected, plain = case.expected()
    baked, info = load(case.out)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys"))
    assert_same(logits(baked), expected, plain)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base", "ev", "lora", "out"]
    assert "was merged into the base first" in (case.out / "README.md").read_text()
    assert not case.failed(stack=["transformers"], max_new_tokens=3)


def test_verify_runs_a_steered_lora(qwen3: Case):
    qwen3.bake()
    checks = emobake.verify(
        qwen3.out, adapter=qwen3.adapter, vectors=str(qwen3.folder / "ev"), stack=["transformers"], max_new_tokens=3
    )
    assert not [c for c in checks if c.ok is not True and c.ok is not None], checks
    assert any("equals the hook" in c.name for c in checks)
    assert any("needs `base`" in c.detail for c in emobake.verify(qwen3.out, stack=["transformers"]))


TAMPERING = {
    "a weight of the LoRA": ("adapter_model.safetensors", "q_proj.lora_A.weight", "the LoRA's tensors"),
    "a bias": ("adapter_model.safetensors", "o_proj.lora_B.bias", "biases as recorded"),
    "a zero": ("adapter_model.safetensors", "q_proj.lora_B.bias", "zero tensors"),
    "the switch": ("adapter_config.json", {"lora_bias": False}, "lora_B.bias though lora_bias is off"),
    "the factor": ("adapter_config.json", {"lora_alpha": 16}, "adapter_config.json"),
    "the targets": ("adapter_config.json", {"target_modules": QV}, "target_modules"),
}


@pytest.mark.parametrize("what", TAMPERING)
@pytest.mark.parametrize("with_base", [True, False])
def test_tampering_is_found(what: str, with_base: bool, qwen3: Case):
    qwen3.bake()
    file, change, said = TAMPERING[what]
    path = qwen3.out / file
    if isinstance(change, dict):
        edit(qwen3.out, **change)
    else:
        flip(path, change)
    found = qwen3.failed() if with_base else qwen3.failed(base=None, adapter=None)
    assert any(said in line for line in found), found


def test_tampering_with_a_served_lora_is_found(qwen3: Case):
    qwen3.bake(format="checkpoint")
    flip(qwen3.out / "adapter" / "adapter_model.safetensors", "q_proj.lora_A.weight")
    for options in ({}, {"base": None, "adapter": None}):
        assert any("adapter/adapter_model.safetensors" in line for line in qwen3.failed(**options))


def test_a_checkpoint_without_the_adapter_is_compared_with_its_record(qwen3: Case):
    qwen3.bake(format="checkpoint")
    checks = emobake.verify(qwen3.out, base=qwen3.base, vectors=str(qwen3.folder / "ev"))
    assert not [c for c in checks if c.ok is False]
    assert any("give `adapter`" in c.detail for c in checks)


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "another size": ({}, {"base": "small"}, r"maps .* values, and .* `base`"),
    "fewer layers": ({}, {"base": "shallow"}, "has a LoRA of layer 2"),
    "IA3": ({"peft_type": "IA3"}, {}, "peft_type IA3: .*`merge`"),
    "replicated layers": ({"layer_replication": [[0, 2], [1, 3]]}, {}, "layer_replication"),
    "a strange field": ({"use_foo": True}, {}, "'use_foo' changes what PEFT computes"),
    "aLoRA": ({"alora_invocation_tokens": [1]}, {}, "'alora_invocation_tokens'"),
    "a classifier": ({"task_type": "SEQ_CLS"}, {}, "task_type is 'SEQ_CLS'"),
    "text_only": ({}, {"text_only": True}, "`text_only` goes with a checkpoint"),
    "a GGUF file": ({}, {"out": "x.gguf"}, "an adapter is no GGUF file; give `merge`"),
    "targets": ({}, {"targets": ["vllm"]}, "`targets` goes with `format` checkpoint"),
    "merge into an adapter": ({}, {"merge": True, "format": "peft"}, "`merge` makes one checkpoint"),
    "a head route": ({}, {"format": "checkpoint", "targets": ["llama.cpp"]}, "the route head changes .*q_proj"),
    "biases of the base": ({"bias": "all"}, {"format": "checkpoint"}, "bias is 'all'"),
    "pissa served": ({"init_lora_weights": "pissa"}, {"format": "checkpoint"}, "changes the base's weights"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_exact_is_refused_by_name(what: str, qwen3: Case):
    fields, options, said = REFUSED[what]
    edit(qwen3.adapter, **fields)
    shapes = {"small": {"hidden_size": 16}, "shallow": {"num_hidden_layers": 2}}
    if options.get("base") in shapes:
        options = {"base": write_tiny("qwen3", qwen3.folder / "other", fields=shapes[options["base"]])}
        rows = write_vectors(qwen3.folder / "ev", 2 if what == "fewer layers" else LAYERS, 16 if "size" in what else 32)
        assert rows.any()
    if "out" in options:
        options = options | {"out": qwen3.folder / options["out"]}
    with pytest.raises(InputError, match=said) as error:
        qwen3.bake(**options)
    assert "\n" not in str(error.value)
    assert not qwen3.out.exists()


def test_a_steered_adapter_is_neither_served_nor_merged(qwen3: Case):
    qwen3.bake(out=qwen3.folder / "first")
    for options in ({"format": "checkpoint"}, {"merge": True}):
        with pytest.raises(InputError, match="was steered before"):
            qwen3.bake(model=qwen3.folder / "first", **options)


def test_merging_needs_peft(qwen3: Case, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(MissingPackageError, match=r"merging an adapter: needs peft.*emobake\[peft\]"):
        qwen3.bake(merge=True)
    assert not qwen3.out.exists()


def test_a_dry_run_and_the_summary(qwen3: Case):
    assert qwen3.bake(dry_run=True, out=None).plan.route == "lora"
    assert qwen3.bake(dry_run=True, out=None, merge=True).plan.form == "checkpoint"
    assert not qwen3.out.exists()


def edit(adapter: Path, **fields: Any) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def flip(file: Path, end: str) -> None:
    """Change a byte of the last tensor whose name ends so."""
    data = bytearray(file.read_bytes())
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    name = max(name for name in header if name.endswith(end))
    data[8 + size + header[name]["data_offsets"][0]] ^= 1
    file.write_bytes(data)
