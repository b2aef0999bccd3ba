"""The planner of GGUF models: a pure step from headers, vectors and weights to a `BakePlan`.

No tensor is requantised: what is carried keeps its bytes, whatever its type.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ...core.biases import Home, PlannedBias, landing, origin_warnings, plan_bias, steering_rows
from ...core.effect import judge_effect
from ...core.plan import NO_HEADS, BakePlan, ConfigChange, PlannedFile
from ...core.record import Record, RecordedBase, RecordedBias, RecordedVectors, history_of
from ...core.recorded_persona import RecordedPersona
from ...core.steering import Steering
from ...core.tensors import FLOATS
from ...core.totals import terms_of, total_recipe
from ...core.vector_set import VectorSet
from ...errors import BrokenFileError, UnsupportedModelError
from .architectures import MODULES
from .header import Field, text_field, uint32_field
from .layout import METADATA, Placed, layout, metadata_digest
from .model import RECORD_KEY, UNDO_KEY, GgufModel
from .routes import GgufRoute, choose_route
from .routes.base import read_bias
from .routes.head import HeadRoute
from .routes.tensor import TensorRoute
from .share import SharedNames, lay_out_shared
from .undo import with_undo
from .voice import voice_changes, voice_fields, voice_warnings

_ARCHITECTURE = "general.architecture"
_BASE = "general.base_model."
OWN_KEYS = ("emobake.version", "emobake.weights", RECORD_KEY, UNDO_KEY)
"""Keys of the metadata that hold the record and the undo data."""
_CONVERTED = "llama.cpp's converter made it of a checkpoint that was baked"
"""Reason why a base cannot be made again, for the record."""


def make_gguf_plan(
    model: GgufModel,
    vectors: VectorSet,
    steering: Steering,
    *,
    names: Sequence[str] | SharedNames,
    base_model: str = "",
    digests: Mapping[str, str] | None = None,
    force: bool = False,
    tensor_parallel: int = 1,
    route: GgufRoute | None = None,
    base: RecordedBase | None = None,
    persona: RecordedPersona | None = None,
) -> BakePlan:
    """Plan a steered GGUF model.

    For layer l the attention's output gains w_l: by the tensor ``blk.<l>.attn_output.bias`` (``ffn_down.bias`` for
    vectors of the layer output) where the architecture reads one, else by the route that costs least.

    Args:
        model: the base.
        vectors: a set for it.
        steering: the weights.
        names: of the files to write: one, as many as `model` has, or those of a set with a shared file.
        base_model: Hub id to name as the base; empty if unknown.
        digests: sha256 of the base's files by name, if known.
        force: plan even if nothing would be steered, or far too much.
        tensor_parallel: devices that shall be able to share the heads, where heads are added.
        route: chosen before, for the same model and site; default: chosen here.
        base: the checkpoint that llama.cpp's converter made `model` of; default: `model` is the base.
        persona: the persona whose words and voice the output keeps; its templates were looked for.

    Raises:
        InputError: nothing would be steered, or far too much, and not `force`; its subclasses for a set that does not
            fit, a broken file, or an architecture that llama.cpp would refuse or run unsteered.
    """
    route = route or choose_route(model, vectors.site, tensor_parallel=tensor_parallel)
    rows = steering_rows(vectors, steering, model.shape, branch_scale=route.scale, force=force)
    projection = MODULES[vectors.site].rpartition(".")[2]
    steering = landing(model.name, projection, route.homes, rows, steering, force=force)
    route = route.fitted(rows)
    biases = route.plan(rows)
    weights = tuple(replace(weight, sha256=(digests or {}).get(weight.name, "")) for weight in model.weights)
    base = base or RecordedBase(base_model, "", weights)
    record = lay_out_record(route, biases, RecordedVectors.of(vectors, steering), steering, base, persona)
    effect = judge_effect(vectors, rows * route.scale, record, biases, force=force)
    plan = lay_out_files(route, biases, record, names)
    warnings = (*effect.warnings, *origin_warnings(vectors, base_model), *voice_warnings(persona))
    if tensor_parallel > 1 and route.name != "head":
        warnings = (*warnings, NO_HEADS)
    return replace(plan, effect=effect, warnings=warnings)


def lay_out_record(
    route: GgufRoute,
    biases: tuple[PlannedBias, ...],
    vectors: RecordedVectors,
    steering: Steering,
    base: RecordedBase,
    persona: RecordedPersona | None = None,
) -> Record:
    """Write the record of a model whose biases are known, but for the digest of its metadata.

    Raises:
        InputError: the base's own record is none.
    """
    model = route.model
    return Record(
        form="gguf",
        base=base,
        vectors=vectors,
        steering=steering,
        branch_scale=route.scale,
        route=route.name,
        cost=route.cost,
        tensor_parallel=route.tensor_parallel,
        model_type=model.architecture,
        added=tuple(sorted(tensor.name for tensor in route.new(biases))),
        biases=tuple(map(RecordedBias.of, biases)),
        earlier=history_of(model.record, f"{model.name} ({RECORD_KEY})"),
        persona=persona,
    )


def lay_out_files(
    route: GgufRoute,
    biases: tuple[PlannedBias, ...],
    record: Record,
    names: Sequence[str] | SharedNames,
    *,
    own: Sequence[Field] | None = None,
) -> BakePlan:
    """Plan the files `names` (see `make_gguf_plan`) with biases that are known, without warnings.

    The record in the plan has the digest of the metadata. The files hold it, or the fields `own` in its place.
    """
    model, edits = route.model, route.edits(biases)
    assert isinstance(names, SharedNames) or len(names) in (1, len(model.files))
    files, record = _files(route, edits, route.new(biases), record, names, own=own)
    as_other = route.architecture != model.architecture
    return BakePlan(
        form="gguf",
        route=route.name,
        model_type=model.architecture,
        architecture=route.architecture,
        steering=record.steering,
        biases=biases,
        record=record,
        stacks=route.stacks,
        files=files,
        config_changes=(
            *((ConfigChange(_ARCHITECTURE, model.architecture, route.architecture),) if as_other else ()),
            *_changes(route),
        ),
        added=record.added,
        overwritten=tuple(sorted(bias.tensor for bias in biases if not bias.is_new)),
        extended=_extended(model, edits),
        voice=voice_changes(model.header, record.persona),
    )


def make_converted_plan(
    model: GgufModel, baked: BakePlan, vectors: VectorSet, *, name: str, persona: RecordedPersona | None = None
) -> BakePlan:
    """Plan the file `name` from `model`, which llama.cpp's converter made of the checkpoint that `baked` planned.

    The templates of the `persona` are those of `model`.

    A bias that the checkpoint's base did not have is stored as w_l in float32 (a column: in the file's type), without
    the checkpoint's rounding; one that it had is stored as the converter wrote it.

    Raises:
        InputError: (its subclasses) the converter dropped or changed a bias, or llama.cpp would refuse or ignore it.
    """
    columns = {bias.layer: bias.column for bias in baked.biases if bias.column is not None}
    route = choose_route(model, vectors.site, routes=(HeadRoute if columns else TensorRoute,))
    route = replace(route, columns=columns) if isinstance(route, HeadRoute) else route
    added = steering_rows(vectors, baked.steering, model.shape, branch_scale=route.scale, force=True)
    homes = {home.layer: home for home in (route.homes if columns else ())}
    module = MODULES[vectors.site]
    biases = tuple(
        _stored(homes[bias.layer], bias, added, name)
        if bias.layer in homes
        else _converted(model, bias, module.format(layer=bias.layer), added, name)
        for bias in baked.biases
    )
    record = replace(
        baked.record,
        form="gguf",
        branch_scale=route.scale,
        files={},
        assembled=(),
        added=tuple(bias.tensor for bias in biases if bias.is_new and bias.column is None),
        biases=tuple(map(RecordedBias.of, biases)),
        digests={},
        persona=persona,
    )
    # The converter wrote all of them.
    edits = route.edits([replace(bias, is_new=False) for bias in biases])
    files, record = _files(route, edits, (), replace(record, undo="", irreversible=_CONVERTED), [name])
    return replace(
        baked,
        form="gguf",
        biases=biases,
        record=record,
        stacks=route.stacks,
        files=files,
        left_out=(),
        added=record.added,
        overwritten=tuple(bias.tensor for bias in biases if not bias.is_new and bias.column is None),
        rewritten=(),
        extended=tuple(bias.tensor for bias in biases if bias.column is not None),
        voice=voice_changes(model.header, persona),
        warnings=(*baked.warnings, *voice_warnings(persona)),
    )


def _extended(model: GgufModel, edits: Mapping[str, tuple[Placed, ...]]) -> tuple[str, ...]:
    """Names of the tensors that have other shapes than in the base."""
    placed = [one for several in edits.values() for one in several if one.name in edits]
    return tuple(sorted(one.name for one in placed if one.shape != model.tensors[one.name].shape))


def _changes(route: GgufRoute) -> tuple[ConfigChange, ...]:
    """The changes of the metadata, but for the architecture."""

    def value(field: Field | None) -> object:
        if field is None:
            return None
        header = replace(route.model.header, fields=(field,))
        return header.number(field.key) if header.numbers(field.key) is None else list(header.numbers(field.key) or ())

    old = route.model.header.by_key
    pairs = {key: (value(old.get(key)), value(new)) for key, new in route.fields().items()}
    return tuple(ConfigChange(key, before, after) for key, (before, after) in pairs.items() if before != after)


def _converted(model: GgufModel, bias: PlannedBias, module: str, added: np.ndarray, name: str) -> PlannedBias:
    tensor = model.tensors.get(f"{module}.bias")
    if tensor is None or tensor.dtype not in FLOATS:
        raise UnsupportedModelError(f"{name}: the converter has made no {module}.bias: the result would run UNSTEERED")
    values = read_bias(model, tensor, added.shape[1])
    return _stored(Home(bias.layer, tensor.name, tensor.dtype, added.shape[1], values), bias, added, name)


def _stored(home: Home, bias: PlannedBias, added: np.ndarray, name: str) -> PlannedBias:
    """The `bias` of a checkpoint at its `home` in the converter's file, which holds it already."""
    values, row = home.existing, added[bias.layer]
    assert values is not None
    if bias.is_new:
        # As far as the checkpoint's 16 bits go.
        if values.shape != row.shape or not np.allclose(values, row, rtol=0.01, atol=1e-6):
            raise BrokenFileError(f"{name}: the converter's {home.tensor} is not the one that was baked")
        values = row
    stored = plan_bias(name, replace(home, existing=None), values)
    return replace(stored, norm=bias.norm, is_new=bias.is_new)


