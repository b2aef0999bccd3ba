"""The methods, one module for each tool; a further one is a file and a line in `QUANTISERS`."""

from __future__ import annotations

from ..method import Method, Quantiser
from .aqlm import QUANTISER as AQLM
from .auto_round import QUANTISER as AUTO_ROUND
from .awq import QUANTISER as AWQ
from .bitnet import QUANTISER as BITNET
from .bitsandbytes import QUANTISER as BITSANDBYTES
from .compressed_tensors import QUANTISER as COMPRESSED_TENSORS
from .eetq import QUANTISER as EETQ
from .exl2 import QUANTISER as EXL2
from .exl3 import QUANTISER as EXL3
from .fbgemm_fp8 import QUANTISER as FBGEMM_FP8
from .fp8 import QUANTISER as FP8
from .gptq import QUANTISER as GPTQ
from .hqq import QUANTISER as HQQ
from .marlin import QUANTISER as MARLIN
from .mlx import QUANTISER as MLX
from .modelopt import QUANTISER as MODELOPT
from .mxfp4 import QUANTISER as MXFP4
from .quark import QUANTISER as QUARK
from .spqr import QUANTISER as SPQR
from .torchao import QUANTISER as TORCHAO
from .vptq import QUANTISER as VPTQ

QUANTISERS: tuple[Quantiser, ...] = (
    BITSANDBYTES, GPTQ, AWQ, COMPRESSED_TENSORS, FP8, FBGEMM_FP8, MODELOPT, MXFP4, TORCHAO, HQQ, AQLM, VPTQ, SPQR, EETQ,
    QUARK, AUTO_ROUND, BITNET, EXL2, EXL3, MARLIN, MLX,
)  # fmt: skip
METHODS: dict[str, Method] = {method.name: method for one in QUANTISERS for method in one.methods}
"""All methods by their names."""
