"""The interface of a model that answers a conversation, whatever runs it, and the answer while it is generated."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Protocol

from ..errors import InputError
from ..formats.chat_template import Message
from .sampling import Sampling

Hear = Callable[[str], object]
"""Called with each piece of an answer as soon as it is certain."""
Stop = Callable[[], bool]
"""Asked after each token; True ends the answer there."""
Prompt = Sequence[int | str]
"""A conversation as the model reads it: token ids, and texts that its own tokenizer is still to split."""


class Speech:
    """An answer while it is generated: its text so far, of which it passes on what is certain.

    The last word is held back, and the white space before it: the next token may continue it, and the tokenizer may
    join the two. Scripts without spaces come character by character.
    """

    _UNCERTAIN = re.compile(r"\s*(?:[^\s\u2e80-\U0010ffff]|\ufffd)*\Z")

    def __init__(self, hear: Hear, stop: Stop = lambda: False) -> None:
        self._hear, self._stop = hear, stop
        self._passed = 0
        self.text = ""
        self.tokens = 0
        """Number of tokens, without the one that ends an answer."""
        self.ended = False
        """True if the model ended the answer before the limit."""

    def go_on(self, text: str, tokens: int, *, ended: bool = False) -> None:
        """Receive the whole text so far.

        Raises:
            KeyboardInterrupt: the answer is to end here, as by Ctrl-C.
        """
        self.text, self.tokens, self.ended = text, tokens, ended
        uncertain = self._UNCERTAIN.search(text, self._passed)
        self._pass_on(uncertain.start() if uncertain else len(text))
        if self._stop():
            raise KeyboardInterrupt

    def stop(self) -> None:
        """Pass on the rest."""
        self._pass_on(len(self.text))

    def _pass_on(self, end: int) -> None:
        begin, self._passed = self._passed, max(end, self._passed)
        if end > begin:
            self._hear(self.text[begin:end])


class ChatModel(Protocol):
    """A model that answers a conversation."""

    @property
    def name(self) -> str:
        """Path or Hub id as the user gave it."""

    @property
    def description(self) -> str:
        """Architecture, size, types and what runs it, in words."""

    @property
    def note(self) -> str:
        """Remark on a model without a chat template, which users must know of; empty for others."""

    def prompt(self, messages: Sequence[Message]) -> Prompt:
        """The conversation in the model's chat template, ready for the next answer.

        Raises:
            InputError: the template refuses the conversation, or takes too much time or memory.
        """

    def speak(self, prompt: Prompt, sampling: Sampling, speech: Speech) -> None:
        """Generate the answer to `prompt` into `speech`, which has what came before an exception, too.

        Raises:
            InputError: the prompt leaves no room in the context; any exception of what runs the model.
        """


def no_room(name: str, tokens: int, context: int) -> InputError:
    """The error on a prompt of so many `tokens` that the `context` of the model `name` is full."""
    return InputError(
        f"{name}: {tokens} tokens of conversation leave no room for an answer in its context of {context}; "
        "`reset` forgets the conversation, or ask something shorter"
    )
