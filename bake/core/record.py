"""The record that each output keeps about itself: ``emobake.json``, or ``emobake.record`` in a GGUF file.

`Record.to_json` and `Record.from_json` are each other's inverse. A record has no timestamp and no local path, so the
same inputs give the same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeVar, get_args

from .._version import __version__
from ..errors import InputError
from .biases import PlannedBias
from .heads import Cost
from .limits import MAX_DEVICES, MAX_LAYERS
from .names import is_emotion_name, is_inside
from .recorded_persona import RecordedPersona
from .sites import SITE, SITES, Site
from .steering import Steering
from .tensors import WeightFile
from .vector_set import VectorSet

RECORD_FILE = "emobake.json"
_FORMS = ("checkpoint", "peft", "gguf")
AdapterUse = Literal["steered", "beside", "served", "merged"]
"""Use of an adapter. ``steered``: the output is the adapter with the biases; ``beside``: the output is a second
one, to be used with it; ``served``: the output is its base with the biases, and carries it; ``merged``: it was merged
into the base first."""

_DIGESTS = ("computed", "advertised")
"""Origin of a digest: the bytes of the file, or the word of the Hub."""

T = TypeVar("T")


@dataclass(frozen=True)
class RecordedBase:
    """The model that was baked."""

    model: str = ""
    """Hub id; empty if unknown."""
    revision: str = ""
    """Commit on the Hub; empty if the base was a folder."""
    weights: tuple[WeightFile, ...] = ()


@dataclass(frozen=True)
class RecordedAdapter:
    """The adapter that was baked, or on whose base a bake was made."""

    how: AdapterUse
    model: str = ""
    """Hub id; empty if unknown."""
    revision: str = ""
    """Commit on the Hub; empty if the adapter was a folder."""
    kind: str = "LORA"
    """``peft_type``."""
    sha256: str = ""
    """Digest of the tensors that it was given with, see `emobake.formats.adapter.open.Adapter.digest_of`."""

    def to_json(self) -> dict[str, Any]:
        """The adapter as JSON data."""
        return {"use": self.how, "model": self.model or None, "revision": self.revision or None} | {
            "peft_type": self.kind,
            "sha256": self.sha256,
        }


@dataclass(frozen=True)
class RecordedVectors:
    """The vector set that was baked; fields as in `emobake.VectorSet`, empty if unknown."""

    name: str = ""
    site: Site = SITE
    base_model: str = ""
    source: str = ""
    license: str = ""
    queries: Mapping[str, str] = field(default_factory=dict)
    sha256: Mapping[str, str] = field(default_factory=dict)
    rows: Mapping[str, str] = field(default_factory=dict)
    """Emotion that has a weight -> digest of its rows as float32, little endian: the same in every form of the set."""
    sets: tuple[RecordedVectors, ...] = ()
    """The sets that it was merged of, in their order; empty if it was one."""

    @property
    def origins(self) -> tuple[RecordedVectors, ...]:
        """The sets that were baked, each as it was given."""
        return self.sets or (self,)

    @classmethod
    def of(cls, vectors: VectorSet, steering: Steering) -> RecordedVectors:
        """The part of `vectors` that a record of `steering` keeps."""
        return cls(
            vectors.name,
            vectors.site,
            vectors.base_model,
            vectors.source,
            vectors.license,
            vectors.queries,
            vectors.sha256,
            {
                emotion: hashlib.sha256(
                    vectors.rows[vectors.emotions.index(emotion)].astype("<f4").tobytes()
                ).hexdigest()
                for emotion, _ in steering.weights
                if emotion in vectors.emotions
            },
            tuple(cls.of(part, steering) for part in vectors.parts),
        )

    def to_json(self) -> dict[str, Any]:
        """The vectors as JSON data."""
        return {
            "name": self.name,
            "site": self.site,
            "base_model": self.base_model or None,
            "source": self.source or None,
            "license": self.license or None,
            "extraction": dict(self.queries) or None,
            "sha256": dict(sorted(self.sha256.items())),
            **({"rows_sha256": dict(self.rows)} if self.rows else {}),
            **({"sets": [one.to_json() for one in self.sets]} if self.sets else {}),
        }


@dataclass(frozen=True)
class RecordedBias:
    """One bias of the output."""

    layer: int
    tensor: str
    dtype: str
    norm: float
    """Euclidean norm of the row that the bake added."""
    sha256: str
    """Digest of the stored bytes."""
    column: int | None = None
    """Number of the column of `tensor` that stores it, counted from 0; None if the whole tensor does."""

    @classmethod
    def of(cls, bias: PlannedBias) -> RecordedBias:
        """The part of `bias` that a record keeps."""
        return cls(bias.layer, bias.tensor, bias.dtype, round(bias.norm, 6), bias.sha256, bias.column)

    def to_json(self) -> dict[str, Any]:
        """The bias as JSON data."""
        column = {} if self.column is None else {"column": self.column}
        return {"layer": self.layer, "tensor": self.tensor, "dtype": self.dtype, "norm": self.norm} | {
            "sha256": self.sha256,
            **column,
        }


@dataclass(frozen=True)
class Record:
    """One bake: the vectors and weights, the base, and the tensors that store the sums."""

    form: str
    """``checkpoint``, ``peft``, ``gguf``; or ``peft-each``, for which only `adapters` is set."""
    base: RecordedBase = RecordedBase()
    vectors: RecordedVectors = RecordedVectors()
    steering: Steering = field(default_factory=lambda: Steering(()))
    branch_scale: float = 1.0
    """Factor between the biases and the site of the vectors; the weighted sums were divided by it."""
    route: str = ""
    cost: Cost = field(default_factory=Cost)
    """Cost of the route."""
    tensor_parallel: int = 1
    """Devices that can share the heads of a route that adds some."""
    model_type: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    """Weight file of the output -> the base's file that it continues."""
    assembled: tuple[str, ...] = ()
    """Weight files that are made of parts of the base's."""
    text_only: bool = False
    """True if the output is the language model of a multimodal base alone."""
    adapter: RecordedAdapter | None = None
    """The adapter that was given as the model; None if a checkpoint or a GGUF file was."""
    added: tuple[str, ...] = ()
    """Tensors that the base does not have."""
    biases: tuple[RecordedBias, ...] = ()
    digests: Mapping[str, str] = field(default_factory=dict)
    """Small file that the bake wrote or carried -> sha256, without the record itself and the card, which a push
    changes. Of a GGUF model ``metadata`` -> digest of all metadata but the record, and of the tensors' descriptions.
    Empty in records of versions that kept none."""
    undo: str = ""
    """Digest of the undo data, see `emobake.core.undo`; empty if the output has none."""
    irreversible: str = ""
    """The reason why the base cannot be made again of the output, as a clause; empty too in records of versions that
    kept no undo data."""
    earlier: tuple[Mapping[str, Any], ...] = ()
    """JSON of the bakes before this one, the first bake first."""
    adapters: tuple[str, ...] = ()
    """Folders of a ``peft-each`` output, each with a record of its own."""
    persona: RecordedPersona | None = None
    """The persona that it was made of; None without one."""
    version: str = __version__

    @cached_property
    def history(self) -> tuple[Record, ...]:
        """The bakes before this one, the first bake first."""
        return tuple(_parse(earlier) for earlier in self.earlier)

    def made(self, bias: RecordedBias) -> bool:
        """True if this bake made the bias; False if it added to one that the base had."""
        if bias.column is None:
            return bias.tensor in self.added
        return not any((bias.tensor, bias.column) == (b.tensor, b.column) for e in self.history for b in e.biases)

    def to_json(self) -> dict[str, Any]:
        """The record as JSON data."""
        if self.form == "peft-each":
            return {"emobake_version": self.version, "format": self.form, "adapters": list(self.adapters)}
        base, steering = self.base, self.steering
        return {
            "emobake_version": self.version,
            "format": self.form,
            "base": {
                "model": base.model or None,
                "revision": base.revision or None,
                "weights": [
                    {"name": w.name, "size": w.size}
                    | ({"sha256": w.sha256, "digest": _DIGESTS[w.advertised]} if w.sha256 else {})
                    for w in base.weights
                ],
            },
            "vectors": self.vectors.to_json(),
            "weights": dict(steering.weights),
            "scale": steering.scale,
            "steered_layers": None if steering.layers is None else list(steering.layers),
            **({} if self.branch_scale == 1 else {"branch_scale": self.branch_scale}),
            "route": self.route,
            **(
                {}
                if self.cost.is_free
                else {"cost": {"cache": self.cost.cache, "attention_weights": self.cost.attention}}
            ),
            **({} if self.tensor_parallel == 1 else {"tensor_parallel": self.tensor_parallel}),
            "model_type": self.model_type,
            **({"text_only": True} if self.text_only else {}),
            **({} if self.adapter is None else {"adapter": self.adapter.to_json()}),
            **({} if self.persona is None else {"persona": self.persona.to_json()}),
            "files": dict(self.files),
            **({"assembled_files": list(self.assembled)} if self.assembled else {}),
            "added_tensors": list(self.added),
            "biases": [bias.to_json() for bias in self.biases],
            **({"digests": dict(sorted(self.digests.items()))} if self.digests else {}),
            **({"undo": {"sha256": self.undo}} if self.undo else {}),
            **({"undo": {"irreversible": self.irreversible}} if self.irreversible else {}),
            **({"history": list(self.earlier)} if self.earlier else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], file: str) -> Record:
        """Read a record, and the history in it; `file` names it in messages.

        Raises:
            InputError: not a record that this version writes.
        """
        try:
            record = _parse(data)
            _ = record.history
        except (AttributeError, KeyError, TypeError, ValueError, StopIteration, RecursionError, InputError):
            raise InputError(f"{file}: is not a record that this version of emobake writes; bake again") from None
        return record


