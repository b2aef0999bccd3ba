"""Conversations with a model that is steered while it runs, by weights that can change between answers; or with a GGUF
file, whose mood stays.

The paper uses its vectors in the first way, without baking. The answers of a `SteeredConversation` with scope ``every``
are those of the checkpoint that `SteeredConversation.bake` writes. Nothing here knows a terminal. Needs torch and
transformers; with a GGUF file llama.cpp instead.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import TYPE_CHECKING, get_args

from ..core.arguments import require_choice
from ..core.record import Record
from ..core.steering import Steering, steering, weighted_sum
from ..core.totals import total_recipe
from ..core.vector_set import VectorSet
from ..errors import EmobakeError, InputError, ModelError
from ..formats.chat_template import Message
from ..formats.gguf.model import RECORD_KEY, open_gguf
from ..models.chat_model import ChatModel, Hear, Speech, Stop
from ..models.checkpoint_chat import CheckpointChat
from ..models.gguf_chat import GgufChat, load_gguf_chat
from ..models.hooks import Scope, adding, site_module
from ..models.loading import LiveModel, Runtime
from ..models.sampling import Sampling
from ..models.steered import open_steered
from ..storage.files import reading
from ..storage.model_name import ModelName, is_gguf
from ..vectors.find import Vectors, VectorSource

if TYPE_CHECKING:
    from .request import BakeResult

Turn = tuple[str, str]
"""A question and its answer."""
CHAT_SAMPLING = Sampling(seed=None)
_UNSTEERED = Steering(())
_ANY_VECTORS = VectorSource()


@dataclass(frozen=True)
class Answer:
    """One answer of the model."""

    text: str
    tokens: int
    """Number of tokens, without the one that ends an answer."""
    seconds: float
    ended: bool
    """True if the model ended the answer before the limit."""
    interrupted: bool
    """True if Ctrl-C or `stop` ended it."""


class Conversation:
    """A model, and the turns so far."""

    def __init__(self, model: ChatModel, *, sampling: Sampling = CHAT_SAMPLING, system: str = "") -> None:
        self.model, self.sampling, self.system = model, sampling, _encodable(system)
        self.turns: list[Turn] = []

    def answer(
        self,
        question: str | None,
        hear: Hear = lambda piece: None,
        *,
        keep: bool = True,
        stop: Stop = lambda: False,
    ) -> Answer:
        """Answer `question`, or the last one again if it is None.

        With `keep`, question and answer join the conversation, even if the answer was interrupted. Ctrl-C ends an
        answer, not the call; so does `stop`, from another thread.

        Raises:
            InputError: nothing was asked yet, or the conversation does not fit the template or the context.
            ModelError: the model failed. The conversation stays as it was.
        """
        before, asked = self._asked(question)
        said = self._generate(before, asked, hear, stop)
        if keep and said.text:
            self.turns = [*before, (asked, said.text)]
        return said

    def messages(self, before: Sequence[Turn], question: str) -> list[Message]:
        """The system prompt, the turns `before` and the question, as a chat template takes them."""
        messages: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        for asked, answered in before:
            messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
        return [*messages, {"role": "user", "content": question}]

    def _asked(self, question: str | None) -> tuple[list[Turn], str]:
        """The turns before a question, and its text; None is the last one again."""
        if question is not None:
            return self.turns, _encodable(question)
        if not self.turns:
            raise InputError("nothing was asked yet")
        return self.turns[:-1], self.turns[-1][0]

    def _generate(self, before: Sequence[Turn], question: str, hear: Hear, stop: Stop = lambda: False) -> Answer:
        prompt = self.model.prompt(self.messages(before, question))
        speech = Speech(hear, stop)
        interrupted = False
        start = time.perf_counter()
        try:
            self.model.speak(prompt, self.sampling, speech)
        except KeyboardInterrupt:
            interrupted = True
        except (OSError, EmobakeError):  # The first from `hear`.
            raise
        except Exception as error:  # Whatever torch, transformers and llama.cpp raise.
            reason = (str(error).strip().splitlines() or [repr(error)])[0][:200]
            hint = "; `reset` shortens the conversation" if "memory" in reason.lower() and self.turns else ""
            raise ModelError(f"{self.model.name}: the model failed ({reason}){hint}") from error
        speech.stop()
        return Answer(speech.text, speech.tokens, time.perf_counter() - start, speech.ended, interrupted)


class SteeredConversation(Conversation):
    """A conversation with a checkpoint, its vectors and their weights."""

    def __init__(
        self,
        live: LiveModel,
        vectors: VectorSet,
        weights: Steering,
        *,
        scope: Scope = "every",
        sampling: Sampling = CHAT_SAMPLING,
        system: str = "",
        base: ModelName | None = None,
    ) -> None:
        self.live = replace(live, family=replace(live.family, site=vectors.site))
        super().__init__(CheckpointChat(self.live), sampling=sampling, system=system)
        self.vectors, self.scope = vectors, scope
        self.base = base or ModelName.parse(live.name, base_model=live.base_model)
        self._plain: list[Turn] = []
        """The same questions with unsteered answers, as far as a comparison has needed them."""
        self.steer(weights)

    def steer(self, weights: Steering) -> None:
        """Use these weights from now on.

        Raises:
            InputError: an emotion or layer that the set or the model does not have; the weights stay as they were.
        """
        total = weighted_sum(self.vectors, weights)
        rows = {layer: total[layer] for layer in range(len(total)) if total[layer].any()}
        for layer in rows:
            try:
                site_module(self.live.model, self.live.family, layer)
            except AttributeError:
                raise InputError(
                    f"{self.live.name}: layer {layer} has no attention, so its vector cannot land; "
                    "choose among the layers that have one with `layers`"
                ) from None
        self.weights, self.rows = weights, rows

    def answer(
        self,
        question: str | None,
        hear: Hear = lambda piece: None,
        *,
        plain: bool = False,
        keep: bool = True,
        stop: Stop = lambda: False,
    ) -> Answer:
        """Answer as every `Conversation` does, with the vectors.

        With `plain` the answer is unsteered, and so is the history that it continues: earlier questions are answered
        anew without steering, once each, and are not heard; the conversation stays as it is.
        """
        if plain:
            before, asked = self._asked(question)
            return self._answer_plain([earlier for earlier, _ in before], asked, hear, stop)
        with adding(self.live.model, self.live.family, self.rows, self.scope):
            return super().answer(question, hear, keep=keep, stop=stop)

    def behind(self, question: str | None) -> int:
        """Number of earlier questions that are to be answered unsteered before `question` can be."""
        earlier = [asked for asked, _ in self._asked(question)[0]]
        return len(earlier) - len(self._known(earlier))

    def _answer_plain(self, earlier: Sequence[str], asked: str, hear: Hear, stop: Stop) -> Answer:
        """Answer `asked` without steering, after the model's own unsteered answers to the `earlier` questions."""
        known = self._known(earlier)
        for question in earlier[len(known) :]:
            said = self._generate(known, question, lambda piece: None, stop)
            if said.interrupted:
                return said
            known = self._plain = [*known, (question, said.text)]
        said = self._generate(known, asked, hear, stop)
        if not said.interrupted:
            self._plain = [*known, (asked, said.text)]
        return said

    def _known(self, earlier: Sequence[str]) -> list[Turn]:
        """The unsteered turns that answer the first of these questions."""
        pairs = zip(self._plain, earlier, strict=False)
        return [turn for turn, _ in takewhile(lambda pair: pair[0][0] == pair[1], pairs)]

    def bake(self, out: str | os.PathLike[str]) -> BakeResult:
        """Write a checkpoint with the current weights; see `emobake.bake`.

        Raises:
            InputError: all weights are zero; EmobakeError: as `emobake.bake`.
        """
        from .bake import bake

        if self.weights.is_zero:
            raise InputError("all weights are zero, there is nothing to bake; set some with `times` or `mix`")
        layers = self.weights.layers
        return bake(
            self.base,
            self.vectors,
            mix=dict(self.weights.weights),
            scale=self.weights.scale,
            layers=None if layers is None else ",".join(map(str, layers)),
            out=out,
        )


