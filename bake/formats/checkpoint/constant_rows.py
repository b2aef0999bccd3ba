"""The constant rows of a checkpoint, see `emobake.core.constant_rows`: what a bake would have left in it.

Nothing is taken from a record. Headers and biases are read; of a checkpoint at hand also the output projections whose
rows are not zero, a piece at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ...core.biases import Column, Home
from ...core.constant_rows import Beside, ConstantRow, ConstantRows, How, Own
from ...core.elsewhere import Biases, letters_of
from ...core.heads import constant_head
from ...core.limits import MAX_WIDTH
from ...core.record import RecordedBias
from ...core.sites import SITE, SITES, Site
from ...core.stacks import STACKS, Support
from ...core.tensors import FLOATS, TensorHeader, decode
from ...errors import BrokenFileError, InputError
from ..column_norm import column_norm
from .families import Family
from .heads import heads_of
from .linear import Linear
from .model import Checkpoint
from .outputs import biased_beside, find_outputs
from .projections import branch_scale
from .quantisation import is_float
from .routes import declared_classes, find_family, treatment_as_saved
from .routes.base import all_stacks, read_bias
from .routes.existing import ExistingRoute
from .routes.head import HeadRoute
from .routes.value import ValueRoute, made_row
from .wrappers import family_of

_FROM_AFAR = "of a model on the Hub, only headers and biases are fetched; give a folder that holds it"


def find_rows(checkpoint: Checkpoint, *, whole: bool) -> tuple[ConstantRows, ...]:
    """Find every kind of constant row that is stored, those of zeros too.

    Args:
        checkpoint: the checkpoint.
        whole: False if no matrix may be read, because the weights are on the Hub.

    Raises:
        BrokenFileError: the config does not tell the shape of the model; a bias of another shape or type, or with a
            NaN; a file that ends too early.
    """
    outputs = {site: find_outputs(checkpoint, site) for site in SITES}
    found: list[ConstantRows | None] = []
    for site in SITES:
        other = next(each for each in SITES if each != site)
        found.append(_Search(checkpoint, site, outputs[site], outputs[other], whole).biases())
    attention = _Search(checkpoint, SITE, outputs[SITE], {}, whole)
    found += [attention.heads() or attention.values()]
    return tuple(rows for rows in found if rows is not None)


@dataclass(frozen=True, eq=False)
class _Search:
    """A search for the rows at one site."""

    checkpoint: Checkpoint
    site: Site
    outputs: Mapping[int, str]
    """Layer -> output projection."""
    others: Mapping[int, str]
    """The same for the other site."""
    whole: bool

    def biases(self) -> ConstantRows | None:
        """The biases of the projections; None if there is none."""
        checkpoint, family = self.checkpoint, self.family
        headers = {
            layer: header
            for layer, module in self.outputs.items()
            if (header := checkpoint.tensors.get(f"{module}.bias")) is not None
        }
        if not headers:
            return None
        scale = np.float32(1.0 if family is None else branch_scale(checkpoint, family))
        hidden = checkpoint.hidden_size
        rows = [
            ConstantRow(layer, header.name, read_bias(checkpoint, header, hidden) * scale)
            for layer, header in headers.items()
        ]
        fields = checkpoint.language_config
        # Where no bias is known that acts alone, the class may well have one.
        known = family if family is not None and family.projection and not family.refusal else None
        is_on = known is not None and not ExistingRoute.blockers(known, fields)
        flag = "" if known is None or known.flag is None else known.flag
        ignored = "" if known is None or is_on else self._off(flag)
        found = self._found("bias", rows, biased_beside(checkpoint, self.outputs, self.others))
        found = replace(found, flag=flag, ignored=ignored, own=_own(known, is_on=is_on))
        return self._treated(found, lambda of: self._bias_stacks(of, found, is_on=is_on))

    def heads(self) -> ConstantRows | None:
        """The columns behind heads of constant output; None if there is no such head."""
        form = None if self.family is None else self.family.head
        heads = None if form is None else heads_of(self.checkpoint.language_config, form.head_dim)
        if form is None or heads is None:
            return None
        firsts = {
            layer: head * heads.group * heads.value_size
            for layer, bias in self._value_biases.items()
            if bias.shape == (heads.keys * heads.value_size,)
            if (head := constant_head(self._read(bias), heads.value_size, form.constant)) is not None
        }
        if not firsts:
            return None
        rows, notes = [], dict[str, None]()
        for layer, first in firsts.items():
            row, note = self._column(layer, first)
            rows.append(row)
            notes |= {note: None} if note else {}
        flags = [flag for flag in form.flags if self.checkpoint.language_config.get(flag) is not True]
        found = replace(
            self._found("head", rows, (), inputs=firsts),
            flag=form.flags[0],
            ignored=self._off(flags[0]) if flags else "",
            own="none",
        )
        found = replace(found, notes=tuple(dict.fromkeys((*notes, *found.notes))))
        columns = {row.layer: row.column or 0 for row in rows}
        return self._treated(
            found, lambda of: HeadRoute(of, self.checkpoint.config, 1, columns, self.checkpoint.quantisation).stacks
        )

    def values(self) -> ConstantRows | None:
        """Rows that the output projections make of biases of the values, in families whose bakes have these."""
        form = None if self.family is None else self.family.value
        alive = {layer: bias for layer, bias in self._value_biases.items() if self._read(bias).any()}
        if form is None or not alive:
            return None
        rows = [self._made(layer, bias) for layer, bias in alive.items()]
        is_on = self.checkpoint.language_config.get(form.flag, form.flag_default) is True
        beside = [f"{_beside(self.outputs[layer], part)}.bias" for layer in alive for part in ("q_proj", "k_proj")]
        found = replace(
            self._found("value", rows, tuple(name for name in beside if name in self.checkpoint.tensors)),
            flag=form.flag,
            ignored="" if is_on else self._off(form.flag),
            own="flag",
        )
        found = found if self.whole else replace(found, notes=(_FROM_AFAR, *found.notes))
        return self._treated(
            found, lambda of: ValueRoute(of, self.checkpoint.config, quantisation=self.checkpoint.quantisation).stacks
        )

    @cached_property
    def family(self) -> Family | None:
        """The family by the config; None for one that the table does not have."""
        return family_of(self.checkpoint.config, self.site)

    @property
    def _label(self) -> str:
        return str(self.checkpoint.config.get("model_type"))[:60] if self.family is None else self.family.label

    @cached_property
    def _value_biases(self) -> dict[int, TensorHeader]:
        """Layer -> bias of the values, if it is floats."""
        named = {layer: f"{_beside(output, 'v_proj')}.bias" for layer, output in self.outputs.items()}
        tensors = self.checkpoint.tensors
        return {
            layer: tensors[name]
            for layer, name in named.items()
            if name in tensors and tensors[name].dtype in FLOATS and tensors[name].size <= 8 * MAX_WIDTH
        }

    def _off(self, flag: str) -> str:
        if not flag:
            module = next(iter(self.outputs.values())).rpartition(".")[2]
            return f"its class, of {self._label}, has no bias on {module}"
        return f"{flag} is not on in config.json, so that its class has no such bias"

    def _read(self, bias: TensorHeader) -> np.ndarray:
        return decode(bias, self.checkpoint.read(bias)).reshape(-1)

    def _found(
        self, how: How, rows: list[ConstantRow], beside: tuple[str, ...], inputs: Mapping[int, int] | None = None
    ) -> ConstantRows:
        """The rows with what lies beside them, and how large they are beside the projections' weights."""
        alive, named = self._alive(beside)
        notes = dict[str, None]()
        measured = []
        for row in rows:
            unit, note = self._unit(row, (inputs or {}).get(row.layer)) if row.acts else (0.0, "")
            measured.append(replace(row, unit=unit))
            notes |= {note: None} if note else {}
        return ConstantRows(
            self.site,
            how,
            tuple(measured),
            len(self.outputs),
            self._label,
            own="unknown",
            beside=alive,
            named=named,
            is_apart=how == "bias" and self._is_apart(rows),
            as_gguf=str(self.checkpoint.language_config.get("model_type", "")),
            notes=tuple(notes),
        )

    def _alive(self, names: tuple[str, ...]) -> tuple[Beside, tuple[str, ...]]:
        """Kind of the biases `names`, and the projections that they belong to; if some are alive, those."""
        kinds: dict[str, list[TensorHeader]] = {}
        for name in names:
            header = self.checkpoint.tensors[name]
            if header.dtype in FLOATS and header.size <= 8 * MAX_WIDTH:
                kinds.setdefault(name.split(".")[-2], []).append(header)
        alive = tuple(kind for kind, headers in kinds.items() if any(self._read(header).any() for header in headers))
        return ("alive", alive) if alive else ("zero" if kinds else "absent", tuple(kinds))

    def _is_apart(self, rows: list[ConstantRow]) -> bool:
        """True if the files that hold the biases hold nothing but biases."""
        files = {self.checkpoint.tensors[row.tensor].file for row in rows}
        return all(name.endswith(".bias") for name, each in self.checkpoint.tensors.items() if each.file in files)

    def _unit(self, row: ConstantRow, inputs: int | None) -> tuple[float, str]:
        """The norm of a column of the projection behind a row, and the reason if it is not known.

        `inputs` are its columns without those of an added head.
        """
        module = self.outputs[row.layer]
        parts, found = self.checkpoint.modules[module], self.checkpoint.quantisation
        if not is_float(parts):
            how = "stored in no known way" if found is None else f"quantised ({found.label})"
            return 0.0, f"its weights are {how}, so the norms are given alone"
        if not self.whole:
            return 0.0, f"the norms are given alone: {_FROM_AFAR}"
        weight = parts["weight"]
        width = inputs or weight.shape[0 if self.family is not None and self.family.conv1d else 1]
        unit = column_norm(
            weight,
            width,
            self.checkpoint.read,
            lambda part, data: decode(replace(part, shape=(len(data) // FLOATS[part.dtype].itemsize,)), data),
            block=FLOATS[weight.dtype].itemsize,
            without=0.0 if inputs is None or row.norm is None else row.norm**2,
        )
        return unit, "" if unit else f"{weight.name} is zero, or holds a NaN or infinity"

    def _column(self, layer: int, first: int) -> tuple[ConstantRow, str]:
        """The row behind the head whose first input of the projection is `first`, and the reason if it is not read."""
        module = self.outputs[layer]
        try:
            linear = Linear.of(self.checkpoint, module)
            tensor, column = linear.column_tensor, first // linear.layout.group
            if not self.whole:
                return ConstantRow(layer, tensor.name, None, column), _FROM_AFAR
            home = Home(layer, tensor.name, tensor.dtype, linear.outputs, None, Column(column, tensor.dtype))
            values = home.decode(self.checkpoint.read_column(tensor, column))
        except (BrokenFileError, StopIteration) as error:
            return ConstantRow(layer, f"{module}.weight", None, first), str(error) or f"{module} stores no such column"
        if not np.isfinite(values).all() or len(values) != self.checkpoint.hidden_size:
            raise BrokenFileError(f"{self.checkpoint.name}: column {column} of {tensor.name} is no row of floats")
        return ConstantRow(layer, tensor.name, values, column), ""

    def _made(self, layer: int, bias: TensorHeader) -> ConstantRow:
        """The row that the output projection makes of a bias of the values."""
        if not self.whole:
            return ConstantRow(layer, bias.name, None)
        values = self._read(bias)
        row = made_row(self.checkpoint, RecordedBias(layer, bias.name, bias.dtype, 0.0, ""), values)
        if not np.isfinite(row).all():
            raise BrokenFileError(f"{bias.file}: {bias.name} makes a row with a NaN or infinity")
        return ConstantRow(layer, bias.name, row)

    def _treated(self, found: ConstantRows, stacks: Callable[[Family], Mapping[str, Support]]) -> ConstantRows:
        """The rows with their treatment by each stack, where the classes that the config names are known."""
        checkpoint = self.checkpoint
        try:
            family = find_family(checkpoint.config, checkpoint.name, self.site)
            problem = "" if checkpoint.quantisation is None else checkpoint.quantisation.problem
        except InputError as error:
            family, problem = None, str(error).partition(": ")[2]
        if family is None or problem:
            unknown = {name: Support("unknown") for name, stack in STACKS.items() if "checkpoint" in stack.loads}
            return replace(found, stacks=unknown, notes=(*found.notes, problem))
        treated = stacks(family)
        if found.ignored and found.flag:
            treated = dict(_switched_off(treated, found.flag))
        if "auto_map" in checkpoint.config:
            code = "auto_map names code of the checkpoint, which may do otherwise than the class of this name"
            return replace(found, stacks=treated, notes=(*found.notes, code))
        return replace(found, stacks=treated)

    def _bias_stacks(self, family: Family, found: ConstantRows, *, is_on: bool) -> Mapping[str, Support]:
        """Treatment of a bias of the projection by each stack."""
        classes, backend = declared_classes(self.checkpoint.config), family.backend
        by_backend = is_on and backend is not None and classes[0] == backend.name
        fields = self.checkpoint.language_config
        letters = letters_of(f".{name}" for name in found.named)
        biases = Biases(
            "o" if self.site == SITE else "d",
            own=letters if found.beside == "alive" else "",
            zero=letters if found.beside == "zero" else "",
            is_reshaped=by_backend,
        )
        usual = family.by_backend if by_backend else treatment_as_saved(family, fields)
        return all_stacks(family, usual, biases, self.checkpoint.quantisation)


def _switched_off(stacks: Mapping[str, Support], flag: str) -> Iterator[tuple[str, Support]]:
    """The treatment of biases by stacks whose config says that there are none: transformers drops them."""
    note = f"{flag} is not on"
    for name, support in stacks.items():
        if support.status not in ("steered", "option"):
            yield name, support
        else:
            yield name, Support("unsteered" if name == "transformers" else "unknown", note=note)


def _own(family: Family | None, *, is_on: bool) -> Own:
    """The value of `ConstantRows.own` for a bias of the projection."""
    if family is None:
        return "unknown"
    if not is_on:
        return "none"
    return "always" if family.always or family.flag_default else "flag"


def _beside(output: str, part: str) -> str:
    """Another projection of the attention whose output projection is `output`."""
    return f"{output.rpartition('.')[0]}.{part}"
