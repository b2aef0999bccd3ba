"""Every family in every form that it has, in every stack: tiny models with random weights against the hook.

The reference is transformers with a hook on the unbaked base, in float32: the log-probabilities of all tokens after
each prompt. A stack is held against its own distance on the unbaked base.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from emobake.core.outputs import Folder
from emobake.core.plan import BACKEND
from emobake.core.stacks import USUAL
from emobake.core.steering import steering
from emobake.formats.checkpoint.families import families
from emobake.formats.checkpoint.language_model import language_model
from emobake.formats.checkpoint.open import open_folder
from emobake.formats.checkpoint.plan import make_plan
from emobake.formats.checkpoint.routes import ROUTES, find_family
from emobake.formats.checkpoint.wrappers import language_config
from emobake.storage.local import write_folder
from emobake.vectors.open import open_vectors

from . import wrappers
from .paths import ENVS, TESTS
from .reachable import reachable_rows
from .tiny import FAMILIES, write_published, write_tiny, write_vectors
from .tiny_runs import hooked
from .wrappers import WRAPPERS

LAYERS, HIDDEN = 3, 128
TOLERANCE = 1e-4
"""Largest distance that counts as equal, where the stack's own base is that near to transformers."""
OWN_DISTANCES = 1.2
"""Elsewhere, in distances of the stack's own base."""
TABLES = {("starcoder2", "llama.cpp"): 2.0, ("paligemma2", "llama.cpp"): 2.0}
"""The same, where a stack takes the activation from a table of 16-bit floats, whose error depends on its input."""
PROMPTS = [[5, 9, 17, 33, 200], [8, 7, 60, 99, 31, 150, 42, 77, 3, 250, 12, 18, 61, 90, 140, 55, 21]]
TIMES = (0.5, 0.0, 0.0, 1.0, 0.0)
# vLLM's attention on a CPU wants heads of 32 channels or more.
WIDE = {
    "hidden_size": HIDDEN,
    "intermediate_size": 192,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 256,
    "query_pre_attn_scalar": 32,
}
_LATENT = {"num_key_value_heads": 4, "q_lora_rank": 32, "kv_lora_rank": 32, "qk_nope_head_dim": 32,
           "qk_rope_head_dim": 32, "v_head_dim": 64}  # fmt: skip
_FOUR = {"num_key_value_heads": 4}
_MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 20000.0, "mrope_section": [4, 6, 6]}}
_LINEAR = {
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 20000.0,
        "mrope_section": [2, 3, 3],
        "partial_rotary_factor": 0.5,
    },
}
_WINDOWS = {"layer_types": ["sliding_attention"] * 4}
_TIED = {"tie_word_embeddings": True}
_EVEN = {"num_attention_heads": 2, "num_key_value_heads": 1}
FIELDS: Mapping[str, Mapping[str, Any]] = {
    "qwen2_5_vl": _MROPE, "qwen3_vl": _MROPE, "qwen3_vl_moe": _MROPE, "qwen3_5": _LINEAR, "qwen3_5_moe": _LINEAR,
    "minicpm3": _LATENT, "llama2": _FOUR, "vicuna": _FOUR, "gemma": {**_FOUR, **_TIED}, "helium": _FOUR,
    "gemma2": {**_EVEN, **_TIED}, "gemma3": {**_EVEN, **_TIED, **_WINDOWS}, "smollm3": {"no_rope_layers": [1, 1, 1]},
    "falcon_h1": {"mamba_d_ssm": 128, "mamba_d_head": 32}, "stablelm-biased": _FOUR,
    "granitemoehybrid": {"mamba_d_head": 64}, "qwen2_vl": _MROPE, "paligemma2": _EVEN,
    "kimi_k25": {**_LATENT, "v_head_dim": 32}, "gemma4": {"vocab_size_per_layer_input": 256, "global_head_dim": 32},
    "gemma4_experts": {"global_head_dim": 32}, "qwen3_moe": {"norm_topk_prob": True},
}  # fmt: skip
"""Fields besides `WIDE`; Gemma's config wants a hidden size that the heads of the result divide, and llama.cpp
leaves the rotary embedding of every fourth layer out, whatever SmolLM3's config says, and makes the weights of Qwen3's
experts sum to one."""
_HALF = {"DTYPE": "bfloat16"}
ENVIRONMENT = {"minicpm3": {"VLLM_MLA_DISABLE": "1"}, "qwen3_5": _HALF, "qwen3_5_moe": _HALF}
"""Family -> variables of the stacks; ``DTYPE`` is that of vLLM, which has no linear attention in float32 on a CPU."""
NAMES = tuple(dict.fromkeys((*FAMILIES, *WRAPPERS)))
"""Gemma 3 as a wrapper, whose language model alone is the plain one."""
SCALES = {"qwen3_5": 4.0, "qwen3_5_moe": 4.0}
"""Family -> size of the vectors, where 16 bits round too much to tell a usual one."""
REACHABLE = {"stablelm": 2, "stablelm-biased": 4, "qwen2_moe": 4}
"""Family -> key/value heads whose values make the vectors: that is where those of extracted vectors come from. Four are
twice as many as most have, so that each is copied."""
HYBRIDS = {"granitemoehybrid": (1,)}
"""Family -> layers that have attention."""
Tables = np.ndarray
"""float64 ``[prompts, vocabulary]``."""