def history_of(earlier: Mapping[str, Any] | None, file: str = RECORD_FILE) -> tuple[Mapping[str, Any], ...]:
    """`Record.earlier` for a bake of a base whose own record is `earlier`; empty for a base without one.

    Raises:
        InputError: `earlier`, which was read from `file`, is no record: the sum of the bakes would be unknown.
    """
    if earlier is None:
        return ()
    try:
        Record.from_json(earlier, file)
    except InputError:
        raise InputError(
            f"{file}: is not a record that this version of emobake writes, so it is unknown what was baked before; "
            "remove it, or start from the original model"
        ) from None
    last = dict(earlier)
    before = last.pop("history", [])
    return (*(before if isinstance(before, list) else []), last)


def columns_of(earlier: Sequence[Mapping[str, Any]], file: str = RECORD_FILE) -> dict[int, int]:
    """Layer -> column in which a bake stored its bias, by the records of `history_of`; empty if none did.

    Raises:
        InputError: one of them, which were read from `file`, is no record.
    """
    records = [Record.from_json(data, file) for data in earlier]
    return {entry.layer: entry.column for each in records for entry in each.biases if entry.column is not None}


def difference(found: Record, planned: Record) -> str:
    """The first field in which a record is not the one that was `planned` for the same output; empty if none.

    The version, the commit, the undo data and the description of the vectors may differ, and digests that one of the
    two lacks. The name of a GGUF base may differ, too: it is a single file, which people rename.
    """
    named = planned.form != "gguf"
    ours, theirs = found.base.weights, planned.base.weights
    same_base = len(ours) == len(theirs) and all(
        (a.name == b.name or not named) and a.size == b.size and (a.sha256 == b.sha256 or not (a.sha256 and b.sha256))
        for a, b in zip(ours, theirs, strict=True)
    )
    pairs = {
        "format": (found.form, planned.form),
        "base": (True, same_base),
        "branch_scale": (found.branch_scale, planned.branch_scale),
        "route": (found.route, planned.route),
        "cost": (found.cost, planned.cost),
        "tensor_parallel": (found.tensor_parallel, planned.tensor_parallel),
        "model_type": (found.model_type, planned.model_type),
        "text_only": (found.text_only, planned.text_only),
        "adapter": (_kept(found.adapter), _kept(planned.adapter)),
        "persona": (found.persona, planned.persona),
        "files": (dict(found.files), dict(planned.files)),
        "assembled_files": (sorted(found.assembled), sorted(planned.assembled)),
        "added_tensors": (sorted(found.added), sorted(planned.added)),
        "biases": (found.biases, planned.biases),
        "digests": (dict(found.digests or planned.digests), dict(planned.digests)),
        "history": (found.earlier, planned.earlier),
    }
    return next((field for field, (one, other) in pairs.items() if one != other), "")


