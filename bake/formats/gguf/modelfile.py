"""A Modelfile for Ollama: the file's chat template in Ollama's language (Go's text/template), and its parameters.

GGUF files hold their template in Jinja, which Ollama does not run. Nearly all of them write each message between two
fixed texts that depend on its role, so those texts are found by rendering, put into a Go template, and held against
the Jinja on further conversations. A template that does more is left to Ollama, which knows many by their text.
Format: https://docs.ollama.com/modelfile.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ...errors import EmobakeError
from .header import GgufHeader

_MARK = "\u2039{}\u203a"
_ROLES = ("system", "user", "assistant")
# general.sampling.* of newer converters -> Ollama's name
_SAMPLING = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repeat_penalty",
}
Message = Mapping[str, str]


@dataclass(frozen=True)
class Template:
    """What a chat template writes: `begin`, then every message between its role's two texts."""

    begin: str
    around: Mapping[str, tuple[str, str]]
    generation: str
    """What stands in front of an answer."""
    system: str = ""
    """The system message that it assumes where there is none."""

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt for an answer to `messages`."""
        if self.system and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": self.system}, *messages]
        turns = [self.around[m["role"]][0] + m["content"] + self.around[m["role"]][1] for m in messages]
        return self.begin + "".join(turns) + self.generation


def write_modelfile(header: GgufHeader, gguf: str, recipe: str) -> tuple[str, list[str]]:
    """The text of a Modelfile for the file named `gguf` with this metadata, and what the user should know.

    Raises:
        EmobakeError: the jinja2 package is not installed.

    """
    notes = []
    # In one line: what a file says of itself must not become a directive.
    title = " ".join(header.text("general.name").split()) or gguf
    lines = [f"# Made by emobake: {title}, steered: {recipe}", f"FROM ./{gguf}", ""]
    template = read_template(header)
    if template is None:
        notes.append("the Modelfile has no TEMPLATE: Ollama takes the one that it knows for this model, or none")
        stops = []
    else:
        lines += [f'TEMPLATE """{go_template(template)}"""', ""]
        if template.system:
            lines += [f'SYSTEM """{template.system}"""', ""]
        stops = [template.around["assistant"][1].strip(), template.around["user"][0].strip()]
    stops.append(_token(header, "eos"))
    lines += [f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in dict.fromkeys(filter(None, stops))]
    for key, name in _SAMPLING.items():
        value = header.number(f"general.sampling.{key}")
        if value is not None:
            lines.append(f"PARAMETER {name} {value:g}")
    if licence := header.text("general.license"):
        lines += ["", f'LICENSE """{licence}"""'] if '"""' not in licence else []
    return "\n".join(lines) + "\n", notes


def _token(header: GgufHeader, name: str) -> str:
    number = header.number(f"tokenizer.ggml.{name}_token_id")
    tokens = header.texts("tokenizer.ggml.tokens") if type(number) is int else []
    return tokens[number] if type(number) is int and 0 <= number < len(tokens) else ""


def read_template(header: GgufHeader) -> Template | None:
    """The file's chat template in the form of `Template`; None when there is none, or it does more than that."""
    source = header.text("tokenizer.chat_template")
    if not source or len(source) > 200_000:
        return None
    tokens = {f"{name}_token": _token(header, name) for name in ("bos", "eos")}
    # llama.cpp and Ollama put the BOS token in front themselves, where the file asks for it.
    adds_bos = bool(header.number("tokenizer.ggml.add_bos_token"))
    return _probe(source, tokens, tokens["bos_token"] if adds_bos else "")


