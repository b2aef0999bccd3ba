"""`open_conversation`: talking to a model that is steered while it runs, by weights that can change between answers.

This is how the paper uses its vectors, without anything being baked; what a `Conversation` says with scope ``every``
is what the checkpoint will say that `Conversation.bake` writes. Nothing here knows of a terminal. Needs torch and
transformers.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.steering import Steering, steering, weighted_sum
from ..core.vector_set import VectorSet
from ..errors import EmobakeError, InputError
from ..models.hooks import Scope, site_module, steered
from ..models.loading import LiveModel
from ..models.steered import open_steered
from ..storage.model_name import split_revision

if TYPE_CHECKING:
    from .bake import BakeResult

Hear = Callable[[str], object]
"""What is called with each piece of an answer as soon as it is certain."""
Turn = tuple[str, str]
"""A question and what was answered."""


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn. The defaults are those of the code published with the paper."""

    temperature: float = 0.6
    """0 is greedy."""
    top_p: float = 0.9
    max_new_tokens: int = 512
    seed: int | None = None
    """Set before every answer, so that the same conversation goes the same way; None draws anew each time."""


@dataclass(frozen=True)
class Answer:
    """What the model said."""

    text: str
    tokens: int
    """How many tokens that took, without the one that ends an answer."""
    seconds: float
    ended: bool
    """The model came to an end by itself, not by the limit."""
    interrupted: bool
    """Somebody pressed Ctrl-C."""


class Conversation:
    """A model, the vectors that steer it with their weights, and what was said so far."""

    def __init__(
        self,
        live: LiveModel,
        vectors: VectorSet,
        weights: Steering,
        *,
        scope: Scope = "every",
        sampling: Sampling | None = None,
        system: str = "",
        revision: str | None = None,
    ) -> None:
        self.live, self.vectors, self.scope, self.system = live, vectors, scope, _encodable(system)
        self.sampling = sampling or Sampling()
        self.revision = revision
        self.arch = replace(live.arch, site=vectors.site)
        self.turns: list[Turn] = []
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
                site_module(self.live.model, self.arch, layer)
            except AttributeError:
                raise InputError(
                    f"{self.live.name}: layer {layer} has no attention, so its vector cannot land; "
                    "choose among the layers that have one with --layers"
                ) from None
        self.weights, self.rows = weights, rows

    def answer(
        self, question: str | None, hear: Hear = lambda piece: None, *, plain: bool = False, keep: bool = True
    ) -> Answer:
        """Let the model answer `question`, or once more the last one if None; with `plain`, without any steering.

        With `keep`, question and answer join the conversation, as far as it got. Ctrl-C ends an answer, not the call.

        Raises:
            InputError: nothing was asked yet, or the conversation does not fit the template or the context.
            EmobakeError: the model failed. The conversation stays as it was.
        """
        if question is not None:
            before, asked = self.turns, _encodable(question)
        elif self.turns:
            *before, (asked, _) = self.turns
        else:
            raise InputError("nothing was asked yet")
        ids = self._prompt(before, asked)
        said = self._generate(ids, {} if plain else self.rows, hear)
        if keep and said.text:
            self.turns = [*before, (asked, said.text)]
        return said

    def bake(self, out: str | os.PathLike[str]) -> BakeResult:
        """Write a checkpoint with the weights of now; see `emobake.bake`.

        Raises:
            EmobakeError: all weights are zero, or what `emobake.bake` refuses.
        """
        from .bake import bake

        if self.weights.is_zero:
            raise InputError("all weights are zero, there is nothing to bake; set some with --times or --mix")
        layers = self.weights.layers
        return bake(
            self.live.name,
            self.vectors,
            mix=dict(self.weights.weights),
            scale=self.weights.scale,
            layers=None if layers is None else ",".join(map(str, layers)),
            out=out,
            revision=self.revision,
            base_model=self.live.base_model,
        )

    def _prompt(self, before: Sequence[Turn], question: str) -> list[int]:
        messages = [{"role": "system", "content": self.system}] if self.system else []
        for asked, answered in before:
            messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
        ids = self.live.prompt([*messages, {"role": "user", "content": question}])
        if self._room(ids) < 1:
            way_out = "/reset forgets what was said so far" if before else "ask something shorter"
            raise InputError(
                f"{self.live.name}: {len(ids)} tokens of conversation leave no room for an answer in its context of "
                f"{len(ids) + self._room(ids)}; {way_out}"
            )
        return ids

    def _room(self, ids: Sequence[int]) -> int:
        """How many tokens an answer may have."""
        context, limit = self.live.context, self.sampling.max_new_tokens
        return limit if context is None else min(limit, context - len(ids))

    def _generate(self, ids: Sequence[int], rows: Mapping[int, np.ndarray], hear: Hear) -> Answer:
        import torch

        live, sampling = self.live, self.sampling
        prompt = torch.tensor([list(ids)], device=live.device)
        ear = _Ear(live, hear)
        # Given one by one and not as a GenerationConfig: transformers 4 would take a `do_sample` of False for one
        # that was not set, and sample as the model's own configuration says.
        options: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if sampling.temperature > 0:
            options = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p}
        interrupted = False
        start = time.perf_counter()
        try:
            if sampling.seed is not None:
                torch.manual_seed(sampling.seed)
            with torch.inference_mode(), steered(live.model, self.arch, rows, self.scope):
                live.model.generate(
                    input_ids=prompt,
                    attention_mask=torch.ones_like(prompt),
                    max_new_tokens=self._room(ids),
                    eos_token_id=list(live.end_tokens) or None,
                    pad_token_id=live.pad_token,
                    streamer=ear,
                    **options,
                )
        except KeyboardInterrupt:
            interrupted = True
        except OSError:  # of who hears
            raise
        except Exception as error:  # whatever torch and transformers raise
            reason = (str(error).strip().splitlines() or [repr(error)])[0][:200]
            hint = "; /reset shortens the conversation" if "memory" in reason.lower() and self.turns else ""
            raise EmobakeError(f"{live.name}: the model failed ({reason}){hint}") from error
        ear.end()
        return Answer(ear.text, len(ear.tokens), time.perf_counter() - start, ear.ended, interrupted)


