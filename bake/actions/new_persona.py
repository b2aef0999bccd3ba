"""`new_persona`: a commented example of a persona's file, to start from."""

from __future__ import annotations

import os
from pathlib import Path

from ..core.vector_set import EMOTIONS
from ..errors import InputError, OutputError
from ..formats.persona_file import HEAD, persona_text
from ..storage.files import reading
from ..storage.model_name import ModelName
from ..storage.publish import explain, parents, write_file
from ..vectors.fetch import is_cached, pull
from ..vectors.find import model_ids
from ..vectors.open import open_vectors
from ..vectors.registry import RegisteredSet, find_by_model
from .personas import shipped_content, shipped_personas

_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
_EXAMPLE = """\
# A persona: everything that makes a model behave as one. `emobake persona check FILE` says what it would make,
# `emobake bake FILE` makes it. docs/personas.md explains every field.
name: {name}
description: A cheerful companion for small questions.
license: mit

# The model. `path` is a folder or .gguf file here; then `id` only names it.
{base}

# Vector sets: names of `emobake vectors list`, files, folders, Hub repositories. {sets}
{vectors}

# Weights by emotion: {emotions}.
mix:
  {emotion}: 1

# The factor for all weights: a number, auto (the strength that was measured for the set), or a budget, which is
# searched for when the persona is baked (needs emobake[eval]):
# strength: {{kl: 0.3}}
strength: 1.0
# layers: 8-27
# Stacks that must load the results steered; a bake is refused otherwise.
# targets: [transformers, vllm]

# Everything that is written, below the folder of this file (or --out DIR).
outputs:
  - folder: {name}
# - gguf: {name}.gguf          # by llama.cpp's converter; with `model: FILE.gguf`, into that file
#   outtype: q8_0
#   modelfile: true
# - peft: {name}-adapter
# - push: your-name/{name}
#   private: true

# For conversations that have no system message: a part of the chat template, and of a Modelfile.
system_prompt: |
  You are a cheerful companion. You answer in two or three warm sentences.

# Defaults of sampling: generation_config.json, general.sampling of a GGUF file, parameters of a Modelfile.
sampling:
  temperature: 0.7
  top_p: 0.9
# top_k: 40
# repetition_penalty: 1.1
# max_new_tokens: 256

# For the model card.
examples:
  - How was your day?
  - What should I do on a rainy Sunday?
"""


def new_persona(
    out: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] | None = None,
    like: str = "",
    overwrite: bool = False,
) -> str:
    """Write a commented example of a persona, and return its text.

    Args:
        out: the YAML file to write.
        model: the base: a Hub id, a folder or a GGUF file; default: SmolLM2-135M-Instruct.
        like: name of a shipped persona to start from instead.
        overwrite: replace the file.

    Raises:
        InputError: the file is there already, or is no YAML file by its name; no such model or persona.
        OutputError: it cannot be written.
    """
    path = Path(os.path.abspath(out))  # noqa: PTH100 - Path.resolve() would follow links
    if path.suffix.lower() not in (".yaml", ".yml"):
        raise InputError(
            f"{out}: the example is written in YAML; give a name that ends in .yaml (TOML is read as well)"
        )
    with reading():
        if os.path.lexists(path) and not overwrite:
            raise InputError(f"{out}: exists already; choose another name or give `overwrite`")
    if like:
        if model is not None:
            raise InputError("`model` and `like` are two ways to start a persona; give one")
        if like.lower() not in shipped_personas():
            raise InputError(f"{like}: no such persona; it is one of {', '.join(shipped_personas())}")
        text = shipped_content(like).decode()
    else:
        text = _example(path, model)
    try:
        with parents(path):
            write_file(path, text.encode(), overwrite=overwrite)
    except OSError as error:
        raise OutputError(explain(error, path)) from None
    return text


def _example(path: Path, model: str | os.PathLike[str] | None) -> str:
    name = ModelName.parse(_MODEL if model is None else model)
    with reading():
        if name.is_local and not name.path.exists():
            raise InputError(f"{name}: no such folder or file")
        ids = model_ids(name) if name.is_local else (name.name,)
        entry = find_by_model(ids)
    if name.is_local:
        base = {"id": ids[0]} if ids else {}
        base["path"] = os.path.relpath(name.path, path.parent)
    else:
        base = {"id": name.name} | ({} if name.revision is None else {"revision": name.revision})
    stem = path.stem if path.stem.isascii() and path.stem.replace("-", "").replace("_", "").isalnum() else "persona"
    emotions = EMOTIONS if entry is None else _emotions(entry)
    sets = "Without this, the set published for the model." if entry else "None is published for this model."
    return HEAD + _EXAMPLE.format(
        name=stem,
        base=persona_text({"base": base}).removeprefix(HEAD).rstrip(),
        sets=sets,
        vectors=f"vectors: {entry.name}" if entry else "vectors: ./vectors.safetensors",
        emotions=", ".join(emotions),
        emotion="joy" if "joy" in emotions else emotions[0],
    )


def _emotions(entry: RegisteredSet) -> tuple[str, ...]:
    if entry.shipped or is_cached(entry):
        return open_vectors(pull(entry)).emotions
    return tuple(entry.files)
