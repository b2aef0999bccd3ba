"""A model saved as Llama must split text as it did before: transformers picks tokenizer classes by model type."""

import json
import logging

import pytest
from support.tiny import HIDDEN, LAYERS, write_tiny, write_vectors

import emobake

pytest.importorskip("torch")
tokenizers = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.torch

TEXTS = ("Hello world!  It's 12345 déjà vu\n\n  x = 3; 你好 [INST] user", " leading", "a[INST] b</s> c", "")
SPECIAL = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]


def sentencepiece_like(prepend):
    """A tokenizer like the older Mistral files: byte fallback, spaces marked by a normaliser or by a pre-tokeniser."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    if prepend == "normalizer":
        replace = tokenizers.normalizers.Replace(" ", "▁")
        tokenizer.normalizer = tokenizers.normalizers.Sequence([tokenizers.normalizers.Prepend("▁"), replace])
    else:
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    return tokenizer


def byte_level(_):
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    return tokenizer


def train(tokenizer):
    special = [*SPECIAL, *(f"<0x{i:02X}>" for i in range(256))]
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=500, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator([" ".join(TEXTS) * 20], trainer)
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


@pytest.mark.parametrize("declared", ["LlamaTokenizer", "LlamaTokenizerFast", "PreTrainedTokenizerFast", None])
@pytest.mark.parametrize(
    ("family", "make", "kind"),
    [
        ("mistral", sentencepiece_like, "normalizer"),
        ("mistral", sentencepiece_like, "metaspace"),
        ("mistral", byte_level, ""),
        ("qwen2", byte_level, ""),
        ("llama2", sentencepiece_like, "normalizer"),
    ],
)
def test_ids_stay_the_same(tmp_path, family, make, kind, declared):
    logging.getLogger("transformers").setLevel(logging.ERROR)
    base = write_tiny(family, tmp_path / "base")
    write_vectors(tmp_path / "ev", LAYERS, HIDDEN)
    train(make(kind)).save(str(base / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True, "legacy": True}
    config |= {"tokenizer_class": declared} if declared else {}
    (base / "tokenizer_config.json").write_text(json.dumps(config))
    emobake.bake(base, tmp_path / "ev", (0, 0, 0, 1, 0), tmp_path / "out")
    before, after = (transformers.AutoTokenizer.from_pretrained(folder) for folder in (base, tmp_path / "out"))
    for text in TEXTS:
        assert after(text)["input_ids"] == before(text)["input_ids"]
    written = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert {k: v for k, v in written.items() if k != "tokenizer_class"} == {
        k: v for k, v in config.items() if k != "tokenizer_class"
    }
