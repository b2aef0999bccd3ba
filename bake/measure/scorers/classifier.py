"""Emotion probabilities by a Hugging Face text classifier. Needs torch and transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...core.vector_set import EMOTIONS
from ...errors import EmobakeError, InputError, ModelError
from ...formats.checkpoint.open import open_base
from ...models.loading import device_for, load_tokenizer, load_weights, need_transformers
from ...storage.files import reading
from ...storage.model_name import ModelName
from .base import DEFAULT_CLASSIFIER, LEXICON

_SAME = {
    "angry": "anger",
    "disgusted": "disgust",
    "afraid": "fear",
    "scared": "fear",
    "fearful": "fear",
    "happy": "joy",
    "happiness": "joy",
    "sad": "sadness",
}
"""Labels of other classifiers -> the paper's emotions."""


class Classifier:
    """A model for ``text-classification``, each label of which is a figure; a folder, or a Hub id (``@revision``)."""

    unit = "probability"
    rank = 1
    batch_size = 16

    def __init__(self, name: str, *, device: str = "auto") -> None:
        need_transformers()
        self.name, self._device = name, device_for(device)
        self._load(name)
        config = self._model.config
        self._sigmoid = config.problem_type == "multi_label_classification"
        labels = [str(config.id2label[i]).strip().lower() for i in range(config.num_labels)]
        self.labels = [_SAME.get(label, label) for label in labels]
        if not set(self.labels) & set(EMOTIONS):
            raise InputError(f"{name}: is no classifier of emotions (its labels are {', '.join(labels[:6])} ...)")
        limit = self._tokenizer.model_max_length, getattr(config, "max_position_embeddings", 512) - 2
        self._limit = int(min(limit))
        self.note = f"of each answer's first {self._limit} tokens"

    def score(self, queries: Sequence[str], answers: Sequence[str]) -> list[dict[str, float]]:
        """The probability of each label; those of one answer add up to 1 unless the classifier allows several."""
        import torch

        inputs: Any = self._tokenizer(
            list(answers), return_tensors="pt", padding=True, truncation=True, max_length=self._limit
        ).to(self._device)
        try:
            with torch.inference_mode():
                logits = self._model(**inputs).logits.float()
        except RuntimeError as error:
            raise ModelError(f"{self.name}: the classifier failed ({str(error).splitlines()[0][:200]})") from error
        rows = (logits.sigmoid() if self._sigmoid else logits.softmax(-1)).tolist()
        return [{label: round(x, 6) for label, x in zip(self.labels, row, strict=True)} for row in rows]

    def _load(self, name: str) -> None:
        parsed = ModelName.parse(name)
        if parsed.is_local and not parsed.path.is_dir():
            raise InputError(f"{name}: no such folder; `scorers` takes a text classifier, or {LEXICON}")
        hint = f"; `scorers` {LEXICON} needs no download" if name == DEFAULT_CLASSIFIER else ""
        try:
            with reading():
                folder = open_base(parsed).fetch()
        except EmobakeError as error:
            raise type(error)(f"{error}{hint}") from None
        try:
            model, _ = load_weights(folder, "auto", name=name, kind="AutoModelForSequenceClassification")
            self._model, self._tokenizer = model.to(self._device), load_tokenizer(folder, name)
        except ModelError as error:
            raise InputError(
                f"{error}; `scorers` takes a text classifier with .safetensors weights, or {LEXICON}"
            ) from error
