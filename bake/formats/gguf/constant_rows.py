"""The constant rows of a GGUF file, see `emobake.core.constant_rows`: what a bake would have left in it.

Nothing is taken from a record. The output projections whose rows are not zero are read, a piece at a time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import takewhile

import numpy as np

from ...core.constant_rows import Beside, ConstantRow, ConstantRows, How, Own
from ...core.heads import constant_head, value_matrix
from ...core.limits import MAX_WIDTH
from ...core.sites import SITE, SITES, Site
from ...core.stacks import STACKS, Support
from ...core.tensors import FLOATS, TensorHeader, decode
from ...errors import BrokenFileError, InputError, MissingPackageError
from ..column_norm import column_norm
from .architectures import MODULES, GgufArchitecture, bias_blocker, gguf_architectures, treatment
from .attention import Attention, read_attention
from .model import GgufModel
from .quants import dequantize
from .routes.base import read_bias
from .routes.head import HeadRoute
from .routes.value import ValueRoute, output_weight
from .share import is_shared
from .tensor_types import TENSOR_TYPES

_BESIDE = re.compile(r"blk\.\d+\.((?:attn|ffn)_[a-z0-9_]+)\.bias")


def find_rows(model: GgufModel) -> tuple[ConstantRows, ...]:
    """Find every kind of constant row that is stored, those of zeros too.

    Raises:
        BrokenFileError: the metadata does not tell the shape of the model; a bias of another shape or type, or with a
            NaN; a file that ends too early. MissingPackageError: rows that the gguf package has to read.
    """
    found = [_biases(model, site) for site in SITES]
    row = gguf_architectures().get(model.architecture)
    if row is not None and (row.head or row.value):
        found.append(_Values(model, row).rows())
    return tuple(rows for rows in found if rows is not None)


def _biases(model: GgufModel, site: Site) -> ConstantRows | None:
    """The biases of the output projections; None if there is none."""
    modules = {layer: MODULES[site].format(layer=layer) for layer in range(model.num_hidden_layers)}
    weights = {layer: w for layer, m in modules.items() if (w := model.tensors.get(f"{m}.weight")) is not None}
    headers = {layer: b for layer in weights if (b := model.tensors.get(f"{modules[layer]}.bias")) is not None}
    if not headers:
        return None
    known, name = gguf_architectures().get(model.architecture), model.architecture[:60]
    scale = np.float32(1.0 if known is None else known.branch_scale(model.header, model.num_hidden_layers, site))
    rows = [
        ConstantRow(layer, header.name, read_bias(model, header, model.hidden_size) * scale)
        for layer, header in headers.items()
    ]
    own: Own = "unknown" if known is None else "always" if known.sites.get(site) == "required" else "flag"
    if known is None:
        unknown = {each: Support("unknown") for each, stack in STACKS.items() if "gguf" in stack.loads}
        return _found(model, site, "bias", rows, weights, own=own, stacks=unknown)
    ignored = bias_blocker(model.architecture, site)
    found = _found(model, site, "bias", rows, weights, own="none" if ignored else own, ignored=ignored)
    return replace(found, family=name, stacks=treatment(known.name, site))


@dataclass(frozen=True, eq=False)
class _Values:
    """A search for the rows that biases of the values make."""

    model: GgufModel
    row: GgufArchitecture

    def rows(self) -> ConstantRows | None:
        """The columns behind heads of constant output, or what the projections make of the biases; None without any."""
        biases = [name for name in self.model.tensors if re.fullmatch(r"blk\.\d+\.attn_(?:v|qkv)\.bias", name)]
        if not biases:
            return None
        try:
            attention = {a.layer: a for a in self._attention if a.layer < self.model.num_hidden_layers}
        except InputError:
            return None  # Attention of another kind, in which no bake makes a constant of the values.
        heads = self._heads(attention) if self.row.head else None
        return heads or (self._values(attention) if self.row.value and bias_blocker(self.row.name, SITE) else None)

    @cached_property
    def _attention(self) -> tuple[Attention, ...]:
        return read_attention(self.model, 2 if self.row.gated else 1)

    def _heads(self, attention: Mapping[int, Attention]) -> ConstantRows | None:
        columns = {
            layer: head * each.heads.group * each.heads.value_size
            for layer, each in attention.items()
            if (values := self._bias(each)) is not None
            if (head := constant_head(values, each.heads.value_size, self.row.constant)) is not None
        }
        if not columns or columns.keys() != attention.keys():
            return None
        route = HeadRoute(self.model, SITE, columns=columns)
        outputs = {layer: each.tensors["output"] for layer, each in attention.items()}
        rows = [ConstantRow(home.layer, home.tensor, home.existing, columns[home.layer]) for home in route.homes]
        return _found(
            self.model, SITE, "head", rows, outputs, own="none", inputs=columns, stacks=route.stacks, beside=False
        )

    def _values(self, attention: Mapping[int, Attention]) -> ConstantRows | None:
        rows = []
        for layer, each in attention.items():
            values = self._bias(each)
            if values is not None and values.any() and "v" in each.parts:
                made = value_matrix(output_weight(self.model, each), each.heads) @ values.astype(np.float64)
                if not np.isfinite(made).all() or len(made) != self.model.hidden_size:
                    raise BrokenFileError(f"{self.model.name}: {each.name('v', 'bias')} makes no row of floats")
                rows.append(ConstantRow(layer, each.name("v", "bias"), made.astype(np.float32)))
        if not rows:
            return None
        outputs = {layer: each.tensors["output"] for layer, each in attention.items()}
        stacks = ValueRoute(self.model, SITE).stacks
        return _found(self.model, SITE, "value", rows, outputs, own="flag", stacks=stacks)

    def _bias(self, attention: Attention) -> np.ndarray | None:
        """The bias of the values of a block; None if it has none, or none of floats."""
        name = next(name for name in attention.parts if "v" in name)
        bias = self.model.tensors.get(attention.name(name, "bias"))
        if bias is None or bias.dtype not in FLOATS:
            return None
        values = read_bias(self.model, bias, sum(attention.rows[part] for part in attention.parts[name]))
        return values[len(values) - attention.rows["v"] :]


def _found(
    model: GgufModel,
    site: Site,
    how: How,
    rows: list[ConstantRow],
    outputs: Mapping[int, TensorHeader],
    *,
    own: Own,
    ignored: str = "",
    inputs: Mapping[int, int] | None = None,
    stacks: Mapping[str, Support] | None = None,
    beside: bool = True,
) -> ConstantRows:
    """The rows with what lies beside them, and how large they are beside the projections' weights.

    `outputs` are the projections by their layers; `inputs` their columns without those of an added head.
    """
    alive, named = _alive(model, rows, how) if beside else ("absent", ())
    notes, measured = dict[str, None](), []
    for row in rows:
        unit, note = _unit(model, row, outputs[row.layer], (inputs or {}).get(row.layer)) if row.acts else (0.0, "")
        measured.append(replace(row, unit=unit))
        notes |= {note: None} if note else {}
    return ConstantRows(
        site,
        how,
        tuple(measured),
        len(outputs),
        model.architecture[:60],
        own=own,
        beside=alive,
        named=named,
        is_apart=how != "head" and _is_apart(model, {row.tensor for row in rows}),
        ignored=ignored,
        stacks=stacks or {},
        notes=tuple(notes),
    )


def _alive(model: GgufModel, rows: list[ConstantRow], how: How) -> tuple[Beside, tuple[str, ...]]:
    """Kind of the biases of the other projections in the blocks of `rows`, and which; if some are alive, those."""
    blocks = tuple(f"blk.{row.layer}." for row in rows)
    own = {module.rpartition(".")[2] for module in MODULES.values()} | ({"attn_v"} if how == "value" else set())
    kinds: dict[str, list[TensorHeader]] = {}
    for name, tensor in _other_biases(model, blocks):
        if name not in own:
            kinds.setdefault(name, []).append(tensor)

    def is_alive(tensor: TensorHeader) -> bool:
        return bool(decode(tensor, model.read(tensor)).any())

    alive = tuple(kind for kind, tensors in kinds.items() if any(map(is_alive, tensors)))
    return ("alive", alive) if alive else ("zero" if kinds else "absent", tuple(kinds))


def _other_biases(model: GgufModel, blocks: tuple[str, ...]) -> Iterator[tuple[str, TensorHeader]]:
    """The biases of projections in some blocks: the module's name in its block, and the tensor."""
    for name, tensor in model.tensors.items():
        match = _BESIDE.fullmatch(name)
        if match is None or not name.startswith(blocks) or "norm" in match[1]:
            continue
        if tensor.dtype in FLOATS and tensor.size <= 8 * MAX_WIDTH:
            yield match[1], tensor


