"""Generate with mistral.rs, from a checkpoint or a GGUF file.

A runner of `start.py`; needs mistralrs, and tokenizers. It takes and gives texts, so token ids are turned into text and
back by the checkpoint's tokenizer.json; of a GGUF file the prompts are texts, and the answers the bytes of theirs.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any


def version(request: dict[str, Any]) -> str:
    """The version of mistral.rs."""
    from importlib.metadata import version

    import mistralrs  # noqa: F401
    import tokenizers  # noqa: F401

    return version("mistralrs")


def answer(request: dict[str, Any]) -> list[list[int]]:
    """Generate the tokens that follow each prompt."""
    import mistralrs
    from tokenizers import Tokenizer

    place = Path(request["checkpoint"])
    is_file = place.is_file()
    if is_file:
        which = mistralrs.Which.GGUF(quantized_model_id=str(place.parent), quantized_filename=place.name)
    else:
        which = mistralrs.Which.Plain(model_id=str(place), dtype=mistralrs.ModelDType.F32)
    with tempfile.TemporaryDirectory(prefix="emobake-"):
        runner = mistralrs.Runner(which=which, no_kv_cache=False, max_seqs=1, prefix_cache_n=0)
    tokenizer = None if is_file else Tokenizer.from_file(str(place / "tokenizer.json"))
    out = []
    for prompt in request["prompts"]:
        text = prompt if tokenizer is None else tokenizer.decode(prompt, skip_special_tokens=False)
        asked = mistralrs.CompletionRequest(
            prompt=text,
            model="default",
            max_tokens=request["max_new_tokens"],
            temperature=0.0,
            top_k=1,
            echo_prompt=False,
        )
        said = runner.send_completion_request(asked).choices[0].text
        out.append(list(said.encode()) if tokenizer is None else tokenizer.encode(said, add_special_tokens=False).ids)
    return out
