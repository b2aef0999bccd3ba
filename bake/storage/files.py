"""Opening the checkpoint that a bake reads, and small files.

A checkpoint is read from `Files`, which a folder is here and a commit on the Hub in `emobake.hub_files`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from ..core.side_files import INDEX, SINGLE, is_carried
from ..errors import BrokenFileError, InputError
from ..formats.checkpoint.model import Checkpoint, WeightFile
from ..formats.safetensors import ReadAt, TensorHeader, parse_header, parse_json_object

MAX_JSON = 256 * 2**20
"""Bytes. No config, index or vector file known comes near it; a larger one is refused unread."""
_MAX_FILES = 20_000
Spread = Callable[[Callable[[str], tuple[TensorHeader, ...]], Iterable[str]], Iterable[tuple[TensorHeader, ...]]]
_SKIPPED_FOLDERS = ("original", "onnx", "openvino", "coreml", ".git", ".cache", "__pycache__", "runs")


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Turn what the system says of an impossible path (a link to itself, a name too long) into an `InputError`."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror})") from None
    except RuntimeError as error:
        if "loop" not in str(error):  # pathlib's word before Python 3.13
            raise
        raise InputError(f"{error}; remove the link") from None


def read_small(path: Path, name: str) -> bytes:
    """A whole file that has no business being large.

    Raises:
        InputError: it is not there, may not be read, or is larger than `MAX_JSON`.

    """
    try:
        size = path.stat().st_size
        if size > MAX_JSON:
            raise BrokenFileError(f"{name}: {size} bytes are too many for this kind of file")
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{name}: not found") from None
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror})") from None


@dataclass(frozen=True, eq=False)
class Files:
    """The files of a checkpoint, in a folder or in a commit on the Hub."""

    name: str
    """How messages call the place."""
    sizes: Mapping[str, int]
    """Path with ``/`` -> bytes. A folder that is skipped whole ends in ``/``."""
    small: Callable[[str], bytes]
    """The content of a small file; raises `InputError` when it cannot be read."""
    read_at: Callable[[str], ReadAt]
    """What reads any bytes of a file."""
    sha256: Callable[[str], str]
    """Digest of a weight file; empty when it is not known without reading the whole file."""
    repo_id: str = ""
    revision: str = ""
    """Commit hash, where the files come from the Hub."""

    def json(self, name: str) -> dict[str, Any] | None:
        """The JSON object in the small file `name`; None when there is no such file."""
        return parse_json_object(self.small(name), f"{self.name}/{name}") if name in self.sizes else None


def open_folder(folder: Path, *, hash_files: bool = False, listed: tuple[str, ...] = ()) -> Checkpoint:
    """Read what planning needs of a checkpoint in a local folder, and check it against itself.

    `listed` names the files of the Hub repository that the folder is a partial snapshot of.

    Raises:
        InputError: no such folder, or no config.json; BrokenFileError: an index or header that is wrong.

    """
    if folder.is_file():
        raise InputError(f"{folder}: is a file; give the folder of a Hugging Face checkpoint, or its Hub id")
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise InputError(f"{folder}: cannot be read")
    repo_id, revision = cached_id(folder)
    files = Files(
        name=str(folder),
        sizes=_list_files(folder),
        small=lambda name: read_small(folder / name, f"{folder}/{name}"),
        read_at=lambda name: read_at(folder / name),
        sha256=lambda name: _sha256(folder / name, hash_files),
        repo_id=repo_id,
        revision=revision,
    )
    checkpoint = open_checkpoint(files, listed=listed)
    unreadable = [name for name in checkpoint.side_files if is_carried(name) and not os.access(folder / name, os.R_OK)]
    if unreadable:
        raise InputError(f"{folder / unreadable[0]}: cannot be read")
    # Of a Hub repository only some files are here; the others are named as left out all the same.
    fetched = {weight.name for weight in checkpoint.weights}
    elsewhere = {name: 0 for name in listed if not is_carried(name) and name not in fetched}
    return replace(checkpoint, side_files=elsewhere | dict(checkpoint.side_files))


def open_checkpoint(files: Files, *, listed: tuple[str, ...] = (), spread: Spread = map) -> Checkpoint:
    """Read what planning needs of the checkpoint in `files`, and check it against itself.

    `listed` names further files of the repository; `spread` applies a function to every shard's name, as `map`.

    Raises:
        InputError: no config.json or no safetensors; BrokenFileError: an index or header that is wrong.

    """
    config = files.json("config.json")
    if config is None:
        _refuse_gguf(files, listed)
        raise InputError(f"{files.name}: holds no config.json; it is not a Hugging Face checkpoint")
    weight_map, metadata = _weight_map(files, listed)
    weights, tensors = _read_weights(files, weight_map, spread)
    own = {weight.name for weight in weights} | (set() if weight_map else {INDEX})
    return Checkpoint(
        name=files.name,
        config=config,
        weights=weights,
        tensors=tensors,
        read=lambda header: files.read_at(header.file)(header.start, header.end - header.start),
        side_files={name: size for name, size in files.sizes.items() if name not in own},
        tokenizer_config=files.json("tokenizer_config.json") or {},
        index_metadata=metadata,
        repo_id=files.repo_id,
        revision=files.revision,
        card=files.small("README.md").decode("utf-8", "replace") if "README.md" in files.sizes else "",
        manifest=files.json("emobake.json"),
    )


def _refuse_gguf(files: Files, listed: tuple[str, ...]) -> None:
    names = (*files.sizes, *listed)
    if any(name.endswith(".gguf") for name in names) and not any(name.endswith(".safetensors") for name in names):
        raise InputError(f"{files.name}: has GGUF files only; fetch one (`hf download`) and give it as --model")


def _read_weights(
    files: Files, weight_map: Mapping[str, str], spread: Spread
) -> tuple[tuple[WeightFile, ...], dict[str, TensorHeader]]:
    names = sorted(set(weight_map.values())) or [SINGLE]
    weights = tuple(WeightFile(name, files.sizes[name], files.sha256(name)) for name in names)
    tensors: dict[str, TensorHeader] = {}
    for headers in spread(lambda name: _headers(files, name), names):
        for header in headers:
            if header.name in tensors:
                raise BrokenFileError(
                    f"{files.name}: {header.name} is in both {tensors[header.name].file} and {header.file}"
                )
            tensors[header.name] = header
    for tensor, file in weight_map.items():
        if tensor not in tensors or tensors[tensor].file != file:
            raise BrokenFileError(f"{files.name}/{INDEX}: says that {file} holds {tensor}, which it does not")
    return weights, tensors


def _headers(files: Files, name: str) -> tuple[TensorHeader, ...]:
    headers = parse_header(f"{files.name}/{name}", files.sizes[name], files.read_at(name))
    return tuple(TensorHeader(h.name, h.dtype, h.shape, name, h.start, h.end) for h in headers)


def _list_files(folder: Path) -> dict[str, int]:
    files: dict[str, int] = {}
    for root, folders, names in os.walk(folder):
        for skipped in [f for f in folders if f.lower() in _SKIPPED_FOLDERS]:
            folders.remove(skipped)
            files[PurePosixPath(Path(root, skipped).relative_to(folder)).as_posix() + "/"] = 0
        for name in names:
            path = Path(root, name)
            if not path.is_file():
                if is_carried(path.relative_to(folder).as_posix()):
                    raise InputError(f"{path}: is not a file that can be copied (a broken link?)")
                continue
            files[path.relative_to(folder).as_posix()] = path.stat().st_size
        if len(files) > _MAX_FILES:
            raise InputError(f"{folder}: holds more than {_MAX_FILES} files; this is not a checkpoint's folder")
    return files


def _weight_map(files: Files, listed: tuple[str, ...]) -> tuple[dict[str, str], dict[str, Any]]:
    """Tensor -> file, and the index's metadata; empty when the weights are one file."""
    if SINGLE in files.sizes:
        # As transformers: the single file is taken before an index.
        return {}, {}
    index = files.json(INDEX)
    if index is None:
        if any(name.endswith((".bin", ".pth", ".pt", ".ckpt")) for name in (*files.sizes, *listed)):
            raise InputError(
                f"{files.name}: has pickled weights only, which are never loaded; convert them to safetensors first "
                "(save_pretrained in transformers, or the Hub's safetensors/convert space)"
            )
        _refuse_gguf(files, listed)
        raise InputError(f"{files.name}: has neither {SINGLE} nor {INDEX}")
    file = f"{files.name}/{INDEX}"
    weight_map, metadata = index.get("weight_map"), index.get("metadata") or {}
    if not isinstance(weight_map, dict) or not weight_map or not isinstance(metadata, dict):
        raise BrokenFileError(f"{file}: has no weight_map")
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or not re.fullmatch(r"[\w.+ -]+\.safetensors", name) or name.startswith("."):
            raise BrokenFileError(f"{file}: {tensor} lies in {str(name)[:120]!r}, which is not a shard in this folder")
        if name not in files.sizes:
            raise BrokenFileError(f"{file}: names the shard {name}, which is missing; fetch it")
    if type(metadata.get("total_parameters", 0)) is not int:
        raise BrokenFileError(f"{file}: total_parameters is not a number")
    return weight_map, metadata


