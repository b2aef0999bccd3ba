"""Conversations with a model that is steered while it runs, by weights that can change between answers.

The paper uses its vectors this way, without baking. The answers of a `Conversation` with scope ``every`` are those of
the checkpoint that `Conversation.bake` writes. Nothing here knows a terminal. Needs torch and transformers.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from ..core.arguments import require_choice
from ..core.steering import Steering, steering, weighted_sum
from ..core.vector_set import VectorSet
from ..errors import InputError, ModelError
from ..models.hooks import Scope, adding, site_module
from ..models.loading import LiveModel, Runtime
from ..models.sampling import Sampling, generate
from ..models.steered import open_steered
from ..storage.model_name import ModelName
from ..vectors.find import Vectors, VectorSource

if TYPE_CHECKING:
    from .request import BakeResult

Hear = Callable[[str], object]
"""Called with each piece of an answer as soon as it is certain."""
Turn = tuple[str, str]
"""A question and its answer."""
CHAT_SAMPLING = Sampling(seed=None)


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
    """True if Ctrl-C stopped it."""


class Conversation:
    """A model, its vectors and their weights, and the turns so far."""

    def __init__(
        self,
        live: LiveModel,
        vectors: VectorSet,
        weights: Steering,
        *,
        scope: Scope = "every",
        sampling: Sampling = CHAT_SAMPLING,
        system: str = "",
        model: ModelName | None = None,
    ) -> None:
        self.live = replace(live, family=replace(live.family, site=vectors.site))
        self.vectors, self.scope, self.system = vectors, scope, _encodable(system)
        self.sampling = sampling
        self.model = model or ModelName.parse(live.name, base_model=live.base_model)
        self.turns: list[Turn] = []
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
        self, question: str | None, hear: Hear = lambda piece: None, *, plain: bool = False, keep: bool = True
    ) -> Answer:
        """Answer `question`, or the last one again if it is None.

        With `keep`, question and answer join the conversation, even if the answer was interrupted. With `plain` the
        answer is unsteered, and so is the history that it continues: earlier questions are answered anew without
        steering, once each, and are not heard; the conversation stays as it is. Ctrl-C ends an answer, not the call.

        Raises:
            InputError: nothing was asked yet, or the conversation does not fit the template or the context.
            ModelError: the model failed. The conversation stays as it was.
        """
        before, asked = self._asked(question)
        if plain:
            return self._answer_plain([earlier for earlier, _ in before], asked, hear)
        said = self._generate(self._prompt(before, asked), self.rows, hear)
        if keep and said.text:
            self.turns = [*before, (asked, said.text)]
        return said

    def behind(self, question: str | None) -> int:
        """Number of earlier questions that are to be answered unsteered before `question` can be."""
        earlier = [asked for asked, _ in self._asked(question)[0]]
        return len(earlier) - len(self._known(earlier))

    def _asked(self, question: str | None) -> tuple[list[Turn], str]:
        """The turns before a question, and its text; None is the last one again."""
        if question is not None:
            return self.turns, _encodable(question)
        if not self.turns:
            raise InputError("nothing was asked yet")
        return self.turns[:-1], self.turns[-1][0]

    def _answer_plain(self, earlier: Sequence[str], asked: str, hear: Hear) -> Answer:
        """Answer `asked` without steering, after the model's own unsteered answers to the `earlier` questions."""
        known = self._known(earlier)
        for question in earlier[len(known) :]:
            said = self._generate(self._prompt(known, question), {}, lambda piece: None)
            if said.interrupted:
                return said
            known = self._plain = [*known, (question, said.text)]
        said = self._generate(self._prompt(known, asked), {}, hear)
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
            self.model,
            self.vectors,
            mix=dict(self.weights.weights),
            scale=self.weights.scale,
            layers=None if layers is None else ",".join(map(str, layers)),
            out=out,
        )

    def _prompt(self, before: Sequence[Turn], question: str) -> list[int]:
        messages = [{"role": "system", "content": self.system}] if self.system else []
        for asked, answered in before:
            messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
        ids = self.live.prompt([*messages, {"role": "user", "content": question}])
        if self._room(ids) < 1:
            way_out = "`reset` forgets the conversation" if before else "ask something shorter"
            raise InputError(
                f"{self.live.name}: {len(ids)} tokens of conversation leave no room for an answer in its context of "
                f"{len(ids) + self._room(ids)}; {way_out}"
            )
        return ids

    def _room(self, ids: Sequence[int]) -> int:
        """Largest number of tokens that an answer may have."""
        context, limit = self.live.context, self.sampling.max_new_tokens
        return limit if context is None else min(limit, context - len(ids))

    def _generate(self, ids: Sequence[int], rows: Mapping[int, np.ndarray], hear: Hear) -> Answer:
        import torch

        live, sampling = self.live, self.sampling
        prompt = torch.tensor([list(ids)], device=live.device)
        streamer = _Streamer(live, hear)
        interrupted = False
        start = time.perf_counter()
        try:
            if sampling.seed is not None:
                torch.manual_seed(sampling.seed)
            with adding(live.model, live.family, rows, self.scope):
                generate(
                    live.model,
                    prompt,
                    torch.ones_like(prompt),
                    max_new_tokens=self._room(ids),
                    end_tokens=live.end_tokens,
                    pad_token=live.pad_token,
                    temperature=sampling.temperature,
                    top_p=sampling.top_p,
                    streamer=streamer,
                )
        except KeyboardInterrupt:
            interrupted = True
        except OSError:  # From `hear`.
            raise
        except Exception as error:  # Whatever torch and transformers raise.
            reason = (str(error).strip().splitlines() or [repr(error)])[0][:200]
            hint = "; `reset` shortens the conversation" if "memory" in reason.lower() and self.turns else ""
            raise ModelError(f"{live.name}: the model failed ({reason}){hint}") from error
        streamer.end()
        seconds = time.perf_counter() - start
        return Answer(streamer.text, len(streamer.tokens), seconds, streamer.ended, interrupted)


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

    Args:
        model: a folder or a Hub id, as for `emobake.bake`.
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
        ModelError: (exit code 1) the model does not load.
    """
    if times is None and mix is None:
        weights = replace(steering((0.0,) * 5, scale=scale, layers=layers), weights=())
    else:
        weights = steering(times, mix, scale=scale, layers=layers)
    require_choice("scope", scope, get_args(Scope))
    name = ModelName.parse(model)
    live, found = open_steered(name, vectors, accept=lambda found: weighted_sum(found, weights), runtime=runtime)
    return Conversation(live, found, weights, scope=scope, sampling=sampling, system=system, model=name)


def _encodable(text: str) -> str:
    """`text` with ? for bytes that are not UTF-8, which tokenizers refuse."""
    return text.encode("utf-8", "replace").decode("utf-8")


class _Streamer:
    """Receives tokens from `generate`, as a streamer of transformers does, and passes on text that is certain.

    The last word is held back, and the white space before it: the next token may continue it, and the tokenizer may
    join the two. Scripts without spaces come character by character.
    """

    _UNCERTAIN = re.compile(r"\s*(?:[^\s\u2e80-\U0010ffff]|\ufffd)*\Z")

    def __init__(self, live: LiveModel, hear: Hear) -> None:
        self._live, self._hear = live, hear
        self._passed = 0
        self._prompt = True
        self.tokens: list[int] = []
        self.text = ""
        self.ended = False

    def put(self, value: Any) -> None:
        """Receive the prompt at first, then each new token."""
        if self._prompt:
            self._prompt = False
            return
        new = value.flatten().tolist()
        self.ended = new[-1] in self._live.end_tokens
        self.tokens += new[:-1] if self.ended else new
        self.text = str(self._live.tokenizer.decode(self.tokens, skip_special_tokens=True))
        uncertain = self._UNCERTAIN.search(self.text, self._passed)
        self._pass_on(uncertain.start() if uncertain else len(self.text))

    def end(self) -> None:
        """Pass on the rest."""
        self._pass_on(len(self.text))

    def _pass_on(self, end: int) -> None:
        begin, self._passed = self._passed, max(end, self._passed)
        if end > begin:
            self._hear(self.text[begin:end])