def _parse(data: Mapping[str, Any]) -> Record:
    if data["format"] == "peft-each":
        return Record("peft-each", adapters=_each(data["adapters"], _emotion))
    if data["format"] not in _FORMS:
        raise ValueError
    layers, base, undo = data["steered_layers"], data["base"], dict(data.get("undo") or {})
    return Record(
        form=data["format"],
        base=RecordedBase(_text(base["model"] or ""), _text(base["revision"] or ""), _each(base["weights"], _weight)),
        vectors=_vectors(data["vectors"]),
        steering=Steering(
            tuple((name, _number(weight)) for name, weight in data["weights"].items()),
            _number(data["scale"]),
            None if layers is None else _each(layers, _layer),
        ),
        branch_scale=_number(data.get("branch_scale", 1.0)),
        route=_text(data["route"]),
        cost=_cost(data.get("cost") or {}),
        tensor_parallel=_devices(data.get("tensor_parallel", 1)),
        model_type=_text(data["model_type"]),
        files={_file(name): _file(source) for name, source in dict(data["files"]).items()},
        assembled=_each(data.get("assembled_files", []), _file),
        text_only=_flag(data.get("text_only", False)),
        adapter=None if data.get("adapter") is None else _adapter(data["adapter"]),
        persona=None if data.get("persona") is None else RecordedPersona.from_json(data["persona"]),
        added=_each(data["added_tensors"], _text),
        biases=_each(data["biases"], _bias),
        digests=_texts(data.get("digests") or {}),
        undo=_text(undo.get("sha256", "")),
        irreversible=_text(undo.get("irreversible", "")),
        earlier=_each(data.get("history", []), dict),
        version=_text(data["emobake_version"]),
    )