def _probe(source: str, tokens: Mapping[str, str], bos: str) -> Template | None:
    try:
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError:
        raise EmobakeError("--modelfile needs the jinja2 package; pip install 'emobake[gguf]'") from None
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )

    def fail(message: str) -> None:
        raise TemplateError(message)

    def render(messages: Sequence[Message], *, generation: bool = True) -> str:
        text = compiled.render(messages=messages, add_generation_prompt=generation, tools=None, **tokens)
        return text.removeprefix(bos)

    try:
        environment.globals["raise_exception"] = fail
        compiled = environment.from_string(source)
        found = _find(render)
        if any('"""' in text or "{{" in text for text in _texts(found)):
            return None
        trials = [
            _conversation("user"),
            _conversation("user", "assistant", "user"),
            _conversation("user", "assistant", "user", "assistant", "user"),
        ]
        if "system" in found.around:
            trials += [_conversation("system", *(m["role"] for m in trial)) for trial in trials]
        return found if all(found.render(trial) == render(trial) for trial in trials) else None
    except Exception:  # a stranger's template: whatever it provokes, it is not one that can be put in other words
        return None


def _texts(template: Template) -> list[str]:
    return [
        template.begin,
        template.generation,
        template.system,
        *(t for pair in template.around.values() for t in pair),
    ]


def _conversation(*roles: str) -> list[Message]:
    return [{"role": role, "content": f"the {number}th word of the {role}"} for number, role in enumerate(roles)]


def _find(render: Callable[..., str]) -> Template:
    """The texts around each role, from what a few conversations become; ValueError when they cannot be told."""
    user, answer, again = (
        {"role": role, "content": _MARK.format(i)} for i, role in enumerate(("user", "assistant", "user"))
    )
    start, rest = _cut(render([user, answer, again]), user)
    between, rest = _cut(rest, answer)
    after, end = _cut(rest, again)
    # `after` ends the answer and begins a question, as `start` does behind whatever begins a conversation.
    closed = _cut(render([user, answer], generation=False), answer)[1]
    answer_end = next(text for text in (closed, closed.rstrip(), "") if after.startswith(text))
    question = after[len(answer_end) :]
    question_end = _cut(render([user], generation=False), user)[1]
    begin = _without(start, "", question)
    around = {
        "user": (question, question_end),
        "assistant": (_without(between, question_end, ""), answer_end),
    }
    generation = _without(end, question_end, "")
    try:
        system = {"role": "system", "content": _MARK.format("system")}
        head, rest = _cut(render([system, user]), system)
    except Exception:  # most templates without the role say so by raising
        return Template(begin, around, generation)
    tail = _without(_cut(rest, user)[0], "", question)
    assumed = ""
    if len(begin) > len(head + tail) and begin.startswith(head) and begin.endswith(tail):
        assumed, begin = _without(begin, head, tail), ""
    return Template(begin, around | {"system": (_without(head, begin, ""), tail)}, generation, assumed)


def _cut(text: str, message: Message) -> tuple[str, str]:
    """What stands in front of and behind the content of `message`, which must be there once."""
    before, after = text.split(message["content"])
    return before, after


def _without(text: str, start: str, end: str) -> str:
    if not (text.startswith(start) and text.endswith(end) and len(text) >= len(start + end)):
        raise ValueError(text)
    return text[len(start) : len(text) - len(end)]


def go_template(template: Template) -> str:
    """The template in Go's text/template, over Ollama's ``.Messages``."""
    branches = []
    for number, role in enumerate(role for role in _ROLES if role in template.around):
        before, after = template.around[role]
        word = "if" if number == 0 else "else if"
        if role == "assistant":
            # An answer that was begun is gone on with: nothing behind it.
            after = f"{{{{ if not $last }}}}{after}{{{{ end }}}}"
        branches.append(f'{{{{ {word} eq .Role "{role}" }}}}{before}{{{{ .Content }}}}{after}')
    turns = "".join(branches) + "{{ end }}"
    generation = f'{{{{ if and $last (ne .Role "assistant") }}}}{template.generation}{{{{ end }}}}'
    return (
        f"{template.begin}{{{{ range $i, $_ := .Messages }}}}"
        f"{{{{ $last := eq (len (slice $.Messages $i)) 1 }}}}{turns}{generation}{{{{ end }}}}"
    )