@dataclass(frozen=True)
class Form:
    """A family in one of its forms, and what is said of it."""

    name: str
    """One of `FAMILIES`."""
    model_type: str
    route: str
    cache: float
    """Cost: the factor of the key/value cache."""
    folder: Path
    zero: Path
    """The same with a bias of zeros, which does what the base does."""
    said: Mapping[str, str]
    """Stack -> status."""


@dataclass(frozen=True, eq=False)
class Base:
    """An unbaked model, what transformers says of it, with the hook and without, and its forms."""

    folder: Path
    steered: Tables
    plain: Tables
    forms: tuple[Form, ...] = ()


@dataclass(frozen=True)
class Cell:
    """A form in a stack."""

    family: str
    model_type: str
    route: str
    cache: float
    stack: str
    said: str
    """Status by the table of families."""
    found: str
    """``steered``, ``unsteered``, ``wrong``, ``refuses``; ``no base``: the stack does not run the base either."""
    distance: float | None = None
    """Largest difference of a log-probability from the hook."""
    own: float | None = None
    """The same of the stack's unbaked base from transformers."""
    error: str = field(default="", compare=False)

    @property
    def agrees(self) -> bool:
        """True if the run shows what the table says."""
        if self.said in ("option", "unsteered"):  # Not to load it is no worse than to drop the bias.
            return self.found in ("no base", "unsteered", "refuses")
        return self.found in ("no base", self.said)

    @property
    def is_silent(self) -> bool:
        """True if the stack drops the bias though the table says that it adds it."""
        return self.said == "steered" and self.found == "unsteered"


def make(name: str, space: Path) -> Base:
    """Write the base `name`, and all forms that it has, into `space`."""
    fields = {**WIDE, **FIELDS.get(name, {})}
    if "layer_types" in fields and name not in WRAPPERS:
        fields["layer_types"] = fields["layer_types"][:LAYERS]
    if name in WRAPPERS:
        folder, layers = wrappers.write(name, space / "base", **fields), WRAPPERS[name].attention
        count = wrappers.LAYERS
    else:
        folder, layers = write_tiny(name, space / "base", fields=fields), HYBRIDS.get(name, tuple(range(LAYERS)))
        count = LAYERS
    rows = write_vectors(space / "ev", count, HIDDEN, scale=SCALES.get(name, 0.35))
    if name in REACHABLE:
        weights = load_file(folder / "model.safetensors")
        outputs = {layer: weights[f"model.layers.{layer}.self_attn.o_proj.weight"] for layer in layers}
        for seed, of_emotion in enumerate(rows):
            of_emotion[:] = reachable_rows(outputs, WIDE["num_attention_heads"], REACHABLE[name], norm=4, seed=seed)
        write_published(space / "ev", rows)
    sums = sum(np.float32(weight) * of_emotion for weight, of_emotion in zip(TIMES, rows, strict=True))
    steered, plain = reference(folder, name, {layer: sums[layer] for layer in layers})
    return Base(folder, steered, plain, tuple(_forms(name, folder, space, layers)))


