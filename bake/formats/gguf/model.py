"""A GGUF model as the planner sees it, and opening one: a file, or a set of files that llama.cpp split."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np

from ...core.limits import MAX_GGUF_HEADER, MAX_HIDDEN, MAX_LAYERS, MAX_TENSORS, MAX_WIDTH
from ...core.names import is_plain
from ...core.strict_json import parse_json_object
from ...core.tensors import TensorHeader, WeightFile
from ...core.vector_set import ModelShape
from ...errors import BrokenFileError, InputError
from ...storage.files import Stamps, read_at
from .header import GgufHeader, parse_gguf, row_count
from .quants import COLUMN_TYPES
from .tensor_types import TENSOR_TYPES

SPLIT = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.ASCII)
"""Names of the files of a set as llama.cpp (llama_split_path) writes them, counted from 1."""
RECORD_KEY = "emobake.record"
"""Key of the record in the metadata."""
UNDO_KEY = "emobake.undo"
"""Key of the undo data in the metadata."""
PROJECTOR = "clip"
"""Architecture of an mmproj file, which makes tokens of images and sound for a model in a file of its own."""
_MAX_FILES = 1000
_READ = 2**22


@dataclass(frozen=True, eq=False)
class GgufModel:
    """A model whose headers were read, and none of its tensors."""

    name: str
    """Name in messages: the path as the user gave it."""
    folder: Path
    """Folder of its files."""
    files: tuple[GgufHeader, ...]
    """One, or those of a split set in order. The first one's metadata is the model's."""
    tensors: Mapping[str, TensorHeader]
    """`TensorHeader.file` is a name in `folder`."""
    stamps: Stamps = field(default_factory=Stamps)
    """Stamps of its files from before they were read."""

    @property
    def header(self) -> GgufHeader:
        """The header whose metadata is the model's."""
        return self.files[0]

    @property
    def weights(self) -> tuple[WeightFile, ...]:
        """The files."""
        return tuple(WeightFile(Path(header.file).name, header.size) for header in self.files)

    @property
    def paths(self) -> tuple[Path, ...]:
        """Paths of the files."""
        return tuple(Path(header.file) for header in self.files)

    @property
    def architecture(self) -> str:
        """``general.architecture``."""
        return self.header.text("general.architecture")

    @property
    def block_count(self) -> int:
        """``<architecture>.block_count``; BrokenFileError if the file does not say."""
        return self.dimension("block_count", MAX_LAYERS)

    @property
    def num_hidden_layers(self) -> int:
        """The blocks without those that predict further tokens, which are the last; BrokenFileError as before."""
        predicting = self.header.number(f"{self.architecture}.nextn_predict_layers") or 0
        if type(predicting) is not int or not 0 <= predicting < self.block_count:
            raise BrokenFileError(
                f"{self.name}: {self.architecture}.nextn_predict_layers is {predicting!r} of {self.block_count} blocks"
            )
        return self.block_count - predicting

    @property
    def hidden_size(self) -> int:
        """``<architecture>.embedding_length``; BrokenFileError if the file does not say."""
        return self.dimension("embedding_length", MAX_HIDDEN)

    @property
    def shape(self) -> ModelShape:
        """Both, with the name."""
        return ModelShape(self.name, self.num_hidden_layers, self.hidden_size)

    def dimension(self, key: str, most: int = MAX_WIDTH) -> int:
        """A positive number of at most `most` under the architecture's `key`; BrokenFileError if there is none."""
        value = self.header.number(f"{self.architecture}.{key}")
        if type(value) is not int or not 0 < value <= most:
            raise BrokenFileError(
                f"{self.name}: {self.architecture}.{key} is {value!r}, not a positive number of at most {most}"
            )
        return value

    def read(self, tensor: TensorHeader) -> bytes:
        """Read the bytes of one tensor."""
        return read_at(self.folder / tensor.file)(tensor.start, tensor.size)

    def read_column(self, tensor: TensorHeader, column: int) -> bytes:
        """Read what each row of a matrix stores of one column, see `emobake.core.biases.Column`.

        Raises:
            BrokenFileError: the matrix has no such column, is of a type that stores none, or ends too early.
        """
        kind, size = COLUMN_TYPES.get(tensor.dtype), TENSOR_TYPES[tensor.dtype].block_bytes
        blocks = np.frombuffer(self.read_blocks(tensor, column), np.uint8).reshape(-1, size)
        if kind is None:
            raise BrokenFileError(f"{self.name}: {tensor.name} stores no bias in column {column}")
        return blocks[:, kind.place : kind.place + kind.width].tobytes()

    def read_blocks(self, tensor: TensorHeader, column: int) -> bytes:
        """Read the block of each row of a matrix that begins at `column`.

        Raises:
            BrokenFileError: no block begins there, or the file ends too early.
        """
        rows, block = row_count(tensor), TENSOR_TYPES[tensor.dtype]
        if len(tensor.shape) != 2 or column >= tensor.shape[-1] or column % block.block:
            raise BrokenFileError(f"{self.name}: {tensor.name} stores no bias in column {column}")
        row, place = tensor.size // rows, column // block.block * block.block_bytes
        read, at_once, found = read_at(self.folder / tensor.file), max(1, _READ // row), []
        for start in range(0, rows, at_once):
            size = min(at_once, rows - start) * row
            data = read(tensor.start + start * row, size)
            if len(data) != size:
                raise BrokenFileError(f"{self.name}: ends within {tensor.name}; fetch it again")
            own = np.frombuffer(data, np.uint8).reshape(-1, row)[:, place : place + block.block_bytes]
            found.append(own.tobytes())
        return b"".join(found)

    @property
    def record(self) -> dict[str, Any] | None:
        """JSON of the record of an earlier bake; None for a file that was never baked."""
        text = self.header.text(RECORD_KEY)
        return parse_json_object(text, f"{self.name} ({RECORD_KEY})") if text else None


def split_path(path: Path, number: int, count: int) -> Path:
    """File `number` (from 1) of a set of `count`; `path` is any of them, or the name without numbers."""
    match = SPLIT.fullmatch(path.name)
    stem = match[1] if match else path.name.removesuffix(".gguf")
    return path.with_name(f"{stem}-{number:05d}-of-{count:05d}.gguf")


def open_gguf(path: Path) -> GgufModel:
    """Open a GGUF model; of a split set, `path` is the first file.

    Raises:
        InputError: no such file, not the first of its set, or no model but its projector of images; BrokenFileError: a
            wrong header, a file of the set that is missing or belongs to another one.
    """
    if not path.is_file():
        what = "is a folder; give the .gguf file" if path.is_dir() else "no such file"
        raise InputError(f"{path}: {what}")
    match = SPLIT.fullmatch(path.name)
    others = sorted(path.parent.glob(f"{escape(match[1])}-*-of-{match[3]}.gguf")) if match else ()
    stamps = Stamps.of([path, *(other for other in others if other.is_file())])
    first = read_header(path)
    if first.text("general.architecture") == PROJECTOR:
        raise InputError(
            f"{path}: is an mmproj file, which makes tokens of images and sound; give the file of the model beside it"
        )
    files = [first, *_rest_of_set(path, first)]
    tensors: dict[str, TensorHeader] = {}
    for header in files:
        for tensor in header.tensors:
            if not is_plain(tensor.name):
                raise BrokenFileError(f"{header.file}: {tensor.name[:120]!r} has control characters")
            if tensor.name in tensors:
                raise BrokenFileError(f"{path}: {tensor.name} is in both {tensors[tensor.name].file} and {tensor.file}")
            tensors[tensor.name] = replace(tensor, file=Path(header.file).name)
    wanted = first.number("split.tensors.count")
    if len(files) > 1 and wanted is not None and wanted != len(tensors):
        raise BrokenFileError(f"{path}: the set has {len(tensors)} tensors and claims {wanted}; fetch it again")
    return GgufModel(str(path), path.parent, tuple(files), tensors, stamps)


def read_header(path: Path) -> GgufHeader:
    """Read the header of one file.

    Raises:
        BrokenFileError: as `parse_gguf`.
    """
    return parse_gguf(str(path), path.stat().st_size, read_at(path))


def _rest_of_set(path: Path, first: GgufHeader) -> list[GgufHeader]:
    count = first.number("split.count") or 0
    if type(count) is not int or not 0 <= count <= _MAX_FILES:
        raise BrokenFileError(f"{path}: split.count is {count!r}")
    if count <= 1:
        return []
    if first.number("split.no") != 0 or SPLIT.fullmatch(path.name) is None:
        raise InputError(f"{path}: is one of {count} files; give the first, {split_path(path, 1, count).name}")
    files = []
    tensors, metadata = len(first.tensors), sum(len(field.data) for field in first.fields)
    for number in range(2, count + 1):
        # A link is followed, wherever it leads: only what parses as this file of the set is taken from there.
        part = split_path(path, number, count)
        if not part.is_file():
            what = f"leads to {part.readlink()}, which is missing" if part.is_symlink() else "is missing"
            raise BrokenFileError(f"{part}: {what}, one of the {count} files of the set; fetch it")
        header = read_header(part)
        if header.number("split.no") != number - 1 or header.number("split.count") != count:
            raise BrokenFileError(f"{part}: does not say that it is file {number} of {count}; fetch it again")
        tensors += len(header.tensors)
        metadata += sum(len(field.data) for field in header.fields)
        if tensors > MAX_TENSORS or metadata > 4 * MAX_GGUF_HEADER:
            raise BrokenFileError(f"{part}: the set has more tensors or metadata up to here than any model")
        files.append(header)
    return files
