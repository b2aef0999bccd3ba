"""The files of an output beside a plan of the same bake, made anew."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ...core.check import Check
from ...core.plan import CARD_FILE, PlannedFile, Rows
from ...core.record import RECORD_FILE, difference
from ...core.strict_json import parse_json_object
from ...core.undo import UNDO_FILE
from ...errors import InputError, VerifyError
from ...storage.comparing import OutputFiles
from .others import check_others
from .output import Output, StoredModel
from .undo import UNDO_CHECK

_OWN = (RECORD_FILE, UNDO_FILE, CARD_FILE)
"""Files that may differ between two bakes of a base."""


def check_by_plan(output: Output, files: OutputFiles, base: StoredModel) -> Iterator[Check]:
    """Compare all files with a plan of the same bake."""
    try:
        plan = output.plan_again(base)
    except (VerifyError, InputError) as error:
        yield Check("planned again", False, f"the base does not give this output by this record: {error}")
        return
    field = difference(output.record, plan.record)
    if field:
        yield Check("planned again", False, f"{output.record_name} has another {field} than a bake of this base")
    else:
        note = "" if output.record.digests else ", but for the digests that earlier versions left out"
        yield Check("planned again", True, f"{output.record_name} says what a bake of this base says{note}")
    failed, unknown = False, []
    for file in plan.files:
        if file.name in _OWN:
            continue
        found = _compare(output, files, file)
        if found is None:
            unknown.append(file.name)
        elif found:
            failed = True
            yield Check("files as planned", False, f"{file.name}: {found}")
    if unknown:
        yield Check(
            "files as planned",
            None,
            f"{', '.join(unknown)}: only the size was compared, and the biases in it; "
            "the Hub keeps no digest of what the base gives",
        )
    if not failed:
        compared = [file for file in plan.files if file.name not in (*unknown, *_OWN)]
        carried = sum(file.size - file.new_bytes for file in compared)
        moved = sum(isinstance(piece, Rows) for file in plan.files for piece in file.pieces)
        note = f", {moved} tensors with rows in llama's order" if moved else ""
        said = f"{_count(len(compared), 'file')}, byte-identical to the plan{files.means}"
        yield Check("files as planned", True, f"{said}, {carried / 1e6:,.0f} MB of them the base's{note}")
    card = next((file for file in plan.files if file.name == CARD_FILE), None)
    if card is not None and (CARD_FILE not in files.sizes or not files.compare(card).same):
        yield Check("model card", None, f"{CARD_FILE} is not as a bake writes it here (by hand, a push, or a version)")
    undo = next((file for file in plan.files if file.name == UNDO_FILE), None)
    if undo is not None and output.record.undo and UNDO_FILE in files.sizes and not files.compare(undo).same:
        said = f"{UNDO_FILE} is not as a bake of this base writes it (of a version, or its card is another one)"
        yield Check(UNDO_CHECK, None, said)
    if output.names is None:
        yield from check_others(files, [file.name for file in plan.files])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _compare(output: Output, files: OutputFiles, planned: PlannedFile) -> str | None:
    """Describe the fault of a file; empty if there is none, None if only fetching it could tell."""
    size = files.sizes.get(planned.name)
    if size is None:
        return "is missing"
    compared = files.compare(planned)
    if compared.same is None:
        return None
    if compared.same:
        return ""
    where = "" if compared.offset is None else output.explain(planned, compared.offset)
    if not where and planned.action == "write" and planned.name.endswith(".json"):
        where = _json_difference(files.read(planned.name), planned)
    if not where and size != planned.size:
        where = f"has {size} bytes, not {planned.size}"
    origin = f"the base's {planned.source}" if planned.action == "carry" else "the one that a bake writes"
    return f"{where or 'differs'}; it is not {origin}"


def _json_difference(found: bytes, planned: PlannedFile) -> str:
    """The first field of a JSON object that is not as planned."""
    try:
        ours, theirs = parse_json_object(found, planned.name), parse_json_object(planned.data, planned.name)
        return next(filter(None, (_field_difference(key, ours, theirs) for key in [*theirs, *ours])), "")
    except InputError:
        return "is not valid JSON"
    except RecursionError:
        return ""


def _field_difference(key: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    if key not in ours:
        return f"lacks {key[:80]}"
    if key not in theirs:
        return f"has {key[:80]} besides"
    if isinstance(ours[key], dict) and isinstance(theirs[key], dict):
        inner = (_field_difference(name, ours[key], theirs[key]) for name in [*theirs[key], *ours[key]])
        return next((f"{key[:80]}: {found}" for found in inner if found), "")
    if type(ours[key]) is not type(theirs[key]) or ours[key] != theirs[key]:
        return f"{key[:80]} is {json.dumps(ours[key])[:80]}, not {json.dumps(theirs[key])[:80]}"
    return ""