def _forms(name: str, folder: Path, space: Path, layers: Sequence[int]) -> Iterator[Form]:
    whole, vectors = open_folder(folder), open_vectors(space / "ev")
    recipe = steering(TIMES, layers=",".join(map(str, layers)))
    parts = {"": whole}
    if name in WRAPPERS and WRAPPERS[name].alone:
        parts["alone: "] = language_model(whole)
    for label, checkpoint in parts.items():
        family, fields = find_family(checkpoint.config, name), language_config(checkpoint.config)
        for kind in ROUTES:
            if kind.is_known(family) and not kind.blockers(family, fields):
                route = kind(family, checkpoint.config)
                plan = make_plan(checkpoint, vectors, recipe, route=route)
                out = space / (label[:5] + route.name.replace("+", "-"))
                write_folder(plan.files, folder, Folder(out))
                nothing = make_plan(checkpoint, vectors, replace(recipe, scale=0.0), route=route, force=True)
                write_folder(nothing.files, folder, Folder(out.with_name(f"{out.name}-zero")))
                said = {stack: support.status for stack, support in plan.stacks.items()}
                yield Form(
                    name,
                    family.label,
                    label + route.name,
                    plan.record.cost.cache,
                    out,
                    out.with_name(f"{out.name}-zero"),
                    said,
                )


def reference(folder: Path, name: str, rows: Mapping[int, np.ndarray]) -> tuple[Tables, Tables]:
    """What transformers says of the model `name` in `folder`, with `rows` at its layers and without."""
    model, _ = wrappers.load(folder)
    projection = wrappers.attention_of(name) if name in WRAPPERS else families()[FAMILIES[name].model_type].projection
    plain = _tables(model)
    with hooked(model, projection, dict(rows)):
        return _tables(model), plain


def _tables(model: Any) -> Tables:
    import torch

    with torch.inference_mode():
        rows = [model(torch.tensor([prompt])).logits[0, -1].double().log_softmax(-1) for prompt in PROMPTS]
    return torch.stack(rows).numpy()


# --- stacks ---------------------------------------------------------------------------------------------------

Found = dict[Path, "Tables | str"]
"""Folder -> tables, or the error."""


def run(stack: str, folders: Sequence[Path], space: Path, environment: Mapping[str, str]) -> Found:
    """Run checkpoints in a stack."""
    return {"transformers": _in_transformers, "vllm": _in_vllm, "llama.cpp": _in_llama_cpp, "mlx": _in_mlx}[stack](
        folders, space, environment
    )


def _in_transformers(folders: Sequence[Path], _space: Path, _environment: Mapping[str, str]) -> Found:
    found: Found = {}
    for folder in folders:
        try:
            found[folder] = _tables(wrappers.load(folder)[0])
        except Exception as error:  # One model's fault is its own.
            found[folder] = f"{type(error).__name__}: {error}"
    return found


def _in_vllm(folders: Sequence[Path], space: Path, environment: Mapping[str, str]) -> Found:
    return _asked("vllm", "vllm_logprobs.py", folders, space, environment)


def _in_mlx(folders: Sequence[Path], space: Path, environment: Mapping[str, str]) -> Found:
    return _asked("mlx", "mlx_logprobs.py", folders, space, environment)


def _in_llama_cpp(folders: Sequence[Path], space: Path, environment: Mapping[str, str]) -> Found:
    converter = ENVS / "llama.cpp" / "llama.cpp" / "convert_hf_to_gguf.py"
    request = space / "convert.json"
    request.write_text(json.dumps({str(folder): str(folder) + ".gguf" for folder in folders}))
    said = _call("llama.cpp", "convert_tiny.py", converter, request, environment=environment).stdout
    failed = json.loads(said.splitlines()[-1])
    found: Found = {folder: failed[str(folder)] for folder in folders if str(folder) in failed}
    for folder in folders:
        if folder not in found:
            # A file that it refuses ends the process.
            found |= _one_file(folder, space, environment)
    return found


