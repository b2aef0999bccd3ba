"""What a user can ask for where GGUF files are concerned, and what does not go together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from ..storage.model_name import is_gguf

OUTTYPES = ("auto", "f32", "f16", "bf16", "q8_0")
"""What llama.cpp's converter can write the weights as; ``auto`` keeps 16 bits."""


@dataclass(frozen=True)
class GgufOptions:
    """The options of `emobake.bake` that are for GGUF files alone."""

    outtype: str = ""
    converter: str = ""
    keep_split: bool = False
    modelfile: bool = False


def check_gguf_options(model: str, out: Path | None, options: GgufOptions, others: Mapping[str, object]) -> None:
    """Refuse options that do not go with GGUF files, or that go with nothing else.

    `others` are the options that a GGUF file does not take, and whether they were given.

    Raises:
        InputError: names the option.

    """
    gguf_in, gguf_out = is_gguf(model), out is not None and is_gguf(out.name)
    if (options.outtype or options.converter) and (gguf_in or not gguf_out):
        raise InputError("--outtype and --converter go with a checkpoint as --model and a .gguf as --out")
    if options.outtype and options.outtype not in OUTTYPES:
        raise InputError(f"--outtype {options.outtype}: is none of {', '.join(OUTTYPES)}")
    if options.keep_split and not gguf_in:
        raise InputError("--keep-split goes with a split GGUF set as --model")
    if options.modelfile and not (gguf_in or gguf_out):
        raise InputError("--modelfile goes with a .gguf as --out")
    if gguf_in and out is not None and not gguf_out:
        raise InputError(f"--out {out}: a baked GGUF is a file; give a name that ends in .gguf")
    for option, given in others.items():
        if given and (gguf_in or gguf_out):
            hint = "; `hf upload` puts the file on the Hub" if option == "--push-to-hub" else ""
            raise InputError(f"{option} does not go with a GGUF file{hint}")
