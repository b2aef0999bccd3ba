"""The section of a model card on the persona that an output was made of."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ...core.persona import PersonaReceipt
from ...core.recorded_persona import RecordedPersona
from ...core.text import code, markdown, printable


def persona_section(persona: RecordedPersona | None) -> list[str]:
    """Heading and paragraphs: its words, its voice and where it is, its examples and its receipt; empty without one."""
    return [] if persona is None else ["## Persona", *_paragraphs(persona)]


def _paragraphs(persona: RecordedPersona) -> Iterator[str]:
    if persona.description:
        yield "\n\n".join(markdown(part) for part in re.split(r"\n\s*\n", persona.description))
    if persona.system_prompt:
        yield f"{_of_prompt(persona)}\n\n{_fenced(persona.system_prompt)}"
    if given := persona.sampling.given:
        values = ", ".join(f"`{name}` {value:g}" for name, value in given.items())
        place = "" if persona.output is None else f" {_SAMPLING[persona.output.kind]}"
        yield f"Defaults of sampling: {values}.{place}"
    if persona.examples:
        yield "Questions to begin with:\n\n" + "\n".join(f"- {markdown(question)}" for question in persona.examples)
    if persona.receipt is not None:
        yield _of_receipt(persona.receipt)
    if persona.license:
        yield f"Licence of the persona: {markdown(persona.license)}."


_SAMPLING = {
    "folder": "transformers and vLLM take them from `generation_config.json`; mlx-lm takes none from a model.",
    "gguf": "llama.cpp takes them from `general.sampling` in the file, but for `max_new_tokens`.",
    "peft": "An adapter has no place for them: send them with each conversation.",
    "push": "",
}
"""Kind of output -> where the defaults are."""


def _of_prompt(persona: RecordedPersona) -> str:
    if not persona.templates:
        return "System prompt. It is **not in the output**, which has no place for one: send it with each conversation."
    places = ", ".join(code(name) for name in persona.templates)
    return f"System prompt. The chat template assumes it where a conversation has none of its own ({places})."


def _of_receipt(receipt: PersonaReceipt) -> str:
    figures = []
    if receipt.strength is not None:
        figures.append(f"strength {receipt.strength:g}")
    if receipt.emotion is not None:
        base = "" if receipt.emotion_of_base is None else f" (base: {receipt.emotion_of_base:.4g})"
        figures.append(f"emotion {receipt.emotion:.4g}{base}")
    if receipt.kl is not None:
        figures.append(f"KL {receipt.kl:.3g} nats")
    if receipt.collapsed is not None:
        figures.append(f"{receipt.collapsed:.1%} of the answers collapsed")
    parts = [", ".join(figures), receipt.note, receipt.source]
    by = f" By {code(receipt.command)}." if receipt.command else ""
    said = "; ".join(markdown(part) for part in parts if part)
    return f"Receipt of the steering: {said or 'none'}.{by}"


def _fenced(text: str) -> str:
    """A block of code, within a fence that the text has not."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}text\n{printable(text)}\n{fence}"