def open_conversation(
    model: str | os.PathLike[str],
    vectors: str | os.PathLike[str] | None = None,
    times: Iterable[float] | None = None,
    *,
    mix: Mapping[str, float] | None = None,
    scale: float = 1.0,
    layers: str | None = None,
    revision: str | None = None,
    base_model: str = "",
    vectors_for: str = "",
    site: str = "",
    scope: Scope = "every",
    sampling: Sampling | None = None,
    system: str = "",
    dtype: str = "auto",
    device: str = "auto",
    device_map: str | None = None,
) -> Conversation:
    """Load a model with its vectors, ready to talk; without `times` and `mix` it begins unsteered.

    Raises:
        InputError: (exit code 2) bad input; all that can be is found before the model is loaded.
        EmobakeError: (exit code 1) the model does not load.

    """
    if times is None and mix is None:
        weights = replace(steering((0.0,) * 5, scale=scale, layers=layers), weights=())
    else:
        weights = steering(None if times is None else tuple(times), mix, scale=scale, layers=layers)
    live, found = open_steered(
        model,
        vectors,
        accept=lambda found: weighted_sum(found, weights),
        revision=revision,
        base_model=base_model,
        vectors_for=vectors_for,
        site=site,
        dtype=dtype,
        device=device,
        device_map=device_map,
    )
    _, revision = split_revision(model, revision)
    return Conversation(live, found, weights, scope=scope, sampling=sampling, system=system, revision=revision)


def _encodable(text: str) -> str:
    """`text` with ? for what Python made of bytes that are not UTF-8; tokenizers refuse that."""
    return text.encode("utf-8", "replace").decode("utf-8")


class _Ear:
    """What `generate` hands its tokens to, as to a streamer of transformers; passes on text that is certain.

    The last word is held back, and the white space before it: the next token may go on with it, and the tokenizer
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
        """The prompt at first, then each new token."""
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
        """There is no more."""
        self._pass_on(len(self.text))

    def _pass_on(self, end: int) -> None:
        begin, self._passed = self._passed, max(end, self._passed)
        if end > begin:
            self._hear(self.text[begin:end])