def _one_file(folder: Path, space: Path, environment: Mapping[str, str]) -> Found:
    request, response, file = space / "request.json", space / "response.json", f"{folder}.gguf"
    request.write_text(json.dumps({"files": [file], "prompts": PROMPTS, "top": WIDE["vocab_size"], "threads": 1}))
    response.unlink(missing_ok=True)
    done = _call("llama.cpp", "run_gguf.py", request, response, environment=environment, check=False)
    if not response.exists():
        lines = [line for line in done.stderr.splitlines() if "error" in line.lower()]
        return {folder: (lines or [f"exit code {done.returncode}"])[0][:200]}
    answers = json.loads(response.read_text())[file]
    return {folder: np.array([[a["top"][str(t)] for t in range(WIDE["vocab_size"])] for a in answers])}


def _asked(
    environment_name: str, script: str, folders: Sequence[Path], space: Path, environment: Mapping[str, str]
) -> Found:
    request, response = space / "request.json", space / "response.json"
    request.write_text(
        json.dumps({"checkpoints": list(map(str, folders)), "prompts": PROMPTS, "dtype": environment.get("DTYPE")})
    )
    response.unlink(missing_ok=True)
    done = _call(environment_name, script, request, response, environment=environment, check=False)
    answers = json.loads(response.read_text()) if response.exists() else {}
    last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:200]
    found = {folder: answers.get(str(folder), last) for folder in folders}
    return {folder: value if isinstance(value, str) else np.array(value) for folder, value in found.items()}


def _call(
    name: str, script: str, *arguments: Path, environment: Mapping[str, str], check: bool = True
) -> subprocess.CompletedProcess[str]:
    command = [ENVS / name / "bin" / "python", TESTS / "support" / script, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=check, timeout=3000, env={**os.environ, **environment}
    )


def is_installed(stack: str) -> bool:
    """True if the environment of a stack is there."""
    return stack == "transformers" or (ENVS / stack / "bin" / "python").exists()


# --- cells ----------------------------------------------------------------------------------------------------


def cells(name: str, stacks: Iterable[str], space: Path) -> Iterator[Cell]:
    """Run all forms of the family `name` in `stacks`."""
    base = make(name, space)
    for stack in stacks:
        found = run(stack, [base.folder, *(form.folder for form in base.forms)], space, ENVIRONMENT.get(name, {}))
        for form in base.forms:
            own, got = found[base.folder], found[form.folder]
            if isinstance(own, str) and not isinstance(got, str):
                # It runs no wrapper, say, but the language model alone.
                own = run(stack, [form.zero], space, ENVIRONMENT.get(name, {}))[form.zero]
            yield _cell(form, stack, base, own, got)


def _cell(form: Form, stack: str, base: Base, own: Tables | str, got: Tables | str) -> Cell:
    from_own = None if isinstance(own, str) else float(np.abs(own - base.plain).max())
    said = form.said[stack]
    common = (form.name, form.model_type, form.route, form.cache, stack, said)
    if isinstance(got, str):
        # A stack without the family may know the class that it is saved as.
        same = from_own is None and form.route.removesuffix(BACKEND) in ("flag", "existing", "head")
        return Cell(*common, "no base" if same else "refuses", None, from_own, got)
    if from_own is not None and from_own > np.abs(base.steered - base.plain).max() / 4:
        return Cell(*common, "no base", None, from_own, "its own base is another function")
    bound = max(TOLERANCE, TABLES.get((form.name, stack), OWN_DISTANCES) * (from_own or 0))
    distance, plain = (float(np.abs(got - wanted).max()) for wanted in (base.steered, base.plain))
    verdict = "steered" if distance <= bound else "unsteered" if plain <= bound else "wrong"
    return Cell(*common, verdict, distance if np.isfinite(distance) else None, from_own)


def quiet() -> None:
    """Silence what transformers says of every model."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def known_stacks() -> tuple[str, ...]:
    """The stacks that are installed."""
    return tuple(stack for stack in USUAL if is_installed(stack))
