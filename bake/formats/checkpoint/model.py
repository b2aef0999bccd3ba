"""A checkpoint as the planner sees it: plain values, wherever they came from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ...core.limits import MAX_HIDDEN, MAX_LAYERS
from ...core.record import RECORD_FILE, columns_of, history_of
from ...core.tensors import FLOATS, TensorHeader, WeightFile
from ...core.vector_set import ModelShape
from ...errors import BrokenFileError
from ...storage.files import Stamps
from ..front_matter import FrontMatter, read_front_matter
from ..safetensors import NewTensor
from .quantisation import Parts, Quantisation, find_quantisation
from .wrappers import language_config


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A checkpoint whose headers were read, and none of its weights."""

    name: str
    """Name in messages: the folder or the Hub id as the user gave it."""
    config: Mapping[str, Any]
    weights: tuple[WeightFile, ...]
    tensors: Mapping[str, TensorHeader]
    read: Callable[[TensorHeader], bytes]
    """Reads one tensor, or bytes of a file under no name; used for existing biases, and for what an output keeps."""
    digest: Callable[[str], str] = lambda name: ""
    """Computes the sha256 of a side file; empty if it cannot be read."""
    read_side: Callable[[str], bytes] = lambda name: b""
    """Reads a small side file."""
    side_files: Mapping[str, int] = field(default_factory=dict)
    """Path with ``/`` -> bytes, for every file without weights. A folder that is skipped whole ends in ``/``."""
    unused: Mapping[str, int] = field(default_factory=dict)
    """The same for an index beside a file that holds all weights, which no loader reads."""
    unfollowed: tuple[str, ...] = ()
    """Links out of the folder, which are not followed; those to a folder end in ``/``."""
    tokenizer_config: Mapping[str, Any] = field(default_factory=dict)
    """``tokenizer_config.json``; empty without one."""
    index_metadata: Mapping[str, Any] = field(default_factory=dict)
    """``metadata`` of ``model.safetensors.index.json``; empty without an index."""
    quant_configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """File beside config.json, one of `emobake.core.side_files.QUANT_CONFIGS` -> its quantisation config."""
    repo_id: str = ""
    revision: str = ""
    """Commit on the Hub, if the checkpoint came from there."""
    card: str = ""
    """Text of README.md; of a long one, the beginning."""
    record: Mapping[str, Any] | None = None
    """JSON of ``emobake.json``, if the checkpoint was baked before."""
    folder: Path | None = None
    """Folder of its files; None for a commit on the Hub."""
    text_only: bool = False
    """True for the language model of a multimodal checkpoint alone: of its files, only `tensors` are carried, by these
    names, and no files that prepare images."""
    new_files: Mapping[str, bytes] = field(default_factory=dict)
    """Side files that an output gains."""
    changed_files: Mapping[str, bytes] = field(default_factory=dict)
    """Those of `side_files` that an output has with another content."""
    rewritten: Mapping[str, NewTensor] = field(default_factory=dict)
    """Tensors, all of them in `tensors`, that are made of others of the base, by their names here."""
    assembled: frozenset[str] = frozenset()
    """Weight files that are not carried whole: of each only its `tensors` are."""
    stamps: Stamps = field(default_factory=Stamps)
    """Stamps of its files from before they were read; empty for a commit on the Hub."""

    @cached_property
    def front_matter(self) -> FrontMatter:
        """Metadata of the card."""
        return read_front_matter(self.card)

    @cached_property
    def language_config(self) -> Mapping[str, Any]:
        """The fields of `config` that describe the language model; of a multimodal wrapper its ``text_config``."""
        return language_config(self.config)

    @cached_property
    def quantisation(self) -> Quantisation | None:
        """The quantisation that the checkpoint declares; None if it declares none.

        Raises:
            BrokenFileError: it says two things.
        """
        return find_quantisation(self.config, self.quant_configs, self.name)

    @cached_property
    def modules(self) -> Mapping[str, Parts]:
        """Module -> its tensors, by the last part of their names."""
        found: dict[str, dict[str, TensorHeader]] = {}
        for name, header in self.tensors.items():
            module, _, part = name.rpartition(".")
            found.setdefault(module, {})[part] = header
        return found

    @property
    def num_hidden_layers(self) -> int:
        """Number of decoder layers; BrokenFileError if the config does not say."""
        return config_dimension(self.language_config, self.name, "num_hidden_layers")

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream; BrokenFileError if the config does not say."""
        return config_dimension(self.language_config, self.name, "hidden_size")

    @cached_property
    def columns(self) -> Mapping[int, int]:
        """Layer -> column of the output projection in which an earlier bake stored its bias.

        Raises:
            InputError: the record of that bake is none.
        """
        file = f"{self.name}/{RECORD_FILE}"
        return columns_of(history_of(self.record, file), file)

    def read_column(self, tensor: TensorHeader, column: int) -> bytes:
        """Read what each row of a matrix of floats stores in one column, see `emobake.core.biases.Column`.

        The scales of some quantised modules are stored the other way round; then it is a row.

        Raises:
            BrokenFileError: the matrix has no such column, is not of floats, or ends too early.
        """
        by_rows = self._has_inputs_first(tensor)
        if tensor.dtype not in FLOATS or len(tensor.shape) != 2 or column >= tensor.shape[0 if by_rows else 1]:
            raise BrokenFileError(f"{self.name}: {tensor.name} stores no bias in column {column}")
        width, (rows, columns) = FLOATS[tensor.dtype].itemsize, tensor.shape
        if by_rows:
            start = tensor.start + column * columns * width
            return self.read(TensorHeader("", "U8", (columns * width,), tensor.file, start, start + columns * width))
        row, at_once, found = columns * width, max(1, _READ // (columns * width)), []
        for first in range(0, rows, at_once):
            size, start = min(at_once, rows - first) * row, tensor.start + first * row
            data = self.read(TensorHeader("", "U8", (size,), tensor.file, start, start + size))
            if len(data) != size:
                raise BrokenFileError(f"{self.name}: ends within {tensor.name}; fetch it again")
            found.append(np.frombuffer(data, np.uint8).reshape(-1, row)[:, column * width :][:, :width].tobytes())
        return b"".join(found)

    def _has_inputs_first(self, tensor: TensorHeader) -> bool:
        """True for the part of a quantised module whose first axis is that of the inputs."""
        layout = None if self.quantisation is None else self.quantisation.layout
        part = None if layout is None else layout.column_part
        is_there = part is not None and part.inputs is not None and part.inputs.index == 0
        return is_there and part is not None and tensor.name.endswith(f".{part.name}")

    @property
    def shape(self) -> ModelShape:
        """Both, with the name."""
        return ModelShape(self.name, self.num_hidden_layers, self.hidden_size)


_READ = 8_000_000
"""Bytes of a matrix that are read at once."""
_SYNONYMS = {
    "num_hidden_layers": ("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
    "hidden_size": ("hidden_size", "n_embd", "d_model", "n_embed"),
}


_MOST = {"num_hidden_layers": MAX_LAYERS, "hidden_size": MAX_HIDDEN}


def config_dimension(config: Mapping[str, Any], name: str, field: str) -> int:
    """Read ``num_hidden_layers`` or ``hidden_size`` of a config, under any of its known names.

    Raises:
        BrokenFileError: missing, or not a positive number.
    """
    for key in _SYNONYMS[field]:
        value = config.get(key)
        if value is not None:
            if type(value) is not int or not 0 < value <= _MOST[field]:
                raise BrokenFileError(
                    f"{name}/config.json: {key} is {value!r:.60}, not a positive number of at most {_MOST[field]}"
                )
            return value
    raise BrokenFileError(f"{name}/config.json: has no {field}")
