"""Loading a model into transformers, once for everything that runs one: extraction, evaluation, chat, verification."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.packages import require
from ..core.record import RECORD_FILE, Record
from ..errors import InputError, MissingPackageError, ModelError, UnsupportedModelError
from ..formats.chat_template import Message, joined, no_template, render_prompts
from ..formats.checkpoint.families import Family
from ..formats.checkpoint.model import config_dimension
from ..formats.checkpoint.open import open_base
from ..formats.checkpoint.routes import declared_classes
from ..formats.checkpoint.wrappers import TEXT, family_of, language_config, wrapper_of
from ..storage.files import cached_id, read_json, reading
from ..storage.model_name import ModelName

if TYPE_CHECKING:
    import torch

_PROCESSOR_TEMPLATE = "chat_template.json"
"""File in which older multimodal checkpoints keep their chat template."""

DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Runtime:
    """Device, dtype and batch size of a run."""

    dtype: str = "auto"
    """One of `DTYPES`; auto is float32 on a CPU, and the checkpoint's own elsewhere and where it is quantised."""
    device: str = "auto"
    """Torch's name of the device; auto is the process's GPU if there is one."""
    device_map: str | None = None
    """``auto`` spreads a model over several devices, with accelerate."""
    batch_size: int = 16
    """Sequences that are run at once, where a run has several."""


