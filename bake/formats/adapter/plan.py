"""The planner of PEFT adapters: a LoRA of rank 1 with zero A and B, and ``lora_bias`` = w_l.

PEFT computes ``base(x) + (B A x + bias) * lora_alpha / r``; with A = B = 0 and ``lora_alpha = r = 1`` only the bias is
left (peft 0.14 and later). It works on any Linear projection, quantised ones included, and on families whose class has
no bias there. PEFT cannot merge it where the projection has none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from ...core.biases import Home, PlannedBias, hybrid_warnings, landing, plan_biases, steering_rows
from ...core.effect import Effect, judge_effect
from ...core.names import is_plain
from ...core.plan import BakePlan, LeftOut, PlannedFile, new_file
from ...core.record import Record, RecordedVectors
from ...core.recorded_persona import RecordedPersona
from ...core.sites import SITE, Site
from ...core.stacks import USUAL, Support
from ...core.steering import Steering
from ...core.strict_json import json_bytes
from ...core.vector_set import VectorSet
from ...errors import BrokenFileError, UnsupportedModelError
from ..checkpoint.families import Family
from ..checkpoint.model import Checkpoint
from ..checkpoint.plan import base_warnings
from ..checkpoint.projections import branch_scale, check_quantisation, find_projections, input_width, output_width
from ..checkpoint.recording import Ingredients, with_documents
from ..checkpoint.routes import declared_classes
from ..checkpoint.wrappers import family_of
from ..safetensors import NewTensor, serialize
from .card import adapter_card, adapters_card
from .detect import CONFIG_FILE
from .lora import Lora, check_base, read_lora, why_beside
from .open import IN_PEFT, WEIGHTS_FILE, Adapter, other_base
from .steered_lora import divided, lay_out_lora, lora_homes, lora_scalings

_STAYS = "an adapter must stay one: PEFT cannot merge it into a projection that has no bias"
_NAMELESS = (
    "the adapter names no base model, so PEFT cannot find one by itself: load the base yourself, or give its Hub id as "
    "`base_model`"
)

_VOICELESS = (
    "the SYSTEM PROMPT and the sampling defaults of the persona are NOT in the output: an adapter has no place for "
    "them; send them with each conversation"
)


def make_adapter_plan(
    checkpoint: Checkpoint,
    vectors: VectorSet,
    steering: Steering,
    *,
    adapter: Adapter | None = None,
    base_model: str = "",
    force: bool = False,
    persona: RecordedPersona | None = None,
) -> BakePlan:
    """Plan an adapter that adds w_l to every projection that acts at the set's site, on top of a bias it may have.

    With an `adapter` of the same base, the vectors are written into it where PEFT can carry them there, and else into a
    second one to be used beside it. Of a `persona`, an adapter keeps the words; it has no place for a voice.

    Raises:
        UnsupportedModelError: no such projection can be found; or `adapter` can be used with no bias.
        InputError: as `emobake.make_plan`; BrokenFileError: `adapter` is malformed.
    """
    family = find_adapted_family(checkpoint, vectors.site)
    check_quantisation(checkpoint)
    lora = None if adapter is None else open_lora(adapter, checkpoint, family)
    scale = branch_scale(checkpoint, family)
    rows = steering_rows(vectors, steering, checkpoint.shape, branch_scale=scale, force=force)
    homes = adapter_homes(checkpoint, family) if lora is None else lora_homes(lora, checkpoint, family)
    projection = family.projection.rpartition(".")[2]
    steering = landing(checkpoint.name, projection, homes, rows, steering, force=force)
    layers = [home.layer for home in homes]
    values = None if lora is None else divided(rows, lora_scalings(lora, family, layers))
    biases = plan_biases(checkpoint.name, homes, rows, values)
    ingredients = Ingredients(RecordedVectors.of(vectors, steering), steering, base_model, scale, persona)
    if lora is None:
        plan = lay_out_adapter(checkpoint, family, biases, ingredients, adapter)
    else:
        plan = lay_out_lora(lora, checkpoint, family, biases, ingredients)
    effect = judge_effect(vectors, rows * scale, plan.record, biases, force=force)
    others = () if adapter is None else other_base(adapter, checkpoint)
    warnings = (*hybrid_warnings(projection, homes, len(rows)), *others)
    if persona is not None and persona.has_voice:
        warnings = (*warnings, _VOICELESS)
    return complete_adapter(plan, effect, checkpoint, (*warnings, *base_warnings(checkpoint, vectors)))


def open_lora(adapter: Adapter, checkpoint: Checkpoint, family: Family) -> Lora | None:
    """Read an adapter as a LoRA into which the steering can be written; None if it goes beside it.

    Raises:
        UnsupportedModelError: neither is known to be exact. BrokenFileError: it is malformed.
        InputError: it is the adapter of another base.
    """
    if why_beside(adapter):
        if adapter.record is not None:
            raise UnsupportedModelError(f"{adapter.name}: was baked before, but has no biases; start from its original")
        return None
    lora = read_lora(adapter)
    check_base(lora, checkpoint, family)
    return None if lora.excludes(_modules(checkpoint, family)) else lora


def _modules(checkpoint: Checkpoint, family: Family) -> list[str]:
    """The projections in the model that transformers builds."""
    return [family.live(family.projection).format(layer=layer) for layer in find_projections(checkpoint, family)]


def adapter_homes(checkpoint: Checkpoint, family: Family) -> tuple[Home, ...]:
    """The tensor of the adapter that stores each layer's bias.

    Raises:
        BrokenFileError: no layer has the projection, or its width cannot be told.
    """
    return tuple(
        Home(layer, f"{_prefix(family, layer)}.lora_B.bias", "F32", output_width(checkpoint, family, module))
        for layer, module in find_projections(checkpoint, family).items()
    )


def lay_out_adapter(
    checkpoint: Checkpoint,
    family: Family,
    biases: tuple[PlannedBias, ...],
    ingredients: Ingredients,
    beside: Adapter | None = None,
) -> BakePlan:
    """Plan the files and the record of an adapter whose biases are known, without card and warnings.

    It is used together with the adapter `beside`, if there is one.

    Raises:
        BrokenFileError: the base's headers or config are broken.
    """
    tensors = _tensors(checkpoint, family, biases)
    files = (
        PlannedFile(WEIGHTS_FILE, serialize(tensors, {"format": "pt"})),
        new_file(CONFIG_FILE, json_bytes(_config(family, ingredients.base_model or checkpoint.repo_id))),
    )
    record = ingredients.record(
        checkpoint,
        biases,
        files,
        form="peft",
        route="adapter",
        model_type=str(checkpoint.config.get("model_type")),
        added=tuple(tensors),
    )
    if beside is not None:
        record = replace(record, adapter=beside.recorded("beside"))
    return BakePlan(
        form="peft",
        route="adapter",
        model_type=record.model_type,
        architecture=next(iter(declared_classes(checkpoint.config)), ""),
        steering=record.steering,
        biases=biases,
        record=record,
        stacks={name: IN_PEFT if name == "transformers" else Support("refuses") for name in USUAL},
        files=files,
        left_out=(LeftOut("the weights", "an adapter is loaded on top of the base"),),
        added=record.added,
    )


def complete_adapter(plan: BakePlan, effect: Effect, checkpoint: Checkpoint, warnings: Iterable[str] = ()) -> BakePlan:
    """Add the effect, the warnings, the record's file and the card to a plan of `lay_out_adapter`."""
    nameless = () if plan.record.base.model or plan.route == "lora" else (_NAMELESS,)
    plan = replace(plan, effect=effect, warnings=(*effect.warnings, *warnings, *nameless, _STAYS))
    return with_documents(plan, adapter_card(plan, checkpoint))


