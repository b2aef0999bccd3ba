"""Answers of a checkpoint that transformers runs. Needs torch and transformers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..formats.chat_template import Message
from .chat_model import Prompt, Speech, no_room
from .loading import LiveModel
from .sampling import Sampling, generate


@dataclass(frozen=True, eq=False)
class CheckpointChat:
    """A live checkpoint; satisfies `emobake.models.chat_model.ChatModel`."""

    live: LiveModel

    @property
    def name(self) -> str:
        """Folder or Hub id as the user gave it."""
        return self.live.name

    @property
    def description(self) -> str:
        """Family, layers, dtype and device."""
        live = self.live
        dtype = str(live.model.dtype).removeprefix("torch.")
        return f"{live.family.label}, {live.layers} layers, {dtype} on {live.device}"

    @property
    def note(self) -> str:
        """Remark on a model without a chat template; empty for others."""
        return self.live.note

    def prompt(self, messages: Sequence[Message]) -> Prompt:
        """Token ids of the conversation, see `LiveModel.prompt`."""
        return self.live.prompt(messages)

    def speak(self, prompt: Prompt, sampling: Sampling, speech: Speech) -> None:
        """Generate the answer, at most as long as the context; see `ChatModel.speak`."""
        import torch

        live, room = self.live, sampling.max_new_tokens
        if live.context is not None:
            room = min(room, live.context - len(prompt))
            if room < 1:
                raise no_room(live.name, len(prompt), live.context)
        ids = torch.tensor([list(prompt)], device=live.device)
        if sampling.seed is not None:
            torch.manual_seed(sampling.seed)
        generate(
            live.model,
            ids,
            torch.ones_like(ids),
            max_new_tokens=room,
            end_tokens=live.end_tokens,
            pad_token=live.pad_token,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            streamer=_Streamer(live, speech),
        )


class _Streamer:
    """Receives tokens from `generate`, as a streamer of transformers does, and decodes them into a speech."""

    def __init__(self, live: LiveModel, speech: Speech) -> None:
        self._live, self._speech = live, speech
        self._prompt = True
        self._tokens: list[int] = []

    def put(self, value: Any) -> None:
        """Receive the prompt at first, then each new token."""
        if self._prompt:
            self._prompt = False
            return
        new = value.flatten().tolist()
        ended = new[-1] in self._live.end_tokens
        self._tokens += new[:-1] if ended else new
        text = str(self._live.tokenizer.decode(self._tokens, skip_special_tokens=True))
        self._speech.go_on(text, len(self._tokens), ended=ended)

    def end(self) -> None:
        """Nothing more: the speech is stopped by who began it."""
