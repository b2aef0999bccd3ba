"""Opening a checkpoint: a folder, a Hub repository in the cache, or a commit on the Hub read from afar.

Opening takes two steps, so that a model is refused by its config before anything large is read or fetched: `open_base`
reads the config, `Base.open` the rest.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

from ...core.limits import MAX_FILES, MAX_TENSORS
from ...core.names import is_plain
from ...core.side_files import INDEX, QUANT_CONFIGS, REPLACED, SINGLE, is_carried, is_licence, is_ours, single_file
from ...core.strict_json import parse_json_object
from ...core.tensors import TensorHeader, WeightFile
from ...errors import BrokenFileError, InputError
from ...storage.files import (
    Files,
    Stamps,
    advertised,
    cached_id,
    check_content,
    leads_out,
    read_at,
    read_json,
    read_small,
    sha256_of,
)
from ...storage.model_name import ModelName
from ..front_matter import read_start
from ..safetensors import parse_header
from .model import Checkpoint
from .quantisation import Quantisation, find_quantisation

if TYPE_CHECKING:
    from ...storage.hub.snapshot import RemoteFile, Snapshot

_AT_ONCE = 8
"""Parallel requests for headers."""
_SKIPPED_FOLDERS = ("original", "onnx", "openvino", "coreml", ".git", ".cache", "__pycache__", "runs")

T = TypeVar("T")
Headers = tuple[TensorHeader, ...]
Spread = Callable[[Callable[[str], Headers], Iterable[str]], Iterable[Headers]]


@dataclass(frozen=True, eq=False)
class Base:
    """A checkpoint whose config was read, and nothing else."""

    name: str
    config: Mapping[str, Any]
    folder: Path | None
    """Folder that has the files, or will have them once they are fetched; None for a commit on the Hub."""
    fetch: Callable[[], Path]
    """Returns the folder of all files, downloaded if need be."""
    open: Callable[[], Checkpoint]
    """Reads what planning needs besides the config."""
    quant_configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The same as `Checkpoint.quant_configs`; empty for a model whose files must be downloaded first."""

    @property
    def quantisation(self) -> Quantisation | None:
        """The quantisation that the configs declare; None if they declare none.

        Raises:
            BrokenFileError: they say two things.
        """
        return find_quantisation(self.config, self.quant_configs, self.name)


def open_base(model: ModelName, *, hash_files: bool = False) -> Base:
    """Read the config of a local folder, or of a Hub model whose files will be downloaded.

    With `hash_files`, opening the checkpoint computes the sha256 of every weight file.

    Raises:
        InputError: no such folder, repository, revision or access; no config.json. HubError: the network failed.
    """
    if model.is_local:
        folder = model.path
        _check_folder(folder)
        first = Stamps.of(file for file in [folder / "config.json"] if file.is_file())
        config = _folder_config(folder)
        return Base(
            model.name,
            config,
            folder,
            fetch=lambda: folder,
            open=lambda: _open_folder(folder, config, first, hash_files=hash_files),
            quant_configs=_quant_configs(folder),
        )
    from ...storage.hub.download import download_checkpoint, download_config

    file = download_config(model.name, model.revision)
    fetched, snapshot = parse_json_object(read_small(file), f"{model.name}/config.json"), file.parent

    def fetch() -> Path:
        download_checkpoint(model.name, snapshot)
        return snapshot

    def open_() -> Checkpoint:
        listed = download_checkpoint(model.name, snapshot)
        return _open_folder(snapshot, fetched, Stamps(), hash_files=hash_files, listed=listed)

    return Base(model.name, fetched, snapshot, fetch=fetch, open=open_)