def gather(plans: Mapping[str, BakePlan], checkpoint: Checkpoint) -> BakePlan:
    """Make one plan of several adapters, each complete in the folder that is its key."""
    first = next(iter(plans.values()))
    inside = [replace(file, name=f"{folder}/{file.name}") for folder, plan in plans.items() for file in plan.files]
    steering = replace(first.steering, weights=tuple(w for plan in plans.values() for w in plan.steering.weights))
    effect = Effect(
        "; ".join(plan.effect.recipe for plan in plans.values()), any(p.effect.steers for p in plans.values())
    )
    gathered = replace(
        first,
        form="peft-each",
        steering=steering,
        effect=effect,
        warnings=tuple(dict.fromkeys(warning for plan in plans.values() for warning in plan.warnings)),
        biases=tuple(bias for plan in plans.values() for bias in plan.biases),
        record=Record("peft-each", adapters=tuple(plans)),
        files=tuple(inside),
    )
    return with_documents(gathered, adapters_card(plans, checkpoint))


def find_adapted_family(checkpoint: Checkpoint, site: Site) -> Family:
    """Find the family of a checkpoint; for an unknown one, a value made from the tensor names.

    Raises:
        BrokenFileError: the config's model_type is no name.
        UnsupportedModelError: no projection that acts at `site` can be found.
    """
    model_type = str(checkpoint.config.get("model_type"))
    if not is_plain(model_type):
        raise BrokenFileError(f"{checkpoint.name}/config.json: its model_type {model_type[:60]!r} is no name")
    known = family_of(checkpoint.config, site)
    if known is not None and known.projection:
        return known
    if site != SITE:
        raise UnsupportedModelError(
            f"{checkpoint.name}: no bias is known that acts on the {site.replace('_', ' ')} of "
            f"{model_type!r} alone; use vectors of the attention output"
        )
    pattern = re.compile(
        r"([\w.]*\.)0(\.(?:self_attn|attn|attention|self_attention)\.(?:o_proj|out_proj|dense|c_proj))\.weight"
    )
    matches = [m for m in map(pattern.fullmatch, sorted(checkpoint.tensors)) if m is not None]
    if len(matches) != 1:
        raise UnsupportedModelError(
            f"{checkpoint.name}: cannot tell which of its tensors are the attention output projections of "
            f"{model_type!r}"
        )
    return Family("unknown", (), f"{matches[0][1]}{{layer}}{matches[0][2]}")


