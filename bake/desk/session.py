"""A session at the desk, without a web server: two moods of one model in memory, what was said, costs, and bakes.

The steered and the unsteered answers share the weights: hooks are put on and taken off, and the answers take turns.
Everything here may be called from several threads. Needs what `emobake.open_conversation` needs.
"""

from __future__ import annotations

import itertools
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from itertools import takewhile
from pathlib import Path

from ..actions import commands
from ..actions.conversation import Conversation, GgufConversation, SteeredConversation, Turn
from ..actions.receipt import measured
from ..core.spelling import did_you_mean
from ..core.steering import Steering
from ..errors import EmobakeError, InputError
from ..models.chat_model import Stop
from ..models.sampling import Sampling
from .baking import Baker, Planned
from .costs import cautions, cost_in_json, cost_of
from .exchange import Exchange, Said
from .order import Bench, Form, Order
from .personas import PersonaStore
from .reply import Event, Reply, Tell
from .sets import SetBeside, open_sets
from .setting import Setting, Settings, Side

MAX_QUESTION = 20_000
"""Characters of a question."""
MAX_EXCHANGES = 500
"""Questions that are kept."""
_TYPED = ("times", "mix", "scale", "layers", "scope", "show", "reset")
"""Chat commands that the desk takes, too."""


class DeskSession:
    """A conversation in two moods, and everything that the page shows."""

    def __init__(
        self,
        conversation: Conversation,
        bench: Bench,
        *,
        settings: Settings | None = None,
        report: Path | None = None,
        compare: Sequence[str] = (),
        personas: PersonaStore | None = None,
    ) -> None:
        """Begin with a loaded `conversation`, whose mood becomes mood A.

        Raises:
            InputError: no `report` there, no set of those to `compare`, or a setting that does not fit the set.
        """
        self.conversation, self.report, self.personas = conversation, report, personas
        self.exchanges: tuple[Exchange, ...] = ()
        self._revisions = itertools.count(1)
        self.revision = 0
        """Another one after every change."""
        self.cautions: dict[Side, list[str]] = {}
        """Lines on what is known of the answers at the strengths that are set, by side."""
        self.is_closing = False
        """True once streams are to end."""
        self._busy: Reply | None = None
        self._asking = threading.Lock()
        self._own: dict[Side, list[Turn]] = {"unsteered": [], "b": []}
        self.baker = Baker(bench, self._changed)
        self.sets: tuple[SetBeside, ...] = ()
        if isinstance(conversation, SteeredConversation):
            self.sets = tuple(open_sets(conversation.vectors, compare))
            self.settings = settings or Settings(a=_setting_of(conversation))
        else:
            self.settings = Settings(beside="off")
        if report is not None:
            measured(report, Steering(()))  # Says what is wrong with it.
        self.set(self.settings)

    # --- what is set ---------------------------------------------------------------------------------------------

    @property
    def steered(self) -> SteeredConversation | None:
        """The conversation, if its mood can change; None with a GGUF file."""
        return self.conversation if isinstance(self.conversation, SteeredConversation) else None

    @property
    def recipes(self) -> dict[Side, str]:
        """The mood of each side in words."""
        if isinstance(self.conversation, GgufConversation):
            return {"a": self.conversation.mood or "its own: emobake has not baked it"}
        a, b = (commands.recipe(setting.steering) for setting in (self.settings.a, self.settings.b))
        return {"a": a, "unsteered": "unsteered", "b": b}

    def set(self, settings: Settings) -> None:
        """Use these settings from the next question on.

        Raises:
            InputError: an emotion or layer that the set or the model does not have; all stays as it was.
        """
        if self.steered is not None:
            for setting in (settings.a, settings.b):
                self._lane(setting)
        elif settings != Settings(beside="off"):
            commands.steered(self.conversation)  # Refuses, and names the command.
        self.settings, self.cautions = settings, self._cautions(settings)
        self._changed()

    def set_sampling(self, sampling: Sampling, system: str) -> None:
        """Draw answers like this from the next question on, under this system prompt."""
        self.conversation.sampling, self.conversation.system = sampling, system[:MAX_QUESTION]
        self._changed()

    def _cautions(self, settings: Settings) -> dict[Side, list[str]]:
        if self.steered is None:
            return {}
        found: dict[Side, list[str]] = {}
        sides: tuple[tuple[Side, Setting], ...] = (("a", settings.a), ("b", settings.b))
        for side, setting in sides:
            try:
                found[side] = cautions(self.steered.vectors, setting.steering, self.report)
            except EmobakeError as error:  # The report is gone.
                found[side] = [str(error)]
        return found

    # --- talking -------------------------------------------------------------------------------------------------

    @property
    def is_answering(self) -> bool:
        """True while an answer is generated."""
        return self._busy is not None

    def ask(self, question: str | None) -> Reply:
        """Answer `question`, or the last one again if it is None, in mood A and beside it as it is set.

        Events of the reply: ``question`` with its sides, ``piece`` with text of a side, ``said`` with a finished
        answer, ``cost``, ``error``, and ``end``.

        Raises:
            InputError: nothing was asked, or another answer is being generated.
        """
        if question is not None and not question.strip():
            raise InputError("write a question first")
        if question is not None and len(question) > MAX_QUESTION:
            raise InputError(f"{len(question)} characters are too many for a question; at most {MAX_QUESTION} are read")
        if question is None and not self.exchanges:
            raise InputError("nothing was asked yet")
        if not self._asking.acquire(blocking=False):
            raise InputError("an answer is being generated, here or in another tab; wait for its end, or stop it")
        try:
            before = self.exchanges if question is not None else self.exchanges[:-1]
            asked = self.exchanges[-1].question if question is None else question.strip()
            settings = self.settings
            reply = Reply(lambda tell, stop: self._answer(before, asked, settings, tell, stop), self._free)
            self._busy = reply
            reply.start()
        except BaseException:
            self._free()
            raise
        self._changed()
        return reply

    def stop(self) -> None:
        """Stop the answer that is being generated; what was said so far stays."""
        if (reply := self._busy) is not None:
            reply.stop()

    def command(self, line: str) -> list[str]:
        """Obey a chat command, such as ``/mix joy=2``, and return what to tell the user.

        Raises:
            InputError: no such command, or its argument is wrong.
        """
        name, _, rest = line.removeprefix("/").partition(" ")
        if name not in _TYPED:
            raise InputError(
                f"/{name}: no such command here; there are {', '.join('/' + one for one in _TYPED)}"
                f"{did_you_mean(name, _TYPED).replace('mean ', 'mean /')}"
            )
        if name == "reset":
            self.reset()
            return list(commands.reset(self.conversation, ""))
        talk: Conversation = self.conversation if self.steered is None else self._lane(self.settings.a)
        talk.turns = self._turns(self.exchanges)
        lines = list(commands.COMMANDS[name](talk, rest.strip()))
        if isinstance(talk, SteeredConversation):
            self.set(replace(self.settings, a=_setting_of(talk)))
        return lines

    def reset(self) -> None:
        """Forget the conversation; settings stay.

        Raises:
            InputError: an answer is being generated.
        """
        if self.is_answering:
            raise InputError("an answer is being generated; stop it first")
        self.exchanges = ()
        self._own = {"unsteered": [], "b": []}
        self._changed()

    def _answer(self, before: Sequence[Exchange], question: str, settings: Settings, tell: Tell, stop: Stop) -> None:
        sides: list[Side] = ["a"] if settings.beside == "off" else ["a", settings.beside]
        if settings.beside == "unsteered" and settings.history == "same" and settings.a.steering.is_zero:
            sides = ["a"]  # The same answer twice.
        tell({"type": "question", "question": question, "sides": sides})
        exchange = Exchange(question)
        # Both sides draw the same random numbers, so that they differ by the mood alone.
        sampling = self.conversation.sampling
        if sampling.seed is None:
            sampling = replace(sampling, seed=secrets.randbelow(2**31))
        try:
            for side in sides:
                talk, recipe = self._talk(side, settings, sampling)
                talk.turns = self._history(side, talk, before, settings, stop)
                answer = talk.answer(question, _hearing(tell, side), stop=stop)
                if side != "a" and settings.history == "own" and not answer.interrupted:
                    self._own[side] = list(talk.turns)
                exchange = replace(exchange, said={**exchange.said, side: Said.of(answer, recipe)})
                if answer.text:
                    self.exchanges = (*before, exchange)[-MAX_EXCHANGES:]
                tell({"type": "said", "side": side, "said": asdict(exchange.said[side])})
                if stop():
                    break
            if self.steered is not None and exchange.said["a"].text and not stop():
                self._measure(exchange, before, settings, tell)
        except EmobakeError as error:
            tell({"type": "error", "error": str(error)})
        except Exception as error:  # The page must not wait for ever.
            tell({"type": "error", "error": str(EmobakeError(f"unexpected {type(error).__name__}: {error}"))})

    def _measure(self, exchange: Exchange, before: Sequence[Exchange], settings: Settings, tell: Tell) -> None:
        said = exchange.said["a"]
        tell({"type": "measuring"})
        cost = cost_of(self._lane(settings.a), self._turns(before), exchange.question, said.text)
        self.exchanges = (*before, replace(exchange, cost=cost))[-MAX_EXCHANGES:]
        tell({"type": "cost", "cost": cost_in_json(cost), "number": len(self.exchanges) - 1})

    def _talk(self, side: Side, settings: Settings, sampling: Sampling) -> tuple[Conversation, str]:
        """A conversation in the mood of a side, and that mood in words."""
        if self.steered is None:
            base = self.conversation
            assert isinstance(base, GgufConversation)
            talk = GgufConversation(base.model, base.record, sampling=sampling, system=base.system)
            return talk, talk.mood or "as it is"
        setting = {"a": settings.a, "b": settings.b, "unsteered": Setting()}[side]
        lane = self._lane(setting)
        lane.sampling = sampling
        return lane, commands.recipe(setting.steering)

    def _lane(self, setting: Setting) -> SteeredConversation:
        """A conversation in this mood on the model that all share.

        Raises:
            InputError: the setting does not fit the set or the model.
        """
        base = self.steered
        assert base is not None
        return SteeredConversation(
            base.live,
            base.vectors,
            setting.steering,
            scope=setting.scope,
            sampling=base.sampling,
            system=base.system,
            base=base.base,
        )

    def _history(
        self, side: Side, talk: Conversation, before: Sequence[Exchange], settings: Settings, stop: Stop
    ) -> list[Turn]:
        """The turns that a side continues. Of its own, questions that it has not answered are answered first."""
        if side == "a" or settings.history == "same":
            return self._turns(before)
        asked = [question for question, _ in self._turns(before)]
        pairs = zip(self._own[side], asked, strict=False)
        talk.turns = [turn for turn, _ in takewhile(lambda pair: pair[0][0] == pair[1], pairs)]
        for question in asked[len(talk.turns) :]:
            if talk.answer(question, stop=stop).interrupted:
                break
        return talk.turns

    def _turns(self, exchanges: Sequence[Exchange]) -> list[Turn]:
        """The conversation of mood A."""
        return [(one.question, one.said["a"].text) for one in exchanges if "a" in one.said and one.said["a"].text]

    def _free(self) -> None:
        self._busy = None
        self._asking.release()
        self._changed()

    # --- baking and personas -------------------------------------------------------------------------------------

    def plan(self, side: Side, form: Form, name: str, *, overwrite: bool, private: bool | None) -> Planned:
        """Dry run of a bake of mood A or B.

        Raises:
            InputError: it cannot be carried out; of a GGUF file, the message names the command that bakes another one.
        """
        commands.steered(self.conversation)
        setting = self.settings.b if side == "b" else self.settings.a
        planned = self.baker.plan(Order(setting, form, name.strip(), overwrite, private))
        self._changed()
        return planned

    def load_persona(self, name: str) -> Setting:
        """Make a persona mood A.

        Raises:
            InputError: there is none of this name, or it does not fit.
        """
        setting = self._store().load(name)
        self.set(replace(self.settings, a=setting))
        return setting

    def save_persona(self, name: str, *, overwrite: bool) -> None:
        """Keep mood A as a persona.

        Raises:
            InputError: the name cannot be one. OutputError: it cannot be written.
        """
        self._store().save(name, self.settings.a, overwrite=overwrite)
        self._changed()

    @property
    def persona_names(self) -> list[str] | None:
        """Names of the personas; None if this desk keeps none."""
        try:
            return None if self.personas is None else list(self.personas.names())
        except EmobakeError:  # Their folder is gone; loading one says so.
            return []

    def _store(self) -> PersonaStore:
        if self.personas is None:
            raise InputError("this desk keeps no personas")
        return self.personas

    # --- changes -------------------------------------------------------------------------------------------------

    def end_streams(self) -> None:
        """Stop the answer that is being generated, and let nobody wait for changes any more."""
        self.is_closing = True
        self.stop()

    def close(self) -> None:
        """End the answer and the bake that run, and wait until they have cleaned up."""
        self.end_streams()
        if (reply := self._busy) is not None:
            reply.wait(60)
        self.baker.close()

    def _changed(self) -> None:
        self.revision = next(self._revisions)


def _setting_of(talk: SteeredConversation) -> Setting:
    """The setting of a conversation."""
    weights = talk.weights
    layers = "" if weights.layers is None else ",".join(map(str, weights.layers))
    return Setting(dict(weights.weights), weights.scale, layers, talk.scope)


def _hearing(tell: Tell, side: Side) -> Callable[[str], None]:
    def hear(piece: str) -> None:
        event: Event = {"type": "piece", "side": side, "text": piece}
        tell(event)

    return hear
