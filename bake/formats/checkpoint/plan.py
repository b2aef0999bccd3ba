"""The planner of checkpoints: a pure step from checkpoint, vectors and weights to a `BakePlan`.

Nothing here opens a file, a socket or a heavy library.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from ...core.biases import PlannedBias, hybrid_warnings, landing, origin_warnings, plan_biases, steering_rows
from ...core.effect import Effect, judge_effect
from ...core.heads import FREE
from ...core.plan import NO_HEADS, BakePlan, ConfigChange, LeftOut, Other, PlannedFile, new_file
from ...core.record import RecordedVectors
from ...core.recorded_persona import RecordedPersona
from ...core.side_files import INDEX, SINGLE, is_carried, is_of_images, reason_left_out, single_file
from ...core.stacks import parse_targets
from ...core.steering import Steering
from ...core.strict_json import json_bytes
from ...core.tensors import FLOATS, TensorHeader
from ...core.vector_set import VectorSet
from ..folder_undo import BaseFiles, with_undo
from ..safetensors import NewTensor, excerpt, serialize
from .card import model_card
from .model import Checkpoint
from .projections import branch_scale, check_quantisation
from .recording import Ingredients, with_documents
from .routes import Route, choose_route, other_routes
from .voice import voice_changes, voice_warnings, with_voice

TOKENIZER_CONFIG = "tokenizer_config.json"
_ALONE = "the output is the language model alone"


def make_plan(
    checkpoint: Checkpoint,
    vectors: VectorSet,
    steering: Steering,
    *,
    base_model: str = "",
    targets: Iterable[str] = (),
    force: bool = False,
    tensor_parallel: int = 1,
    route: Route | None = None,
    persona: RecordedPersona | None = None,
) -> BakePlan:
    """Plan a steered checkpoint.

    For layer l the bias of the projection that acts at the set's site becomes ``(existing bias or 0) + w_l``. w_l is
    computed in float32 and stored in the dtype of the projection's weight (the config's dtype if the weight is
    quantised; the bias's own if one exists). If the family scales a layer's branch after the projection and the
    vectors act on the residual stream, w_l is divided by that scale.

    Args:
        checkpoint: the base.
        vectors: a set for it.
        steering: the weights.
        base_model: Hub id to name as the base; default: the one that the checkpoint came from.
        targets: stacks that must load the result steered.
        force: plan even if nothing would be steered, or far too much.
        tensor_parallel: devices that shall be able to share the attention heads, where some are added.
        route: chosen before, by the same config, targets and site; default: chosen here.
        persona: the persona whose words and voice the output keeps; its templates were looked for.

    Raises:
        InputError: nothing would be steered, or far too much, and not `force`; its subclasses for a set that does not
            fit, a broken file, or a family without a route.
    """
    route = route or choose_route(
        checkpoint.config,
        checkpoint.name,
        targets,
        vectors.site,
        tensor_parallel=tensor_parallel,
        columns=checkpoint.columns,
        quantisation=checkpoint.quantisation,
    )
    check_quantisation(checkpoint)
    base, checkpoint = checkpoint, route.recast(checkpoint)
    scale = branch_scale(checkpoint, route.result)
    rows = steering_rows(vectors, steering, checkpoint.shape, branch_scale=scale, force=force)
    projection = route.result.projection.rpartition(".")[2]
    route = route.fitted(rows, checkpoint)
    homes = route.homes(checkpoint)
    steering = landing(checkpoint.name, projection, homes, rows, steering, force=force)
    biases = plan_biases(checkpoint.name, homes, rows, route.values(rows, homes))
    ingredients = Ingredients(RecordedVectors.of(vectors, steering), steering, base_model, scale, persona)
    plan = lay_out(checkpoint, route, biases, ingredients, base)
    effect = judge_effect(vectors, rows * scale, plan.record, biases, force=force)
    warnings = (*hybrid_warnings(projection, homes, len(rows)), *route.warnings)
    if route.tensor_parallel > 1 and route.name != "head":
        warnings = (*warnings, NO_HEADS)
    warnings = (*warnings, *_rope_warnings(route))
    plan = replace(plan, targets=parse_targets(targets), others=_others(checkpoint, route))
    warnings = (*warnings, *voice_warnings(persona, plan))
    return complete(plan, effect, checkpoint, (*warnings, *base_warnings(checkpoint, vectors)))


def _rope_warnings(route: Route) -> Iterable[str]:
    """Warn of a base that mlx-lm runs with another base frequency than the output."""
    method = None if route.quantisation is None else route.quantisation.method
    gained = [change for change in route.changes if change.field.endswith("rope_theta") and change.old is None]
    if method is not None and method.name == "mlx" and gained:
        yield (
            "the config of the base has its rope_theta in rope_parameters alone, where most classes of mlx-lm do not "
            f"find it and take a default; the output names {gained[0].new}, so in mlx-lm it differs from the base by "
            "more than the steering"
        )


def _others(checkpoint: Checkpoint, route: Route) -> dict[str, Other]:
    """Stack that the `route` does not serve -> a way that does."""
    routes, converted = other_routes(checkpoint.config, checkpoint.name, route), route.family.in_gguf
    found = {stack: Other(other.name, other.cost) for stack, other in routes.items()}
    if converted and route.stacks["llama.cpp"].status != "steered":
        found.setdefault("llama.cpp", Other(converted, FREE, in_gguf=True))
    return found


def lay_out(
    checkpoint: Checkpoint,
    route: Route,
    biases: tuple[PlannedBias, ...],
    ingredients: Ingredients,
    base: Checkpoint,
) -> BakePlan:
    """Plan the files and the record of a steered checkpoint whose biases are known, without card and warnings.

    `checkpoint` is what `route.recast` gives for `base`.

    Raises:
        InputError: (its subclasses) a broken file of the base.
    """
    whole = [bias for bias in biases if bias.column is None]
    new = route.rewrites(checkpoint) | {
        bias.tensor: NewTensor(bias.dtype, (len(bias.data) // FLOATS[bias.dtype].itemsize,), (bias.data,))
        for bias in whole
        if bias.is_new
    }
    checkpoint, persona = route.finished(checkpoint, biases), ingredients.persona
    voice = voice_changes(checkpoint, persona, route.config)
    checkpoint = with_voice(checkpoint, persona, route.config)
    files = tuple(_files(checkpoint, route, biases, new))
    record = ingredients.record(
        checkpoint,
        biases,
        files,
        form="checkpoint",
        route=route.name,
        model_type=route.family.label,
        added=sorted(new),
        cost=route.cost,
        tensor_parallel=route.tensor_parallel if route.name == "head" else 1,
    )
    files, record = with_undo(files, record, base_files(base), _ALONE if base.text_only else "")
    return BakePlan(
        form="checkpoint",
        route=route.name,
        model_type=route.family.label,
        architecture=str(route.config["architectures"][0]),
        steering=record.steering,
        biases=biases,
        record=record,
        stacks=route.stacks,
        files=files,
        left_out=left_out(checkpoint),
        config_changes=(*route.changes, *_tokenizer_changes(checkpoint, route)),
        added=record.added,
        overwritten=tuple(sorted(bias.tensor for bias in whole if not bias.is_new)),
        rewritten=() if route.name in ("head", "value") else tuple(sorted(checkpoint.rewritten)),
        extended=tuple(sorted(checkpoint.rewritten)) if route.name in ("head", "value") else (),
        multimodal=bool(route.family.wrapper),
        quantised="" if checkpoint.quantisation is None else checkpoint.quantisation.label,
        voice=voice,
    )


def complete(plan: BakePlan, effect: Effect, checkpoint: Checkpoint, warnings: Iterable[str] = ()) -> BakePlan:
    """Add the effect, the warnings, the record's file and the card to a plan of `lay_out`."""
    plan = replace(plan, effect=effect, warnings=(*effect.warnings, *warnings))
    return with_documents(plan, model_card(plan, checkpoint))


