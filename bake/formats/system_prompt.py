"""Chat templates that assume a system prompt: a few lines in front of a model's own template.

The template itself stays as it is. In front of a conversation without a system message, the lines put one; a message of
the user's own is left alone. Whether a template has a place for a system message is found by rendering (in a process of
its own, within limits).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..core.packages import require
from ..core.recorded_persona import ContentForm
from .chat_template import Message, Rendered, render_chats

_ROLES = "('system', 'developer')"
_LONGEST = 1_000_000
"""Characters of a template; the longest known ones have some 20,000."""


def assuming(template: str, prompt: str, form: ContentForm = "text") -> str:
    """`template` with the lines that assume `prompt`; one that has these lines is returned as it is."""
    lines = _lines(prompt, form)
    return template if template.startswith(lines) else lines + template


def without_assumed(template: str, prompt: str, form: ContentForm) -> str:
    """The template that `assuming` was given."""
    return template.removeprefix(_lines(prompt, form))


def find_form(template: str, tokens: Mapping[str, Any], prompt: str) -> tuple[ContentForm | None, str]:
    """The form of a system message for which a template has a place; None, and the reason, if it has none.

    `tokens` are variables of the template, as for `render_chats`.

    Raises:
        MissingPackageError: the jinja2 package is not installed. OutputError: no process can be started.
    """
    require("jinja2", extra="gguf", purpose="a persona's `system_prompt`")
    if len(template) > _LONGEST:
        return None, f"it has more than {_LONGEST:,} characters"
    reason = ""
    for form in ("text", "parts"):
        wrapped = assuming(template, prompt, form)
        own = _message("system", "Answer in \u2039one\u203a word.", form)
        talks = [_talk(form, 1), _talk(form, 2)]
        with_prompt = [[_message("system", prompt, form), *talk] for talk in talks]
        plain = _rendered(template, tokens, [*with_prompt, [own, *talks[1]]])
        found = _rendered(wrapped, tokens, [*talks, [own, *talks[1]]])
        failed = next((one.reason for one in plain if one.text is None), "")
        same = [one.text for one in plain] == [one.text for one in found]
        # A template may drop a message without a word, or quote it.
        if not failed and same and all(prompt in (one.text or "") for one in plain[:2]):
            return form, ""
        reason = reason or failed or "it does not write the text of a system message as it is"
    return None, reason


def find_forms(
    templates: Mapping[str, str], tokens: Mapping[str, Any], prompt: str
) -> tuple[dict[str, ContentForm], tuple[str, ...]]:
    """Name of each chat template that has a place for a system message -> its form; and sentences on the others.

    Raises:
        MissingPackageError, OutputError: as `find_form`.
    """
    found: dict[str, ContentForm] = {}
    without: dict[str, str] = {}
    for name, source in templates.items():
        form, reason = find_form(source, tokens, prompt)
        if form is None:
            without[name] = reason
        else:
            found[name] = form
    where = "the output" if not found else "all chat templates of the output"
    why = [f"{name} has no place for it ({reason})" for name, reason in without.items()]
    why += [] if templates else ["there is no chat template"]
    rest = "send it with each conversation"
    notes = (f"the SYSTEM PROMPT of the persona is NOT in {where}: {'; '.join(why)}; {rest}",) if why else ()
    return found, notes


def _lines(prompt: str, form: ContentForm) -> str:
    content = _literal(prompt)
    if form == "parts":
        content = f"[{{'type': 'text', 'text': {content}}}]"
    # Each line ends with a block: stacks render templates with `trim_blocks`, which takes the line break after it.
    return (
        f"{{% if messages and messages[0]['role'] not in {_ROLES} %}}\n"
        f"{{% set messages = [{{'role': 'system', 'content': {content}}}] + messages %}}\n"
        "{% endif %}\n"
    )


def _literal(text: str) -> str:
    """`text` as a string of Jinja, by the escapes that all engines read; other characters stand for themselves."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\t", "\\t")
    return f"'{escaped}'"


def _message(role: str, text: str, form: ContentForm) -> Message:
    return {"role": role, "content": text if form == "text" else [{"type": "text", "text": text}]}


def _talk(form: ContentForm, questions: int) -> list[Message]:
    """A conversation of so many questions."""
    found = [_message("user", "What is \u2039new\u203a?", form)]
    for _ in range(questions - 1):
        found += [_message("assistant", "Nothing \u2039much\u203a.", form), _message("user", "Oh.", form)]
    return found


def _rendered(template: str, tokens: Mapping[str, Any], talks: Sequence[Sequence[Message]]) -> list[Rendered]:
    return render_chats(template, tokens, [(talk, True) for talk in talks])
