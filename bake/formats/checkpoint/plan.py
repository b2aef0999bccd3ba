"""The one pure step: checkpoint, vectors and weights in; everything a bake will do out.

A `BakePlan` says which bytes every file of the result consists of, and nothing of where it will be written:
executors obey it. Nothing here opens a file, a socket or a heavy library.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ...core.biases import strength_warnings, sum_to_add
from ...core.plan import BakePlan, Carry, ConfigChange, Edit, LayerBias, LeftOut, Patch, Write, json_bytes
from ...core.side_files import INDEX, is_carried, reason_left_out
from ...core.steering import Steering
from ...core.tensors import FLOATS, TensorHeader, decode, encode
from ...core.vector_set import VectorSet, fitted
from ...errors import BrokenFileError, VectorError
from ..safetensors import serialize
from .families import Architecture
from .model import Checkpoint, WeightFile
from .projections import bias_dtype, check_landing, find_projections, module_in_file, output_width
from .routes import Route, choose_route

TOKENIZER_CONFIG = "tokenizer_config.json"
_GENERIC_TOKENIZERS = ("LlamaTokenizer", "LlamaTokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend")


def make_plan(
    checkpoint: Checkpoint,
    vectors: VectorSet,
    steering: Steering,
    *,
    targets: Iterable[str] = (),
    force: bool = False,
) -> BakePlan:
    """Plan a steered checkpoint.

    For layer l the bias of the projection that acts at the set's site becomes ``(existing bias or 0) + w_l`` with w_l
    computed in float32, stored in the dtype of the projection's weight (the config's dtype when the weight is
    quantised; the bias's own where one exists). Where the architecture scales a layer's branch after the projection
    and the vectors act on the residual stream, w_l is divided by that scale.

    Raises:
        InputError: nothing would be steered and not `force`; its subclasses for a set that does not fit, a
            broken file, or an architecture without a route.

    """
    route = choose_route(checkpoint.config, checkpoint.name, targets, vectors.site)
    vectors = fitted(vectors, checkpoint.num_hidden_layers, checkpoint.hidden_size, checkpoint.name)
    scale = branch_scale(checkpoint, route.arch)
    added = sum_to_add(vectors, steering, force=force) / np.float32(scale)
    tensors = _Tensors(checkpoint, route)
    tensors.bias_projections(added)
    tensors.zero_siblings()
    change = _tokenizer_change(checkpoint, route)
    return BakePlan(
        route=route.kind,
        model_type=route.arch.model_type,
        architecture=str(route.config["architectures"][0]),
        layers=tuple(tensors.layers),
        steering=steering,
        files=tuple(_files(checkpoint, route, tensors, change)),
        left_out=left_out(checkpoint.side_files),
        config_changes=route.changes if change is None else (*route.changes, change),
        stacks=route.stacks,
        added=tuple(sorted(tensors.new)),
        overwritten=tuple(sorted(h.name for h, _ in tensors.edits)),
        warnings=(*strength_warnings(vectors, added), *warnings(checkpoint, vectors)),
        branch_scale=scale,
    )


def branch_scale(checkpoint: Checkpoint, arch: Architecture) -> float:
    """What stands between the projection of `arch` and the site where its vectors act: a factor, 1 for most.

    Raises:
        BrokenFileError: the config's field is not a positive number.

    """
    value = checkpoint.config.get(arch.branch_scale, 1.0) if arch.branch_scale else 1.0
    if type(value) not in (int, float) or not 0 < value < 1e6:
        raise BrokenFileError(f"{checkpoint.name}/config.json: {arch.branch_scale} is {value!r}, not a positive number")
    return float(value)


def warnings(checkpoint: Checkpoint, vectors: VectorSet) -> Iterable[str]:
    """What the user should know of a checkpoint with these vectors, one line each."""
    if vectors.base_model and checkpoint.repo_id and vectors.base_model != checkpoint.repo_id:
        yield f"{vectors.name} was made from {vectors.base_model}, not from {checkpoint.repo_id}"
    if isinstance(checkpoint.config.get("quantization_config"), Mapping):
        yield "the weights are quantised: only stacks that load the base load the result"
    if "auto_map" in checkpoint.config:
        yield "the checkpoint's own code is left out: stacks use their own class for this architecture"


class _Tensors:
    """Collects what becomes of the tensors, layer by layer."""

    def __init__(self, checkpoint: Checkpoint, route: Route) -> None:
        self.checkpoint = checkpoint
        self.route = route
        self.projections = find_projections(checkpoint, route.arch)
        self.layers: list[LayerBias] = []
        self.new: dict[str, tuple[str, tuple[int, ...], bytes]] = {}
        self.edits: list[tuple[TensorHeader, bytes]] = []

    def bias_projections(self, added: np.ndarray) -> None:
        """Give every projection its bias; refuse when a row of `added` has no projection to land on."""
        check_landing(self.checkpoint, self.projections, added)
        for layer, module in self.projections.items():
            self._bias(layer, module, added[layer])

    def _bias(self, layer: int, module: str, row: np.ndarray) -> None:
        name = f"{module}.bias"
        header = self.checkpoint.tensors.get(name)
        width = output_width(self.checkpoint, self.route.arch, module)
        if width != len(row):
            raise BrokenFileError(f"{self.checkpoint.name}: {module} has {width} outputs, the config says {len(row)}")
        total = row
        if header is None:
            if self.route.kind == "existing":
                raise BrokenFileError(
                    f"{self.checkpoint.name}: the config says that {module} has a bias, but no file holds {name}"
                )
            dtype = bias_dtype(self.checkpoint, module)
        else:
            dtype = header.dtype
            total = self._existing(header, row)
        data = encode(total, dtype)
        if not np.isfinite(np.frombuffer(data, FLOATS[dtype]).astype(np.float32)).all():
            raise VectorError(
                f"{self.checkpoint.name}: the bias of layer {layer} reaches {np.abs(total).max():.3g}, too large for "
                f"{dtype}; use smaller weights"
            )
        if header is None:
            self.new[name] = (dtype, row.shape, data)
        else:
            self.edits.append((header, data))
        norm = float(np.linalg.norm(row.astype(np.float64)))
        self.layers.append(LayerBias(layer, name, dtype, norm, hashlib.sha256(data).hexdigest()))

    def _existing(self, header: TensorHeader, row: np.ndarray) -> np.ndarray:
        values = decode(header, self.checkpoint.read(header))
        if values.shape != row.shape:
            raise BrokenFileError(f"{header.file}: {header.name} has shape {list(values.shape)}, not [{len(row)}]")
        if not np.isfinite(values).all():
            raise BrokenFileError(f"{header.file}: {header.name} has a NaN or infinity")
        if self.route.kind != "existing" and not self._active(header):
            self._refuse_dormant(header, values)
        return np.asarray(values + row)

    def _active(self, header: TensorHeader) -> bool:
        """Whether the base's class uses the MLP bias `header` (a Llama by another name, with ``mlp_bias``)."""
        return ".mlp." in header.name and bool(self.checkpoint.config.get("mlp_bias"))

    def zero_siblings(self) -> None:
        """Explicit zeros for every other module that must now have a bias and has none.

        With them missing, vLLM 0.32 runs on uninitialised memory and mlx-lm 0.32 refuses to load.
        """
        for layer in self.projections:
            for template in self.route.siblings:
                module = module_in_file(self.checkpoint, template.format(layer=layer))
                if module is None:
                    continue
                header = self.checkpoint.tensors.get(f"{module}.bias")
                if header is None:
                    dtype = bias_dtype(self.checkpoint, module)
                    width = output_width(self.checkpoint, self.route.arch, module)
                    zeros = np.zeros(width, np.float32)
                    self.new[f"{module}.bias"] = (dtype, (width,), encode(zeros, dtype))
                elif self.route.kind == "flag":
                    self._refuse_dormant(header, decode(header, self.checkpoint.read(header)))

    def _refuse_dormant(self, header: TensorHeader, values: np.ndarray) -> None:
        """A bias that the base ignores would come to life with the config's new field."""
        if values.any():
            raise BrokenFileError(
                f"{header.file}: holds {header.name}, which the base's class ignores (a bake that never worked?); "
                "start from the original model"
            )


