"""Checking a baked GGUF file: by its bytes, and by running it in llama.cpp."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ..core.check import Check
from ..errors import EmobakeError, InputError
from ..formats.gguf.check import _check_bytes, read_gguf_record
from ..formats.gguf.model import GgufModel, open_gguf
from ..models.stacks import generate
from ..storage.model_name import is_gguf
from ..vectors.find import find_vectors

BEGINNINGS = ("Dear diary, today was a day on which I", "When I think of my neighbours, I feel")
"""What the model is let go on with: without a chat template, which a base model may not have."""


def verify_gguf(
    out: Path,
    *,
    base: str | None,
    vectors: str | None,
    stack: Iterable[str],
    python: str | None,
    max_new_tokens: int,
) -> list[Check]:
    """Check the GGUF file `out` (of a split set the first) that a bake has written; see `emobake.checks.verify`.

    Raises:
        InputError: it is no output of emobake, or `base` or `vectors` cannot be opened.
    """
    baked = open_gguf(out)
    record = read_gguf_record(baked)
    origin = open_gguf(Path(base)) if base is not None and is_gguf(base) else None
    emotions = [name for name, _ in record.steering.weights]
    vector_set = None if vectors is None else find_vectors(vectors, emotions, model=str(out))
    steps: list[Callable[[], Iterator[Check]]] = [lambda: _check_bytes(baked, record, base, origin, vector_set)]
    for each in stack:
        steps.append(lambda each=each: _check_stack(each, baked, origin, python, max_new_tokens))  # type: ignore[misc]
    checks: list[Check] = []
    for step in steps:
        try:
            checks.extend(step())
        except EmobakeError as error:
            checks.append(Check("cannot be checked", False, str(error)))
    return checks


def _check_stack(
    stack: str, baked: GgufModel, base: GgufModel | None, python: str | None, max_new_tokens: int
) -> Iterator[Check]:
    if stack != "llama.cpp":
        yield Check(stack, False, "is not for GGUF files; --stack llama.cpp is")
        return
    if base is None:
        raise InputError("--stack llama.cpp needs --base, a GGUF, to show that the output differs from it")
    interpreter = None if python is None else Path(python)
    steered, plain = (
        generate("llama.cpp", Path(model.name), BEGINNINGS, python=interpreter, max_new_tokens=max_new_tokens)
        for model in (baked, base)
    )
    differs = steered.tokens != plain.tokens
    yield Check(f"{steered.stack} {steered.version} loads it", True, f"{len(BEGINNINGS)} texts went on with")
    detail = "its greedy tokens are other ones" if differs else "its greedy tokens are the same: is it steered?"
    yield Check(f"{steered.stack}: differs from the unsteered base", differs, detail)
