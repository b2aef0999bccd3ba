"""Receipts: the report of an evaluation holds a steering to bounds, if it is the report of this very steering."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..core.bounds import Bounds
from ..core.record import Record
from ..core.steering import Steering
from ..errors import BrokenFileError, InputError
from ..storage.files import read_json, reading

_PRECISION = 1e-6
"""Relative difference below which two strengths are the same."""


def at_best_strength(report: Path, steering: Steering) -> tuple[Steering, str]:
    """Scale `steering` to the strength that a report calls the best for it; returns a line about it, too.

    Only weights are compared: `check_receipt` tells whether the report is of the same base and vectors.

    Raises:
        InputError: the report does not tell of these weights, or calls no strength the best for them.
        BrokenFileError: report.json is not one.
    """
    file, receipt = _read(report)
    wanted = {name: weight for name, weight in steering.weights if weight}
    try:
        for one in receipt["directions"]:
            factor = _factor(wanted, one["weights"] or {})
            if factor is None or factor < 0:
                continue
            if one["chosen"]["best"] is not True:
                raise InputError(f"{file}: calls no strength of {one['name']} the best; give `scale` a number")
            strength = float(one["chosen"]["strength"])
            return replace(
                steering, scale=strength / factor
            ), f"{one['name']} at {strength:g}, the best strength in {file}"
    except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise _unreadable(file, error) from None
    raise InputError(f"{file}: does not tell of {', '.join(wanted) or 'no emotion'} in these proportions")


@dataclass(frozen=True)
class Measured:
    """Figures that a report has of weights in the same proportions."""

    direction: str
    """Name of the direction in the report."""
    strength: float
    """Strength of the steering that was asked about, in units of the direction."""
    points: tuple[Mapping[str, Any], ...]
    """The measured strengths above 0, ascending, with their figures."""

    @property
    def nearest(self) -> Mapping[str, Any]:
        """The point whose strength is nearest."""
        return min(self.points, key=lambda point: abs(point["strength"] - self.strength))


def measured(report: Path, steering: Steering) -> Measured | None:
    """Find what a report tells of these weights at any strength; None if it does not tell of them.

    Only weights and layers are compared, see `check_receipt`.

    Raises:
        InputError: no report. BrokenFileError: report.json is not one.
    """
    file, receipt = _read(report)
    wanted = {name: weight for name, weight in steering.weights if weight}
    layers = None if steering.layers is None else list(steering.layers)
    try:
        for one in receipt["directions"]:
            factor = _factor(wanted, one["weights"] or {})
            if factor is None or one["layers"] != layers or factor * steering.scale <= 0:
                continue
            above = (dict(point) for point in one["points"] if float(point["strength"]) > 0)
            points = tuple(sorted(above, key=lambda point: float(point["strength"])))
            if points:
                return Measured(str(one["name"]), factor * steering.scale, points)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _unreadable(file, error) from None
    return None


def check_receipt(report: Path, record: Record, bounds: Bounds) -> None:
    """Hold the steering of `record` to `bounds`, by the report of an evaluation in the folder `report`.

    The report must be of the same base, by the names and sizes of its weight files, of the same vectors, by the
    digests of their rows, and it must have measured this strength. Nothing is interpolated.

    Raises:
        InputError: it is another report, the strength was not measured, or a bound does not hold.
        BrokenFileError: report.json is not one.
    """
    file, receipt = _read(report)
    if record.adapters or record.history:
        raise InputError(
            f"{file}: tells of one steering of one base; bounds go neither with adapters nor with a second bake"
        )
    try:
        figures = _figures_of(receipt, record, file)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _unreadable(file, error) from None
    if beyond := bounds.beyond(figures):
        raise InputError(f"{file}: {record.steering.recipe} is beyond {'; '.join(beyond)}; take a smaller weight")


def _read(report: Path) -> tuple[Path, Mapping[str, Any]]:
    """The file of a report, and its receipt."""
    file = report / "report.json"
    if not file.is_file():
        raise InputError(f"{report}: has no report.json; give `report` the output of `emobake eval`")
    with reading():
        receipt = read_json(file).get("receipt")
    if not isinstance(receipt, dict):
        raise InputError(f"{file}: has no receipt; make the report again with `emobake eval`")
    return file, receipt


def _unreadable(file: Path, error: Exception) -> BrokenFileError:
    return BrokenFileError(f"{file}: its receipt cannot be read ({type(error).__name__}); make it again")


def _figures_of(receipt: Mapping[str, Any], record: Record, file: Path) -> Mapping[str, Any]:
    """The point of the receipt at the strength of the record."""
    _check_base(receipt, record, file)
    steering = record.steering
    wanted = {name: weight * steering.scale for name, weight in steering.weights if weight * steering.scale}
    layers = None if steering.layers is None else list(steering.layers)
    measured: list[float] = []
    for one in receipt["directions"]:
        strength = _strength(one, wanted, layers, record)
        if strength is None:
            continue
        for point in one["points"]:
            if math.isclose(point["strength"], strength, rel_tol=_PRECISION):
                return dict(point)
            measured.append(float(point["strength"]) / strength)
    if measured:
        known = ", ".join(f"{factor:.4g}" for factor in sorted(measured) if factor)
        raise InputError(
            f"{file}: {steering.recipe} was not measured, only {known} times it; evaluate this strength, too"
        )
    names = ", ".join(str(one["name"])[:60] for one in receipt["directions"])
    raise InputError(f"{file}: does not tell of {steering.recipe} by these vectors and layers (it tells of {names})")


def _strength(
    one: Mapping[str, Any], wanted: Mapping[str, float], layers: list[int] | None, record: Record
) -> float | None:
    """The strength at which the direction `one` is the steering of the record; None if it is another one."""
    own = one["weights"]
    if own is None or one["layers"] != layers:
        return None
    digests = record.vectors.rows
    if any(not digests.get(name) or one["rows_sha256"].get(name) != digests[name] for name in wanted):
        return None
    return _factor(wanted, own)


def _factor(wanted: Mapping[str, float], own: Mapping[str, float]) -> float | None:
    """The number by which the weights `own` are multiplied to give `wanted`; None if there is none."""
    if not wanted or set(own) != set(wanted):
        return None
    ratios = [weight / own[name] for name, weight in wanted.items() if own[name]]
    same = len(ratios) == len(wanted) and all(math.isclose(ratio, ratios[0], rel_tol=_PRECISION) for ratio in ratios)
    return ratios[0] if same else None


def _check_base(receipt: Mapping[str, Any], record: Record, file: Path) -> None:
    """Refuse the report of another base; a GGUF file and an adapter have other files than the checkpoint that ran."""
    if record.form == "gguf" or record.adapter is not None:
        return
    measured = {(name, size) for name, size in receipt["weights"]}
    other = next((one.name for one in record.base.weights if (one.name, one.size) not in measured), "")
    if other:
        raise InputError(f"{file}: is the report of another base, which has no {other} of this size")
