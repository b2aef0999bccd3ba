"""The planner of GGUF models: a pure step from headers, vectors and weights to a `BakePlan`.

Biases are small tensors of their own, so no other tensor is requantised: its bytes are the base's. A ``qwen2`` file,
whose architecture has no such tensor in llama.cpp, becomes the ``llama`` file that it exactly is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...core.biases import Home, PlannedBias, landing, origin_warnings, plan_bias, plan_biases, steering_rows
from ...core.effect import judge_effect
from ...core.limits import MAX_WIDTH
from ...core.plan import BakePlan, ConfigChange, Piece, PlannedFile, RouteName, Rows, Span
from ...core.record import Record, RecordedBase, RecordedBias, RecordedVectors, history_of
from ...core.sites import Site
from ...core.stacks import Support
from ...core.steering import Steering
from ...core.tensors import FLOATS, TensorHeader, decode
from ...core.totals import terms_of, total_recipe
from ...core.vector_set import VectorSet
from ...errors import BrokenFileError, UnsupportedModelError
from .architectures import MODULES, GgufArchitecture, find_gguf_architecture
from .as_llama import llama_blockers, moved_rows
from .header import Field, row_count, text_field, uint32_field
from .layout import METADATA, Placed, layout, metadata_digest
from .model import RECORD_KEY, GgufModel

_ARCHITECTURE = "general.architecture"
_BASE = "general.base_model."
OWN_KEYS = ("emobake.version", "emobake.weights", RECORD_KEY)
"""Keys of the metadata that hold the record."""


def make_gguf_plan(
    model: GgufModel,
    vectors: VectorSet,
    steering: Steering,
    *,
    names: Sequence[str],
    base_model: str = "",
    digests: Mapping[str, str] | None = None,
    force: bool = False,
) -> BakePlan:
    """Plan a steered GGUF model.

    For layer l the tensor ``blk.<l>.attn_output.bias`` (``ffn_down.bias`` for vectors of the layer output) becomes
    ``(existing bias or 0) + w_l``: float32 if it is new; an existing bias keeps its type.

    Args:
        model: the base.
        vectors: a set for it.
        steering: the weights.
        names: of the files to write: one, or as many as `model` has.
        base_model: Hub id to name as the base; empty if unknown.
        digests: sha256 of the base's files by name, if known.
        force: plan even if nothing would be steered, or far too much.

    Raises:
        InputError: nothing would be steered, or far too much, and not `force`; its subclasses for a set that does not
            fit, a broken file, or an architecture that llama.cpp would refuse or run unsteered.
    """
    site = vectors.site
    homes = find_homes(model, site)
    added = steering_rows(vectors, steering, model.shape, branch_scale=homes.scale, force=force)
    steering = landing(model.name, MODULES[site].rpartition(".")[2], homes.biases, added, steering, force=force)
    biases = plan_biases(model.name, homes.biases, added)
    weights = tuple(replace(weight, sha256=(digests or {}).get(weight.name, "")) for weight in model.weights)
    record = lay_out_record(
        model, homes, biases, RecordedVectors.of(vectors, steering), steering, RecordedBase(base_model, "", weights)
    )
    effect = judge_effect(vectors, added * homes.scale, record, biases, force=force)
    plan = lay_out_files(model, homes, biases, record, names)
    return replace(plan, effect=effect, warnings=(*effect.warnings, *origin_warnings(vectors, base_model)))


@dataclass(frozen=True, eq=False)
class GgufHomes:
    """The places of the biases in a GGUF model."""

    row: GgufArchitecture
    """The architecture of the result."""
    biases: tuple[Home, ...]
    scale: float
    """Factor between the projection's output and the site."""


def find_homes(model: GgufModel, site: Site) -> GgufHomes:
    """Find the tensor that stores each layer's bias for vectors that act at `site`.

    Raises:
        BrokenFileError: a broken file; UnsupportedModelError: llama.cpp would refuse the result or run it unsteered.
    """
    row = find_gguf_architecture(_target_architecture(model), site, model.name)
    scale = row.branch_scale(model.header, model.num_hidden_layers, site)
    return GgufHomes(row, tuple(_homes(model, row, site)), scale)


def lay_out_record(
    model: GgufModel,
    homes: GgufHomes,
    biases: tuple[PlannedBias, ...],
    vectors: RecordedVectors,
    steering: Steering,
    base: RecordedBase,
) -> Record:
    """Write the record of a model whose biases are known, but for the digest of its metadata.

    Raises:
        InputError: the base's own record is none.
    """
    return Record(
        form="gguf",
        base=base,
        vectors=vectors,
        steering=steering,
        branch_scale=homes.scale,
        route=_route(model, homes.row, biases),
        model_type=model.architecture,
        added=_names(biases, is_new=True),
        biases=tuple(map(RecordedBias.of, biases)),
        earlier=history_of(model.record, f"{model.name} ({RECORD_KEY})"),
    )