def _files(
    checkpoint: Checkpoint, route: Route, tensors: _Tensors, tokenizer: ConfigChange | None
) -> Iterable[Carry | Patch | Write]:
    weights = sorted(checkpoint.weights, key=lambda w: w.name)
    names = {w.name: w.name for w in weights}
    index = INDEX in checkpoint.side_files
    if tensors.new:
        count = len(weights) + 1
        names = {w.name: f"model-{i:05d}-of-{count:05d}.safetensors" for i, w in enumerate(weights, 1)}
        shard = f"model-{count:05d}-of-{count:05d}.safetensors"
        yield Write(shard, serialize(tensors.new, {"format": "pt"}))
        yield Write(INDEX, _index(checkpoint, names, tensors.new, shard))
    elif index:
        yield Carry(INDEX, INDEX, checkpoint.side_files[INDEX])
    for weight in weights:
        yield _weight(weight, names[weight.name], tensors)
    for name, size in sorted(checkpoint.side_files.items()):
        if name == TOKENIZER_CONFIG and tokenizer is not None:
            yield Write(name, json_bytes({**checkpoint.tokenizer_config, "tokenizer_class": tokenizer.new}))
        elif is_carried(name):
            yield Carry(name, name, size)
    yield Write("config.json", json_bytes(route.config))


