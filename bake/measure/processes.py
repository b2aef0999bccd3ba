"""The processes of a long run: one, or those that `accelerate launch` started."""

from __future__ import annotations

import os
from typing import Any

import numpy as np


class Processes:
    """Own process and its peers; a process alone does not need accelerate."""

    def __init__(self) -> None:
        self.rank, self.size = 0, 1
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from accelerate import PartialState

            self.state = PartialState()
            self.rank, self.size = self.state.process_index, self.state.num_processes

    @property
    def is_first(self) -> bool:
        """True for the process that writes the results."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            self.state.wait_for_everyone()

    def gather(self, items: list[Any]) -> list[Any]:
        """Join the items of all processes, for each of them."""
        if self.size == 1:
            return items
        from accelerate.utils import gather_object

        return list(gather_object(items))

    def sum(self, array: np.ndarray) -> np.ndarray:
        """Add up the arrays of all processes, for each of them."""
        if self.size == 1:
            return array
        import torch
        from accelerate.utils import reduce

        total: np.ndarray = reduce(torch.from_numpy(array).to(self.state.device), "sum").cpu().numpy()
        return total
