"""The planner of a baked base that goes with an adapter: one that is served on top of it, or was merged into it before.

vLLM and llama.cpp refuse a LoRA with biases. So the base holds the vectors, and the adapter stays as it was trained, in
a folder of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ...core.plan import CARD_FILE, REPO_PLACEHOLDER, BakePlan, PlannedFile, new_file
from ...core.record import RECORD_FILE, RecordedAdapter
from ...core.side_files import is_carried
from ...core.strict_json import json_bytes
from ...errors import UnsupportedModelError
from ..checkpoint.card import model_card
from ..checkpoint.model import Checkpoint
from ..checkpoint.recording import with_documents
from ..checkpoint.routes import find_family, route_by_name
from .card import serving_lines, serving_section
from .detect import CONFIG_FILE
from .lora import Lora, check_base, module_of, read_lora, replaces, why_beside
from .open import WEIGHTS_FILE, Adapter, other_base

FOLDER = "adapter"
"""Folder of the adapter in the output."""
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Values of vLLM's ``--max-lora-rank``."""
_DEFAULT_RANK = 16


def read_served(adapter: Adapter, base: Checkpoint) -> Lora:
    """Read an adapter that is to be served on its baked base.

    Raises:
        UnsupportedModelError: what stacks make of it on the baked base would not be exact.
        BrokenFileError, InputError: as `read_lora` and `check_base`.
    """
    file = f"{adapter.name}/{CONFIG_FILE}"
    if adapter.record is not None:
        raise UnsupportedModelError(
            f"{adapter.name}: was steered before, in its own biases; start from the original adapter"
        )
    reason = why_beside(adapter)
    if reason and not adapter.config.get("use_dora"):
        raise UnsupportedModelError(f"{file}: {reason}, so it is not served on a baked base; `merge` merges it first")
    if adapter.config.get("bias", "none") != "none":
        raise UnsupportedModelError(
            f"{file}: bias is {str(adapter.config['bias'])[:20]!r}, so biases of the base are in it, which would take "
            "the place of the baked ones; `merge` merges it first"
        )
    lora, family = read_lora(adapter), find_family(base.config, base.name)
    check_base(lora, base, family)
    if replaces(adapter, [family.live(family.projection).format(layer=n) for n in range(base.num_hidden_layers)]):
        raise UnsupportedModelError(f"{file}: modules_to_save holds the projection; `merge` merges the adapter first")
    return lora


def with_adapter(plan: BakePlan, base: Checkpoint, adapter: Adapter, *, merged: bool) -> BakePlan:
    """Add an adapter to the plan of the baked `base`: one to be served on it, or the one that is `merged` into it.

    Raises:
        InputError: (its subclasses) as `read_served` and `with_lora`.
    """
    return with_merged(plan, base, adapter) if merged else with_lora(plan, base, read_served(adapter, base))


def is_served(file: PlannedFile) -> bool:
    """True if a planned file is one of the adapter's, carried."""
    return file.source.startswith(f"{FOLDER}/")


def with_lora(plan: BakePlan, base: Checkpoint, lora: Lora) -> BakePlan:
    """Add the adapter to the plan of its baked base.

    Raises:
        UnsupportedModelError: the baked class has other modules than those that the adapter was trained on.
    """
    _check_modules(plan, base, lora)
    adapter = lora.adapter
    # Without a name, nothing loads it on the unsteered base by itself.
    nameless = {key: None for key in ("base_model_name_or_path", "revision") if key in adapter.config}
    config = dict(adapter.config) | nameless
    written = new_file(f"{FOLDER}/{CONFIG_FILE}", json_bytes(config))
    sizes = {WEIGHTS_FILE: (adapter.folder / WEIGHTS_FILE).stat().st_size} | {
        name: size for name, size in sorted(adapter.side_files.items()) if is_carried(name)
    }
    carried = [PlannedFile.carried(f"{FOLDER}/{name}", f"{FOLDER}/{name}", size) for name, size in sizes.items()]
    digests = {f"{FOLDER}/{name}": adapter.digest(name) for name in sizes}
    digests[written.name] = hashlib.sha256(written.data).hexdigest()
    warnings = [f"{stack} does not load this adapter: {why}" for stack, why in served_by(lora).items() if why]
    shell = _commands(lora)
    warnings += other_base(adapter, base)
    plan = replace(plan, warnings=(*plan.warnings, *warnings), serving=(*shell, *serving_lines()))
    return _with_adapter(plan, base, adapter.recorded("served"), [*carried, written], digests, serving_section(shell))