def _sha256(path: Path, hash_files: bool) -> str:
    if not os.access(path, os.R_OK):
        raise InputError(f"{path}: cannot be read")
    # In the Hub's cache a large file is a link to a blob that is named by its sha256.
    blob = path.resolve().name
    if path.is_symlink() and re.fullmatch(r"[0-9a-f]{64}", blob):
        return blob
    return sha256_of(path) if hash_files else ""


def sha256_of(path: Path) -> str:
    """Digest of a file, read in pieces."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(2**22):
                digest.update(chunk)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    return digest.hexdigest()


def git_blob_id(content: bytes) -> str:
    """Git's name for a file of this content, by which the Hub and GitHub know small files."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def read_at(path: Path) -> ReadAt:
    """What reads any bytes of the file `path`; an `InputError` when the system will not."""

    def read(offset: int, length: int) -> bytes:
        try:
            with path.open("rb") as file:
                file.seek(offset)
                return file.read(length)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from None

    return read


def cached_id(folder: Path) -> tuple[str, str]:
    """The Hub id and commit that a folder of the Hub's cache stands for; empty for any other folder."""
    match = re.search(r"/models--([^/]+)/snapshots/([0-9a-f]{40})$", folder.absolute().as_posix())
    return (match[1].replace("--", "/", 1), match[2]) if match else ("", "")
