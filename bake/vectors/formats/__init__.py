"""File forms of vector sets, one module each. A further form is a module and a line in `FORMS`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...core.vector_set import VectorSet
from .control_vector import read_control_vector, write_control_vector
from .found import Found
from .npz import read_npz, write_npz
from .pytorch import read_pytorch
from .single_file import read_foreign_safetensors, to_single_file

__all__ = ["FORMS", "Form", "form_of", "writable_suffixes"]


@dataclass(frozen=True)
class Form:
    """One file form."""

    suffixes: tuple[str, ...]
    read: Callable[[Path], Found]
    """Reads a file; of ``.safetensors``, a file of another project."""
    write: Callable[[VectorSet, str], bytes] | None = None
    """Writes a set, or one emotion of it where the form holds one; None if emobake does not write the form."""
    one_emotion: bool = False
    """True if a file holds one emotion."""


FORMS = (
    Form((".safetensors",), read_foreign_safetensors, lambda vectors, _: to_single_file(vectors)),
    Form((".npz",), read_npz, write_npz),
    Form((".pt", ".pth"), read_pytorch),
    Form((".gguf",), read_control_vector, write_control_vector, one_emotion=True),
)


def form_of(path: Path) -> Form | None:
    """The form of a file, by its suffix; None if it is unknown."""
    return next((form for form in FORMS if path.suffix.lower() in form.suffixes), None)


def writable_suffixes() -> list[str]:
    """Suffixes of the forms that emobake writes."""
    return [suffix for form in FORMS if form.write is not None for suffix in form.suffixes]
