"""Merging an adapter into its base with PEFT."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..core.packages import require
from ..core.side_files import is_carried
from ..errors import ModelError
from ..storage.files import leads_out
from .loading import load_weights, need_transformers


def merge(base: Path, adapter: Path, out: Path, name: str) -> None:
    """Write the checkpoint `out`: that in `base` with `adapter` merged into it, in the base's own dtype.

    The config is the base's; the side files are the base's, and in their place those of the adapter. `name` names the
    adapter in messages.

    Raises:
        MissingPackageError: torch, transformers or PEFT is not installed. ModelError: PEFT cannot merge it.
    """
    need_transformers()
    peft = require("peft", extra="peft", purpose="merging an adapter")
    model, _ = load_weights(base, "auto")
    try:
        whole = peft.PeftModel.from_pretrained(model, adapter).merge_and_unload(safe_merge=True)
        whole.save_pretrained(out)
    except Exception as error:
        raise ModelError(f"{name}: PEFT cannot merge it ({' '.join(str(error).split())[:200]})") from error
    for folder in (base, adapter):
        for file in filter(Path.is_file, folder.iterdir()):
            if (is_carried(file.name) or (folder == base and file.name in _OF_BASE)) and not leads_out(file, folder):
                shutil.copyfile(file, out / file.name)


_OF_BASE = ("config.json", "README.md")
