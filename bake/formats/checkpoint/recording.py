"""The record and the documents of a bake of a checkpoint, for a checkpoint and for an adapter alike."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from ...core.biases import PlannedBias
from ...core.heads import FREE, Cost
from ...core.plan import CARD_FILE, BakePlan, PlannedFile, RouteName, new_file
from ...core.record import RECORD_FILE, Record, RecordedBase, RecordedBias, RecordedVectors, history_of
from ...core.recorded_persona import RecordedPersona
from ...core.steering import Steering
from ...core.strict_json import json_bytes
from .model import Checkpoint


@dataclass(frozen=True)
class Ingredients:
    """The vectors, weights and base of a bake, as its record keeps them."""

    vectors: RecordedVectors
    steering: Steering
    base_model: str
    """Hub id to name as the base; empty: the one that the checkpoint came from."""
    scale: float
    """Factor between the biases and the site of the vectors."""
    persona: RecordedPersona | None = None

    @classmethod
    def of(cls, record: Record, scale: float) -> Ingredients:
        """The ingredients of a bake that was made before."""
        return cls(record.vectors, record.steering, record.base.model, scale, record.persona)

    def record(
        self,
        checkpoint: Checkpoint,
        biases: Sequence[PlannedBias],
        files: Sequence[PlannedFile],
        *,
        form: str,
        route: RouteName,
        model_type: str,
        added: Sequence[str],
        cost: Cost = FREE,
        tensor_parallel: int = 1,
    ) -> Record:
        """Write the record of a bake whose `biases` and `files` are known.

        Raises:
            InputError: the base's own record is none, or a file cannot be read.
        """
        weights = tuple(sorted(checkpoint.weights, key=lambda weight: weight.name))
        return Record(
            form=form,
            base=RecordedBase(self.base_model or checkpoint.repo_id, checkpoint.revision, weights),
            vectors=self.vectors,
            steering=self.steering,
            branch_scale=self.scale,
            route=route,
            cost=cost,
            tensor_parallel=tensor_parallel,
            model_type=model_type,
            files={file.name: file.source for file in files if file.source.endswith(".safetensors")},
            assembled=tuple(file.name for file in files if file.action == "assemble"),
            text_only=checkpoint.text_only,
            added=tuple(added),
            biases=tuple(map(RecordedBias.of, biases)),
            digests=_digests(files, checkpoint),
            earlier=history_of(checkpoint.record, f"{checkpoint.name}/{RECORD_FILE}"),
            persona=self.persona,
        )


def with_documents(plan: BakePlan, card: str) -> BakePlan:
    """Add the files of the record and of the model card."""
    return plan.with_files(new_file(RECORD_FILE, json_bytes(plan.record.to_json())), new_file(CARD_FILE, card.encode()))


def _digests(files: Sequence[PlannedFile], checkpoint: Checkpoint) -> dict[str, str]:
    """File name -> sha256, for the files that are all new and for those that are carried and hold no weights."""
    digests = {}
    for file in files:
        if file.action == "write":
            digests[file.name] = hashlib.sha256(file.data).hexdigest()
        elif file.action == "carry" and not file.weights:
            digests[file.name] = checkpoint.digest(file.source)
    return {name: digest for name, digest in digests.items() if digest}