def _fields(route: GgufRoute, record: Record, *, split: bool) -> list[Field]:
    """The metadata without the record: the base's with changes by route and persona, and the architecture's keys."""
    header, base_model = route.model.header, record.base.model
    changed = {**route.fields(), **voice_fields(header, record.persona)}
    own: dict[str, Field] = {}
    for field in (*header.fields, *(new for key, new in changed.items() if new and key not in header.by_key)):
        prefix, _, rest = field.key.partition(".")
        if prefix == "emobake" or field.key.startswith(_BASE) or (prefix == "split" and not split):
            continue
        new = changed.get(field.key, field)
        if new is not None:
            key = f"{route.architecture}.{rest}" if prefix == route.model.architecture else field.key
            own[key] = replace(new, key=key)
    own[_ARCHITECTURE] = text_field(_ARCHITECTURE, route.architecture)
    organization, _, name = base_model.rpartition("/")
    base = {
        "name": name.replace("-", " ") or header.text("general.name"),
        "organization": organization or header.text("general.organization"),
        "repo_url": f"https://huggingface.co/{base_model}" if base_model else header.text("general.repo_url"),
    }
    base = {key: value for key, value in base.items() if value}
    made = [uint32_field(f"{_BASE}count", 1)] if base else []
    made += [text_field(f"{_BASE}0.{key}", value) for key, value in base.items()]
    return [*own.values(), *made]


