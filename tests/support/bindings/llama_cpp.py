"""A stand-in for llama-cpp-python, whose tokens are bytes: it answers with "sí, 日" and what it was asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

__version__ = "0.stand-in"
BOS, END = 1000, 1001


class Llama:
    """The model."""

    def __init__(self, **options: Any) -> None:
        if "strange" in options["model_path"]:
            raise ValueError("Failed to load model from file")
        self.options, self.model, self.seeds = options, self, list[int]()

    def n_ctx(self) -> int:
        """Positions of the context."""
        return int(self.options["n_ctx"])

    def tokenize(self, text: bytes, *, add_bos: bool, special: bool) -> list[int]:
        """Its bytes."""
        assert special
        return [BOS] * add_bos + list(text)

    def detokenize(self, tokens: Sequence[int]) -> bytes:
        """The bytes again."""
        return bytes(tokens)

    def set_seed(self, seed: int) -> None:
        """Keep it."""
        self.seeds.append(seed)

    def generate(self, ids: Sequence[int], **sampling: Any) -> Iterator[int]:
        """The answer, and then the token that ends one, again and again."""
        yield from f"sí, 日 {list(ids)[:3]} {sorted(sampling.items())}".encode()
        while True:
            yield END


def llama_model_get_vocab(model: Llama) -> Llama:
    """The vocabulary, which is the model's here."""
    return model


def llama_vocab_is_eog(vocabulary: Llama, token: int) -> bool:
    """True for a token that ends an answer."""
    return token == END
