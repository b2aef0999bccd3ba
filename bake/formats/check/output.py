"""Finished outputs as verification sees them. Each form has a class that satisfies `Output`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from ...core.check import Check
from ...core.plan import BakePlan, PlannedFile
from ...core.record import Record, RecordedBias
from ...core.tensors import TensorHeader
from ...storage.comparing import OutputFiles


class StoredModel(Protocol):
    """A model whose tensors can be read."""

    @property
    def name(self) -> str:
        """Name in messages."""

    @property
    def folder(self) -> Path | None:
        """Folder of its files; None for a commit on the Hub."""

    @property
    def tensors(self) -> Mapping[str, TensorHeader]:
        """Tensors by name; `TensorHeader.file` is relative to `folder`."""

    def read(self, tensor: TensorHeader, /) -> bytes:
        """Read the bytes of one tensor."""

    def read_column(self, tensor: TensorHeader, column: int, /) -> bytes:
        """Read what each row of a matrix stores of one column, see `emobake.core.biases.Column`.

        Raises:
            BrokenFileError: it stores no bias there.
        """


class Output(Protocol):
    """A finished output: its tensors, its record, and the checks of its form."""

    @property
    def model(self) -> StoredModel:
        """The output's tensors."""

    @property
    def record(self) -> Record:
        """The output's record."""

    @property
    def record_name(self) -> str:
        """Name of the record in messages."""

    @property
    def shape(self) -> tuple[int | None, int]:
        """Number of decoder layers (None if the output does not tell) and hidden size."""

    @property
    def names(self) -> tuple[str, ...] | None:
        """The files that belong to the output; None: all that lie in its folder."""

    def structure(self) -> Iterator[Check]:
        """Check the form itself: headers, the switch that makes stacks add the bias, explicit zeros."""

    def digests(self, files: OutputFiles) -> Mapping[str, str]:
        """Digests of the output as it is, by the names in `Record.digests`; a missing file is left out."""

    def undo_digest(self, files: OutputFiles) -> str:
        """Digest of the undo data; empty if the output has none."""

    def plan_again(self, base: StoredModel) -> BakePlan:
        """Plan the same bake of `base` anew, by the record and with the biases that the output holds.

        Raises:
            VerifyError: the output lacks a bias, or `base` has another form.
            InputError: the bake that the record describes cannot be made of `base`.
        """

    def misplaced(self, entry: RecordedBias, base: StoredModel | None, row: np.ndarray) -> str:
        """The way in which a bias does not make the float32 `row`, added to that of `base`; empty if it does."""

    def explain(self, planned: PlannedFile, offset: int) -> str:
        """The field or tensor of a file at `offset`, where it is not as `planned`; empty if that is unknown."""