def _tokenizer_change(checkpoint: Checkpoint, route: Route) -> ConfigChange | None:
    """Which class tokenizer_config.json must name so that a model saved as Llama splits text as before.

    transformers 5 reads a declared generic class by the model type: a ``LlamaTokenizer`` is tokenizer.json as it is
    for ``mistral`` but rebuilt with other rules for ``llama``, and any class is a ``Qwen2Tokenizer`` for ``qwen2``.
    """
    declared = checkpoint.tokenizer_config.get("tokenizer_class")
    form = route.arch.llama
    if (
        route.kind != "llama"
        or form is None
        or not form.tokenizer_class
        or "tokenizer.json" not in checkpoint.side_files
    ):
        return None
    if declared not in _GENERIC_TOKENIZERS or declared == form.tokenizer_class:
        return None
    return ConfigChange(f"{TOKENIZER_CONFIG} tokenizer_class", declared, form.tokenizer_class)


def _weight(weight: WeightFile, name: str, tensors: _Tensors) -> Carry | Patch:
    edits = sorted((Edit(h.start, data) for h, data in tensors.edits if h.file == weight.name), key=lambda e: e.offset)
    if edits:
        return Patch(name, weight.name, weight.size, tuple(edits))
    return Carry(name, weight.name, weight.size, weights=True)


def _index(
    checkpoint: Checkpoint,
    names: Mapping[str, str],
    new: Mapping[str, tuple[str, tuple[int, ...], bytes]],
    shard: str,
) -> bytes:
    headers = checkpoint.tensors.values()
    metadata: dict[str, Any] = dict(checkpoint.index_metadata)
    metadata["total_size"] = sum(h.end - h.start for h in headers) + sum(len(d) for _, _, d in new.values())
    if "total_parameters" in metadata:
        metadata["total_parameters"] += sum(shape[0] for _, shape, _ in new.values())
    weight_map = {h.name: names[h.file] for h in headers} | dict.fromkeys(new, shard)
    return json_bytes({"metadata": metadata, "weight_map": dict(sorted(weight_map.items()))})


def left_out(side_files: Mapping[str, int]) -> tuple[LeftOut, ...]:
    """The files that stay behind, each with the reason."""
    reasons = {name: reason_left_out(name) for name in sorted(side_files) if not is_carried(name)}
    return tuple(LeftOut(name, reason) for name, reason in reasons.items() if reason)
