"""The request and the result of a bake, whatever is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..core.bounds import Bounds
from ..core.outputs import Folder, GgufFile
from ..core.plan import BakePlan
from ..core.progress import Notice, Progress
from ..core.recorded_persona import RecordedPersona
from ..core.steering import Steering
from ..core.strengths import at_measured_strength, explain
from ..core.vector_set import VectorSet
from ..storage.model_name import ModelName
from ..vectors.find import SetOpener
from .receipt import at_best_strength, check_receipt

if TYPE_CHECKING:
    from ..formats.adapter.open import Adapter
    from ..storage.hub.changes import Pushed
    from ..storage.hub.target import HubTarget

BakeFormat = Literal["checkpoint", "peft", "peft-each"]


@dataclass(frozen=True, eq=False)
class BakeRequest:
    """The parsed arguments of `emobake.bake`."""

    model: ModelName
    sets: SetOpener
    recipes: Mapping[str, Steering]
    """Folder in the output -> weights; ``""`` is the output itself."""
    auto: bool
    """True if their scale is to be taken from the strengths that the set tells."""
    out: Folder | GgufFile | None
    push: HubTarget | None
    targets: tuple[str, ...]
    tensor_parallel: int
    format: BakeFormat
    base: ModelName | None
    """The base of an adapter, if it is not the one that the adapter names."""
    merge: bool
    text_only: bool
    hash_files: bool
    force: bool
    dry_run: bool
    progress: Progress
    notice: Notice
    chosen: Notice
    """Told the strength that was chosen, if `auto`."""
    report: Path | None = None
    """The report that holds the bake to `bounds`; None if none is set."""
    bounds: Bounds = field(default_factory=Bounds)
    adapter: Adapter | None = None
    """The adapter that was given as the model; `model` is its base then."""
    persona: RecordedPersona | None = None
    """The persona whose words and voice the output keeps."""

    def recipe(self, vectors: VectorSet, folder: str = "") -> Steering:
        """The weights of the output, or of a `folder` in it, for the set that was opened.

        Raises:
            InputError: the scale is to be chosen, and neither the report nor the set tells the strength.
        """
        given = self.recipes[folder]
        if not self.auto:
            return given
        if self.report is not None:
            chosen, told = at_best_strength(self.report, given)
        else:
            chosen = at_measured_strength(given, vectors)
            told = explain(chosen, vectors)
        self.chosen(told)
        return chosen

    def check_bounds(self, plan: BakePlan) -> None:
        """Refuse a plan that the report does not tell of, or tells to be beyond the bounds.

        Raises:
            InputError: as `check_receipt`.
        """
        if self.report is not None:
            check_receipt(self.report, plan.record, self.bounds)

    @property
    def emotions(self) -> list[str]:
        """Emotions that have weights."""
        return [emotion for recipe in self.recipes.values() for emotion, _ in recipe.weights]


@dataclass(frozen=True)
class Shared:
    """The file that an output shares with others."""

    name: str
    """Name beside the output."""
    size: int
    """Bytes."""
    found: bool
    """True if it was there before."""
    moved: bool = False
    """True if the base is removed."""


@dataclass(frozen=True, eq=False)
class BakeResult:
    """A finished bake, or the one that a dry run would make."""

    plan: BakePlan
    out: Path | None
    """The finished output; None after a dry run, or if the result is on the Hub only."""
    model: str
    """The base as it was given: a folder, a file or a Hub id."""
    base_model: str
    """Hub id of the base; empty if unknown."""
    pushed: Pushed | None = None
    """The push; None if there was none."""
    adapter: str = ""
    """The adapter as it was given, if one was; `model` is its base then."""
    shared: Shared | None = None
    """The file that a mood shares with others, if it is one."""
