"""The planner of a steered LoRA: the weighted vectors as ``lora_B.bias`` of the projection that acts at their site.

PEFT computes ``base(x) + (lora_B(lora_A(x)) + bias) * scaling`` (0.14 and later), so the bias is w_l / scaling. The
other targets of the adapter get biases of zero, because ``lora_bias`` holds for all. Where the projection is no target,
it becomes one of rank 1 with zero matrices and scaling 1. All other tensors are carried byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...core.biases import Home, PlannedBias
from ...core.plan import BakePlan, ConfigChange, LeftOut, PlannedFile, new_file
from ...core.side_files import is_carried, reason_left_out
from ...core.stacks import USUAL, Support
from ...core.strict_json import json_bytes
from ...core.tensors import FLOATS
from ...errors import UnsupportedModelError
from ...storage.files import read_at, read_small
from ..checkpoint.families import Family
from ..checkpoint.model import Checkpoint
from ..checkpoint.projections import find_projections, input_width, output_width
from ..checkpoint.recording import Ingredients
from ..checkpoint.routes import declared_classes
from ..folder_undo import BaseFiles, with_undo
from ..safetensors import NewTensor, excerpt
from .detect import CONFIG_FILE
from .lora import PREFIX, Lora, replaces
from .open import IN_PEFT, WEIGHTS_FILE, Adapter


def lora_homes(lora: Lora, base: Checkpoint, family: Family) -> tuple[Home, ...]:
    """The tensor of the adapter that stores each layer's bias, with the one that it has.

    Raises:
        BrokenFileError: no layer of the base has the projection, or its width cannot be told; or an existing bias is
            not finite.
    """
    homes = []
    for layer, module in find_projections(base, family).items():
        live = _live(family, layer)
        own = lora.modules.get(live)
        dtype = "F32" if own is None or own.bias is None else own.bias.dtype
        existing = None if own is None else lora.bias(own)
        homes.append(Home(layer, f"{PREFIX}{live}.lora_B.bias", dtype, output_width(base, family, module), existing))
    return tuple(homes)


def lora_scalings(lora: Lora, family: Family, layers: Sequence[int]) -> dict[int, float]:
    """Layer -> factor by which PEFT multiplies the bias of its projection."""
    modules = {layer: lora.modules.get(_live(family, layer)) for layer in layers}
    return {layer: 1.0 if module is None else module.scaling for layer, module in modules.items()}


def divided(rows: np.ndarray, scalings: Mapping[int, float]) -> dict[int, np.ndarray]:
    """Layer -> what its bias gains, float32 ``[hidden]``, so that PEFT adds the row of float32 `rows`."""
    return {layer: np.asarray(rows[layer] / np.float32(scaling)) for layer, scaling in scalings.items()}


def lay_out_lora(
    lora: Lora, base: Checkpoint, family: Family, biases: tuple[PlannedBias, ...], ingredients: Ingredients
) -> BakePlan:
    """Plan the files and the record of a steered LoRA whose biases are known, without card and warnings.

    Raises:
        BrokenFileError: the base's headers or config are broken. UnsupportedModelError: the adapter stores the
            projection whole.
    """
    adapter = lora.adapter
    live = [_live(family, bias.layer) for bias in biases]
    if replaces(adapter, live):
        raise UnsupportedModelError(
            f"{lora.file}: modules_to_save holds the projection that is steered; `merge` merges the adapter first"
        )
    added = _added(lora, base, family, biases)
    edits = {adapter.tensors[bias.tensor].start: bias.data for bias in biases if not bias.is_new}
    config = dict(adapter.config) | _changes(lora, family, [bias.layer for bias in biases])
    files = (
        PlannedFile(WEIGHTS_FILE, excerpt(adapter.tensors.values(), edits, {}, added, adapter.metadata)),
        new_file(CONFIG_FILE, json_bytes(config)),
        *(PlannedFile.carried(name, name, size) for name, size in sorted(_carried(lora).items())),
    )
    # The side files and the history are the adapter's.
    seen = replace(base, digest=adapter.digest, record=base.record if adapter.record is None else adapter.record)
    record = ingredients.record(
        seen,
        biases,
        files,
        form="peft",
        route="lora",
        model_type=str(base.config.get("model_type")),
        added=sorted(added),
    )
    record = replace(record, adapter=adapter.recorded("steered", without=[bias.tensor for bias in biases]))
    names = [] if adapter.repo_id else [one.name for one in _left_out(lora)]
    files, record = with_undo(files, record, _base_files(adapter, names))
    return BakePlan(
        form="peft",
        route="lora",
        model_type=record.model_type,
        architecture=next(iter(declared_classes(base.config)), ""),
        steering=record.steering,
        biases=biases,
        record=record,
        stacks={name: IN_PEFT if name == "transformers" else Support("refuses") for name in USUAL},
        files=files,
        left_out=tuple(_left_out(lora)),
        config_changes=tuple(
            ConfigChange(key, adapter.config.get(key), value)
            for key, value in config.items()
            if adapter.config.get(key) != value
        ),
        added=record.added,
        overwritten=tuple(sorted(bias.tensor for bias in biases if not bias.is_new)),
    )


def _base_files(adapter: Adapter, left_out: list[str]) -> BaseFiles:
    """The files of the adapter, for the undo data."""
    sizes = {name: (adapter.folder / name).stat().st_size for name in (WEIGHTS_FILE, CONFIG_FILE)}
    weights, side = {WEIGHTS_FILE: sizes[WEIGHTS_FILE]}, {**adapter.side_files, CONFIG_FILE: sizes[CONFIG_FILE]}
    return BaseFiles(
        weights,
        side,
        lambda name, offset, size: read_at(adapter.folder / name)(offset, size),
        lambda name: read_small(adapter.folder / name),
        left_out,
    )


def _live(family: Family, layer: int) -> str:
    return family.live(family.projection).format(layer=layer)


def _added(lora: Lora, base: Checkpoint, family: Family, biases: tuple[PlannedBias, ...]) -> dict[str, NewTensor]:
    """Tensors that the adapter gains: a bias of each target, and matrices where the projection was none."""
    tensors = {
        f"{PREFIX}{name}.lora_B.bias": _zeros(module.b.shape[0])
        for name, module in lora.modules.items()
        if module.bias is None
    }
    projections = find_projections(base, family)
    for bias in biases:
        live = _live(family, bias.layer)
        if live not in lora.modules:
            inputs = input_width(base, family, projections[bias.layer])
            tensors[f"{PREFIX}{live}.lora_A.weight"] = _zeros(1, inputs)
            tensors[f"{PREFIX}{live}.lora_B.weight"] = _zeros(base.hidden_size, 1)
        if bias.is_new:
            width = len(bias.data) // FLOATS[bias.dtype].itemsize
            tensors[bias.tensor] = NewTensor(bias.dtype, (width,), (bias.data,))
    return tensors


def _zeros(*shape: int) -> NewTensor:
    return NewTensor("F32", shape, (bytes(4 * int(np.prod(shape))),))


def _changes(lora: Lora, family: Family, layers: Sequence[int]) -> dict[str, Any]:
    """Fields of the config that change: the switch, and the projection as a target of rank 1 where it was none."""
    config = lora.adapter.config
    changes: dict[str, Any] = {"lora_bias": True}
    if isinstance(config.get("init_lora_weights"), str):
        # PEFT wants true or false beside a bias; all that the name says was done before the training.
        changes |= {"init_lora_weights": True, "eva_config": None, "lora_ga_config": None}
        changes = {key: value for key, value in changes.items() if key in config or value}
    names = [_live(family, layer) for layer in layers]
    targets = config["target_modules"]
    unnamed = [name for name, named in zip(names, lora.names(names), strict=True) if not named]
    if unnamed and isinstance(targets, str):
        changes["target_modules"] = f"{targets}|(?:{_pattern(family, unnamed)})"
    elif unnamed:
        changes["target_modules"] = [*targets, *unnamed]
    new = [name for name in names if name not in lora.modules]
    if new:
        # In front of the others: PEFT takes the first pattern that fits.
        own = {_pattern(family, new): 1}
        changes |= {key: own | (config.get(key) or {}) for key in ("rank_pattern", "alpha_pattern")}
    return changes


def _pattern(family: Family, names: Sequence[str]) -> str:
    """A regular expression for the projections `names`."""
    head, _, tail = family.live(family.projection).partition("{layer}")
    layers = "|".join(name.removeprefix(head).removesuffix(tail) for name in names)
    return f"{re.escape(head)}(?:{layers}){re.escape(tail)}"


def _carried(lora: Lora) -> dict[str, int]:
    return {name: size for name, size in lora.adapter.side_files.items() if is_carried(name)}


def _left_out(lora: Lora) -> Iterator[LeftOut]:
    """The files of the adapter that the output does not have."""
    for name in sorted(lora.adapter.side_files):
        if not is_carried(name) and (reason := reason_left_out(name)):
            yield LeftOut(name, "another form of the adapter, or of its training" if "weights" in reason else reason)
    for name in lora.adapter.unfollowed:
        yield LeftOut(name, "a link out of the folder, not followed")
