"""Files beside those of a bake: a loader may read them, and load something else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ...core.check import Check
from ...core.plan import CARD_FILE
from ...core.record import RECORD_FILE
from ...core.side_files import is_duplicate, is_loaded
from ...core.undo import UNDO_FILE
from ...storage.comparing import OutputFiles

_NAMED = 8
"""Names of one kind in a finding."""


def check_others(files: OutputFiles, known: Iterable[str]) -> Iterator[Check]:
    """Look for files besides the `known` ones that a loader would read, and name the rest."""
    others = sorted(files.sizes.keys() - set(known) - {RECORD_FILE, UNDO_FILE, CARD_FILE})
    loaded = [name for name in others if is_loaded(name)]
    for name in loaded[:_NAMED]:
        why = "holds weights that are not steered" if is_duplicate(name) else "changes what a loader makes of the model"
        yield Check("no other files", False, f"{name} lies beside the model and {why}; remove it")
    if not loaded:
        yield Check("no other files", True, "none that a loader would read")
    rest = [name for name in others if name not in loaded]
    if rest:
        more = f" and {len(rest) - _NAMED} more" if len(rest) > _NAMED else ""
        yield Check("other files", None, f"no loader reads {', '.join(rest[:_NAMED])}{more}; not compared")