def _prefix(family: Family, layer: int) -> str:
    # PEFT names modules by the model that transformers builds, not by the names in the file.
    return f"base_model.model.{family.live(family.projection).format(layer=layer)}"


def _tensors(checkpoint: Checkpoint, family: Family, biases: tuple[PlannedBias, ...]) -> dict[str, NewTensor]:
    hidden, projections = checkpoint.hidden_size, find_projections(checkpoint, family)
    tensors: dict[str, NewTensor] = {}
    for bias in biases:
        prefix = _prefix(family, bias.layer)
        inputs = input_width(checkpoint, family, projections[bias.layer])
        tensors[f"{prefix}.lora_A.weight"] = NewTensor("F32", (1, inputs), (bytes(4 * inputs),))
        tensors[f"{prefix}.lora_B.weight"] = NewTensor("F32", (hidden, 1), (bytes(4 * hidden),))
        tensors[bias.tensor] = NewTensor("F32", (hidden,), (bias.data,))
    return tensors


def _config(family: Family, base_model: str) -> dict[str, object]:
    # A pattern over full module names: the last part alone (`dense`, `c_proj`) also names MLP modules.
    head, _, tail = family.live(family.projection).partition("{layer}")
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model or None,
        "r": 1,
        "lora_alpha": 1,
        "lora_dropout": 0.0,
        "bias": "none",
        "lora_bias": True,
        "fan_in_fan_out": family.conv1d,
        "inference_mode": True,
        "target_modules": f"{re.escape(head)}\\d+{re.escape(tail)}",
    }
