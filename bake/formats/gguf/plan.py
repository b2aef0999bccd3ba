"""Planning a bake into a GGUF file: headers, vectors and weights in; every byte of the result out, as a `BakePlan`.

The biases are small float32 tensors of their own, so no other tensor is requantised: its bytes are the base's. A
``qwen2`` file, whose architecture has no such tensor in llama.cpp, becomes the ``llama`` file that it exactly is.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..._version import __version__
from ...core.biases import strength_warnings, sum_to_add
from ...core.plan import Assemble, BakePlan, ConfigChange, LayerBias, RouteKind, Rows, Span, Write
from ...core.record import MANIFEST, record_of
from ...core.stacks import Support
from ...core.steering import Steering, weighted_sum
from ...core.tensors import FLOATS, encode
from ...core.vector_set import VectorSet, fitted
from ...errors import BrokenFileError, InputError, UnsupportedModelError, VectorError
from .architectures import MODULES, GgufArchitecture, find_gguf_architecture
from .as_llama import llama_blockers, moved_rows
from .header import Field, GgufTensor, text_field, type_name, uint32_field
from .layout import Placed, layout
from .model import RECORD, GgufModel

_F32 = 0
_ARCHITECTURE = "general.architecture"
_BASE = "general.base_model."


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

    For layer l the float32 tensor ``blk.<l>.attn_output.bias`` (``ffn_down.bias`` for vectors of the layer output)
    becomes ``(existing bias or 0) + w_l``; a bias that is there keeps its type.

    Args:
        model: the base.
        vectors: a set for it.
        steering: the weights.
        names: of the files to write: one, or as many as `model` has.
        base_model: Hub id to name as the base; empty when it is not known.
        digests: sha256 of the base's files, by their names, where they are known.
        force: plan even when all weights are zero.

    Raises:
        InputError: nothing would be steered and not `force`; its subclasses for a set that does not fit, a broken
            file, or an architecture that llama.cpp would refuse or run unsteered.

    """
    assert len(names) in (1, len(model.files))
    name = model.architecture
    if not name:
        raise BrokenFileError(f"{model.name}: does not name its architecture ({_ARCHITECTURE}); it is not a model")
    blockers = llama_blockers(model) if name == "qwen2" else [""]
    if name == "qwen2" and blockers:
        raise UnsupportedModelError(
            f"{model.name}: llama.cpp refuses qwen2 files with that bias, and this one is a llama only without "
            f"{blockers[0]}; bake the original checkpoint with --format peft"
        )
    as_llama = not blockers
    architecture = "llama" if as_llama else name
    row = find_gguf_architecture(architecture, vectors.site, model.name)
    vectors = fitted(vectors, model.block_count, model.embedding_length, model.name)
    scale = row.branch_scale(model.header, model.block_count, vectors.site)
    added = sum_to_add(vectors, steering, force=force) / np.float32(scale)
    biases = _biases(model, row, vectors.site, added)
    route: RouteKind = "llama" if as_llama else "tensor" if biases.new else "existing"
    changes = (ConfigChange(_ARCHITECTURE, name, architecture),) if as_llama else ()
    plan = BakePlan(
        route=route,
        model_type=name,
        architecture=architecture,
        layers=biases.layers,
        steering=steering,
        files=(),
        left_out=(),
        config_changes=changes,
        stacks={"llama.cpp": Support("steered", run=vectors.site in row.run)},
        added=tuple(sorted(biases.new)),
        overwritten=tuple(sorted(biases.overwritten)),
        warnings=(*strength_warnings(vectors, added), *_warnings(vectors, base_model)),
        branch_scale=scale,
    )
    weights = [
        {"name": (header_name := _basename(header.file)), "size": header.size}
        | ({"sha256": digests[header_name]} if digests else {})
        for header in model.files
    ]
    base = {"model": base_model or None, "revision": None, "weights": weights}
    record = record_of(plan, vectors, "gguf", base, model.record)
    fields = _fields(model, architecture, record, base_model, split=len(names) > 1)
    return replace(plan, files=tuple(_files(model, biases, fields, names, as_llama=as_llama)))