class GgufConversation(Conversation):
    """A conversation with a GGUF file, which holds its mood."""

    model: GgufChat

    def __init__(
        self, model: GgufChat, record: Record | None, *, sampling: Sampling = CHAT_SAMPLING, system: str = ""
    ) -> None:
        """Begin to talk to a file whose last bake kept this `record`; None: it was never baked."""
        super().__init__(model, sampling=sampling, system=system)
        self.record = record

    @property
    def mood(self) -> str:
        """All bakes of the file in words, such as ``1.2 x joy``; empty if there were none."""
        return "" if self.record is None else total_recipe(self.record)

    def fixed_mood(self, weights: Steering | None = None, out: str = "") -> InputError:
        """The error on a wish for another mood: it names the command that bakes `weights` into `out`."""
        return _fixed_mood(self.model.name, self.record, weights or _UNSTEERED, out=out)


def open_conversation(
    model: str | os.PathLike[str] | ModelName,
    vectors: Vectors | VectorSource | None = None,
    times: Iterable[float] | None = None,
    *,
    mix: Mapping[str, float] | None = None,
    scale: float = 1.0,
    layers: str | None = None,
    scope: Scope = "every",
    sampling: Sampling = CHAT_SAMPLING,
    system: str = "",
    runtime: Runtime | None = None,
) -> Conversation:
    """Load a model with its vectors, ready to talk; without `times` and `mix` it begins unsteered.

    A GGUF file runs in llama.cpp and takes neither vectors nor weights: it holds its mood, see `emobake.bake`. Of a
    checkpoint a `SteeredConversation` is returned, of a GGUF file a `GgufConversation`.

    Args:
        model: a folder, a Hub id or a GGUF file, as for `emobake.bake`.
        vectors: a set, as for `emobake.bake`.
        times: weights of the paper's five emotions.
        mix: weights by name instead.
        scale: factor for all weights.
        layers: layers to steer.
        scope: add at every position, or at the last of each forward pass.
        sampling: how answers are drawn.
        system: system prompt.
        runtime: how the model runs.

    Raises:
        InputError: (exit code 2) bad input; found before the model is loaded, if possible.
        ModelError, MissingPackageError: (exit code 1) the model does not load.
    """
    if times is None and mix is None:
        weights = replace(steering((0.0,) * 5, scale=scale, layers=layers), weights=())
    else:
        weights = steering(times, mix, scale=scale, layers=layers)
    require_choice("scope", scope, get_args(Scope))
    name, source = ModelName.parse(model), VectorSource.parse(vectors)
    if name.kind == "gguf":
        if runtime not in (None, Runtime()):
            raise InputError(
                f"{name}: llama.cpp runs a GGUF file in the file's own types; "
                "leave `dtype`, `device` and `device_map` out"
            )
        with reading():
            gguf = open_gguf(name.path)
            found = gguf.record
            record = None if found is None else Record.from_json(found, f"{name} ({RECORD_KEY})")
        if weights != _UNSTEERED or scope != "every" or source.vectors is not None or source.vectors_for or source.site:
            raise _fixed_mood(name.name, record, weights, source, base_model=name.base_model)
        chat = load_gguf_chat(gguf, sampling.max_new_tokens)
        return GgufConversation(chat, record, sampling=sampling, system=system)
    live, opened = open_steered(name, source, accept=lambda found: weighted_sum(found, weights), runtime=runtime)
    return SteeredConversation(live, opened, weights, scope=scope, sampling=sampling, system=system, base=name)


