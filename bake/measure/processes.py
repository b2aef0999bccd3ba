"""A long run: the processes that share it, and the folder from which it goes on when it was killed."""

from __future__ import annotations

import os
from typing import Any

import numpy as np


class Team:
    """The processes that `accelerate launch` started; one alone otherwise, and then accelerate is not needed."""

    def __init__(self) -> None:
        self.rank, self.size = 0, 1
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from accelerate import PartialState

            self.state = PartialState()
            self.rank, self.size = self.state.process_index, self.state.num_processes

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            self.state.wait_for_everyone()

    def gather(self, items: list[Any]) -> list[Any]:
        """The items of all processes, for each of them."""
        if self.size == 1:
            return items
        from accelerate.utils import gather_object

        return list(gather_object(items))

    def sum(self, array: np.ndarray) -> np.ndarray:
        """The sum of all processes' arrays, for each of them."""
        if self.size == 1:
            return array
        import torch
        from accelerate.utils import reduce

        total: np.ndarray = reduce(torch.from_numpy(array).to(self.state.device), "sum").cpu().numpy()
        return total