def open_remote_base(model: ModelName) -> tuple[Base, Snapshot]:
    """Read the config of a Hub model whose weights stay on the Hub; also returns its commit.

    Small files come by way of the Hub's cache, headers by range requests: a few megabytes for a model of any size.

    Raises:
        InputError: no such repository, revision or access, or not a checkpoint; BrokenFileError: a bad config.
        HubError: the Hub or the network failed, or its storage does not serve parts of files.
    """
    from ...storage.http import retrying
    from ...storage.hub.errors import fetching
    from ...storage.hub.snapshot import fetch_small, open_ranges, take_snapshot

    missing = "a listed file is no longer there; run again"

    def digest(name: str) -> str:
        with fetching(model.name, model.revision, missing):
            return snapshot.files[name].sha256 or sha256_of(fetch_small(snapshot, name))

    with fetching(model.name, model.revision, missing):
        snapshot = retrying()(take_snapshot, model.name, model.revision)
        if "config.json" not in snapshot.files:
            raise InputError(f"{model.name}: has no config.json; it is not a transformers checkpoint")
        files = Files(
            name=model.name,
            sizes={path: file.size for path, file in snapshot.files.items()},
            small=lambda name: read_small(fetch_small(snapshot, name), f"{model.name}/{name}"),
            read_at=lambda name: open_ranges(snapshot, name),
            weight=lambda name: _listed(snapshot.files[name]),
            digest=digest,
            repo_id=model.name,
            revision=snapshot.commit,
        )
        config = parse_json_object(files.small("config.json"), f"{model.name}/config.json")
        quant_configs = files.jsons(QUANT_CONFIGS)

    def open_() -> Checkpoint:
        with fetching(model.name, model.revision, missing):
            return open_checkpoint(files, config, spread=_at_once)

    def refuse() -> Path:
        raise InputError(f"{model.name}: is not on this machine")

    return Base(model.name, config, None, fetch=refuse, open=open_, quant_configs=quant_configs), snapshot


def open_folder(folder: str | os.PathLike[str], *, hash_files: bool = False) -> Checkpoint:
    """Open a checkpoint in a local folder, and check it against itself.

    With `hash_files`, the sha256 of every weight file is computed.

    Raises:
        InputError: no such folder, or no config.json; BrokenFileError: a wrong index or header.
    """
    folder = Path(folder)
    _check_folder(folder)
    first = Stamps.of(file for file in [folder / "config.json"] if file.is_file())
    return _open_folder(folder, _folder_config(folder), first, hash_files=hash_files)


def _open_folder(
    folder: Path, config: Mapping[str, Any], first: Stamps, *, hash_files: bool, listed: tuple[str, ...] = ()
) -> Checkpoint:
    """Open a folder whose config was read, after `first` was taken.

    `listed` names all files of the Hub repository that it is a part of.
    """
    repo_id, revision = cached_id(folder)
    sizes, unfollowed = list_files(folder)
    for name in sizes:
        if is_carried(name) or name.lower() in REPLACED:
            check_content(folder / name, advertised(folder / name), f"{folder}/{name}")
    stamps = Stamps.of(folder / name for name in sizes if is_carried(name) or is_ours(name)) | first
    files = Files(
        name=str(folder),
        sizes=sizes,
        small=lambda name: read_small(folder / name, f"{folder}/{name}"),
        read_at=lambda name: read_at(folder / name),
        weight=lambda name: _weight(folder / name, name, hash_files),
        digest=lambda name: sha256_of(folder / name),
        repo_id=repo_id,
        revision=revision,
    )
    checkpoint = open_checkpoint(files, config, listed=listed)
    unreadable = [name for name in checkpoint.side_files if is_carried(name) and not os.access(folder / name, os.R_OK)]
    if unreadable:
        raise InputError(f"{folder / unreadable[0]}: cannot be read")
    # Of a Hub repository only some files are here; the others are named as left out all the same.
    fetched = {weight.name for weight in checkpoint.weights}
    elsewhere = {name: 0 for name in listed if not is_carried(name) and name not in fetched}
    return replace(
        checkpoint,
        side_files=elsewhere | dict(checkpoint.side_files),
        unfollowed=unfollowed,
        folder=folder,
        stamps=stamps,
    )