@dataclass(frozen=True, eq=False)
class LiveModel:
    """A causal language model in memory, with its tokenizer and its family."""

    model: Any
    tokenizer: Any
    family: Family
    """Tells the modules at the site."""
    name: str
    """Folder or Hub id as the user gave it."""
    folder: Path
    """Folder of its files: `name`, or a snapshot in the Hub's cache."""
    base_model: str
    """Hub id; empty if unknown."""
    revision: str
    """Commit on the Hub; empty for a plain folder."""
    layers: int
    hidden: int

    @property
    def device(self) -> torch.device:
        """Device of the inputs: that of the embeddings."""
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
        """An id to pad with; any id will do, because the attention mask leaves it out."""
        for own in (self.tokenizer.pad_token_id, *self.end_tokens):
            if own is not None:
                return int(own)
        return 0

    @property
    def context(self) -> int | None:
        """Number of positions that the model was made for; None if its config does not say."""
        found = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return found if isinstance(found, int) and found > 0 else None

    @property
    def note(self) -> str:
        """Remark on a model without a chat template, which users must know of; empty for others."""
        return "" if self.tokenizer.chat_template is not None else no_template(self.name)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a conversation that the model is to continue, in its chat template.

        A model without a template gets the texts one after another, as a base model reads them.

        Raises:
            InputError: the template refuses the conversation, or takes too much time or memory.
        """
        return encode_chats(self.tokenizer, [messages], self.name)[0]

    def prompts(self, texts: Sequence[str], system: str = "") -> list[list[int]]:
        """Token ids of many questions, each a conversation of its own under the same `system` prompt."""
        chats = [self.under(system, [{"role": "user", "content": text}]) for text in texts]
        return encode_chats(self.tokenizer, chats, self.name)

    @cached_property
    def has_system_role(self) -> bool:
        """True if a system prompt has a place in the conversations that the model reads.

        Some chat templates refuse one, and some drop it without a word.
        """
        text = "Answer in one word."
        try:
            tokens = self.prompt([{"role": "system", "content": text}, {"role": "user", "content": "Hello"}])
        except InputError:
            return False
        return text in str(self.tokenizer.decode(tokens))

    def under(self, system: str, messages: Sequence[Message]) -> list[Message]:
        """The conversation `messages`, which begins with the user, under a system prompt.

        Without a place for one, it stands before the user's first message; an empty one changes nothing.
        """
        if not system:
            return list(messages)
        if self.has_system_role:
            return [{"role": "system", "content": system}, *messages]
        first, *rest = messages
        return [{**first, "content": f"{system}\n\n{first['content']}"}, *rest]


def load(
    model: ModelName,
    runtime: Runtime | None = None,
    *,
    check: Callable[[Mapping[str, Any]], object] = lambda config: None,
) -> LiveModel:
    """Load a checkpoint, ready to generate; no code of the checkpoint is run.

    `check` receives the language model's fields of config.json before any weight is fetched or loaded, and may refuse
    by raising.

    Raises:
        InputError: no such model; UnsupportedModelError: its family is unknown.
        ModelError: the model does not load. MissingPackageError: torch or transformers is not installed.
    """
    runtime = runtime or Runtime()
    need_transformers()
    import torch

    with reading():
        base = open_base(model)
        family = _family(base.config, model.name)
        check(language_config(base.config))
        folder = base.fetch()
    place = device_for(runtime.device)
    quantised = is_quantised(base.config)
    own = quantised or place != "cpu"
    chosen = getattr(torch, runtime.dtype) if runtime.dtype != "auto" else "auto" if own else torch.float32
    # Quantised weights are laid out for their device while they are loaded.
    device_map = runtime.device_map or ({"": place} if quantised else None)
    loaded, problems = load_weights(folder, chosen, name=model.name, device_map=device_map)
    missing = [name for kind, name in problems if kind == "missing_keys"]
    if missing:
        raise ModelError(f"{model.name}: lacks the tensor {missing[0]}; fetch it again")
    tokenizer = load_tokenizer(folder, model.name)
    with model_failing(model.name):
        if device_map is None:
            loaded.to(place)
        if quantised:
            # compressed-tensors 0.20 unpacks weights in the first pass of the whole model, and not in one of its body.
            _first_pass(loaded)
    repo_id, commit = cached_id(folder)
    config = loaded.config.get_text_config()
    return LiveModel(
        loaded,
        tokenizer,
        family,
        model.name,
        folder,
        model.base_model or repo_id,
        commit,
        int(config.num_hidden_layers),
        int(config.hidden_size),
    )


def _first_pass(model: Any) -> None:
    import torch

    with torch.inference_mode():
        model(torch.zeros((1, 1), dtype=torch.long, device=model.get_input_embeddings().weight.device), use_cache=False)


def load_weights(
    folder: Path, dtype: Any, *, name: str = "", device_map: str | Mapping[str, str] | None = None, kind: str = ""
) -> tuple[Any, list[tuple[str, str]]]:
    """Load the model in `folder` from safetensors, in evaluation mode.

    Also returns the loading problems: kind (``missing_keys``, ``unexpected_keys`` ...) and tensor. `kind` is the class
    of transformers that loads it; default: the class that a multimodal wrapper declares, and else
    ``AutoModelForCausalLM``. `name` names the model in messages.

    Raises:
        ModelError: it does not load. MissingPackageError: its quantisation needs a package that is not installed.
    """
    import transformers

    kind = kind or _class_of(folder)
    try:
        _refuse_unknown_quantisation(folder)
        model, info = getattr(transformers, kind).from_pretrained(
            folder,
            dtype=dtype,
            device_map=device_map,
            output_loading_info=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
    except Exception as error:
        reason = f"{name or folder}: does not load in transformers ({_one_line(error)})"
        # transformers also raises ImportError where a GPU is missing.
        if isinstance(error, ModuleNotFoundError) or (isinstance(error, ImportError) and "install" in reason):
            raise MissingPackageError(reason) from error
        raise ModelError(reason) from error
    anew = _made_anew(folder)
    problems = [
        (kind, tensor)
        for kind, tensors in info.items()
        for tensor in sorted(map(str, tensors))
        if kind != "missing_keys" or tensor not in anew
    ]
    return model.eval(), problems


def load_tokenizer(folder: Path, name: str = "") -> Any:
    """Load the tokenizer in `folder`, with the chat template that multimodal checkpoints keep for their processor.

    Raises:
        ModelError: it does not load. BrokenFileError: the processor's template is not valid JSON.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        raise ModelError(f"{name or folder}: its tokenizer does not load ({_one_line(error)})") from error
    if tokenizer.chat_template is None and (folder / _PROCESSOR_TEMPLATE).is_file():
        template = read_json(folder / _PROCESSOR_TEMPLATE).get("chat_template")
        tokenizer.chat_template = template if isinstance(template, str) else None
    return tokenizer


def encode_chats(tokenizer: Any, conversations: Sequence[Sequence[Message]], name: str) -> list[list[int]]:
    """Token ids of conversations in the tokenizer's chat template, ready for the next answer.

    Without a template, the texts come one after another.

    Raises:
        InputError: the template fails, or takes too much time or memory; `name` names the model.
        MissingPackageError: the jinja2 package is not installed.
    """
    if tokenizer.chat_template is None:
        return [list(tokenizer(joined(messages))["input_ids"]) for messages in conversations]
    require("jinja2", extra="chat", purpose="a chat template")
    try:
        template = tokenizer.get_chat_template()  # The one for talk, where a checkpoint has several.
    except Exception as error:
        raise InputError(f"{name}: has no chat template for talk ({_one_line(error)})") from None
    texts = render_prompts(template, tokenizer.special_tokens_map, conversations, name)
    return [list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]