def lay_out_files(
    model: GgufModel,
    homes: GgufHomes,
    biases: tuple[PlannedBias, ...],
    record: Record,
    names: Sequence[str],
    *,
    own: Sequence[Field] | None = None,
) -> BakePlan:
    """Plan the files `names` (one, or as many as `model` has) with biases that are known, without warnings.

    The record in the plan has the digest of the metadata. The files hold it, or the fields `own` in its place.
    """
    assert len(names) in (1, len(model.files))
    architecture = homes.row.name
    files, record = _files(model, biases, record, names, architecture, own=own)
    as_llama = architecture != model.architecture
    return BakePlan(
        form="gguf",
        route=_route(model, homes.row, biases),
        model_type=model.architecture,
        architecture=architecture,
        steering=record.steering,
        biases=biases,
        record=record,
        stacks=_support(homes.row, record.vectors.site),
        files=files,
        config_changes=(ConfigChange(_ARCHITECTURE, model.architecture, architecture),) if as_llama else (),
        added=record.added,
        overwritten=_names(biases, is_new=False),
    )


def make_converted_plan(model: GgufModel, baked: BakePlan, vectors: VectorSet, *, name: str) -> BakePlan:
    """Plan the file `name` from `model`, which llama.cpp's converter made of the checkpoint that `baked` planned.

    A bias that the checkpoint's base did not have is stored as w_l in float32, without the checkpoint's rounding; one
    that it had is stored as the converter wrote it.

    Raises:
        InputError: (its subclasses) the converter dropped or changed a bias, or llama.cpp would refuse or ignore it.
    """
    row = find_gguf_architecture(model.architecture, vectors.site, model.name)
    scale = row.branch_scale(model.header, model.num_hidden_layers, vectors.site)
    added = steering_rows(vectors, baked.steering, model.shape, branch_scale=scale, force=True)
    module = MODULES[vectors.site]
    biases = tuple(_converted(model, bias, module.format(layer=bias.layer), added, name) for bias in baked.biases)
    record = replace(
        baked.record,
        form="gguf",
        branch_scale=scale,
        files={},
        added=tuple(bias.tensor for bias in biases if bias.is_new),
        biases=tuple(map(RecordedBias.of, biases)),
        digests={},
    )
    files, record = _files(model, biases, record, [name], model.architecture, all_overwritten=True)
    return replace(
        baked,
        form="gguf",
        biases=biases,
        record=record,
        stacks=_support(row, vectors.site),
        files=files,
        left_out=(),
        added=record.added,
        overwritten=tuple(bias.tensor for bias in biases if not bias.is_new),
    )


def _target_architecture(model: GgufModel) -> str:
    """The architecture of the result: llama for qwen2.

    Raises:
        BrokenFileError: the file does not name one; UnsupportedModelError: a qwen2 file that is no llama.
    """
    if not model.architecture:
        raise BrokenFileError(f"{model.name}: does not name its architecture ({_ARCHITECTURE}); it is not a model")
    if model.architecture != "qwen2":
        return model.architecture
    blockers = llama_blockers(model)
    if blockers:
        raise UnsupportedModelError(
            f"{model.name}: llama.cpp refuses qwen2 files with that bias, and this one is a llama only without "
            f"{blockers[0]}; bake the original checkpoint with `format` peft"
        )
    return "llama"


def _support(row: GgufArchitecture, site: Site) -> dict[str, Support]:
    return {"llama.cpp": Support("steered", run=site in row.ran)}


def _route(model: GgufModel, row: GgufArchitecture, biases: Sequence[PlannedBias]) -> RouteName:
    if row.name != model.architecture:
        return "llama"
    return "tensor" if any(bias.is_new for bias in biases) else "existing"


def _names(biases: Sequence[PlannedBias], *, is_new: bool) -> tuple[str, ...]:
    return tuple(sorted(bias.tensor for bias in biases if bias.is_new == is_new))


def _homes(model: GgufModel, row: GgufArchitecture, site: Site) -> list[Home]:
    """The tensor that stores each layer's bias; layers without the projection (hybrids) are left out."""
    homes = []
    for layer in range(model.num_hidden_layers):
        module = MODULES[site].format(layer=layer)
        weight, bias = model.tensors.get(f"{module}.weight"), model.tensors.get(f"{module}.bias")
        if weight is None:
            continue
        width = row_count(weight)
        if width > MAX_WIDTH:
            raise BrokenFileError(f"{model.name}: {weight.name} has {width} outputs, more than any model")
        if bias is None and row.sites[site] == "required":
            raise BrokenFileError(f"{model.name}: lacks {module}.bias, which llama.cpp wants of {row.name} files")
        if bias is None:
            homes.append(Home(layer, f"{module}.bias", "F32", width))
        else:
            homes.append(Home(layer, bias.name, bias.dtype, width, read_bias(model, bias, width)))
    return homes