def open_checkpoint(
    files: Files, config: Mapping[str, Any], *, listed: tuple[str, ...] = (), spread: Spread = map
) -> Checkpoint:
    """Open the checkpoint in `files`, and check it against itself.

    `listed` names further files of the repository; `spread` applies a function to every shard's name, as `map` does.

    Raises:
        InputError: no safetensors; BrokenFileError: a wrong index or header.
    """
    weight_map, metadata = _weight_map(files, listed)
    weights, tensors = _read_weights(files, weight_map, spread)
    own = {weight.name for weight in weights} | (set() if weight_map else {INDEX})
    return Checkpoint(
        name=files.name,
        config=config,
        weights=weights,
        tensors=tensors,
        read=lambda header: files.read_at(header.file)(header.start, header.size),
        digest=files.digest,
        read_side=files.small,
        side_files={name: size for name, size in files.sizes.items() if name not in own},
        unused={INDEX: files.sizes[INDEX]} if not weight_map and INDEX in files.sizes else {},
        tokenizer_config=files.json("tokenizer_config.json") or {},
        index_metadata=metadata,
        quant_configs=files.jsons(QUANT_CONFIGS),
        repo_id=files.repo_id,
        revision=files.revision,
        card=read_start(files.read_at("README.md")) if "README.md" in files.sizes else "",
        record=files.json("emobake.json"),
    )


def _check_folder(folder: Path) -> None:
    if folder.is_file():
        raise InputError(f"{folder}: is a file; give the folder of a Hugging Face checkpoint, or its Hub id")
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise InputError(f"{folder}: cannot be read")


def _folder_config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    if not file.is_file():
        _refuse_gguf(str(folder), (path.name for path in folder.iterdir()))
        adapter = "; an adapter is baked, and everything else takes its base" if _holds_adapter(folder) else ""
        raise InputError(f"{folder}: holds no config.json; it is not a Hugging Face checkpoint{adapter}")
    refuse_link(file, folder)
    return read_json(file)


def _quant_configs(folder: Path) -> dict[str, Mapping[str, Any]]:
    """The quantisation configs beside config.json. Links out of the folder are refused when the rest is read."""
    files = (folder / name for name in QUANT_CONFIGS)
    return {file.name: read_json(file) for file in files if file.is_file() and not leads_out(file, folder)}


def refuse_link(path: Path, folder: Path) -> None:
    """Refuse a link out of the model's `folder`; raises InputError."""
    if leads_out(path, folder):
        raise InputError(
            f"{path}: is a link out of the model's folder, to {path.resolve()}, and is not followed; put a copy of the "
            "file in its place"
        )


def _refuse_gguf(name: str, files: Iterable[str]) -> None:
    names = list(files)
    if any(file.endswith(".gguf") for file in names) and not any(file.endswith(".safetensors") for file in names):
        raise InputError(f"{name}: has GGUF files only; fetch one (`hf download`) and give it as `model`")


def _holds_adapter(folder: Path) -> bool:
    return (folder / "adapter_config.json").is_file()


def _at_once(function: Callable[[str], T], names: Iterable[str]) -> Iterable[T]:
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        try:
            yield from pool.map(function, names)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _read_weights(
    files: Files, weight_map: Mapping[str, str], spread: Spread
) -> tuple[tuple[WeightFile, ...], dict[str, TensorHeader]]:
    names = sorted(set(weight_map.values())) or [single_file(files.sizes)]
    weights = tuple(map(files.weight, names))
    tensors: dict[str, TensorHeader] = {}
    for headers in spread(lambda name: _headers(files, name), names):
        if len(tensors) + len(headers) > MAX_TENSORS:
            raise BrokenFileError(f"{files.name}: claims more than {MAX_TENSORS} tensors, more than any model has")
        for header in headers:
            if not is_plain(header.name):
                raise BrokenFileError(f"{files.name}/{header.file}: {header.name[:120]!r} has control characters")
            if header.name in tensors:
                raise BrokenFileError(
                    f"{files.name}: {header.name} is in both {tensors[header.name].file} and {header.file}"
                )
            tensors[header.name] = header
    for tensor, file in weight_map.items():
        if tensor not in tensors or tensors[tensor].file != file:
            raise BrokenFileError(f"{files.name}/{INDEX}: says that {file} holds {tensor}, which it does not")
    return weights, tensors


def _headers(files: Files, name: str) -> Headers:
    headers = parse_header(f"{files.name}/{name}", files.sizes[name], files.read_at(name))
    return tuple(replace(header, file=name) for header in headers)


