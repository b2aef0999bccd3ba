"""Bake emotion vectors into a checkpoint, so that stock stacks serve the steered model.

`bake` does everything; `make_plan` is its pure core. Names are imported when they are first used, so that
``emobake --help`` need not wait for numpy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__
from .errors import (
    BrokenFileError,
    EmobakeError,
    InputError,
    OutputError,
    UnsupportedModelError,
    VectorError,
    VerifyError,
)

if TYPE_CHECKING:
    from .api import BakeResult, bake
    from .chat import Conversation, open_conversation
    from .checks import verify
    from .evaluation import evaluate
    from .extraction import extract
    from .plan import BakePlan, make_plan
    from .pushing import push
    from .sources import open_folder
    from .tuning import tune
    from .vector_exports import write_set
    from .vector_sets import find_vectors
    from .vector_sources import open_vectors
    from .vectors import Steering, VectorSet

_HOMES = {
    "BakePlan": "plan",
    "BakeResult": "api",
    "Conversation": "chat",
    "Steering": "vectors",
    "VectorSet": "vectors",
    "bake": "api",
    "evaluate": "evaluation",
    "extract": "extraction",
    "find_vectors": "vector_sets",
    "make_plan": "plan",
    "open_conversation": "chat",
    "open_folder": "sources",
    "open_vectors": "vector_sources",
    "push": "pushing",
    "tune": "tuning",
    "verify": "checks",
    "write_set": "vector_exports",
}

__all__ = [
    "BakePlan",
    "BakeResult",
    "BrokenFileError",
    "Conversation",
    "EmobakeError",
    "InputError",
    "OutputError",
    "Steering",
    "UnsupportedModelError",
    "VectorError",
    "VectorSet",
    "VerifyError",
    "__version__",
    "bake",
    "evaluate",
    "extract",
    "find_vectors",
    "make_plan",
    "open_conversation",
    "open_folder",
    "open_vectors",
    "push",
    "tune",
    "verify",
    "write_set",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
