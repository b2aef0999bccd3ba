"""GPTQ, as GPTQModel and AutoGPTQ write it.

A linear module stores ``qweight`` int32 ``[inputs * bits / 32, outputs]``, ``qzeros`` int32
``[groups, outputs * bits / 32]``, ``scales`` float16 ``[groups, outputs]`` and ``g_idx`` int32 ``[inputs]``
(GPTQModel 7.7, its versions 1 and 2).
"""

from __future__ import annotations

from .....core.stacks import Support
from ..method import Fields, Method, Parts, Quantiser, Shape


def _holds(parts: Parts) -> bool:
    return "qweight" in parts and "scales" in parts


def _shape(parts: Parts, fields: Fields) -> Shape | None:
    packed, bits = parts["qweight"], fields.get("bits")
    if packed.dtype != "I32" or len(packed.shape) != 2 or bits not in (2, 3, 4, 8):
        return None
    return packed.shape[1], packed.shape[0] * 32 // bits


_IGNORED = ("modules_to_not_convert",)

GPTQ = Method(
    name="gptq",
    label="GPTQ",
    holds=_holds,
    shape=_shape,
    ignored=_IGNORED,
    stacks={
        "transformers": Support("steered", run=True, note="with the gptqmodel package"),
        "vllm": Support("steered", run=True, note="in float16 or bfloat16"),
        "llama.cpp": Support("steered"),
        "mlx": Support("refuses"),
    },
)
ACT_ORDER = Method(
    name="gptq-act-order",
    label="GPTQ with act-order",
    holds=_holds,
    shape=_shape,
    ignored=_IGNORED,
    stacks={
        "transformers": Support("steered", run=True, note="with the gptqmodel package"),
        "vllm": Support("refuses", run=True),
        "llama.cpp": Support("steered"),
        "mlx": Support("refuses"),
    },
)


def _pick(fields: Fields) -> Method:
    return ACT_ORDER if fields.get("desc_act") else GPTQ


QUANTISER = Quantiser(("gptq",), (GPTQ, ACT_ORDER), _pick, files=("quantize_config.json",))
