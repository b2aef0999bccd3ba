"""Convert tiny checkpoints without a tokenizer: ``python convert_tiny.py CONVERTER REQUEST.json [OUTTYPE]``.

Runs in the environment of llama.cpp, whose ``convert_hf_to_gguf.py`` CONVERTER is. A request maps folders to the files
to write; the answer, on the last line of the standard output, is a map from folder to an error, for those that failed.
All classes get the same vocabulary of numbers, because prompts are token ids; everything else is the converter's work.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any


def vocabulary(model: Any) -> None:
    """As many tokens as the config says."""
    size, writer = int(model.hparams["vocab_size"]), model.gguf_writer
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(["a", "b", "ab", *(f"<t{i}>" for i in range(size - 4)), "<end>"])
    writer.add_token_types([1] * (size - 1) + [3])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(size - 1)
    writer.add_add_bos_token(False)


def _count_tokens(folder: Path) -> None:
    """Gemma 3's class cuts the embeddings to as many tokens as this file has."""
    file, config = folder / "tokenizer.json", json.loads((folder / "config.json").read_text())
    size = config.get("vocab_size") or config.get("text_config", {}).get("vocab_size", 0)
    if not file.exists():
        file.write_text(json.dumps({"model": {"vocab": {f"<t{i}>": i for i in range(size)}}, "added_tokens": []}))


def main() -> None:
    """Convert every folder of the request."""
    converter = Path(sys.argv[1]).resolve()
    sys.path.insert(0, str(converter.parent))
    spec = importlib.util.spec_from_file_location("converter", converter)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    find = module.get_model_class

    def with_vocabulary(*args: Any, **kwargs: Any) -> Any:
        kind = find(*args, **kwargs)
        kind.set_vocab = vocabulary
        return kind

    module.get_model_class = with_vocabulary
    failed, outtype = {}, sys.argv[3] if len(sys.argv) > 3 else "f32"
    for folder, file in json.loads(Path(sys.argv[2]).read_text()).items():
        _count_tokens(Path(folder))
        sys.argv[1:] = [folder, "--outfile", file, "--outtype", outtype]
        if "linear_num_key_heads" in Path(folder, "config.json").read_text():
            sys.argv.append("--no-mtp")  # The tiny Qwen3.5 has no layers that predict further tokens.
        try:
            module.main()
        except (Exception, SystemExit) as error:
            failed[folder] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    sys.stdout.write("\n" + json.dumps(failed) + "\n")


if __name__ == "__main__":
    main()
