"""Routes to another class: the checkpoint is exactly one of it by another name, and is saved as one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from ....core.elsewhere import Biases
from ....core.stacks import Support
from ....core.tensors import TensorHeader, decode
from ....errors import BrokenFileError
from ..families import Family, families
from ..forms import Form
from ..model import Checkpoint
from ..quantisation import Quantisation
from ..recast import recast
from ..wrappers import wrapped, wrappers
from .base import Route, refuse_dormant

_GENERIC_TOKENIZERS = ("LlamaTokenizer", "LlamaTokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend")
_QKV = (".q_proj.bias", ".k_proj.bias", ".v_proj.bias")


class OtherClassRoute(Route):
    """The other class has the bias, once its flag is on. A subclass names it, and completes its config."""

    target: ClassVar[str]
    """``model_type`` of the other class."""
    label: ClassVar[str]
    """Its name in messages."""

    @classmethod
    def is_known(cls, family: Family) -> bool:
        """The family must have a form as the other class."""
        return cls.target in family.forms and cls.result_of(family).has_bias

    @classmethod
    def blockers(cls, family: Family, config: Mapping[str, Any]) -> list[str]:
        """Every config field that the form requires must have one of its values."""
        form = family.forms.get(cls.target)
        if form is None or not cls.is_known(family):
            return [f"it is no {cls.label} by another name"]
        return [f"it is a {cls.label} only when {reason}" for reason in form.differences(config)]

    @classmethod
    def quantised_blockers(cls, family: Family, config: Mapping[str, Any], quantisation: Quantisation) -> list[str]:
        """The layout of weights whose rows move must be known, and not pack rows that go apart."""
        rules, layout = family.forms[cls.target].rules_for(config), quantisation.layout
        quantised = f"its weights are quantised ({quantisation.label})"
        if not rules:
            return []
        if layout is None or any(rule.how in ("stacked", "unit") for rule in rules):
            return [f"{quantised}, so they cannot be laid out as a {cls.label}'s"]
        packed = any(part.outputs is not None and part.outputs.each > 1 for part in layout.parts)
        if packed and any(rule.how == "paired" for rule in rules):
            return [f"{quantised}, several rows in one number, so they cannot be laid out in a {cls.label}'s order"]
        said = str(quantisation.fields)
        named = [last for rule in rules for source in rule.sources if (last := source.rpartition(".")[2]) in said]
        return [f"{quantisation.file} names {named[0]}, which a {cls.label} does not have"] if named else []

    @property
    def form(self) -> Form:
        """The family's form as the other class."""
        return self.family.forms[self.target]

    @classmethod
    def result_of(cls, family: Family) -> Family:
        """The other class's family, at the same site and in the same wrapper."""
        wrapper = wrappers().get(family.wrapper)
        if wrapper is None:
            return families(family.site)[cls.target]
        return wrapped(wrapper, wrapper.texts[cls.target], family.site)

    def recast(self, checkpoint: Checkpoint) -> Checkpoint:
        """Split, reorder and rename tensors by the form."""
        return recast(checkpoint, self.form)

    def change(self, config: dict[str, Any]) -> dict[str, Any]:
        """Write the config of the other class."""
        form, result = self.form, families()[self.form.target]
        new = {key: value for key, value in config.items() if key not in form.drop}
        for key, value in form.defaults.items():
            in_rope = key in ("rope_theta", "rope_scaling") and isinstance(config.get("rope_parameters"), Mapping)
            if key not in form.drop and not in_rope:
                new.setdefault(key, value)
        new["model_type"] = result.model_type
        new["architectures"] = list(result.classes[:1])
        if result.flag is not None:
            new[result.flag] = True
        return self.complete(new)

    def complete(self, config: dict[str, Any]) -> dict[str, Any]:
        """Add the fields that only the other class has."""
        return config

    @classmethod
    def is_saved(cls, config: Mapping[str, Any]) -> bool:
        """True if stacks treat a model with this `config` of the other class as they treat what the route saves."""
        return False

    @property
    def treatment(self) -> Mapping[str, Support]:
        """The other class's stacks; marked as run only where a checkpoint saved in this form was run."""
        form = self.form
        own = {
            name: replace(support, run=support.run and name in form.ran) for name, support in self.result.stacks.items()
        }
        return own | dict(form.stacks)

    @property
    def biases(self) -> Biases:
        """The biases of the other class, of which the base may have some of its own."""
        return replace(super().biases, own=self.form.own, is_recast=True)

    def tokenizer_class(self, declared: object) -> str:
        """Name the class behind a generic one, so that a model saved as another class splits text as before.

        transformers 5 reads a declared generic class by the model type: a ``LlamaTokenizer`` is tokenizer.json as it
        is for ``mistral`` but rebuilt with other rules for ``llama``, and any class is a ``Qwen2Tokenizer`` for
        ``qwen2``.
        """
        replaced = self.form.any_tokenizer or declared in _GENERIC_TOKENIZERS
        return self.form.tokenizer_class if replaced else ""

    @property
    def siblings(self) -> tuple[str, ...]:
        """The modules that the flag reaches besides the projection."""
        return self.result.siblings

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
        if not header.name.endswith(_QKV) and not self._has_bias(header.name):
            refuse_dormant(header, decode(header, checkpoint.read(header)))

    def _has_bias(self, name: str) -> bool:
        """True if the base's own class has a bias on the module that `name` is of, by transformers and the config."""
        if ".mlp." in name:
            return bool(self.old_fields.get("mlp_bias"))
        family = families()[self.family.model_type]
        obeyed = family.has_bias and family.stacks["transformers"].status == "steered"
        return obeyed and family.flag is not None and bool(self.old_fields.get(family.flag, family.flag_default))
