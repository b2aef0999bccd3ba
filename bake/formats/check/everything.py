"""All checks of one output by its bytes.

With the base, the bake is planned anew, and the whole output is compared with that plan, so that nothing can be
forgotten; without it, with the digests that the record keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ...core.check import Check
from ...core.vector_set import VectorSet
from ...errors import EmobakeError
from ...storage.comparing import OutputFiles
from .biases import check_arithmetic, check_recorded
from .by_plan import check_by_plan
from .by_record import check_by_record
from .output import Output, StoredModel
from .undo import check_undo


def check_bytes(
    output: Output,
    files: OutputFiles,
    base: StoredModel | None,
    vectors: VectorSet | None,
    *,
    no_base: str = "give `base`",
    no_vectors: str = "",
) -> Iterator[Check]:
    """Check an output by its bytes; `no_base` says why there is no `base` to compare with.

    With a base, the bake is planned anew, and every file is compared with that plan.

    Raises:
        EmobakeError: a file cannot be read; the checks before it were yielded.
    """
    yield from output.structure()
    yield check_recorded(output)
    yield from check_undo(output, files)
    if base is None:
        yield from check_by_record(output, files, no_base)
    else:
        yield from check_by_plan(output, files, base)
    if vectors is not None:
        yield check_arithmetic(output, base, vectors)
    else:
        why = no_vectors or "give `vectors`"
        yield Check("arithmetic", None, f"biases compared with the record's digests only; {why}")


def run_checks(steps: list[Callable[[], Iterator[Check]]]) -> list[Check]:
    """Run steps one after another; a step that cannot finish becomes a failed finding."""
    checks: list[Check] = []
    for step in steps:
        try:
            checks.extend(step())
        except EmobakeError as error:
            checks.append(Check("cannot be checked", False, str(error)))
    return checks