def record_fields(record: Record) -> list[Field]:
    """The metadata that holds the record, with the sum of all bakes for a reader."""
    return [
        text_field("emobake.version", record.version),
        text_field("emobake.weights", _total_weights(record)),
        text_field(RECORD_KEY, json.dumps(record.to_json(), ensure_ascii=False, separators=(",", ":"))),
    ]


def _total_weights(record: Record) -> str:
    """``joy=1.5,anger=-0.25``, if every steered layer has the same weights; else the recipe."""
    terms = terms_of(record)
    per_layer = [list(term.weights.values()) for term in terms]
    if any(len(set(found)) > 1 for found in per_layer) or len({tuple(term.weights) for term in terms}) > 1:
        return total_recipe(record)
    if len({(term.set_name, term.site) for term in terms}) > 1 or len({t.emotion for t in terms}) < len(terms):
        return total_recipe(record)
    return ",".join(f"{term.emotion}={found[0]:g}" for term, found in zip(terms, per_layer, strict=True))


def _files(
    route: GgufRoute,
    edits: Mapping[str, tuple[Placed, ...]],
    new: Sequence[Placed],
    record: Record,
    names: Sequence[str] | SharedNames,
    *,
    own: Sequence[Field] | None = None,
) -> tuple[tuple[PlannedFile, ...], Record]:
    """The files to write, and the record that they hold, unless the fields `own` stand in for it."""
    model = route.model
    # What a set with a shared file says of itself is what one file would say.
    shared, names = (names, [names.first]) if isinstance(names, SharedNames) else (None, names)
    split = len(names) > 1
    placed = [
        [
            placed
            for tensor in header.tensors
            for placed in edits.get(tensor.name) or (Placed.carried(model.tensors[tensor.name]),)
        ]
        for header in model.files
    ]
    # New tensors go into the last file: of a set, the first may be there for the metadata alone.
    placed[-1] += sorted(new, key=lambda tensor: tensor.name)
    if not split:
        placed = [[tensor for file in placed for tensor in file]]
    fields = [_fields(route, record, split=split)]
    fields += [
        [field for field in header.fields if not field.key.startswith("emobake.")]
        for header in model.files[1 : len(names)]
    ]
    count = sum(map(len, placed))
    if split:
        fields = [[_counted(field, count) for field in found] for found in fields]
    described = [[tensor.described for tensor in tensors] for tensors in placed]
    record = replace(record, digests={METADATA: metadata_digest(zip(fields, described, strict=True))})
    if own is None:
        record, kept = with_undo(record, model, fields[0], [tensor for file in placed for tensor in file])
        own = [*record_fields(record), *kept]
    fields[0] += own
    if shared is not None:
        tensors = {bias.tensor for bias in record.biases} | {tensor.name for tensor in new}
        return lay_out_shared(model, shared, fields[0], placed[0], tensors), record
    headers = zip(model.files, names, fields, placed, strict=False)
    files = tuple(
        PlannedFile(name, layout(header.version, header.alignment, found, tensors), weights=True)
        for header, name, found, tensors in headers
    )
    return files, record


def _counted(field: Field, count: int) -> Field:
    """The field; if it holds the number of tensors in the set, with the new number."""
    if field.key != "split.tensors.count":
        return field
    return replace(field, data=count.to_bytes(len(field.data), "little"))