def base_warnings(checkpoint: Checkpoint, vectors: VectorSet) -> Iterable[str]:
    """Warn of a base that the set was not made for, that is quantised, or that has code of its own."""
    yield from origin_warnings(vectors, checkpoint.repo_id)
    found = checkpoint.quantisation
    if found is not None and found.method is not None and found.method.note:
        yield f"the weights are quantised ({found.label}): {found.method.note}"
    if "auto_map" in checkpoint.config:
        yield "the checkpoint's own code is left out: stacks use their own class for this architecture"
    if problem := checkpoint.front_matter.problem:
        yield (
            f"the metadata of the base's README.md {problem}, so its licence, languages and conditions of access are "
            "not handed on; look there before you share the result"
        )


def left_out(checkpoint: Checkpoint) -> tuple[LeftOut, ...]:
    """The files of the base that the output does not have, each with the reason."""
    reasons = {name: reason_left_out(name) for name in checkpoint.side_files if not is_carried(name)}
    if checkpoint.text_only:
        reasons |= dict.fromkeys(("the vision part", *filter(is_of_images, checkpoint.side_files)), _ALONE)
    reasons |= dict.fromkeys(checkpoint.unfollowed, "a link out of the folder, not followed")
    return tuple(LeftOut(name, reason) for name, reason in sorted(reasons.items()) if reason)


