#!/usr/bin/env python3
"""Write `vectors/demo/smollm2-135m-instruct.safetensors` from the published form.

scripts/make_demo_vectors.py FOLDER_OF_JSON_FILES
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from emobake.sources import open_vectors
from emobake.vectors import EMOTIONS, to_single_file

OUT = Path(__file__).parent.parent / "vectors" / "demo" / "smollm2-135m-instruct.safetensors"

vectors = replace(
    open_vectors(Path(sys.argv[1]), EMOTIONS),
    base_model="HuggingFaceTB/SmolLM2-135M-Instruct",
    source="attention output under an emotional minus a neutral condition, mean over 24 queries per emotion",
    license="mit",
)
OUT.write_bytes(to_single_file(vectors))
print(f"{OUT.name}: {vectors.layers} layers x {vectors.hidden}, {len(vectors.emotions)} emotions")