def _fixed_mood(
    name: str,
    record: Record | None,
    weights: Steering,
    source: VectorSource = _ANY_VECTORS,
    *,
    base_model: str = "",
    out: str = "",
) -> InputError:
    """The error on a wish for another mood of the GGUF file `name`: it names the bake that makes a file of it."""
    base = name
    if record is not None:  # A bake of what was baked would add to it.
        first = (*record.history, record)[0].base
        base = next((file.name for file in first.weights if is_gguf(file.name)), first.model or "BASE")
    mix = {emotion: weight for emotion, weight in weights.weights if weight} or {"joy": 1.0}
    words = [
        ("model", base),
        ("base-model", base_model),
        *(("vectors", str(one)) for one in source.named),
        ("vectors-for", source.vectors_for),
        ("site", source.site),
        ("mix", ",".join(f"{emotion}={weight * weights.scale:g}" for emotion, weight in mix.items())),
        ("layers", ",".join(map(str, weights.layers or ()))),
        ("out", out.strip("'\"") or "steered.gguf"),
    ]
    said = " ".join(f"--{word} {shlex.quote(value)}" for word, value in words if value)
    return InputError(f"{name}: the mood of a GGUF file is baked into it; for another one run: emobake {said}")


def _encodable(text: str) -> str:
    """`text` with ? for bytes that are not UTF-8, which tokenizers refuse."""
    return text.encode("utf-8", "replace").decode("utf-8")