def read_bias(model: GgufModel, bias: TensorHeader, width: int) -> np.ndarray:
    """Read an existing bias as float32 ``[width]``.

    Raises:
        BrokenFileError: no floats, another shape, a NaN or infinity, or the file ends within it.
    """
    if bias.dtype not in FLOATS or bias.shape != (width,):
        raise BrokenFileError(
            f"{model.name}: {bias.name} is {bias.dtype} of shape {list(bias.shape)}, not floats [{width}]"
        )
    values = decode(bias, model.read(bias))
    if not np.isfinite(values).all():
        raise BrokenFileError(f"{model.name}: {bias.name} has a NaN or infinity")
    return values


def _converted(model: GgufModel, bias: PlannedBias, module: str, added: np.ndarray, name: str) -> PlannedBias:
    tensor = model.tensors.get(f"{module}.bias")
    if tensor is None or tensor.dtype not in FLOATS:
        raise UnsupportedModelError(f"{name}: the converter has made no {module}.bias: the result would run UNSTEERED")
    values = read_bias(model, tensor, added.shape[1])
    home = Home(bias.layer, tensor.name, tensor.dtype, added.shape[1])
    if bias.is_new:
        # As far as the checkpoint's 16 bits go.
        if not np.allclose(values, added[bias.layer], rtol=0.01, atol=1e-6):
            raise BrokenFileError(f"{name}: the converter's {tensor.name} is not the one that was baked")
        values = added[bias.layer]
    stored = plan_bias(name, home, values)
    return replace(stored, norm=bias.norm, is_new=bias.is_new)


def _fields(model: GgufModel, architecture: str, base_model: str, *, split: bool) -> list[Field]:
    """The metadata without the record: the base's, its keys renamed if the architecture changes."""
    header = model.header
    own: dict[str, Field] = {}
    for field in header.fields:
        prefix, _, rest = field.key.partition(".")
        if prefix == "emobake" or field.key.startswith(_BASE) or (prefix == "split" and not split):
            continue
        key = f"{architecture}.{rest}" if prefix == model.architecture else field.key
        own[key] = replace(field, key=key)
    own[_ARCHITECTURE] = text_field(_ARCHITECTURE, architecture)
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
    model: GgufModel,
    biases: Sequence[PlannedBias],
    record: Record,
    names: Sequence[str],
    architecture: str,
    *,
    all_overwritten: bool = False,
    own: Sequence[Field] | None = None,
) -> tuple[tuple[PlannedFile, ...], Record]:
    """The files to write, and the record that they hold.

    With `all_overwritten` every bias has its tensor in `model`. The fields `own` stand in for those of the record.
    """
    moved = moved_rows(model) if architecture != model.architecture else {}
    new = [bias for bias in biases if bias.is_new and not all_overwritten]
    overwritten = {bias.tensor: bias.data for bias in biases if bias not in new}
    split = len(names) > 1
    placed = [
        [_place(model.tensors[tensor.name], overwritten, moved) for tensor in header.tensors] for header in model.files
    ]
    # New tensors go into the last file: of a set, the first may be there for the metadata alone.
    placed[-1] += [
        Placed(bias.tensor, bias.dtype, (len(bias.data) // 4,), bias.data) for bias in sorted(new, key=_tensor_name)
    ]
    if not split:
        placed = [[tensor for file in placed for tensor in file]]
    fields = [_fields(model, architecture, record.base.model, split=split)]
    fields += [list(header.fields) for header in model.files[1 : len(names)]]
    count = sum(map(len, placed))
    if split:
        fields = [[_counted(field, count) for field in found] for found in fields]
    described = [[tensor.described for tensor in tensors] for tensors in placed]
    record = replace(record, digests={METADATA: metadata_digest(zip(fields, described, strict=True))})
    fields[0] += record_fields(record) if own is None else own
    headers = zip(model.files, names, fields, placed, strict=False)
    files = tuple(
        PlannedFile(name, layout(header.version, header.alignment, found, tensors), weights=True)
        for header, name, found, tensors in headers
    )
    return files, record


def _tensor_name(bias: PlannedBias) -> str:
    return bias.tensor


def _counted(field: Field, count: int) -> Field:
    """The field; if it holds the number of tensors in the set, with the new number."""
    if field.key != "split.tensors.count":
        return field
    return replace(field, data=count.to_bytes(len(field.data), "little"))


def _place(tensor: TensorHeader, overwritten: Mapping[str, bytes], moved: Mapping[str, tuple[int, ...]]) -> Placed:
    piece: Piece = Span(tensor.file, tensor.start, tensor.size)
    if tensor.name in overwritten:
        piece = overwritten[tensor.name]
    elif tensor.name in moved:
        piece = reordered(tensor, moved[tensor.name])
    return Placed(tensor.name, tensor.dtype, tensor.shape, piece)


def reordered(tensor: TensorHeader, order: tuple[int, ...]) -> Rows:
    """The rows of a tensor (of a vector: its elements) in another order."""
    rows = tensor.shape[0] if len(tensor.shape) == 1 else row_count(tensor)
    return Rows(tensor.file, tensor.start, tensor.size // rows, rows, order)
