"""Modelfiles for Ollama: the chat template in Ollama's language (Go's text/template), and the parameters.

GGUF files hold their template in Jinja, which Ollama does not run. Nearly all templates write each message between two
fixed texts that depend on its role. These texts are found by rendering (in a process of its own, within limits), put
into a Go template, and compared with the Jinja on further conversations. A template that does more is left to Ollama,
which knows many by their text.
Format: https://docs.ollama.com/modelfile.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...core.packages import require
from ...core.recorded_persona import RecordedPersona
from ...core.text import one_line, printable
from ..chat_template import Message, render_chats
from .header import GgufHeader
from .voice import SAMPLING, without_voice

MODELFILE_START = "# Made by emobake"
"""Beginning of each Modelfile of ours."""
_ROLES = ("system", "user", "assistant")
_LONGEST = 200_000
_SAMPLING = {
    "general.sampling.temp": "temperature",
    "general.sampling.top_k": "top_k",
    "general.sampling.top_p": "top_p",
    "general.sampling.min_p": "min_p",
    "general.sampling.penalty_repeat": "repeat_penalty",
}
"""Key of newer converters -> Ollama's name."""
_UNKNOWN_SYSTEM = (
    "the Modelfile has no TEMPLATE, and it is not known whether the one that Ollama takes has a place for the system "
    "prompt of the persona"
)
_NO_TEMPLATE = "the Modelfile has no TEMPLATE: Ollama takes the one that it knows for this model, or none"
_NO_SYSTEM = (
    "the SYSTEM PROMPT of the persona is NOT in the Modelfile: the chat template has no place for one; send it with "
    "each conversation"
)


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


def write_modelfile(
    header: GgufHeader, gguf: str, recipe: str, persona: RecordedPersona | None = None
) -> tuple[str, list[str]]:
    """Write a Modelfile for the file named `gguf`; returns its text and warnings.

    `header` is that of the base or of the file itself, `recipe` the sum of all bakes in words; empty if nothing is
    steered. The voice of the `persona` becomes SYSTEM and parameters.

    Raises:
        MissingPackageError: the jinja2 package is not installed.
    """
    notes = []
    header, prompt = without_voice(header, persona), "" if persona is None else persona.system_prompt
    # On one line: a name in the metadata must not become a directive.
    title = one_line(header.text("general.name") or gguf)
    steered = f"steered: {one_line(recipe)}" if recipe else "not steered"
    lines = [f"{MODELFILE_START}: {title}, {steered}", f"FROM ./{gguf}", ""]
    template, stops = read_template(header), list[str]()
    if template is None:
        notes.append(_UNKNOWN_SYSTEM if prompt else _NO_TEMPLATE)
    else:
        lines += [f'TEMPLATE """{go_template(template)}"""', ""]
        if prompt and "system" not in template.around:
            notes.append(_NO_SYSTEM)
            prompt = ""
        prompt = prompt or template.system
        stops = [template.around["assistant"][1].strip(), template.around["user"][0].strip()]
    if prompt:
        lines += [f'SYSTEM """{prompt}"""', ""]
    stops.append(header.special_token("eos"))
    lines += [f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in dict.fromkeys(filter(None, stops))]
    lines += [f"PARAMETER {name} {value}" for name, value in _parameters(header, persona).items()]
    if licence := header.text("general.license"):
        lines += ["", f'LICENSE """{printable(licence)}"""'] if '"""' not in licence and licence[-1] != '"' else []
    return "\n".join(lines) + "\n", notes


def _parameters(header: GgufHeader, persona: RecordedPersona | None) -> dict[str, str]:
    """Ollama's name -> value of each default of sampling, as a text."""
    given = {} if persona is None else persona.sampling.given
    by_key = {key: given[name] for name, key in SAMPLING.items() if name in given}
    found = {name: by_key.get(key, header.number(key)) for key, name in _SAMPLING.items()}
    found["num_predict"] = given.get("max_new_tokens")
    return {
        name: f"{value:g}" if isinstance(value, float) else str(value)
        for name, value in found.items()
        if value is not None
    }