def make_converted_plan(
    model: GgufModel, baked: BakePlan, vectors: VectorSet, *, name: str, base_model: str
) -> BakePlan:
    """Plan the file `name` out of `model`, which llama.cpp's converter made of the checkpoint that `baked` planned.

    A bias that the checkpoint's base did not have is w_l, in float32, and not what rounding has left of it; one that
    it had is as the converter wrote it.

    Raises:
        InputError: (its subclasses) the converter has dropped a bias, or llama.cpp would refuse or ignore it.

    """
    row = find_gguf_architecture(model.architecture, vectors.site, model.name)
    vectors = fitted(vectors, model.block_count, model.embedding_length, model.name)
    scale = row.branch_scale(model.header, model.block_count, vectors.site)
    added = weighted_sum(vectors, baked.steering) / np.float32(scale)
    layers, exact, exact_new = [], {}, {}
    for layer in baked.layers:
        bias = f"{MODULES[vectors.site].format(layer=layer.layer)}.bias"
        tensor = model.tensors.get(bias)
        if tensor is None or type_name(tensor) not in FLOATS:
            raise UnsupportedModelError(f"{name}: the converter has made no {bias}: the result would run UNSTEERED")
        kind = type_name(tensor)
        values = _values(model, tensor, kind, added.shape[1])
        if layer.tensor in baked.added:
            # As far as the checkpoint's 16 bits go.
            if not np.allclose(values, added[layer.layer], rtol=0.01, atol=1e-6):
                raise BrokenFileError(f"{name}: the converter's {bias} is not the one that was baked")
            values = added[layer.layer]
        data = encode(values, kind)
        exact[bias], exact_new[bias] = data, layer.tensor in baked.added
        layers.append(replace(layer, tensor=bias, dtype=kind, sha256=hashlib.sha256(data).hexdigest()))
    plan = replace(
        baked,
        layers=tuple(layers),
        files=(),
        left_out=(),
        stacks={"llama.cpp": Support("steered", run=vectors.site in row.run)},
        added=tuple(bias for bias, is_new in exact_new.items() if is_new),
        overwritten=tuple(bias for bias, is_new in exact_new.items() if not is_new),
        branch_scale=scale,
    )
    documents = [file for file in baked.files if isinstance(file, Write) and file.name == MANIFEST]
    manifest = json.loads(documents[0].data)
    record = record_of(plan, vectors, "gguf", manifest["base"], None)
    record |= {key: manifest[key] for key in ("history",) if key in manifest}
    fields = _fields(model, model.architecture, record, base_model, split=False)
    return replace(plan, files=tuple(_files(model, _Biases((), {}, exact), fields, [name], as_llama=False)))


@dataclass(frozen=True)
class _Biases:
    layers: tuple[LayerBias, ...]
    new: Mapping[str, tuple[int, bytes]]
    """Name -> length and content of the float32 tensors that the base does not have."""
    overwritten: Mapping[str, bytes]
    """Name -> content of those that it has."""


def _biases(model: GgufModel, row: GgufArchitecture, site: str, added: np.ndarray) -> _Biases:
    template = MODULES[site]
    homes = {
        layer: module
        for layer in range(model.block_count)
        if f"{(module := template.format(layer=layer))}.weight" in model.tensors
    }
    homeless = [layer for layer in range(len(added)) if added[layer].any() and layer not in homes]
    if homeless:
        choice = f"; choose among the layers that have one: --layers {','.join(map(str, homes))}" if homes else ""
        raise InputError(
            f"{model.name}: layer {homeless[0]} has no {template.format(layer=homeless[0])}.weight, so its vector "
            f"cannot land{choice}"
        )
    layers, new, overwritten = [], {}, {}
    for layer, module in homes.items():
        weight, bias = model.tensors[f"{module}.weight"], model.tensors.get(f"{module}.bias")
        if weight.rows != added.shape[1]:
            raise BrokenFileError(f"{model.name}: {weight.name} has {weight.rows} rows, not {added.shape[1]}")
        if bias is None and row.sites[site] == "required":
            raise BrokenFileError(f"{model.name}: lacks {module}.bias, which llama.cpp wants of {row.name} files")
        kind = "F32" if bias is None else type_name(bias)
        total = added[layer] if bias is None else _values(model, bias, kind, len(added[layer])) + added[layer]
        data = encode(total, kind)
        if not np.isfinite(np.frombuffer(data, FLOATS[kind]).astype(np.float32)).all():
            raise VectorError(f"{model.name}: the bias of layer {layer} is too large for {kind}; use smaller weights")
        if bias is None:
            new[f"{module}.bias"] = (len(total), data)
        else:
            overwritten[bias.name] = data
        norm = float(np.linalg.norm(added[layer].astype(np.float64)))
        layers.append(LayerBias(layer, f"{module}.bias", kind, norm, hashlib.sha256(data).hexdigest()))
    return _Biases(tuple(layers), new, overwritten)