def _is_apart(model: GgufModel, names: set[str]) -> bool:
    """True if the tensors are among the biases that come last, as new ones do, or in a file of nothing but biases."""
    if is_shared(model):
        first = {tensor.name for tensor in model.header.tensors}
        return names <= first and all(name.endswith(".bias") for name in first)
    order = [tensor.name for header in model.files for tensor in header.tensors]
    return names <= set(takewhile(lambda name: name.endswith(".bias"), reversed(order)))


def _unit(model: GgufModel, row: ConstantRow, output: TensorHeader, inputs: int | None) -> tuple[float, str]:
    """The norm of a column of the projection behind a row, and the reason if it is not known."""

    def values(part: TensorHeader, data: bytes) -> np.ndarray:
        if part.dtype in FLOATS:
            return decode(replace(part, shape=(len(data) // FLOATS[part.dtype].itemsize,)), data)
        return dequantize(part.dtype, data, TENSOR_TYPES[part.dtype].block)

    without = 0.0 if inputs is None or row.norm is None else row.norm**2
    block = TENSOR_TYPES[output.dtype].block_bytes
    try:
        unit = column_norm(output, inputs or output.shape[-1], model.read, values, block=block, without=without)
    except (InputError, MissingPackageError) as error:
        if isinstance(error, BrokenFileError):
            raise
        return 0.0, f"the norms are given alone: {error}"
    return unit, "" if unit else f"{output.name} is zero, or holds a NaN or infinity"
