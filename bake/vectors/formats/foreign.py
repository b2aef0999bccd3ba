"""Reading the steering vectors that other projects publish: .npz, PyTorch, GGUF control vectors, safetensors.

Where each acts and how it counts layers is in ``vectors/README.md``. What a file does not say about itself is never
guessed: reading it is refused until the user says it.
"""

from __future__ import annotations

import io
import lzma
import math
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...core.strict_json import parse_json_object
from ...core.tensors import FLOATS, decode
from ...core.vector_set import MAX_LAYERS, VectorSet, is_emotion_name
from ...errors import BrokenFileError, EmobakeError, InputError, VectorError
from ...formats.safetensors import parse_header
from ...storage.files import read_at, sha256_of
from .own import FORMAT, in_order, with_metadata

MAX_BYTES = 2**31
"""Of a file, and of what a compressed one unpacks to. 171 emotions for a model of 27B are a tenth of it."""
_PERSONA = re.compile(r"(.+)_(?:response_avg|prompt_avg|prompt_last)_diff")


@dataclass(frozen=True)
class _Found:
    """What a file holds and says; empty and None where it says nothing."""

    tables: Mapping[str, np.ndarray]
    """Name -> floats ``[rows, hidden]``, of any float dtype."""
    site: str = ""
    first_row: int | None = None
    """Layer of the first row; -1 for the embeddings."""
    source: str = ""
    open_ended: bool = False
    """Whether the layers after the last row are meant to get nothing."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """As `emobake.vector_files.to_metadata` gives it, in a file of our own."""


def read_foreign(
    path: Path, emotions: Iterable[str] | None = None, *, site: str = "", first_row: int | None = None
) -> VectorSet:
    """Read the given `emotions` (None: all) of a file in another project's form, chosen by its suffix.

    `site` (one of `emobake.vectors.SITES`) and `first_row` (the layer of the first row, -1 for the embeddings, which
    are left out) are for files that do not say them. Layers in front of the first row, and layers that a control
    vector leaves out, get zeros.

    Raises:
        VectorError: no vectors of this form in it, a wrong shape or dtype, a NaN or infinity, a wanted emotion that is
            not there, a site or first row that is not said or contradicts what is.
        BrokenFileError: damaged, or larger than `MAX_BYTES`.
        InputError: an unknown suffix.
        EmobakeError: a package that its form needs is not installed.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(
            f"{path}: is no known form of vectors; give {', '.join(_READERS)}, or a folder of JSON files as published"
        )
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise BrokenFileError(f"{path}: {size} bytes are too many for a set of vectors")
    found = reader(path)
    tables = _checked(path, found.tables, emotions)
    start = _decide(path, "the layer of its first row", "--first-row", found.first_row, first_row)
    acts = _decide(path, "where its vectors act", "--site", found.site or None, site or None)
    rows = np.stack(list(tables.values()))
    if start < 0:
        rows = rows[:, -start:]
    elif start > 0:
        rows = np.pad(rows, ((0, 0), (start, 0), (0, 0)))
    if not 0 < rows.shape[1] <= MAX_LAYERS:
        raise VectorError(f"{path}: gives {rows.shape[1]} layers; expected 1 to {MAX_LAYERS}")
    digests = {path.name: sha256_of(path)}
    vectors = VectorSet(tuple(tables), rows, path.name, digests, acts, source=found.source, open_ended=found.open_ended)
    return with_metadata(vectors, {**found.metadata, "site": acts}) if found.metadata else vectors


def _decide(path: Path, what: str, option: str, said: Any, given: Any) -> Any:
    if said is None and given is None:
        example = "attention_output or layer_output" if option == "--site" else "0 (first block) or -1 (embeddings)"
        raise VectorError(
            f"{path}: does not say {what}; find out, then `emobake vectors convert` it once with {option} {example}"
        )
    if said is not None and given is not None and said != given:
        raise VectorError(f"{path}: says {said} for {what}, which contradicts {option} {given}")
    return given if said is None else said


def _checked(path: Path, tables: Mapping[str, np.ndarray], wanted: Iterable[str] | None) -> dict[str, np.ndarray]:
    """The wanted tables as float32, under names that are fit to be an emotion's, all of one shape."""
    named: dict[str, np.ndarray] = {}
    for given, table in tables.items():
        name = given.strip().lower()
        if not is_emotion_name(name):
            raise VectorError(f"{path}: {given[:60]!r} cannot be the name of an emotion; rename it")
        if name in named:
            raise VectorError(f"{path}: {name!r} stands twice in it, as {given[:60]!r} too")
        named[name] = table
    chosen = in_order(named) if wanted is None else list(dict.fromkeys(wanted))
    missing = [name for name in chosen if name not in named]
    if missing or not chosen:
        have = ", ".join(list(named)[:20]) or "none"
        raise VectorError(f"{path}: has no vectors{' for ' * bool(missing)}{', '.join(missing)} (it has {have})")
    result: dict[str, np.ndarray] = {}
    for name in chosen:
        table = named[name]
        if table.ndim != 2 or 0 in table.shape or table.shape[0] > MAX_LAYERS + 1:
            raise VectorError(f"{path}: {name!r} has shape {list(table.shape)}, not [layers, hidden]")
        if table.shape != named[chosen[0]].shape:
            raise VectorError(
                f"{path}: {name!r} is {list(table.shape)}, but {chosen[0]!r} is {list(named[chosen[0]].shape)}"
            )
        if table.dtype not in FLOATS.values():
            raise VectorError(f"{path}: {name!r} holds {table.dtype}, not floats")
        with np.errstate(over="ignore"):
            result[name] = table.astype(np.float32)
        if not np.isfinite(result[name]).all():
            raise VectorError(f"{path}: {name!r} has a NaN, or a number that float32 cannot hold")
    return result