def _values(model: GgufModel, bias: GgufTensor, kind: str, length: int) -> np.ndarray:
    """The existing bias as float32 ``[length]``."""
    if kind not in FLOATS or bias.shape != (length,):
        raise BrokenFileError(f"{model.name}: {bias.name} is {kind} of shape {list(bias.shape)}, not floats [{length}]")
    data = model.read(bias)
    values = np.frombuffer(data, FLOATS[kind]).astype(np.float32) if len(data) == bias.end - bias.start else None
    if values is None or not np.isfinite(values).all():
        raise BrokenFileError(f"{model.name}: {bias.name} has a NaN or infinity, or the file ends within it")
    return values


def _warnings(vectors: VectorSet, base_model: str) -> Iterable[str]:
    if vectors.base_model and base_model and vectors.base_model != base_model:
        yield f"{vectors.name} was made from {vectors.base_model}, not from {base_model}"


def _fields(
    model: GgufModel, architecture: str, record: Mapping[str, object], base_model: str, *, split: bool
) -> list[Field]:
    """The metadata: the base's, its keys renamed where the architecture is, and what was baked."""
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
    weights = record["weights"]
    assert isinstance(weights, dict)
    made += [
        text_field("emobake.version", __version__),
        text_field("emobake.weights", ",".join(f"{emotion}={weight:g}" for emotion, weight in weights.items())),
        text_field(RECORD, json.dumps(record, ensure_ascii=False, separators=(",", ":"))),
    ]
    return [*own.values(), *made]


def _files(
    model: GgufModel, biases: _Biases, fields: list[Field], names: Sequence[str], *, as_llama: bool
) -> Iterable[Assemble]:
    moved = moved_rows(model) if as_llama else {}
    placed = [[_place(tensor, biases, moved) for tensor in header.tensors] for header in model.files]
    # In the last file: of a set, the first may be there for the metadata alone.
    placed[-1] += [Placed(name, _F32, (length,), data) for name, (length, data) in sorted(biases.new.items())]
    if len(names) == 1:
        placed = [[tensor for file in placed for tensor in file]]
    for number, (name, tensors) in enumerate(zip(names, placed, strict=True)):
        header = model.files[number]
        written = fields if number == 0 else list(header.fields)
        if len(names) > 1:
            written = [_counted(field, sum(map(len, placed))) for field in written]
        yield Assemble(name, tuple(layout(header.version, header.alignment, written, tensors)))


def _counted(field: Field, count: int) -> Field:
    """The field, and with the number of tensors in the whole set where it is that."""
    if field.key != "split.tensors.count":
        return field
    return replace(field, data=count.to_bytes(len(field.data), "little"))


def _place(tensor: GgufTensor, biases: _Biases, moved: Mapping[str, tuple[int, ...]]) -> Placed:
    size = tensor.end - tensor.start
    part: bytes | Span | Rows = Span(tensor.file, tensor.start, size)
    if tensor.name in biases.overwritten:
        part = biases.overwritten[tensor.name]
    elif tensor.name in moved:
        rows = tensor.shape[0] if len(tensor.shape) == 1 else tensor.rows
        part = Rows(tensor.file, tensor.start, size // rows, rows, moved[tensor.name])
    return Placed(tensor.name, tensor.kind, tensor.shape, part)


def _basename(file: str) -> str:
    return re.split(r"[/\\]", file)[-1]
