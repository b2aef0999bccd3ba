"""The route *value*: a bias of the values, of which the output projection makes the row, see `emobake.core.heads`.

For classes that read a bias of the values, none of the output projection, and no size of the heads, so that no head can
be added. The output projections are read, one at a time, for the solution; their bytes are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from ....core.biases import Home, PlannedBias
from ....core.elsewhere import Biases
from ....core.heads import (
    Cost,
    Heads,
    copied,
    copies_by,
    copies_to_try,
    cost_of_copies,
    misses,
    solve_value_bias,
    value_matrix,
)
from ....core.plan import RouteName, Span
from ....core.record import Record, RecordedBias
from ....core.stacks import Support
from ....core.tensors import TensorHeader, decode, encode
from ....errors import BrokenFileError, UnsupportedModelError
from ...check.biases import stored_values, wrong_norm
from ...check.output import StoredModel
from ...safetensors import NewTensor
from ..families import Family, ValueForm
from ..heads import heads_in, heads_of, matrix
from ..model import Checkpoint
from ..projections import find_projections
from ..quantisation import Quantisation
from ..recast import remade
from .base import Route, read_bias, refuse_dormant


@dataclass(frozen=True, eq=False)
class ValueRoute(Route):
    """A bias of the values in every layer; its key/value heads are held several times where the rows need it."""

    name: ClassVar[RouteName] = "value"
    copies: int = 1
    """Times that each key/value head is held."""
    solved: Mapping[int, np.ndarray] = field(default_factory=dict, repr=False)
    """Layer -> the values that its bias gains, of `fitted`."""

    @classmethod
    def is_known(cls, family: Family) -> bool:
        """Stacks must give q, k and v a bias by a config field."""
        return family.value is not None

    @classmethod
    def blockers(cls, family: Family, config: Mapping[str, Any]) -> list[str]:
        """The config must tell the heads."""
        if family.value is None:
            return ["no form with a bias of the values is known"]
        return [] if not config or heads_of(config) is not None else ["its config does not tell its heads"]

    @classmethod
    def quantised_blockers(cls, family: Family, config: Mapping[str, Any], quantisation: Quantisation) -> list[str]:
        """The bias is solved for the numbers of the output projection, which must be floats."""
        return [f"its weights are quantised ({quantisation.label}), so its output projection cannot be read"]

    @property
    def form(self) -> ValueForm:
        """The family's form with a bias of the values."""
        assert self.family.value is not None  # `blockers` has looked.
        return self.family.value

    @property
    def treatment(self) -> Mapping[str, Support]:
        """Treatment by each stack."""
        return self.form.stacks

    @property
    def biases(self) -> Biases:
        """One of the values."""
        return Biases("v", is_reshaped=self.copies > 1)

    @property
    def cost(self) -> Cost:
        """Cost of the copies."""
        heads = heads_of(self.old_fields)
        return Cost() if heads is None or self.copies == 1 else cost_of_copies(heads, self.copies)

    def change(self, config: dict[str, Any]) -> dict[str, Any]:
        """Write the number of key/value heads, and the switch of the biases."""
        heads = heads_of(config)
        assert heads is not None  # `blockers` has looked.
        return config | {"num_key_value_heads": heads.keys * self.copies, self.form.flag: True}

    def fitted(self, rows: np.ndarray, checkpoint: Checkpoint) -> ValueRoute:
        """Solve for the rows, with as few copies of the heads as it takes.

        Raises:
            UnsupportedModelError: no number of copies makes them, or only with biases that are too large.
            BrokenFileError: a projection is missing, or has another shape than the config says.
        """
        heads, reason = heads_in(checkpoint), ""
        for copies in self._allowed(heads):
            solved, reason = self._solve(rows, checkpoint, heads, copies)
            if not reason:
                return replace(self, copies=copies, solved=solved)
        raise UnsupportedModelError(
            f"{checkpoint.name}: no bias of the values makes the rows: {reason}; bake vectors that were extracted from "
            "this model, or use `format` peft"
        )

    def again(self, record: Record) -> ValueRoute:
        """The cache has as many copies as it costs."""
        heads = heads_of(self.old_fields)
        assert heads is not None  # `blockers` has looked.
        return replace(self, copies=copies_by(record.cost, heads.group))

    def homes(self, checkpoint: Checkpoint) -> tuple[Home, ...]:
        """The bias of each layer's values.

        Raises:
            BrokenFileError: a projection or bias is missing, or has another shape than the config says.
        """
        return tuple(self._value_home(checkpoint, *found) for found in self._outputs(checkpoint))

    def values(self, rows: np.ndarray, homes: Sequence[Home]) -> Mapping[int, np.ndarray]:
        """The biases that `fitted` has solved for."""
        return {home.layer: np.zeros(home.width, np.float32) for home in homes} | dict(self.solved)

    def rewrites(self, checkpoint: Checkpoint) -> dict[str, NewTensor]:
        """Zeros for q and k, where they have no bias.

        Raises:
            BrokenFileError: there is a bias that the base ignores, or none that its config promises.
        """
        new, heads = {}, heads_in(checkpoint)
        for _, output in self._outputs(checkpoint):
            for part, count in (("q_proj", heads.queries), ("k_proj", heads.keys * self.copies)):
                module = _beside(output, part)
                if self._bias(checkpoint, module) is None:
                    dtype, width = checkpoint.tensors[f"{module}.weight"].dtype, count * heads.key_size
                    new[f"{module}.bias"] = NewTensor(dtype, (width,), (encode(np.zeros(width, np.float32), dtype),))
        return new

    def finished(self, checkpoint: Checkpoint, biases: Sequence[PlannedBias]) -> Checkpoint:
        """The copies of the key/value heads, and the biases that are there in their places."""
        if self.copies == 1:
            return checkpoint
        data, new = {bias.tensor: bias.data for bias in biases if not bias.is_new}, {}
        size = heads_in(checkpoint).key_size
        for _, output in self._outputs(checkpoint):
            for part in ("k_proj", "v_proj"):
                module = _beside(output, part)
                weight, bias = checkpoint.tensors[f"{module}.weight"], checkpoint.tensors.get(f"{module}.bias")
                new[weight.name] = self._copies_of(weight, size)
                if bias is not None and bias.name in data:
                    # An empty span says which file the tensor belongs to.
                    pieces = (Span(bias.file, bias.start, 0), data[bias.name])
                    new[bias.name] = NewTensor(bias.dtype, (bias.shape[0] * self.copies,), pieces)
                elif bias is not None:
                    new[bias.name] = self._copies_of(bias, size)
        left = {name: header for name, header in checkpoint.tensors.items() if name not in new}
        return remade(checkpoint, left, new)

    def _allowed(self, heads: Heads) -> Iterator[int]:
        """Numbers of copies; one alone where a norm belongs to each head, and would have to be copied, too."""
        uncopied = self.form.head_norms and self.old_fields.get(self.form.head_norms)
        return iter((1,)) if uncopied else copies_to_try(heads)

    def _solve(
        self, rows: np.ndarray, checkpoint: Checkpoint, heads: Heads, copies: int
    ) -> tuple[Mapping[int, np.ndarray], str]:
        """Solve for every layer; stops at the first that has no solution, with the reason."""
        solved = {}
        for layer, output in self._outputs(checkpoint):
            if rows[layer].any():
                found = solve_value_bias(_output_matrix(checkpoint, output, heads, copies), rows[layer])
                if found.fault:
                    return {}, f"in layer {layer} {found.fault}"
                solved[layer] = found.bias
        return solved, ""

    def _outputs(self, checkpoint: Checkpoint) -> Iterator[tuple[int, str]]:
        """Each layer and its output projection, whose shape and those of q, k and v are as the config says."""
        heads, hidden = heads_in(checkpoint), checkpoint.hidden_size
        for layer, output in find_projections(checkpoint, self.result).items():
            for part, count in (("q_proj", heads.queries), ("k_proj", heads.keys), ("v_proj", heads.keys)):
                matrix(checkpoint, f"{_beside(output, part)}.weight", (count * heads.key_size, hidden))
            matrix(checkpoint, f"{output}.weight", (hidden, heads.queries * heads.value_size))
            own = checkpoint.tensors.get(f"{output}.bias")
            if own is not None:
                raise BrokenFileError(f"{own.file}: holds {own.name}, which the class of the result does not have")
            yield layer, output

    def _value_home(self, checkpoint: Checkpoint, layer: int, output: str) -> Home:
        module, size = _beside(output, "v_proj"), heads_in(checkpoint).value_size
        weight, bias = checkpoint.tensors[f"{module}.weight"], self._bias(checkpoint, module)
        width = weight.shape[0] * self.copies
        if bias is None:
            return Home(layer, f"{module}.bias", weight.dtype, width)
        old = read_bias(checkpoint, bias, weight.shape[0])
        return Home(layer, bias.name, bias.dtype, width, copied(old, size, width))

    def _bias(self, checkpoint: Checkpoint, module: str) -> TensorHeader | None:
        """The bias of q, k or v; None if it has none, as the config says, too."""
        is_on = self.old_fields.get(self.form.flag, self.form.flag_default)
        header = checkpoint.tensors.get(f"{module}.bias")
        if header is None and is_on:
            raise BrokenFileError(f"{checkpoint.name}: the config says that {module} has a bias, but no file holds one")
        if header is not None and not is_on:
            refuse_dormant(header, read_bias(checkpoint, header, checkpoint.tensors[f"{module}.weight"].shape[0]))
        return header

    def _copies_of(self, tensor: TensorHeader, size: int) -> NewTensor:
        """The rows (or elements) of each head, as often as it is held."""
        unit = tensor.size // tensor.shape[0] * size
        pieces = tuple(
            Span(tensor.file, start, unit)
            for start in range(tensor.start, tensor.end, unit)
            for _ in range(self.copies)
        )
        return NewTensor(tensor.dtype, (tensor.shape[0] * self.copies, *tensor.shape[1:]), pieces)


