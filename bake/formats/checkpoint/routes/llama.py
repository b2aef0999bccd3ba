"""The route *llama*: the checkpoint is exactly a ``LlamaForCausalLM`` by another name, and is saved as one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ....core.stacks import Support
from ....core.tensors import TensorHeader, decode
from ....errors import BrokenFileError
from ..families import Family, LlamaForm, families
from ..model import Checkpoint
from ..wrappers import wrapped, wrappers
from .base import Route, add_new_rope, refuse_dormant

_GENERIC_TOKENIZERS = ("LlamaTokenizer", "LlamaTokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend")


class LlamaRoute(Route):
    """A Llama with ``attention_bias``, and for vectors of the layer output with ``mlp_bias`` (Qwen2, Mistral)."""

    name = "llama"

    @classmethod
    def blockers(cls, family: Family, config: Mapping[str, Any]) -> list[str]:
        """Every config field that the form requires must have one of its values."""
        if family.llama is None:
            return ["it is no Llama by another name"]
        return [f"it is a Llama only when {reason}" for reason in _differences(family.llama, config)]

    @property
    def form(self) -> LlamaForm:
        """The family's form as a Llama."""
        assert self.family.llama is not None  # `blockers` has looked.
        return self.family.llama

    def change(self, config: dict[str, Any]) -> dict[str, Any]:
        """Write the config of the Llama that the checkpoint is."""
        form = self.form
        llama = families()["llama"]
        new = {key: value for key, value in config.items() if key not in form.drop}
        for key, value in form.defaults.items():
            in_rope = key in ("rope_theta", "rope_scaling") and isinstance(config.get("rope_parameters"), Mapping)
            if key not in form.drop and not in_rope:
                new.setdefault(key, value)
        new["model_type"] = "llama"
        new["architectures"] = list(llama.classes[:1])
        new["attention_bias"] = True
        new["mlp_bias"] = self.family.site == "layer_output" or bool(config.get("mlp_bias", False))
        add_new_rope(new)
        return new

    @property
    def stacks(self) -> Mapping[str, Support]:
        """Llama's stacks; marked as run only where the re-expressed model was run."""
        stacks = self._llama.stacks
        return {name: replace(support, run=support.run and name in self.form.ran) for name, support in stacks.items()}

    @property
    def siblings(self) -> tuple[str, ...]:
        """The modules that ``attention_bias``, and ``mlp_bias`` if it is on, reach besides the projection."""
        llama, attention = self._llama, families()["llama"]
        modules = dict.fromkeys((*attention.siblings, attention.projection, *llama.siblings))
        modules.pop(llama.projection, None)
        return tuple(modules)

    def tokenizer_class(self, declared: object) -> str:
        """Name the class behind a generic one, so that a model saved as Llama splits text as before.

        transformers 5 reads a declared generic class by the model type: a ``LlamaTokenizer`` is tokenizer.json as it
        is for ``mistral`` but rebuilt with other rules for ``llama``, and any class is a ``Qwen2Tokenizer`` for
        ``qwen2``.
        """
        return self.form.tokenizer_class if declared in _GENERIC_TOKENIZERS else ""

    def accept_missing(self, checkpoint: Checkpoint, module: str) -> None:
        """A bias that the config promises must be there.

        Raises:
            BrokenFileError: it is not.
        """
        if self._has_bias(module):
            raise BrokenFileError(
                f"{checkpoint.name}: the config says that {module} has a bias, but no file holds {module}.bias"
            )

    def accept_existing(self, checkpoint: Checkpoint, header: TensorHeader, values: np.ndarray) -> None:
        """A bias that the base ignores must be zero.

        Raises:
            BrokenFileError: it is not.
        """
        if not self._has_bias(header.name):
            refuse_dormant(header, values)

    def accept_sibling(self, checkpoint: Checkpoint, header: TensorHeader) -> None:
        """The same for the other projections onto the residual stream; q, k and v have what their class gives them.

        Raises:
            BrokenFileError: an ignored bias is not zero.
        """
        if not re.search(r"\.[qkv]_proj\.", header.name) and not self._has_bias(header.name):
            refuse_dormant(header, decode(header, checkpoint.read(header)))

    @property
    def _llama(self) -> Family:
        """The family that the result belongs to."""
        site, wrapper = self.family.site, wrappers().get(self.family.wrapper)
        return families(site)["llama"] if wrapper is None else wrapped(wrapper, wrapper.texts["llama"], site)

    def _has_bias(self, name: str) -> bool:
        """True if the base's own class has a bias on the module that `name` is of, by transformers and the config."""
        if ".mlp." in name:
            return bool(self.old_fields.get("mlp_bias"))
        family = families()[self.family.model_type]
        obeyed = family.stacks["transformers"].status == "steered"
        return obeyed and family.flag is not None and bool(self.old_fields.get(family.flag, family.flag_default))


def _differences(form: LlamaForm, config: Mapping[str, Any]) -> list[str]:
    """Conditions that the config does not meet, such as ``sliding_window is null (here it is 4096)``."""
    found = []
    for path, allowed in form.require.items():
        # A field that is left out means the class default; only an explicit null is null.
        value: Any = {**form.defaults, **config}
        for key in path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        values = value if isinstance(value, list) else [value]
        if (value is not None and not all(v in allowed for v in values)) or (value is None and None not in allowed):
            wanted = " or ".join("null" if v is None else str(v).lower() for v in allowed)
            found.append(f"{path} is {wanted} (here it is {str(value)[:40]})")
    return found
