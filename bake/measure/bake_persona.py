"""`bake_persona`: a persona from its file to its outputs, with the strength that its budget of change allows."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..actions.bake_persona import PersonaBaked, Scale, bake_outputs, plan_outputs
from ..actions.personas import PersonaRun, base_of, load_persona, source_of
from ..core.persona import Persona
from ..core.progress import Notice, Progress, no_notice, no_progress
from ..models.loading import Runtime
from ..storage.model_name import ModelName
from ..vectors.find import Vectors, VectorSource
from .tuning import Tuned, tune


@dataclass(frozen=True, eq=False)
class PersonaResult:
    """The outputs of a persona, finished or planned."""

    persona: Persona
    outputs: tuple[PersonaBaked, ...]
    tuned: Tuned | None = None
    """The search for the strength; None without a budget, or after a dry run."""


def bake_persona(
    persona: str | os.PathLike[str] | Persona,
    *,
    out: str | os.PathLike[str] | None = None,
    model: str | os.PathLike[str] | ModelName | None = None,
    vectors: Vectors | VectorSource | None = None,
    converter: str = "",
    overwrite: bool = False,
    force: bool = False,
    dry_run: bool = False,
    runtime: Runtime | None = None,
    tried: Callable[[float, float], object] = lambda scale, kl: None,
    progress: Progress = no_progress,
    counting: Progress = no_progress,
    notice: Notice = no_notice,
    chosen: Notice = no_notice,
) -> PersonaResult:
    """Bake every output that a persona names, once all of them were checked and planned.

    Args:
        persona: a YAML or TOML file, the name of a shipped persona, or one that `emobake.load_persona` has loaded.
        out: folder of the outputs; None: that of the persona's file.
        model: the base in place of the persona's, such as a folder that holds it.
        vectors: the vectors in place of the persona's, as for `emobake.bake`.
        converter: llama.cpp's converter, for a ``.gguf`` of a checkpoint.
        overwrite: replace earlier outputs of emobake; on the Hub, any model.
        force: write even if nothing would be steered, or so strongly that the model is destroyed.
        dry_run: plan only. A budget of KL is not searched for then: the plan is that of strength 1.
        runtime: how the model runs, if a budget of KL is searched for.
        tried: told of every strength that was tried, and the KL there, in nats.
        progress: told of the bytes that are carried over.
        counting: told of the answers to the prompts of that search.
        notice: told of what the user must not miss.
        chosen: told the strength that was chosen, and what measured it.

    Raises:
        InputError: (exit code 2) a field is wrong, or an output cannot be made; nothing was written.
        OutputError, HubError, ModelError, MissingPackageError: (exit code 1) a run failed; the line tells which outputs
            are complete.
    """
    if not isinstance(persona, Persona):
        persona = load_persona(persona)
    extra: dict[str, Any] = {"progress": progress, "notice": _once(notice), "chosen": _once(chosen)}
    run = PersonaRun(out, model, vectors, converter, overwrite, force, extra)
    strength = persona.strength
    scale: Scale = "auto" if strength.auto else 1.0 if strength.kl is not None else strength.scale
    planned = plan_outputs(persona, run, scale, places=not dry_run)
    if dry_run:
        if strength.kl is not None:
            chosen(f"the strength for a KL of {strength.kl:g} is searched for when it is baked; planned at strength 1")
        return PersonaResult(persona, planned)
    tuned = None
    if strength.kl is not None:
        tuned = tune(
            base_of(persona, run),
            source_of(persona, run),
            mix=dict(persona.mix),
            layers=persona.layers,
            target_kl=strength.kl,
            limit=strength.limit,
            runtime=runtime,
            tried=tried,
            progress=counting,
            notice=notice,
        )
        scale = tuned.scale
        found = f"strength {tuned.scale:g}: KL {tuned.kl:.4f} nats on {tuned.prompts} prompts"
        chosen(f"{found}, for a budget of {strength.kl:g}")
        plan_outputs(persona, run, scale)
    return PersonaResult(persona, bake_outputs(persona, run, scale), tuned)


def _once(told: Notice) -> Notice:
    """Pass each line on once: several outputs say the same."""
    seen: set[str] = set()

    def tell(line: str) -> None:
        if line not in seen:
            seen.add(line)
            told(line)

    return tell