def made_row(
    checkpoint: Checkpoint, entry: RecordedBias, values: np.ndarray, old: np.ndarray | None = None
) -> np.ndarray:
    """The row that a bias of `values` makes in a finished checkpoint, less the base's `old` ones, float32 ``[hidden]``.

    Raises:
        BrokenFileError: the record names no bias of the values, or a tensor is not as the config says.
    """
    return np.asarray(_matrix_behind(checkpoint, entry) @ _gained(checkpoint, values, old), np.float32)


def misplaced_values(
    checkpoint: Checkpoint, record: Record, entry: RecordedBias, base: StoredModel | None, row: np.ndarray
) -> str:
    """`Output.misplaced` of a bias of the values in a finished `checkpoint`."""
    if wrong := wrong_norm(entry, row):
        return wrong
    if not record.made(entry) and (base is None or entry.tensor not in base.tensors):
        return f"{entry.tensor} is no tensor of the base"
    old = None if base is None or record.made(entry) else stored_values(base, entry)
    stored = stored_values(checkpoint, entry)
    gained, dtype = _gained(checkpoint, stored, old), checkpoint.tensors[entry.tensor].dtype
    if misses(_matrix_behind(checkpoint, entry), stored, gained, row, dtype):
        return f"{entry.tensor} does not make the weighted vectors by the output projection"
    return ""