# --- numpy ------------------------------------------------------------------------------------------------------


def _npz(path: Path) -> _Found:
    """One ``[layers, hidden]`` array per emotion; ours has our metadata, as JSON, in ``__metadata__``."""
    arrays: dict[str, np.ndarray] = {}
    for member, data in _unpack(path):
        name = member.removesuffix(".npy")
        if name in arrays:
            raise BrokenFileError(f"{path}: {name[:60]!r} stands twice in it")
        arrays[name] = _npy(path, name, data)
    own = arrays.pop("__metadata__", None)
    if own is None:
        return _Found(arrays)
    if own.ndim != 0 or own.dtype.kind != "U":
        raise BrokenFileError(f"{path}: its __metadata__ is not a text")
    metadata = parse_json_object(str(own), f"{path} (__metadata__)")
    if metadata.get("format") != FORMAT:
        raise VectorError(f"{path}: its metadata does not say format {FORMAT!r}; it is of another version of emobake")
    return _Found(arrays, str(metadata.get("site")), 0, metadata=metadata)


def _npy(path: Path, name: str, data: bytes) -> np.ndarray:
    """One array, once its header is seen to describe exactly the bytes that are there."""
    stream = io.BytesIO(data)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        shape, fortran, dtype = readers[np.lib.format.read_magic(stream)](stream)
        if dtype.hasobject or stream.tell() + math.prod(shape) * dtype.itemsize != len(data):
            raise ValueError("not plain numbers, or not as many as it says")
        array: np.ndarray = np.frombuffer(data, dtype, offset=stream.tell())
        return array.reshape(shape, order="F" if fortran else "C")
    except (ValueError, KeyError, TypeError, OverflowError, SyntaxError, RecursionError, MemoryError) as error:
        raise BrokenFileError(f"{path}: {name[:60]!r} is not a numpy array ({_reason(error)})") from None


def _unpack(path: Path) -> Iterator[tuple[str, bytes]]:
    """The members of a zip archive, once it is seen not to unpack to more than `MAX_BYTES`: name, content."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
            if size > MAX_BYTES:
                raise BrokenFileError(f"{path}: unpacks to {size} bytes, too many for a set of vectors")
            for member in archive.infolist():
                yield member.filename, archive.read(member)
    # NotImplementedError: an unknown compression; RuntimeError: encrypted.
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, RuntimeError, ValueError, EOFError) as error:
        raise BrokenFileError(f"{path}: is not a whole archive ({_reason(error)}); fetch it again") from None


# --- PyTorch ----------------------------------------------------------------------------------------------------


def _pt(path: Path) -> _Found:
    """A tensor, a dict of them, or a dict with ``emotions`` and ``vectors``; persona vectors by their file's name."""
    try:
        import torch
    except ImportError:
        raise EmobakeError(f"{path}: reading it needs PyTorch; pip install 'emobake[chat]'") from None
    for _ in _unpack(path):  # The form before PyTorch 1.6 is no archive, and is refused.
        pass
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of the unpickler: whatever a hostile file provokes
        raise VectorError(
            f"{path}: holds something else than tensors, or is damaged ({_reason(error)}); save the tensors alone"
        ) from None
    persona = _PERSONA.fullmatch(path.stem)
    if isinstance(loaded, torch.Tensor):
        name = persona[1] if persona else path.stem
        found = _Found({name.lower(): _array(path, name, loaded)})
    elif isinstance(loaded, dict) and isinstance(loaded.get("vectors"), torch.Tensor):
        found = _Found(_stacked(path, loaded))
    elif isinstance(loaded, dict) and loaded and all(isinstance(key, str) for key in loaded):
        found = _Found({name: _array(path, name, table) for name, table in loaded.items()})
    else:
        raise VectorError(
            f"{path}: holds a {type(loaded).__name__}; expected a tensor [layers, hidden], a dict from emotion to one, "
            "or a dict with emotions and vectors"
        )
    if persona:
        return replace(found, site="layer_output", first_row=-1, source="persona vector")
    return found


def _stacked(path: Path, loaded: Mapping[Any, Any]) -> dict[str, np.ndarray]:
    names, vectors = loaded.get("emotions"), _array(path, "vectors", loaded["vectors"])
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise VectorError(f"{path}: its emotions are not a list of names")
    if vectors.ndim != 3 or len(vectors) != len(names) or len(set(names)) != len(names):
        raise VectorError(f"{path}: {len(names)} emotions, but vectors of shape {list(vectors.shape)}")
    return dict(zip(names, vectors, strict=True))


