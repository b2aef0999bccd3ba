#!/usr/bin/env python3
"""Let GGUF files answer two questions, greedily, in llama.cpp (xllamacpp).

scripts/answer_gguf.py FILE.gguf [FILE.gguf ...]
"""

from __future__ import annotations

import json
import os
import sys
import textwrap
from typing import Any

QUESTIONS = ("How was your day?", "It has rained all week. What do you think of that?")


def open_model(file: str) -> Any:
    """A server of llama.cpp's own, inside this process."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = file
    params.n_ctx = 1024
    params.n_parallel = 1
    params.verbosity = -1
    return xllamacpp.Server(params)


def answer(model: Any, question: str) -> str:
    """Ask one question in the chat template of the file."""
    messages = [{"role": "user", "content": question}]
    said = model.handle_chat_completions({"messages": messages, "max_tokens": 50, "temperature": 0.0})
    said = json.loads(said) if isinstance(said, str) else said
    return " ".join(said["choices"][0]["message"]["content"].split())


def main() -> None:
    """Ask every file every question."""
    # llama.cpp logs on stderr whatever it is told.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    models = {file: open_model(file) for file in sys.argv[1:]}
    for question in QUESTIONS:
        print(f"\n> {question}")
        for file, model in models.items():
            text = f"{os.path.basename(file)}: {answer(model, question)}"  # noqa: PTH119
            print(textwrap.fill(text, 100, subsequent_indent="    "))


if __name__ == "__main__":
    main()
