"""Answers of a GGUF file that llama.cpp runs. Needs the packages gguf and jinja2, and a binding of llama.cpp."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ..core.packages import require
from ..formats.chat_template import Message, joined, no_template, render_prompts
from ..formats.gguf.model import GgufModel
from .chat_model import Prompt, Speech
from .llama_cpp import LlamaCpp, open_llama_cpp
from .sampling import Sampling

CONTEXT = 8192
"""Positions of a conversation at most, besides an answer: llama.cpp takes the memory for all of them at once."""
_LONGEST_CONTEXT = 2**31 - 1


@dataclass(frozen=True, eq=False)
class GgufChat:
    """A GGUF file in llama.cpp; satisfies `emobake.models.chat_model.ChatModel`."""

    model: GgufModel
    llama_cpp: LlamaCpp

    @property
    def name(self) -> str:
        """Path as the user gave it."""
        return self.model.name

    @property
    def description(self) -> str:
        """Architecture, layers, the type of most weights and the binding."""
        sizes = Counter[str]()
        for tensor in self.model.tensors.values():
            sizes[tensor.dtype] += tensor.size
        layers, ((dtype, _),) = self.model.num_hidden_layers, sizes.most_common(1)
        return f"{self.model.architecture}, {layers} layers, mostly {dtype}, in llama.cpp of {self.llama_cpp.version}"

    @property
    def note(self) -> str:
        """Remark on a file without a chat template; empty for others."""
        return "" if self._template else no_template(self.name)

    @property
    def _template(self) -> str:
        return self.model.header.text("tokenizer.chat_template")

    def prompt(self, messages: Sequence[Message]) -> Prompt:
        """The conversation in the template that the file holds, see `ChatModel.prompt`.

        A BOS token that the template begins with becomes its id: llama.cpp, which tokenises the rest, adds none then.

        Raises:
            InputError: as there; MissingPackageError: the jinja2 package is not installed.
        """
        if not self._template:
            return [joined(messages)]
        require("jinja2", extra="gguf", purpose="a chat template")
        header = self.model.header
        bos = header.special_token("bos")
        tokens = {"bos_token": bos, "eos_token": header.special_token("eos")}
        (text,) = render_prompts(self._template, tokens, [messages], self.name)
        number = header.number("tokenizer.ggml.bos_token_id")
        if isinstance(number, int) and bos and text.startswith(bos) and text != bos:
            return [number, text.removeprefix(bos)]
        return [text]

    def speak(self, prompt: Prompt, sampling: Sampling, speech: Speech) -> None:
        """Generate the answer, see `ChatModel.speak`."""
        text = ""
        with contextlib.closing(self.llama_cpp.steps(prompt, sampling)) as steps:
            for step in steps:
                text += step.text
                speech.go_on(text, step.tokens, ended=step.ended)


def load_gguf_chat(model: GgufModel, longest: int) -> GgufChat:
    """Load a GGUF file, whose headers were checked, into llama.cpp, for answers of at most `longest` tokens.

    Raises:
        BrokenFileError: it does not say how long a context it was made for.
        MissingPackageError: no binding is installed. ModelError: llama.cpp does not load it.
    """
    context = min(model.dimension("context_length", _LONGEST_CONTEXT), CONTEXT + longest)
    return GgufChat(model, open_llama_cpp(model.paths[0], model.name, context))