def read_template(header: GgufHeader) -> Template | None:
    """Read the file's chat template as a `Template`; None if there is none, or if it does more than that.

    Raises:
        MissingPackageError: the jinja2 package is not installed. OutputError: no process can be started.
    """
    source = header.text("tokenizer.chat_template")
    if not source or len(source) > _LONGEST:
        return None
    tokens = {f"{name}_token": header.special_token(name) for name in ("bos", "eos")}
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


def _probe(source: str, tokens: Mapping[str, str], bos: str) -> Template | None:
    require("jinja2", extra="gguf", purpose="`modelfile`")
    asked = [*_PROBES, *((trial, True) for trial in _TRIALS)]
    # Without a clock: a Modelfile would keep the day on which it was written.
    texts = [one.text for one in render_chats(source, tokens, asked, clock=False)]
    rendered = [None if text is None else text.removeprefix(bos) for text in texts]
    try:
        found = _find(rendered[: len(_PROBES)])
    except ValueError:
        return None
    if any('"""' in text or "{{" in text or text != printable(text) for text in _texts(found)):
        return None
    if found.system.endswith('"'):  # It could not be told from the end of the three that close it.
        return None
    pairs = zip(_TRIALS, rendered[len(_PROBES) :], strict=True)
    same = all(found.render(t) == text for t, text in pairs if "system" in found.around or t[0]["role"] != "system")
    return found if same else None


def _texts(template: Template) -> list[str]:
    return [
        template.begin,
        template.generation,
        template.system,
        *(t for pair in template.around.values() for t in pair),
    ]


def _conversation(*roles: str) -> list[Message]:
    return [{"role": role, "content": f"the {number}th word of the {role}"} for number, role in enumerate(roles)]


_USER, _ANSWER, _AGAIN, _SYSTEM = (
    {"role": role, "content": f"\u2039{i}\u203a"} for i, role in enumerate(("user", "assistant", "user", "system"))
)
_PROBES: tuple[tuple[Sequence[Message], bool], ...] = (
    ([_USER, _ANSWER, _AGAIN], True),
    ([_USER, _ANSWER], False),
    ([_USER], False),
    ([_SYSTEM, _USER], True),
)
"""Conversations by which the texts around each role are found, without and with the text before an answer."""
_WITHOUT_SYSTEM = [
    _conversation("user"),
    _conversation("user", "assistant", "user"),
    _conversation("user", "assistant", "user", "assistant", "user"),
]
_TRIALS = [*_WITHOUT_SYSTEM, *(_conversation("system", *(m["role"] for m in trial)) for trial in _WITHOUT_SYSTEM)]
"""Conversations on which the two templates are compared."""


def _find(rendered: Sequence[str | None]) -> Template:
    """Find the texts around each role in the rendered `_PROBES`; ValueError if they cannot be told."""
    talk, closed, asked, systematic = rendered
    if talk is None or closed is None or asked is None:
        raise ValueError("a conversation cannot be rendered")
    start, rest = _cut(talk, _USER)
    between, rest = _cut(rest, _ANSWER)
    after, end = _cut(rest, _AGAIN)
    # `after` ends the answer and begins a question; `start` begins a conversation and a question.
    ending = _cut(closed, _ANSWER)[1]
    answer_end = next(text for text in (ending, ending.rstrip(), "") if after.startswith(text))
    question = after[len(answer_end) :]
    question_end = _cut(asked, _USER)[1]
    begin = _without(start, "", question)
    around = {
        "user": (question, question_end),
        "assistant": (_without(between, question_end, ""), answer_end),
    }
    generation = _without(end, question_end, "")
    try:
        head, rest = _cut(systematic or "", _SYSTEM)
    except ValueError:  # Most templates without the role raise.
        return Template(begin, around, generation)
    tail = _without(_cut(rest, _USER)[0], "", question)
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
