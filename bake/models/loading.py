"""A checkpoint running in transformers, for what has to run it: extraction and chat. Needs torch and transformers."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.strict_json import parse_json_object
from ..errors import EmobakeError, InputError, UnsupportedModelError
from ..formats.checkpoint.families import Architecture, architectures
from ..storage.files import cached_id, read_small, reading
from ..storage.model_name import locate, split_revision

if TYPE_CHECKING:
    import torch

DTYPES = ("auto", "float32", "bfloat16", "float16")

Message = Mapping[str, str]
"""``{"role": "user", "content": "..."}``, as chat templates take them."""


@dataclass(frozen=True, eq=False)
class LiveModel:
    """A causal language model with its tokenizer, and where its attention outputs are."""

    model: Any
    tokenizer: Any
    arch: Architecture
    name: str
    """As the user gave it: a folder or a Hub id."""
    folder: Path
    """Where its files are: that folder, or a snapshot in the Hub's cache."""
    base_model: str
    """Its Hub id; empty when it is not known."""
    revision: str
    """The commit on the Hub; empty for a plain folder."""
    layers: int
    hidden: int

    @property
    def device(self) -> torch.device:
        """Where inputs go: the device of the embeddings."""
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    @property
    def end_tokens(self) -> tuple[int, ...]:
        """Ids that end an answer."""
        own = self.model.generation_config.eos_token_id
        if own is None:
            own = self.tokenizer.eos_token_id
        return () if own is None else tuple(own) if isinstance(own, list) else (own,)

    @property
    def pad_token(self) -> int:
        """An id to fill up with; what it is makes no difference, because the attention mask leaves it out."""
        for own in (self.tokenizer.pad_token_id, *self.end_tokens):
            if own is not None:
                return int(own)
        return 0

    @property
    def context(self) -> int | None:
        """Positions that the model was made for; None when its config does not say."""
        found = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return found if isinstance(found, int) and found > 0 else None

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a conversation that the model is to continue, in its chat template.

        A model without a template gets the texts one after another, as a base model reads them.

        Raises:
            InputError: the template refuses the conversation.
        """
        if self.tokenizer.chat_template is None:
            text = "\n\n".join(message["content"] for message in messages) + "\n\n"
            return list(self.tokenizer(text)["input_ids"])
        try:
            text = self.tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
        except Exception as error:  # a template is the checkpoint's own little program
            raise InputError(f"{self.name}: its chat template fails ({' '.join(str(error).split())[:200]})") from None
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def load(
    name: str,
    *,
    revision: str | None = None,
    base_model: str = "",
    dtype: str = "auto",
    device: str = "auto",
    device_map: str | None = None,
    check: Callable[[Mapping[str, Any]], object] = lambda config: None,
) -> LiveModel:
    """Load a checkpoint, a folder or a Hub id (``@revision``), ready to generate; no code of the checkpoint is run.

    `dtype` auto is float32 on a CPU and the checkpoint's own elsewhere; `device` auto is the process's GPU if there
    is one. `device_map` (``auto``) spreads a model over several devices, with accelerate.
    `check` sees config.json before any weight is fetched or loaded, and may refuse by raising.

    Raises:
        InputError: no such model; UnsupportedModelError: its attention outputs are not in the table.
        EmobakeError: torch or transformers is missing, or the model does not load.
    """
    need_transformers()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    def accept(config: Mapping[str, Any]) -> None:
        _row(config, name)
        check(config)

    name, revision = split_revision(name, revision)
    with reading():
        folder, _ = locate(name, revision, accept)
        file = folder / "config.json"
        if not file.is_file():
            raise InputError(f"{folder}: holds no config.json; it is not a Hugging Face checkpoint")
        accept(parse_json_object(read_small(file, str(file)), str(file)))
    place = device_for(device)
    chosen = getattr(torch, dtype) if dtype != "auto" else torch.float32 if place == "cpu" else "auto"
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, dtype=chosen, device_map=device_map, trust_remote_code=False, output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        if device_map is None:
            model.to(place)
    except Exception as error:
        raise EmobakeError(f"{name}: does not load in transformers ({' '.join(str(error).split())[:200]})") from error
    missing = sorted(map(str, info["missing_keys"]))
    if missing:
        raise EmobakeError(f"{name}: lacks the tensor {missing[0]}; fetch it again")
    repo_id, commit = cached_id(folder)
    config = model.config.get_text_config()
    return LiveModel(
        model.eval(),
        tokenizer,
        _row(model.config.to_dict(), name),
        name,
        folder,
        base_model or repo_id,
        commit,
        int(config.num_hidden_layers),
        int(config.hidden_size),
    )


def _row(config: Mapping[str, Any], name: str) -> Architecture:
    arch = architectures().get(str(config.get("model_type")))
    if arch is None:
        raise UnsupportedModelError(
            f"{name}: {config.get('model_type')!r} is not in the table of architectures, so where its attention "
            "outputs are is not known"
        )
    return arch


def fingerprint(live: LiveModel) -> list[list[Any]]:
    """What tells one checkpoint from another without reading its weights."""
    files = sorted(live.folder.glob("*.safetensors"))
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]


@contextlib.contextmanager
def model_failing(name: str) -> Iterator[None]:
    """What torch says when a model does not run, as an error of ours.

    Raises:
        EmobakeError: out of memory, or whatever else.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch says out of memory with the first
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        hint = "; take a smaller --batch-size and run again to go on" if "memory" in reason.lower() else ""
        raise EmobakeError(f"{name}: the model failed ({reason}){hint}") from error


def need_transformers() -> None:
    """See that torch and transformers are there, and let transformers keep to errors.

    Raises:
        EmobakeError: one of them is missing.
    """
    try:
        import torch  # noqa: F401
        import transformers
    except ImportError as error:
        raise EmobakeError(
            f"running a model needs torch and transformers ({error}); pip install 'emobake[chat]'"
        ) from None
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def device_for(device: str) -> str:
    """The device that is meant; auto is the process's GPU if there is one.

    Raises:
        InputError: it is not to be had here.
    """
    import torch

    if device != "auto":
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise InputError(f"--device {device}: not to be had here ({str(error).splitlines()[0][:120]})") from None
        return device
    if torch.cuda.is_available():
        # One process per GPU under `accelerate launch`.
        return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"
    return "mps" if torch.backends.mps.is_available() else "cpu"
