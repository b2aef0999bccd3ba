"""Commands of a conversation: functions from an argument to lines of text, for a terminal or a web page.

Each command receives the conversation and the text after its name. It changes the conversation and returns what to
tell the user. Nothing here prints.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from ..core.plan import BakePlan
from ..core.steering import Steering, parse_mix, steering
from ..errors import InputError
from ..models.hooks import Scope
from .conversation import Conversation, GgufConversation, SteeredConversation
from .request import BakeResult

Command = Callable[[Conversation, str], Sequence[str]]

SCOPES: dict[Scope, str] = {
    "every": "at every position",
    "last": "at the last position of each forward pass",
}


def times(conversation: Conversation, argument: str) -> Sequence[str]:
    """Set the weights of the paper's five emotions."""
    try:
        numbers = tuple(float(word) for word in argument.split())
    except ValueError:
        raise InputError(f"`times` {argument}: these are not five numbers") from None
    weights = steering(numbers)
    return _steer(steered(conversation, weights), weights)


def mix(conversation: Conversation, argument: str) -> Sequence[str]:
    """Set weights by name."""
    weights = steering(mix=parse_mix(argument))
    return _steer(steered(conversation, weights), weights)


def scale(conversation: Conversation, argument: str) -> Sequence[str]:
    """Set the factor for all weights."""
    try:
        factor = float(argument)
    except ValueError:
        raise InputError(f"`scale` {argument}: this is not a number") from None
    factored = steering((0.0,) * 5, scale=factor)  # Refuses a number that is not finite.
    conversation = steered(conversation, factored)
    return _steer(conversation, conversation.weights, factor)


def layers(conversation: Conversation, argument: str) -> Sequence[str]:
    """Choose the layers to steer, such as 8-27; all of them without an argument."""
    chosen = steering((0.0,) * 5, layers=argument or None).layers
    conversation = steered(conversation)
    conversation.steer(replace(conversation.weights, layers=chosen))
    return describe_mood(conversation)


def scope(conversation: Conversation, argument: str) -> Sequence[str]:
    """Choose the positions at which the vectors are added."""
    found = next((name for name in get_args(Scope) if name == argument), None)
    if found is None:
        raise InputError(f"`scope` {argument}: choose every or last")
    conversation = steered(conversation)
    conversation.scope = found
    return describe_mood(conversation)


def show(conversation: Conversation, argument: str) -> Sequence[str]:
    """Describe the model, the vectors, the weights and the sampling."""
    model, sampling = conversation.model, conversation.sampling
    drawn = f"temperature {sampling.temperature:g}, top-p {sampling.top_p:g}" if sampling.temperature else "greedy"
    seed = "" if sampling.seed is None or not sampling.temperature else f", seed {sampling.seed}"
    vectors = conversation.vectors if isinstance(conversation, SteeredConversation) else None
    return [
        f"model     {model.name} ({model.description})",
        *([] if vectors is None else [f"vectors   {vectors.name}", f"emotions  {', '.join(vectors.emotions)}"]),
        *describe_mood(conversation),
        f"sampling  {drawn}, at most {sampling.max_new_tokens} new tokens{seed}",
        *([f"system    {conversation.system}"] if conversation.system else []),
        f"history   {len(conversation.turns)} answered questions",
    ]


def reset(conversation: Conversation, argument: str) -> Sequence[str]:
    """Forget the turns."""
    conversation.turns = []
    return ["The conversation is forgotten; weights and settings stay."]


COMMANDS: dict[str, Command] = {
    "times": times,
    "mix": mix,
    "scale": scale,
    "layers": layers,
    "scope": scope,
    "show": show,
    "reset": reset,
}
"""Name -> command."""


def bake(conversation: SteeredConversation, argument: str) -> tuple[BakeResult, str]:
    """Bake the current weights; returns the result and the name of the output as it was given.

    Raises:
        InputError: no name was given; EmobakeError: as `emobake.bake`.
    """
    out = argument[1:-1] if len(argument) > 1 and argument[0] == argument[-1] and argument[0] in "'\"" else argument
    if not out:
        raise InputError("`bake` needs the folder to write: `bake` ./joyful")
    out = str(Path(out).expanduser())
    return conversation.bake(out), out


def describe_bake(result: BakeResult, out: str) -> list[str]:
    """Lines on a finished bake: the recipe first, then layers and stacks."""
    plan = result.plan
    together = f" (all bakes together: {plan.effect.recipe})" if plan.record.history else ""
    return [f"Baked {recipe(plan.steering)} into {out}{together}", *describe_plan(plan)]


def describe_plan(plan: BakePlan) -> list[str]:
    """Lines on a bake that is planned or done: layers, stacks, and what to beware of."""
    steered = sum(bias.norm > 0 for bias in plan.biases)
    loads = [name for name, support in plan.shown.items() if support.status == "steered" and plan.effect.steers]
    return [
        f"{steered} of {len(plan.biases)} layers steered, route {plan.route}",
        f"loads steered: {', '.join(loads) or 'nowhere'}",
        *(f"{name}: {support.clause}" for name, support in plan.shown.items() if name not in loads),
        *plan.beware,
    ]


def check_compare(conversation: SteeredConversation, argument: str) -> str | None:
    """The question to answer twice, unsteered and steered; None is the last one.

    Raises:
        InputError: all weights are zero, or nothing was asked yet.
    """
    if conversation.weights.is_zero:
        raise InputError("all weights are zero, so both answers are the model's own; set some with `times` or `mix`")
    if not argument and not conversation.turns:
        raise InputError("nothing was asked yet; `compare` QUESTION asks")
    return argument or None


def steered(conversation: Conversation, weights: Steering | None = None, out: str = "") -> SteeredConversation:
    """The conversation, if its mood can change.

    Raises:
        InputError: it is with a GGUF file; the message tells how to bake `weights` into `out`.
    """
    if isinstance(conversation, GgufConversation):
        raise conversation.fixed_mood(weights, out)
    assert isinstance(conversation, SteeredConversation)
    return conversation


def describe_mood(conversation: Conversation) -> list[str]:
    """Lines on the weights and the scope, or on what a GGUF file holds."""
    if isinstance(conversation, GgufConversation):
        return [
            f"mood      {conversation.mood}, baked"
            if conversation.mood
            else "mood      its own: emobake has not baked it"
        ]
    weights, found = steered(conversation).weights, steered(conversation).scope
    where = "" if weights.layers is None else f" in layers {', '.join(map(str, weights.layers))}"
    return [f"weights   {recipe(weights)}{where}", f"scope     {found}: {SCOPES[found]}"]


def recipe(weights: Steering) -> str:
    """Weights in words."""
    if weights.is_zero:
        return "none, the model is unsteered" + ("" if weights.scale else " (the scale is 0)")
    return weights.recipe


def _steer(conversation: SteeredConversation, weights: Steering, factor: float | None = None) -> Sequence[str]:
    old = conversation.weights
    conversation.steer(replace(weights, scale=old.scale if factor is None else factor, layers=old.layers))
    return describe_mood(conversation)