def list_files(folder: Path) -> tuple[dict[str, int], tuple[str, ...]]:
    """Sizes of the files by their paths, and the links out of the folder that are not followed.

    Shards are often linked to another disk, so links of theirs are followed: only what parses as safetensors, and as
    the tensors that the index names, is taken from there.

    Raises:
        InputError: a file that the output needs cannot be copied, or is a link out of the folder.
    """
    files: dict[str, int] = {}
    unfollowed: list[str] = []
    for root, folders, names in os.walk(folder):
        place = PurePosixPath(Path(root).relative_to(folder).as_posix())
        for skipped in [f for f in folders if f.lower() in _SKIPPED_FOLDERS]:
            folders.remove(skipped)
            files[f"{place / skipped}/"] = 0
        unfollowed += [f"{place / linked}/" for linked in folders if Path(root, linked).is_symlink()]
        for file in names:
            path, name = Path(root, file), str(place / file)
            if name == INDEX or (is_carried(name) and not is_licence(name)):
                refuse_link(path, folder)
            if not name.endswith(".safetensors") and leads_out(path, folder):
                unfollowed.append(name)
            elif path.is_file():
                files[name] = path.stat().st_size
            elif is_carried(name) or name in (INDEX, SINGLE):
                raise InputError(f"{path}: is not a file that can be copied (a broken link?)")
        if len(files) > MAX_FILES:
            raise InputError(f"{folder}: holds more than {MAX_FILES} files; this is not a checkpoint's folder")
    return files, tuple(unfollowed)


def _weight_map(files: Files, listed: tuple[str, ...]) -> tuple[dict[str, str], dict[str, Any]]:
    """Tensor -> file, and the index's metadata; empty if the weights are one file."""
    if single_file(files.sizes):
        # As transformers: the single file is preferred to an index.
        return {}, {}
    index = files.json(INDEX)
    if index is None:
        if any(name.endswith((".bin", ".pth", ".pt", ".ckpt")) for name in (*files.sizes, *listed)):
            raise InputError(
                f"{files.name}: has pickled weights only, which are never loaded; convert them to safetensors first "
                "(save_pretrained in transformers, or the Hub's safetensors/convert space)"
            )
        _refuse_gguf(files.name, (*files.sizes, *listed))
        raise InputError(f"{files.name}: has neither {SINGLE} nor {INDEX}")
    file = f"{files.name}/{INDEX}"
    weight_map, metadata = index.get("weight_map"), index.get("metadata") or {}
    if not isinstance(weight_map, dict) or not weight_map or not isinstance(metadata, dict):
        raise BrokenFileError(f"{file}: has no weight_map")
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or not re.fullmatch(r"[\w.+ -]+\.safetensors", name) or name.startswith("."):
            raise BrokenFileError(f"{file}: {tensor} is in {str(name)[:120]!r}, which is not a shard in this folder")
        if name not in files.sizes:
            raise BrokenFileError(f"{file}: names the shard {name}, which is missing; fetch it")
    if type(metadata.get("total_parameters", 0)) is not int:
        raise BrokenFileError(f"{file}: total_parameters is not a number")
    return weight_map, metadata


def _weight(path: Path, name: str, hash_files: bool) -> WeightFile:
    """Describe a weight file here; in the Hub's cache, its name there tells the digest that the Hub advertised.

    Raises:
        InputError: it cannot be read; BrokenFileError: with `hash_files`, its bytes have another digest.
    """
    if not os.access(path, os.R_OK):
        raise InputError(f"{path}: cannot be read")
    size, told = path.stat().st_size, advertised(path)
    if not hash_files:
        told = told if len(told) == 64 else ""
        return WeightFile(name, size, told, advertised=bool(told))
    check_content(path, told, str(path))
    return WeightFile(name, size, told if len(told) == 64 else sha256_of(path))


def _listed(file: RemoteFile) -> WeightFile:
    """Describe a weight file that stays on the Hub."""
    return WeightFile(file.path, file.size, file.sha256, advertised=bool(file.sha256))
