"""Sets of two files of which the second is shared: moods of one base that hold its weights once.

The first file is a mood's own: all metadata, the record, and the tensors that hold the biases. The second is a link to
a file with all other tensors, and nothing that depends on the weights of a mood.

llama.cpp (src/llama-model-loader.cpp of llama-cpp-python 0.3.36) finds the second by the first one's name. Of the first
it reads ``split.no``, ``split.count`` and ``split.tensors.count``, which must count the tensors of both; of the second,
``split.no`` alone. There is no ``split.tensors.count`` in it: moods of one base may have different numbers of tensors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...core.plan import PlannedFile
from ...core.tensors import TensorHeader
from ...errors import BrokenFileError, InputError
from .header import Field, number_field, split_field, uint32_field
from .layout import PADDING, Placed, layout, place_of_data
from .model import SPLIT, GgufModel, read_header

_SHARED = "emobake.shared"
"""Key in a shared file."""
_JOIN = "emobake.join"
"""Key in a first file: the place of a page at which the data of one joined file begin, and the number of each of the
first file's tensors in it."""
_SUFFIX = ".shared"
_DIGITS = 8


@dataclass(frozen=True)
class SharedNames:
    """Names of a set whose second file is shared."""

    first: str
    second: str
    stem: str | None = None
    """The base's name, after which the shared file is named; `second` is then a link. None: it is the file itself."""
    earlier: str = ""
    """The shared file of the base, if that is such a set itself."""


def is_shared(model: GgufModel) -> bool:
    """True if a model is a set whose second file is shared."""
    return len(model.files) == 2 and model.files[1].number(_SHARED) == 1 and _JOIN in model.header.by_key


def shared_names(model: GgufModel, first: str, second: str) -> SharedNames:
    """Names for a mood of `model`; the links of `model` are read."""
    if is_shared(model):
        # Named after the base, however often it was baked; unless there are no links, and it has no name of its own.
        earlier = model.paths[1].resolve().name
        if SPLIT.fullmatch(earlier) is None:
            return SharedNames(first, second, earlier.removesuffix(".gguf").partition(_SUFFIX)[0], earlier)
    match = SPLIT.fullmatch(model.paths[0].name)
    return SharedNames(first, second, match[1] if match else model.paths[0].name.removesuffix(".gguf"))


def lay_out_shared(
    model: GgufModel, names: SharedNames, fields: Sequence[Field], tensors: Sequence[Placed], own: Collection[str]
) -> tuple[PlannedFile, ...]:
    """Distribute the metadata and the tensors of one file over a set: the first file, the shared one, and the link.

    The first file has the tensors `own`, and those of the first file of a base that is such a set itself.
    """
    header = model.header
    own = {*own, *(tensor.name for tensor in (header.tensors if is_shared(model) else ()))}
    places = {n: one for n, one in enumerate(tensors) if one.name in own}
    rest = [one for n, one in enumerate(tensors) if n not in places]
    count = len(tensors)
    split = [split_field("split.no", 0), split_field("split.count", 2), split_field("split.tensors.count", count)]
    join = number_field(_JOIN, [place_of_data(header.alignment, tensors), *places])
    first = layout(header.version, header.alignment, [*fields, *split, join], list(places.values()))
    alignment = [field for field in fields if field.key == "general.alignment"]
    second_fields = [*alignment, split_field("split.no", 1), split_field("split.count", 2), uint32_field(_SHARED, 1)]
    second = layout(header.version, header.alignment, second_fields, rest)
    name = names.second if names.stem is None else _shared_name(model, names, rest)
    files = (PlannedFile(names.first, first, weights=True), PlannedFile(name, second, weights=True, shared=True))
    return files if names.stem is None else (*files, PlannedFile(names.second, (), weights=True, link=name))


def joined(model: GgufModel) -> tuple[list[Field], list[TensorHeader], int]:
    """Metadata and tensors of a shared set as one file has them, and the place of a page at which its data begin.

    Raises:
        InputError: the model is no shared set; BrokenFileError: its first file does not tell the order.
    """
    if not is_shared(model):
        raise InputError(f"{model.name}: is not a set that shares a file (llama-gguf-split merges others)")
    numbers, own = model.header.numbers(_JOIN) or (), list(model.header.tensors)
    place, places = next(iter(numbers), 0), numbers[1:]
    ascending = all(one < other for one, other in zip((-1, *places), places, strict=False))
    if len(places) != len(own) or not ascending or max(places, default=0) >= len(model.tensors):
        raise BrokenFileError(f"{model.name}: its {_JOIN} does not tell the order of its tensors; bake it again")
    rest, first = iter(model.files[1].tensors), dict(zip(places, own, strict=True))
    tensors = [first[number] if number in first else next(rest) for number in range(len(model.tensors))]
    dropped = (PADDING, _JOIN)
    fields = [field for field in model.header.fields if field.key not in dropped and not field.key.startswith("split.")]
    return fields, [model.tensors[tensor.name] for tensor in tensors], place


def plan_join(model: GgufModel, name: str) -> PlannedFile:
    """Plan the file `name` with the bytes that the bake of a shared set into one file has.

    Raises:
        InputError: as `joined`.
    """
    fields, tensors, place = joined(model)
    header, placed = model.header, [Placed.carried(tensor) for tensor in tensors]
    return PlannedFile(name, layout(header.version, header.alignment, fields, placed, place=place), weights=True)


def _shared_name(model: GgufModel, names: SharedNames, tensors: Sequence[Placed]) -> str:
    """The shared file's name: after the base, and by a digest after its tensors too, unless it has all of the base."""
    if names.earlier and [tensor.name for tensor in tensors] == [tensor.name for tensor in model.files[1].tensors]:
        return names.earlier
    if tensors == [Placed.carried(model.tensors[tensor.name]) for file in model.files for tensor in file.tensors]:
        return f"{names.stem}{_SUFFIX}.gguf"
    described = repr([(tensor.name, tensor.dtype, tensor.shape) for tensor in tensors])
    return f"{names.stem}{_SUFFIX}-{hashlib.sha256(described.encode()).hexdigest()[:_DIGITS]}.gguf"


def is_shared_file(path: Path) -> bool:
    """True if a file is the shared one of a set."""
    return path.is_file() and read_header(path).number(_SHARED) == 1
