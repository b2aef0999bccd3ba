"""Log-probabilities in a file, for the runners that write them. Needs numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def write(request: dict[str, Any], logits: Callable[[list[int]], Any]) -> None:
    """Write the log-probabilities of the request's texts, if it has some.

    Args:
        request: ``texts`` are lists of token ids, ``log_probs`` is the ``.npz`` file.
        logits: function that gives the logits of a text, ``[tokens, vocabulary]``.
    """
    import numpy as np

    if not request.get("texts"):
        return
    found = []
    for text in request["texts"]:
        values = np.asarray(logits(text), np.float32)
        values -= values.max(-1, keepdims=True)
        found.append(values - np.log(np.exp(values).sum(-1, keepdims=True)))
    np.savez(request["log_probs"], *found)