def base_files(base: Checkpoint) -> BaseFiles:
    """The files of a base, for the undo data."""

    def read(name: str, offset: int, size: int) -> bytes:
        return base.read(TensorHeader("", "U8", (size,), name, offset, offset + size))

    weights = {weight.name: weight.size for weight in sorted(base.weights, key=lambda weight: weight.name)}
    names = [] if base.repo_id else [one.name for one in left_out(base)]
    return BaseFiles(weights, {**base.side_files, **base.unused}, read, base.read_side, names)


def _files(
    checkpoint: Checkpoint, route: Route, biases: tuple[PlannedBias, ...], new: Mapping[str, NewTensor]
) -> Iterable[PlannedFile]:
    weights = sorted(checkpoint.weights, key=lambda weight: weight.name)
    names = {weight.name: weight.name for weight in weights}
    if single_file(names) and INDEX not in checkpoint.side_files:
        names = dict.fromkeys(names, SINGLE)  # By another name, transformers does not find it.
    if new or checkpoint.text_only or checkpoint.assembled:
        count = len(weights) + bool(new)
        names = {w.name: f"model-{i:05d}-of-{count:05d}.safetensors" for i, w in enumerate(weights, 1)}
        shard = f"model-{count:05d}-of-{count:05d}.safetensors"
        if new:
            yield PlannedFile(shard, serialize(new, {"format": "pt"}))
        yield new_file(INDEX, _index(checkpoint, names, new, shard))
    elif INDEX in checkpoint.side_files:
        yield PlannedFile.carried(INDEX, INDEX, checkpoint.side_files[INDEX])
    edits = _edits(checkpoint, biases)
    for weight in weights:
        name = names[weight.name]
        if checkpoint.text_only or weight.name in checkpoint.assembled:
            tensors = [tensor for tensor in checkpoint.tensors.values() if tensor.file == weight.name]
            pieces = excerpt(tensors, edits.get(weight.name, {}), checkpoint.rewritten)
            yield PlannedFile(name, pieces, weights=True)
        elif weight.name in edits:
            yield PlannedFile.overwritten(name, weight.name, weight.size, edits[weight.name])
        else:
            yield PlannedFile.carried(name, weight.name, weight.size, weights=True)
    yield from _side_files(checkpoint, route)
    yield new_file("config.json", json_bytes(route.config))


def _side_files(checkpoint: Checkpoint, route: Route) -> Iterable[PlannedFile]:
    """The files without weights, but for config.json."""
    tokenizer = _tokenizer_changes(checkpoint, route)
    for name, size in sorted(checkpoint.side_files.items()):
        if name == TOKENIZER_CONFIG and tokenizer:
            yield new_file(name, json_bytes({**checkpoint.tokenizer_config, "tokenizer_class": tokenizer[0].new}))
        elif name in checkpoint.changed_files:
            yield new_file(name, checkpoint.changed_files[name])
        elif is_carried(name) and not (checkpoint.text_only and is_of_images(name)):
            yield PlannedFile.carried(name, name, size)
    for name, content in checkpoint.new_files.items():
        yield new_file(name, content)


def _edits(checkpoint: Checkpoint, biases: tuple[PlannedBias, ...]) -> dict[str, dict[int, bytes]]:
    """Weight file -> offset -> bytes of the existing biases."""
    edits: dict[str, dict[int, bytes]] = {}
    for bias in biases:
        if not bias.is_new and bias.column is None and bias.tensor not in checkpoint.rewritten:
            header = checkpoint.tensors[bias.tensor]
            edits.setdefault(header.file, {})[header.start] = bias.data
    return edits


def _tokenizer_changes(checkpoint: Checkpoint, route: Route) -> tuple[ConfigChange, ...]:
    """The change of tokenizer_config.json, if any."""
    declared = checkpoint.tokenizer_config.get("tokenizer_class")
    wanted = route.tokenizer_class(declared) if "tokenizer.json" in checkpoint.side_files else ""
    if not wanted or wanted == declared:
        return ()
    return (ConfigChange(f"{TOKENIZER_CONFIG} tokenizer_class", declared, wanted),)


def _index(checkpoint: Checkpoint, names: Mapping[str, str], new: Mapping[str, NewTensor], shard: str) -> bytes:
    headers = checkpoint.tensors.values()
    metadata: dict[str, Any] = {} if checkpoint.text_only else dict(checkpoint.index_metadata)
    metadata["total_size"] = sum(h.size for h in headers) + sum(tensor.size for tensor in new.values())
    if "total_parameters" in metadata:
        metadata["total_parameters"] += sum(tensor.shape[0] for tensor in new.values())
    weight_map = {h.name: names[h.file] for h in headers} | dict.fromkeys(new, shard)
    return json_bytes({"metadata": metadata, "weight_map": dict(sorted(weight_map.items()))})