def _gained(checkpoint: Checkpoint, values: np.ndarray, old: np.ndarray | None) -> np.ndarray:
    """The values without the base's `old` ones, which are repeated as often as its heads are held now."""
    size = heads_in(checkpoint).value_size
    if old is None:
        return values
    if len(old) % size or len(values) % len(old):
        raise BrokenFileError(
            f"{checkpoint.name}: the bias of its values has {len(values)} elements, the base's {len(old)}"
        )
    return np.asarray(values - copied(old, size, len(values)))


def _matrix_behind(checkpoint: Checkpoint, entry: RecordedBias) -> np.ndarray:
    """The matrix that turns a bias of the values into a row."""
    above, _, name = entry.tensor.rpartition(".v_proj.")
    heads = heads_in(checkpoint)
    if name != "bias" or checkpoint.tensors[entry.tensor].shape != (heads.keys * heads.value_size,):
        raise BrokenFileError(f"{checkpoint.name}: {entry.tensor} is not the bias of a layer's values")
    return _output_matrix(checkpoint, f"{above}.o_proj", heads)


def _output_matrix(checkpoint: Checkpoint, output: str, heads: Heads, copies: int = 1) -> np.ndarray:
    shape = (checkpoint.hidden_size, heads.queries * heads.value_size)
    weight = matrix(checkpoint, f"{output}.weight", shape)
    return value_matrix(decode(weight, checkpoint.read(weight)).reshape(shape), heads, copies)


def _beside(output: str, part: str) -> str:
    """Another projection of the attention whose output projection is `output`."""
    return f"{output.rpartition('.')[0]}.{part}"
