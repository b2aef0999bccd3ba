"""Emotion probabilities by a Hugging Face text classifier. Needs torch and transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...core.vector_set import EMOTIONS
from ...errors import EmobakeError, InputError
from ...models.loading import device_for, need_transformers
from ...storage.files import reading
from ...storage.model_name import is_local, locate, split_revision
from .base import DEFAULT_CLASSIFIER
from .lexicon import LEXICON

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
"""What other label sets call the paper's emotions."""


class Classifier:
    """A model for ``text-classification``, of which every label is a figure; a folder, or a Hub id (``@revision``)."""

    unit = "probability"
    rank = 1
    batch_size = 16

    def __init__(self, name: str, *, device: str = "auto") -> None:
        need_transformers()
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        self.name, self._device = name, device_for(device)
        repo, revision = split_revision(name, None)
        hint = f"; --scorer {LEXICON} needs no download" if name == DEFAULT_CLASSIFIER else ""
        if is_local(repo, revision) and not Path(repo).is_dir():
            raise InputError(f"{name}: no such folder; --scorer takes a text classifier, or {LEXICON}")
        try:
            with reading():
                folder, _ = locate(repo, revision, lambda config: None)
        except EmobakeError as error:
            raise type(error)(f"{error}{hint}") from None
        try:
            # Never a pickle: what a repository has as pytorch_model.bin only is refused.
            self._model = AutoModelForSequenceClassification.from_pretrained(
                folder, use_safetensors=True, trust_remote_code=False
            ).to(self._device)
            self._tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        except Exception as error:
            raise InputError(
                f"{name}: does not load as a text classifier ({' '.join(str(error).split())[:200]}); --scorer takes a "
                f"classifier with .safetensors weights, or {LEXICON}"
            ) from error
        self._model.eval()
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
            raise EmobakeError(f"{self.name}: the classifier failed ({str(error).splitlines()[0][:200]})") from error
        rows = (logits.sigmoid() if self._sigmoid else logits.softmax(-1)).tolist()
        return [{label: round(x, 6) for label, x in zip(self.labels, row, strict=True)} for row in rows]
