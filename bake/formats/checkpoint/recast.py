"""A checkpoint whose tensors are laid out as another class has them. Rows move and names change.

Nothing is computed, but for rows that the old class divides by their norms as it runs.

Only headers are read here; the result says of which bytes of the base each tensor is made.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from ...core.heads import Heads
from ...core.limits import MAX_WIDTH
from ...core.plan import Fill, Piece, Rows, Span, UnitRows, Woven, piece_size
from ...core.tensors import TensorHeader
from ...errors import BrokenFileError
from ..safetensors import NewTensor
from .forms import Form, Rule
from .heads import heads_in
from .linear import Linear, Tensors
from .model import Checkpoint
from .quantisation import is_float


def recast(checkpoint: Checkpoint, form: Form) -> Checkpoint:
    """Lay out the tensors of `checkpoint` by the rules of `form`; its config stays as it is.

    Raises:
        BrokenFileError: a tensor is missing, or has another shape than the config says.
    """
    rules = form.rules_for(checkpoint.language_config)
    if not rules:
        return checkpoint
    left, new = dict(checkpoint.tensors), {}
    for name, tensor in _made(checkpoint, rules, left):
        if name in new:
            raise BrokenFileError(f"{checkpoint.name}: holds {name} twice")
        new[name] = tensor
    touched = {module for rule in rules for module in _instances(checkpoint, rule)}
    for name, header in left.items():
        if name in new or name.rpartition(".")[0] in touched:
            raise BrokenFileError(
                f"{header.file}: holds {name}, which {checkpoint.language_config.get('model_type')} does not have"
            )
    return remade(checkpoint, left, new)


def remade(checkpoint: Checkpoint, left: Mapping[str, TensorHeader], new: Mapping[str, NewTensor]) -> Checkpoint:
    """The checkpoint with the tensors `left` as they are and `new` ones that are made of its others.

    Each new tensor goes to the file of its first piece of the base; one without such a piece to the first file.
    """
    gone = {header.file for name, header in checkpoint.tensors.items() if name not in left}
    tensors = {**left, **{name: _header(name, tensor, checkpoint.weights[0].name) for name, tensor in new.items()}}
    files = {tensor.file for tensor in tensors.values()}

    def read(header: TensorHeader) -> bytes:
        pieces = new[header.name].pieces if header.name in new else (Span(header.file, header.start, header.size),)
        return b"".join(_read(checkpoint, piece) for piece in pieces)

    metadata = dict(checkpoint.index_metadata)
    if type(metadata.get("total_parameters")) is int:
        metadata["total_parameters"] += _elements(tensors.values()) - _elements(checkpoint.tensors.values())
    return replace(
        checkpoint,
        tensors=tensors,
        index_metadata=metadata,
        rewritten=new,
        assembled=checkpoint.assembled | gone,
        weights=tuple(weight for weight in checkpoint.weights if weight.name in files),
        read=read,
    )


def _elements(tensors: Iterable[TensorHeader]) -> int:
    return sum(math.prod(tensor.shape) for tensor in tensors)


def _rows_of(heads: Heads, part: str, total: int) -> int:
    """Rows of a part of a tensor of `total` rows."""
    return {"q": heads.queries * heads.key_size, "kv": heads.keys * heads.key_size, "ffn": total // 2}[part]


def _made(
    checkpoint: Checkpoint, rules: Iterable[Rule], left: dict[str, TensorHeader]
) -> Iterator[tuple[str, NewTensor]]:
    """Yield the tensors that the rules make, and take those that they are made of out of `left`."""
    heads = heads_in(checkpoint)

    def take(module: str) -> dict[str, TensorHeader]:
        """The tensors of a module, without its bias."""
        parts = {part: h for part, h in checkpoint.modules.get(module, {}).items() if part != "bias"}
        if not parts or any(header.name not in left for header in parts.values()):
            raise BrokenFileError(
                f"{checkpoint.name}: no tensor {module}.weight; these are not the weights of "
                f"{checkpoint.language_config.get('model_type')}"
            )
        for header in parts.values():
            del left[header.name]
        return parts

    for rule in rules:
        for layer in _layers(checkpoint, rule):
            targets = [target.format(layer=layer) for target in rule.targets]
            if rule.how == "stacked":
                modules = [[s.format(layer=layer, expert=e) for s in rule.sources] for e in _experts(checkpoint)]
                parts = [[_matrix(take(module), module, checkpoint) for module in expert] for expert in modules]
                yield f"{targets[0]}.weight", _stacked(checkpoint, targets[0], parts)
                continue
            source = rule.sources[0].format(layer=layer)
            taken = take(source)
            for target, made in zip(targets, _parts(checkpoint, rule, heads, source, taken), strict=True):
                yield from ((f"{target}.{part}", tensor) for part, tensor in made.items())


def _parts(
    checkpoint: Checkpoint, rule: Rule, heads: Heads, name: str, tensors: Mapping[str, TensorHeader]
) -> Iterable[Tensors]:
    """The tensors of the modules that are made of the module `name`, by their parts."""
    if rule.how == "rename":
        return [{part: NewTensor(h.dtype, h.shape, (Span(h.file, h.start, h.size),)) for part, h in tensors.items()}]
    if rule.how == "unit":
        source = _matrix(tensors, name, checkpoint)
        if not source.size:
            raise BrokenFileError(f"{source.file}: {source.name} is empty")
        piece = UnitRows(source.file, source.start, source.size // source.shape[0], source.shape[0], source.dtype)
        return [{"weight": NewTensor(source.dtype, source.shape, (piece,))}]
    linear = Linear.of(checkpoint, name)
    total = linear.outputs
    if rule.how == "paired":
        if not total or total % heads.key_size or heads.key_size % 2:
            raise _misfit(checkpoint, linear, heads)
        return [linear.reordered((*range(0, heads.key_size, 2), *range(1, heads.key_size, 2)))]
    if rule.how == "split":
        counts, repeats = [_rows_of(heads, part, total) for part in rule.rows], 1
    else:
        counts, repeats = [heads.group * heads.key_size, heads.key_size, heads.key_size], heads.keys
    if not total or repeats * sum(counts) != total:
        raise _misfit(checkpoint, linear, heads)
    ranges: list[list[tuple[int, int]]] = [[] for _ in counts]
    position = 0
    for _ in range(repeats):
        for found, count in zip(ranges, counts, strict=True):
            found.append((position, count))
            position += count
    return [linear.taken(found) for found in ranges]


def _matrix(tensors: Mapping[str, TensorHeader], name: str, checkpoint: Checkpoint) -> TensorHeader:
    """The weight of a module in floats."""
    if not is_float(tensors):
        header = next(iter(tensors.values()))
        raise BrokenFileError(
            f"{header.file}: {header.name} is {header.dtype} of shape {list(header.shape)}, not a matrix of floats"
        )
    return tensors["weight"]


def _stacked(checkpoint: Checkpoint, name: str, experts: list[list[TensorHeader]]) -> NewTensor:
    """The matrices of all experts, one below another; ``[experts, rows, columns]``."""
    first = experts[0]
    if any([(h.dtype, h.shape) for h in expert] != [(h.dtype, h.shape) for h in first] for expert in experts) or (
        len({(h.dtype, h.shape[1]) for h in first}) != 1
    ):
        raise BrokenFileError(f"{checkpoint.name}: the experts of {name} have different shapes or dtypes")
    rows, columns = sum(header.shape[0] for header in first), first[0].shape[1]
    pieces = tuple(Span(header.file, header.start, header.size) for expert in experts for header in expert)
    return NewTensor(first[0].dtype, (len(experts), rows, columns), pieces)


def _header(name: str, tensor: NewTensor, file: str) -> TensorHeader:
    """The place of a new tensor: in the file of its first piece of the base, else in `file`; and its size."""
    first = next((piece for piece in tensor.pieces if not isinstance(piece, bytes | Fill | Woven)), Span(file, 0, 0))
    return TensorHeader(name, tensor.dtype, tensor.shape, first.source, first.offset, first.offset + tensor.size)


def _read(checkpoint: Checkpoint, piece: Piece) -> bytes:
    """The bytes of a piece of a small tensor."""
    assert not isinstance(piece, bytes | Fill | UnitRows | Woven)
    size = piece_size(piece)
    data = checkpoint.read(TensorHeader("", "U8", (size,), piece.source, piece.offset, piece.offset + size))
    if isinstance(piece, Rows):
        rows = np.frombuffer(data, np.uint8).reshape(-1, len(piece.order), piece.row)
        data = rows[:, list(piece.order)].tobytes()
    return data


def _layers(checkpoint: Checkpoint, rule: Rule) -> range:
    return range(checkpoint.num_hidden_layers if "{layer}" in rule.sources[0] else 1)


def _instances(checkpoint: Checkpoint, rule: Rule) -> Iterator[str]:
    """The modules that a rule takes apart, but for experts."""
    if rule.how != "stacked":
        yield from (source.format(layer=layer) for source in rule.sources for layer in _layers(checkpoint, rule))


def _experts(checkpoint: Checkpoint) -> range:
    name = "num_local_experts"
    value = checkpoint.language_config.get(name)
    if type(value) is not int or not 0 < value <= MAX_WIDTH:
        raise BrokenFileError(f"{checkpoint.name}/config.json: {name} is {value!r:.60}, not a number of at least 1")
    return range(value)


def _misfit(checkpoint: Checkpoint, linear: Linear, heads: Heads) -> BrokenFileError:
    return BrokenFileError(
        f"{checkpoint.name}: {linear.name} has {linear.outputs} rows, which do not fit {heads.queries} heads of "
        f"{heads.key_size} and {heads.keys} keys"
    )