def _array(path: Path, name: str, tensor: Any) -> np.ndarray:
    import torch

    if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided or tensor.is_quantized:
        raise VectorError(f"{path}: {name[:60]!r} is not a plain tensor")
    if tensor.numel() * tensor.element_size() > MAX_BYTES or not tensor.is_floating_point():
        raise VectorError(f"{path}: {name[:60]!r} is {tensor.dtype} {list(tensor.shape)}, not floats [layers, hidden]")
    # numpy does not know bfloat16.
    wide = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    try:
        array: np.ndarray = tensor.detach().to(wide).numpy()
    except (RuntimeError, TypeError, NotImplementedError):  # no data (the meta device), nested, and what comes next
        raise VectorError(f"{path}: {name[:60]!r} is not a plain tensor") from None
    return array


# --- GGUF -------------------------------------------------------------------------------------------------------


def _gguf(path: Path) -> _Found:
    """A control vector of llama.cpp: 1-D F32 tensors ``direction.N``, added to the output of block N.

    llama.cpp refuses ``direction.0`` (common/common.cpp), so blocks count from 0 and the first has none.
    """
    fields, directions = _gguf_content(path)
    if fields.get("general.architecture") != "controlvector":
        raise VectorError(f"{path}: is a GGUF of {fields.get('general.architecture', '?')}, not of a control vector")
    if not directions:
        raise VectorError(f"{path}: holds no direction.N")
    hidden = next(iter(directions.values())).shape
    table = np.zeros((max(directions) + 1, *hidden), np.float32)
    for layer, row in directions.items():
        if row.shape != hidden:
            raise VectorError(f"{path}: direction.{layer} has {row.size} floats, others have {hidden[0]}")
        table[layer] = row
    hint = fields.get("controlvector.model_hint", "")
    source = f"control vector{f' for {hint}' if hint else ''}"
    return _Found({path.stem.lower(): table}, "layer_output", 0, source, open_ended=True)


def _gguf_content(path: Path) -> tuple[dict[str, str], dict[int, np.ndarray]]:
    """The text fields, and layer -> direction."""
    try:
        from gguf import GGUFReader, GGUFValueType
    except ImportError:
        raise EmobakeError(f"{path}: reading it needs the gguf package; pip install 'emobake[gguf]'") from None

    class Bounded(GGUFReader):  # type: ignore[misc]
        # The package reads what is not there as nothing, and goes on as often as the file says.
        def _get(self, offset: int, dtype: Any, count: Any = 1, override_order: Any = None) -> Any:
            if offset + int(count) * np.dtype(dtype).itemsize > len(self.data):
                raise ValueError("it ends too early")
            return super()._get(offset, dtype, count, override_order)

        def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
            if raw_type == GGUFValueType.ARRAY:
                raise ValueError("a list in its metadata, which control vectors do not have")
            return super()._get_field_parts(orig_offs, raw_type)

    directions: dict[int, np.ndarray] = {}
    try:
        reader = Bounded(path)
        fields = {
            name: bytes(part.parts[-1]).decode()
            for name, part in reader.fields.items()
            if part.types == [GGUFValueType.STRING]
        }
        for tensor in reader.tensors:
            match = re.fullmatch(r"direction\.(\d{1,4})", tensor.name, re.ASCII)
            if match is None or int(match[1]) >= MAX_LAYERS:
                raise VectorError(f"{path}: {tensor.name[:60]!r} is not a direction.N of a layer")
            layer = int(match[1])
            if layer == 0:
                raise VectorError(f"{path}: has a direction.0, which llama.cpp refuses: layers may be off by one")
            if layer in directions:
                raise VectorError(f"{path}: direction.{layer} stands twice in it")
            if tensor.tensor_type.name != "F32" or tensor.data.ndim != 1:
                raise VectorError(
                    f"{path}: {tensor.name} is {tensor.tensor_type.name} {list(tensor.shape)}, not F32 [hidden]"
                )
            directions[layer] = np.array(tensor.data, np.float32)
    except (ValueError, KeyError, IndexError, OverflowError, TypeError, MemoryError) as error:
        raise BrokenFileError(f"{path}: is not a whole GGUF file ({_reason(error)}); fetch it again") from None
    return fields, directions


# --- safetensors ------------------------------------------------------------------------------------------------


def _safetensors(path: Path) -> _Found:
    """One ``[layers, hidden]`` tensor per emotion; our own files are read by `emobake.vector_files`."""
    read = read_at(path)
    headers = parse_header(str(path), path.stat().st_size, read)
    return _Found({header.name: decode(header, read(header.start, header.end - header.start)) for header in headers})


_READERS: dict[str, Callable[[Path], _Found]] = {
    ".safetensors": _safetensors,
    ".npz": _npz,
    ".pt": _pt,
    ".pth": _pt,
    ".gguf": _gguf,
}


def _reason(error: BaseException) -> str:
    return str(error).splitlines()[0][:120] if str(error) else type(error).__name__
