"""Modelfiles for Ollama: the chat template in Ollama's language (Go's text/template), and the parameters.

GGUF files hold their template in Jinja, which Ollama does not run. Nearly all templates write each message between two
fixed texts that depend on its role. These texts are found by rendering, put into a Go template, and compared with the
Jinja on further conversations. A template that does more is left to Ollama, which knows many by their text.
Format: https://docs.ollama.com/modelfile.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...core.packages import require
from .header import GgufHeader

MODELFILE_START = "# Made by emobake"
"""Beginning of each Modelfile of ours."""
_MARK = "\u2039{}\u203a"
_ROLES = ("system", "user", "assistant")
_LONGEST = 200_000
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
    """A chat template that writes `begin`, then every message between its role's two texts."""

    begin: str
    around: Mapping[str, tuple[str, str]]
    """Role -> text before and after its messages."""
    generation: str
    """Text before an answer."""
    system: str = ""
    """System message that it assumes if there is none."""

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt for an answer to `messages`."""
        if self.system and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": self.system}, *messages]
        turns = [self.around[m["role"]][0] + m["content"] + self.around[m["role"]][1] for m in messages]
        return self.begin + "".join(turns) + self.generation


def modelfile_path(gguf: Path) -> Path:
    """Path of a GGUF file's Modelfile: beside it."""
    return gguf.with_name(gguf.name.removesuffix(".gguf") + ".Modelfile")


def write_modelfile(header: GgufHeader, gguf: str, recipe: str) -> tuple[str, list[str]]:
    """Write a Modelfile for the file named `gguf`; returns its text and warnings.

    Raises:
        MissingPackageError: the jinja2 package is not installed.
    """
    notes = []
    # On one line: a name in the metadata must not become a directive.
    title = " ".join(header.text("general.name").split()) or gguf
    lines = [f"{MODELFILE_START}: {title}, steered: {recipe}", f"FROM ./{gguf}", ""]
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


def read_template(header: GgufHeader) -> Template | None:
    """Read the file's chat template as a `Template`; None if there is none, or if it does more than that."""
    source = header.text("tokenizer.chat_template")
    if not source or len(source) > _LONGEST:
        return None
    tokens = {f"{name}_token": _token(header, name) for name in ("bos", "eos")}
    # llama.cpp and Ollama add the BOS token themselves, if the file asks for it.
    adds_bos = bool(header.number("tokenizer.ggml.add_bos_token"))
    return _probe(source, tokens, tokens["bos_token"] if adds_bos else "")


def go_template(template: Template) -> str:
    """Write the template in Go's text/template, over Ollama's ``.Messages``."""
    branches = []
    for number, role in enumerate(role for role in _ROLES if role in template.around):
        before, after = template.around[role]
        word = "if" if number == 0 else "else if"
        if role == "assistant":
            # Ollama continues a last answer, so nothing may come after it.
            after = f"{{{{ if not $last }}}}{after}{{{{ end }}}}"
        branches.append(f'{{{{ {word} eq .Role "{role}" }}}}{before}{{{{ .Content }}}}{after}')
    turns = "".join(branches) + "{{ end }}"
    generation = f'{{{{ if and $last (ne .Role "assistant") }}}}{template.generation}{{{{ end }}}}'
    return (
        f"{template.begin}{{{{ range $i, $_ := .Messages }}}}"
        f"{{{{ $last := eq (len (slice $.Messages $i)) 1 }}}}{turns}{generation}{{{{ end }}}}"
    )


def _token(header: GgufHeader, name: str) -> str:
    number = header.number(f"tokenizer.ggml.{name}_token_id")
    tokens = header.texts("tokenizer.ggml.tokens") if type(number) is int else []
    return tokens[number] if type(number) is int and 0 <= number < len(tokens) else ""


def _probe(source: str, tokens: Mapping[str, str], bos: str) -> Template | None:
    jinja2 = require("jinja2", extra="gguf", purpose="`modelfile`")
    sandbox = require("jinja2.sandbox", extra="gguf", purpose="`modelfile`")
    environment = sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )

    def fail(message: str) -> None:
        raise jinja2.TemplateError(message)

    def render(messages: Sequence[Message], *, generation: bool = True) -> str:
        text: str = compiled.render(messages=messages, add_generation_prompt=generation, tools=None, **tokens)
        return text.removeprefix(bos)

    try:
        environment.globals["raise_exception"] = fail
        compiled = environment.from_string(source)
        found = _find(render)
        if any('"""' in text or "{{" in text for text in _texts(found)):
            return None
        return found if all(found.render(trial) == render(trial) for trial in _trials(found)) else None
    except Exception:  # A stranger's template: whatever it raises, it cannot be put into other words.
        return None


def _texts(template: Template) -> list[str]:
    return [
        template.begin,
        template.generation,
        template.system,
        *(t for pair in template.around.values() for t in pair),
    ]


def _trials(template: Template) -> list[list[Message]]:
    """Conversations on which the two templates are compared."""
    trials = [
        _conversation("user"),
        _conversation("user", "assistant", "user"),
        _conversation("user", "assistant", "user", "assistant", "user"),
    ]
    if "system" in template.around:
        trials += [_conversation("system", *(m["role"] for m in trial)) for trial in trials]
    return trials


def _conversation(*roles: str) -> list[Message]:
    return [{"role": role, "content": f"the {number}th word of the {role}"} for number, role in enumerate(roles)]


def _find(render: Callable[..., str]) -> Template:
    """Find the texts around each role by rendering a few conversations; ValueError if they cannot be told."""
    user, answer, again = (
        {"role": role, "content": _MARK.format(i)} for i, role in enumerate(("user", "assistant", "user"))
    )
    start, rest = _cut(render([user, answer, again]), user)
    between, rest = _cut(rest, answer)
    after, end = _cut(rest, again)
    # `after` ends the answer and begins a question; `start` begins a conversation and a question.
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
    except Exception:  # Most templates without the role raise.
        return Template(begin, around, generation)
    tail = _without(_cut(rest, user)[0], "", question)
    assumed = ""
    if len(begin) > len(head + tail) and begin.startswith(head) and begin.endswith(tail):
        assumed, begin = _without(begin, head, tail), ""
    return Template(begin, around | {"system": (_without(head, begin, ""), tail)}, generation, assumed)


def _cut(text: str, message: Message) -> tuple[str, str]:
    """The text before and after the content of `message`, which must occur once."""
    before, after = text.split(message["content"])
    return before, after


def _without(text: str, start: str, end: str) -> str:
    if not (text.startswith(start) and text.endswith(end) and len(text) >= len(start + end)):
        raise ValueError(text)
    return text[len(start) : len(text) - len(end)]
