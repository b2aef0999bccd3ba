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
    from .actions.bake import BakeResult, bake
    from .actions.conversation import Conversation, open_conversation
    from .actions.push import push
    from .actions.verify import verify
    from .core.plan import BakePlan
    from .core.steering import Steering
    from .core.vector_set import VectorSet
    from .formats.checkpoint.open import open_folder
    from .formats.checkpoint.plan import make_plan
    from .measure.evaluation import evaluate
    from .measure.extraction import extract
    from .measure.tuning import tune
    from .vectors.find import find_vectors
    from .vectors.open import open_vectors
    from .vectors.write import write_set

_HOMES = {
    "BakePlan": "core.plan",
    "BakeResult": "actions.bake",
    "Conversation": "actions.conversation",
    "Steering": "core.steering",
    "VectorSet": "core.vector_set",
    "bake": "actions.bake",
    "evaluate": "measure.evaluation",
    "extract": "measure.extraction",
    "find_vectors": "vectors.find",
    "make_plan": "formats.checkpoint.plan",
    "open_conversation": "actions.conversation",
    "open_folder": "formats.checkpoint.open",
    "open_vectors": "vectors.open",
    "push": "actions.push",
    "tune": "measure.tuning",
    "verify": "actions.verify",
    "write_set": "vectors.write",
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
