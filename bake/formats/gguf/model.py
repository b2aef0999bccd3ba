"""A GGUF model as the planner sees it, and opening one: a file, or a set of files that llama.cpp split."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.strict_json import parse_json_object
from ...errors import BrokenFileError, InputError
from ...storage.files import read_at
from .header import GgufHeader, GgufTensor, parse_gguf

SPLIT = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
"""How llama.cpp (llama_split_path) names the files of a set, counted from 1."""
_MAX_FILES = 1000
RECORD = "emobake.record"
"""The key under which a baked file keeps what a checkpoint keeps in emobake.json."""


@dataclass(frozen=True, eq=False)
class GgufModel:
    """What is known of a model before any of its tensors is read."""

    name: str
    """How messages call it: the path as the user gave it."""
    files: tuple[GgufHeader, ...]
    """One, or those of a split set in order. The first one's metadata is the model's."""
    tensors: Mapping[str, GgufTensor]
    read: Callable[[GgufTensor], bytes]
    """The bytes of one tensor; used for existing biases only."""

    @property
    def header(self) -> GgufHeader:
        """The header whose metadata is the model's."""
        return self.files[0]

    @property
    def architecture(self) -> str:
        """``general.architecture``."""
        return self.header.text("general.architecture")

    @property
    def block_count(self) -> int:
        """Number of decoder layers; BrokenFileError when the file does not say."""
        return self.dimension("block_count")

    @property
    def embedding_length(self) -> int:
        """Width of the residual stream; BrokenFileError when the file does not say."""
        return self.dimension("embedding_length")

    def dimension(self, key: str) -> int:
        """A positive whole number under the architecture's `key`; BrokenFileError when there is none."""
        value = self.header.number(f"{self.architecture}.{key}")
        if type(value) is not int or not 0 < value < 2**31:
            raise BrokenFileError(f"{self.name}: {self.architecture}.{key} is {value!r}, not a positive number")
        return value

    @property
    def record(self) -> dict[str, Any] | None:
        """What an earlier bake wrote about itself; None for a file that was never baked."""
        text = self.header.text(RECORD)
        return parse_json_object(text, f"{self.name} ({RECORD})") if text else None


def split_path(path: Path, number: int, count: int) -> Path:
    """File `number` (from 1) of a set of `count`, beside `path`: any of them, or the name without numbers."""
    match = SPLIT.fullmatch(path.name)
    stem = match[1] if match else path.name.removesuffix(".gguf")
    return path.with_name(f"{stem}-{number:05d}-of-{count:05d}.gguf")


def open_gguf(path: Path) -> GgufModel:
    """Read what planning needs of a GGUF model; of a split set, `path` is the first file.

    Raises:
        InputError: no such file, or not the first of its set; BrokenFileError: a header that is wrong, a file of the
            set that is missing or another set's.

    """
    if not path.is_file():
        what = "is a folder; give the .gguf file" if path.is_dir() else "no such file"
        raise InputError(f"{path}: {what}")
    first = _header(path)
    count = first.number("split.count") or 0
    if type(count) is not int or not 0 <= count <= _MAX_FILES:
        raise BrokenFileError(f"{path}: split.count is {count!r}")
    files = [first]
    if count > 1:
        if first.number("split.no") != 0 or SPLIT.fullmatch(path.name) is None:
            raise InputError(f"{path}: is one of {count} files; give the first, {split_path(path, 1, count).name}")
        for number in range(2, count + 1):
            part = split_path(path, number, count)
            if not part.is_file():
                raise BrokenFileError(f"{part}: is missing, one of the {count} files of the set; fetch it")
            header = _header(part)
            if header.number("split.no") != number - 1 or header.number("split.count") != count:
                raise BrokenFileError(f"{part}: does not say that it is file {number} of {count}; fetch it again")
            files.append(header)
    tensors: dict[str, GgufTensor] = {}
    for header in files:
        for tensor in header.tensors:
            if tensor.name in tensors:
                raise BrokenFileError(f"{path}: {tensor.name} is in both {tensors[tensor.name].file} and {tensor.file}")
            tensors[tensor.name] = tensor
    wanted = first.number("split.tensors.count")
    if count > 1 and wanted is not None and wanted != len(tensors):
        raise BrokenFileError(f"{path}: the set has {len(tensors)} tensors and claims {wanted}; fetch it again")
    return GgufModel(
        name=str(path),
        files=tuple(files),
        tensors=tensors,
        read=lambda tensor: read_at(Path(tensor.file))(tensor.start, tensor.end - tensor.start),
    )


def _header(path: Path) -> GgufHeader:
    return parse_gguf(str(path), path.stat().st_size, read_at(path))