def fingerprint(live: LiveModel) -> list[list[Any]]:
    """Names, sizes and times of the weight files, which tell checkpoints apart without reading them."""
    return [[name, size, (live.folder / name).stat().st_mtime_ns] for name, size in weight_files(live)]


def weight_files(live: LiveModel) -> list[tuple[str, int]]:
    """Names and sizes of the weight files."""
    return [(file.name, file.stat().st_size) for file in sorted(live.folder.glob("*.safetensors"))]


@contextlib.contextmanager
def model_failing(name: str) -> Iterator[None]:
    """Turn torch's errors of a running model into a `ModelError`.

    Raises:
        ModelError: out of memory, or another failure.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch raises the first when it is out of memory.
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        hint = "; take a smaller `batch_size` and run again to continue" if "memory" in reason.lower() else ""
        raise ModelError(f"{name}: the model failed ({reason}){hint}") from error


def need_transformers() -> None:
    """Check that torch and transformers are installed, and silence the logs of what loads and runs weights.

    Raises:
        MissingPackageError: one of them is missing.
    """
    require("torch", extra="chat", purpose="running a model")
    transformers = require("transformers", extra="chat", purpose="running a model")
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    # bitsandbytes 0.50 says in each pass of each layer that it casts to float16.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def device_for(device: str) -> str:
    """Resolve a device; auto is the process's GPU if there is one.

    Raises:
        InputError: the device is not available.
    """
    import torch

    if device != "auto":
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise InputError(f"`device` {device}: is not available ({str(error).splitlines()[0][:120]})") from None
        return device
    if torch.cuda.is_available():
        # One process per GPU under `accelerate launch`.
        return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def is_quantised(config: Mapping[str, Any]) -> bool:
    """True if transformers (5.23) takes the weights for quantised, by config.json."""
    return any(isinstance(part, Mapping) and part.get(_QUANTISED) is not None for part in (config, config.get(TEXT)))


_QUANTISED = "quantization_config"


def _refuse_unknown_quantisation(folder: Path) -> None:
    """Refuse a quantisation that transformers (5.23) does not know: it draws random weights and goes on.

    Raises:
        ValueError: it does not know it.
    """
    from transformers.quantizers import AutoHfQuantizer

    config = read_json(folder / "config.json")
    fields = config.get(_QUANTISED)
    if isinstance(fields, Mapping) and not AutoHfQuantizer.supports_quant_method(dict(fields)):
        raise ValueError(f"it knows no quantisation {fields.get('quant_method')!r:.60}")


def _class_of(folder: Path) -> str:
    """The class of transformers for the model in `folder`.

    ``AutoModelForCausalLM`` knows some wrappers only, and a plain class finds random weights in a wrapper's folder.
    """
    config = read_json(folder / "config.json")
    wrapper, declared = wrapper_of(config), declared_classes(config)
    return declared[0] if wrapper is not None and set(declared) & set(wrapper.classes) else "AutoModelForCausalLM"


def _made_anew(folder: Path) -> frozenset[str]:
    """Biases of the output projection that a bake left out because llama.cpp refuses them, and zeros stand for."""
    if not (folder / RECORD_FILE).is_file():
        return frozenset()
    record = Record.from_json(read_json(folder / RECORD_FILE), str(folder / RECORD_FILE))
    config = read_json(folder / "config.json")
    family = family_of(config, record.vectors.site)
    if record.route != "head" or family is None or family.head is None or not family.head.is_left_out(family):
        return frozenset()
    layers = config_dimension(language_config(config), str(folder), "num_hidden_layers")
    return frozenset(f"{family.live(family.projection.format(layer=layer))}.bias" for layer in range(layers))


def _family(config: Mapping[str, Any], name: str) -> Family:
    family = family_of(config)
    if family is None:
        raise UnsupportedModelError(
            f"{name}: {config.get('model_type')!r} is not in the table of families, so its attention modules are not "
            "known"
        )
    return family


def _one_line(error: BaseException) -> str:
    # A name in backticks would be taken for an argument.
    return " ".join(str(error).replace("`", "'").split())[:200]