def _vectors(data: Mapping[str, Any]) -> RecordedVectors:
    return RecordedVectors(
        name=_text(data["name"]),
        site=next(site for site in SITES if site == data["site"]),
        base_model=_text(data.get("base_model") or ""),
        source=_text(data.get("source") or ""),
        license=_text(data.get("license") or ""),
        queries=_texts(data.get("extraction") or {}),
        sha256=_texts(data["sha256"]),
        rows=_texts(data.get("rows_sha256") or {}),
        sets=_each(data.get("sets", []), _vectors),
    )


def _kept(adapter: RecordedAdapter | None) -> tuple[str, str]:
    """The facts that two bakes of one adapter share; its name may be another one."""
    return ("", "") if adapter is None else (adapter.how, adapter.sha256)


def _adapter(data: Mapping[str, Any]) -> RecordedAdapter:
    return RecordedAdapter(
        next(use for use in get_args(AdapterUse) if use == data["use"]),
        _text(data["model"] or ""),
        _text(data["revision"] or ""),
        _text(data["peft_type"]),
        _text(data["sha256"]),
    )


def _weight(entry: Mapping[str, Any]) -> WeightFile:
    sha256 = _text(entry.get("sha256", ""))
    advertised = bool(sha256) and _DIGESTS.index(entry.get("digest", "advertised")) == 1
    return WeightFile(_file(entry["name"]), _whole(entry["size"]), sha256, advertised)


def _bias(entry: Mapping[str, Any]) -> RecordedBias:
    return RecordedBias(
        _layer(entry["layer"]),
        _text(entry["tensor"]),
        _text(entry["dtype"]),
        _number(entry["norm"]),
        _text(entry["sha256"]),
        None if entry.get("column") is None else _whole(entry["column"]),
    )


def _cost(entry: Mapping[str, Any]) -> Cost:
    return Cost(_number(entry.get("cache", 1.0)), _number(entry.get("attention_weights", 1.0)))


def _devices(value: Any) -> int:
    if not 1 <= _whole(value) <= MAX_DEVICES:
        raise ValueError
    return int(value)


def _each(value: Any, parse: Callable[[Any], T]) -> tuple[T, ...]:
    if not isinstance(value, list):
        raise TypeError
    return tuple(parse(item) for item in value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _texts(value: Any) -> dict[str, str]:
    return {key: _text(text) for key, text in dict(value).items()}


def _number(value: Any) -> float:
    if type(value) not in (int, float):
        raise TypeError
    return float(value)


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _layer(value: Any) -> int:
    if _whole(value) >= MAX_LAYERS:
        raise ValueError
    return int(value)


def _emotion(value: Any) -> str:
    if not is_emotion_name(_text(value)):
        raise ValueError
    return str(value)


def _file(value: Any) -> str:
    if not is_inside(_text(value)):
        raise ValueError
    return str(value)
