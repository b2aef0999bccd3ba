"""Bake emotion vectors into a checkpoint, so that stock stacks serve the steered model.

`bake` does everything; `make_plan` is its pure core. A name is imported when it is first used, so that
``emobake --help`` does not wait for numpy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__
from .errors import (
    BrokenFileError,
    EmobakeError,
    HubError,
    InputError,
    MissingPackageError,
    ModelError,
    NoVectorsError,
    OutputError,
    UnplannedError,
    UnsupportedModelError,
    VectorError,
    VerifyError,
)

if TYPE_CHECKING:
    from .actions.audit import Audit, audit
    from .actions.bake import bake
    from .actions.conversation import Conversation, open_conversation
    from .actions.join import join
    from .actions.moods import bake_moods
    from .actions.overview import Overview, overview
    from .actions.personas import load_persona, shipped_personas
    from .actions.push import push
    from .actions.recipe import Recipe, recipe_of
    from .actions.request import BakeResult
    from .actions.unbake import Unbaked, unbake
    from .actions.verify import verify
    from .core.bounds import Bounds
    from .core.check import Check
    from .core.outputs import Folder, GgufFile
    from .core.persona import Persona
    from .core.plan import BakePlan
    from .core.record import Record
    from .core.steering import Steering
    from .core.vector_set import VectorSet
    from .formats.checkpoint.model import Checkpoint
    from .formats.checkpoint.open import open_folder
    from .formats.checkpoint.plan import make_plan
    from .formats.output import read_record
    from .measure.bake_persona import PersonaResult, bake_persona
    from .measure.engines import EvaluationSettings
    from .measure.evaluation import Report, evaluate, evaluate_answers, evaluate_checkpoints
    from .measure.extraction import extract
    from .measure.scorers.base import Scorer
    from .measure.search.search import SearchSettings, search
    from .measure.tuning import tune
    from .models.loading import Runtime
    from .models.sampling import Sampling
    from .models.smollm2 import embedded_smollm2
    from .storage.hub.changes import Pushed
    from .storage.hub.target import HubTarget
    from .storage.model_name import ModelName
    from .vectors.find import VectorSource, find_vectors
    from .vectors.open import open_vectors
    from .vectors.share import push_vectors
    from .vectors.write import write_set

_HOMES = {
    "Audit": "actions.audit",
    "BakePlan": "core.plan",
    "BakeResult": "actions.request",
    "Bounds": "core.bounds",
    "Check": "core.check",
    "Checkpoint": "formats.checkpoint.model",
    "Conversation": "actions.conversation",
    "EvaluationSettings": "measure.engines",
    "Folder": "core.outputs",
    "GgufFile": "core.outputs",
    "HubTarget": "storage.hub.target",
    "ModelName": "storage.model_name",
    "Overview": "actions.overview",
    "Persona": "core.persona",
    "PersonaResult": "measure.bake_persona",
    "Pushed": "storage.hub.changes",
    "Recipe": "actions.recipe",
    "Record": "core.record",
    "Report": "measure.evaluation",
    "Runtime": "models.loading",
    "Sampling": "models.sampling",
    "Scorer": "measure.scorers.base",
    "SearchSettings": "measure.search.search",
    "Steering": "core.steering",
    "Unbaked": "actions.unbake",
    "VectorSet": "core.vector_set",
    "VectorSource": "vectors.find",
    "audit": "actions.audit",
    "bake": "actions.bake",
    "bake_moods": "actions.moods",
    "bake_persona": "measure.bake_persona",
    "embedded_smollm2": "models.smollm2",
    "evaluate": "measure.evaluation",
    "evaluate_answers": "measure.evaluation",
    "evaluate_checkpoints": "measure.evaluation",
    "extract": "measure.extraction",
    "find_vectors": "vectors.find",
    "join": "actions.join",
    "load_persona": "actions.personas",
    "make_plan": "formats.checkpoint.plan",
    "open_conversation": "actions.conversation",
    "open_folder": "formats.checkpoint.open",
    "open_vectors": "vectors.open",
    "overview": "actions.overview",
    "push": "actions.push",
    "push_vectors": "vectors.share",
    "read_record": "formats.output",
    "recipe_of": "actions.recipe",
    "search": "measure.search.search",
    "shipped_personas": "actions.personas",
    "tune": "measure.tuning",
    "unbake": "actions.unbake",
    "verify": "actions.verify",
    "write_set": "vectors.write",
}
"""Public name -> module."""

__all__ = [
    "Audit",
    "BakePlan",
    "BakeResult",
    "Bounds",
    "BrokenFileError",
    "Check",
    "Checkpoint",
    "Conversation",
    "EmobakeError",
    "EvaluationSettings",
    "Folder",
    "GgufFile",
    "HubError",
    "HubTarget",
    "InputError",
    "MissingPackageError",
    "ModelError",
    "ModelName",
    "NoVectorsError",
    "OutputError",
    "Overview",
    "Persona",
    "PersonaResult",
    "Pushed",
    "Recipe",
    "Record",
    "Report",
    "Runtime",
    "Sampling",
    "Scorer",
    "SearchSettings",
    "Steering",
    "Unbaked",
    "UnplannedError",
    "UnsupportedModelError",
    "VectorError",
    "VectorSet",
    "VectorSource",
    "VerifyError",
    "__version__",
    "audit",
    "bake",
    "bake_moods",
    "bake_persona",
    "embedded_smollm2",
    "evaluate",
    "evaluate_answers",
    "evaluate_checkpoints",
    "extract",
    "find_vectors",
    "join",
    "load_persona",
    "make_plan",
    "open_conversation",
    "open_folder",
    "open_vectors",
    "overview",
    "push",
    "push_vectors",
    "read_record",
    "recipe_of",
    "search",
    "shipped_personas",
    "tune",
    "unbake",
    "verify",
    "write_set",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
