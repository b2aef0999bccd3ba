"""Opening a checkpoint: in a folder here, or in a commit on the Hub."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from ...core.side_files import INDEX, SINGLE, is_carried
from ...core.tensors import TensorHeader
from ...errors import BrokenFileError, InputError
from ...storage.files import Files, cached_id, read_at, read_small, sha256_of
from ...storage.hub.errors import fetching, retrying
from ...storage.hub.snapshot import Snapshot, _ranges, fetch, take_snapshot
from ..safetensors import parse_header
from .model import Checkpoint, WeightFile

_MAX_FILES = 20_000


Spread = Callable[[Callable[[str], tuple[TensorHeader, ...]], Iterable[str]], Iterable[tuple[TensorHeader, ...]]]


_SKIPPED_FOLDERS = ("original", "onnx", "openvino", "coreml", ".git", ".cache", "__pycache__", "runs")


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


T = TypeVar("T")


_AT_ONCE = 8
"""Requests at a time while headers are read."""


def open_repository(
    repo_id: str, revision: str | None, check: Callable[[Mapping[str, Any]], object] = lambda config: None
) -> tuple[Snapshot, Checkpoint]:
    """Read what planning needs of a checkpoint on the Hub: small files whole, of the weights the headers only.

    `check` sees config.json before anything else is fetched, and may refuse by raising. Small files come by way of the
    Hub's cache. A few megabytes travel, whatever the size of the model.

    Raises:
        InputError: no such repository, revision or access, or not a checkpoint; BrokenFileError: an index or header
            that is wrong.
        EmobakeError: the Hub or the network failed, or its storage does not serve parts of files.
    """
    with fetching(repo_id, revision, "a file that was listed is no longer there; run again"):
        snapshot = retrying()(take_snapshot, repo_id, revision)
        if "config.json" not in snapshot.files:
            raise InputError(f"{repo_id}: has no config.json; it is not a transformers checkpoint")
        files = Files(
            name=repo_id,
            sizes={path: file.size for path, file in snapshot.files.items()},
            small=lambda name: read_small(fetch(snapshot, name), f"{repo_id}/{name}"),
            read_at=lambda name: _ranges(snapshot, name),
            sha256=lambda name: snapshot.files[name].sha256,
            repo_id=repo_id,
            revision=snapshot.commit,
        )
        config = files.json("config.json")
        assert config is not None
        check(config)
        checkpoint = open_checkpoint(files, spread=_at_once)
    return snapshot, checkpoint


def _at_once(function: Callable[[str], T], names: Iterable[str]) -> Iterable[T]:
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        try:
            yield from pool.map(function, names)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
