"""The undo data of an output beside the digest in its record."""

from __future__ import annotations

from collections.abc import Iterator

from ...core.check import Check
from ...core.undo import UNDO_FILE
from ...storage.comparing import OutputFiles
from .output import Output

UNDO_CHECK = "undo data"


def check_undo(output: Output, files: OutputFiles) -> Iterator[Check]:
    """Compare the undo data with their digest; nothing is told of an output that never had any.

    Without them it is as good a model as before.
    """
    if not output.record.undo:
        return
    found = output.undo_digest(files)
    if not found:
        yield Check(UNDO_CHECK, None, f"{UNDO_FILE} was removed, so `emobake unbake` cannot make the base again")
    elif found != output.record.undo:
        yield Check(UNDO_CHECK, False, f"{UNDO_FILE} is not what {output.record_name} names")
    else:
        yield Check(UNDO_CHECK, True, f"{UNDO_FILE} is as recorded")