def with_merged(plan: BakePlan, merged: Checkpoint, adapter: Adapter) -> BakePlan:
    """Say in the plan of a merged checkpoint which adapter was merged."""
    return _with_adapter(plan, merged, adapter.recorded("merged"), [], {}, "")


def served_by(lora: Lora) -> dict[str, str]:
    """Stack -> the reason why it does not load the adapter; empty if it does (vLLM 0.32, llama.cpp's converter)."""
    config = lora.adapter.config
    other = next((name for name in lora.adapter.tensors if not name.endswith((".lora_A.weight", ".lora_B.weight"))), "")
    vllm = next((f"{key} is on" for key in ("use_dora", "lora_bias", "modules_to_save") if config.get(key)), "")
    rank = max(module.rank for module in lora.modules.values())
    vllm = vllm or (f"its rank is {rank}, above {_RANKS[-1]}" if rank > _RANKS[-1] else "")
    return {"vllm": vllm, "llama.cpp": f"it holds {other}" if other else ""}


def _commands(lora: Lora) -> list[str]:
    """Shell commands that serve the baked base with its adapter, for the stacks that load it."""
    out = REPO_PLACEHOLDER
    refused, rank = served_by(lora), max(module.rank for module in lora.modules.values())
    found = []
    if not refused["vllm"]:
        most = "" if rank <= _DEFAULT_RANK else f" --max-lora-rank {next(n for n in _RANKS if n >= rank)}"
        found.append(f"vllm serve {out} --enable-lora{most} --lora-modules lora={out}/{FOLDER}")
    if not refused["llama.cpp"]:
        found += [
            f"convert_hf_to_gguf.py {out} --outfile model.gguf",
            f"convert_lora_to_gguf.py {out}/{FOLDER} --base {out} --outfile lora.gguf",
            "llama-server -m model.gguf --lora lora.gguf",
        ]
    return found


def _check_modules(plan: BakePlan, base: Checkpoint, lora: Lora) -> None:
    route = route_by_name(
        plan.record.route,
        base.config,
        base.name,
        plan.record.vectors.site,
        tensor_parallel=plan.record.tensor_parallel,
        columns=base.columns,
        quantisation=base.quantisation,
    ).again(plan.record)
    result = route.recast(base)
    made = {*plan.rewritten, *plan.extended}
    for name in lora.modules:
        module = module_of(base, route.family, name)
        if module is None and not plan.saved_as:
            continue  # Of a part that a bake leaves alone.
        weights = [tensor for tensor in base.tensors if tensor.rpartition(".")[0] == module]
        changed = next((tensor for tensor in weights if tensor not in result.tensors or tensor in made), "")
        if changed or module is None:
            raise UnsupportedModelError(
                f"{lora.file}: the route {plan.route} changes {changed or name[:120]}, of which the adapter has a "
                "LoRA; `merge` merges it first, and `format` peft steers it in PEFT"
            )


def _with_adapter(
    plan: BakePlan,
    base: Checkpoint,
    adapter: RecordedAdapter,
    files: Sequence[PlannedFile],
    digests: Mapping[str, str],
    serving: str,
) -> BakePlan:
    """Put an adapter into a complete plan: into the record, the card and the files."""
    record = replace(plan.record, adapter=adapter, digests={**plan.record.digests, **digests})
    kept = (file for file in plan.files if file.name not in (RECORD_FILE, CARD_FILE))
    plan = replace(plan, record=record, files=(*kept, *files))
    return with_documents(plan, model_card(plan, base, serving=serving))
