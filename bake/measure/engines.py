"""The models of an evaluation, and what lets them answer: transformers, steered while it runs, or vLLM, baked.

Needs torch and transformers.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from ..core.vector_set import VectorSet
from ..models.hooks import steered
from ..models.likelihood import Side
from ..models.loading import LiveModel, load, model_failing
from ..models.sampling import Sampling, Tokens, sample
from .experiment import Study, Subject

if TYPE_CHECKING:
    import torch

Engine = Literal["transformers", "vllm"]
PUBLISHED = Sampling(max_new_tokens=512, temperature=0.6, top_p=0.9)
"""How the answers published with the paper were drawn."""


@dataclass(frozen=True)
class Settings:
    """How an evaluation is carried out."""

    sampling: Sampling = PUBLISHED
    batch_size: int = 16
    engine: Engine = "transformers"
    engine_python: Path | None = None
    """For vllm, an interpreter that has it; None is the one this runs in."""
    dtype: str = "auto"
    device: str = "auto"
    device_map: str | None = None


class Models:
    """Every subject of a study as a model."""

    def __init__(self, base: LiveModel, study: Study, settings: Settings) -> None:
        self.base, self._study, self._settings = base, study, settings
        self._loaded: tuple[Path, LiveModel] | None = None

    def answer(self, subject: Subject, prompts: Sequence[Tokens], names: Sequence[str]) -> Sequence[Tokens]:
        """What `subject` answers; `names`, numbers, identify the prompts as in `emobake.generating.sample`.

        Raises:
            EmobakeError: the model or vLLM failed.
        """
        if self._settings.engine == "vllm":
            return self._vllm(subject, prompts, names)
        with self.side(subject) as side, model_failing(side.live.name):
            live = side.live
            with steered(live.model, live.arch, side.rows):
                return sample(live, prompts, self._settings.sampling, names)

    @contextlib.contextmanager
    def side(self, subject: Subject) -> Iterator[Side]:
        """`subject` in transformers; of the checkpoints one is kept at a time."""
        if subject.checkpoint is not None:
            if self._loaded is None or self._loaded[0] != subject.checkpoint:
                self._loaded = None  # the one before goes before the next comes
                s = self._settings
                found = load(str(subject.checkpoint), dtype=s.dtype, device=s.device, device_map=s.device_map)
                self._loaded = subject.checkpoint, found
            yield Side(self._loaded[1])
            return
        direction = self._study.direction(subject)
        if direction is None or direction.rows is None:
            yield Side(self.base)
            return
        rows = np.float32(subject.strength) * direction.rows
        yield Side(self.base, {layer: row for layer, row in enumerate(rows) if row.any()})

    def _vllm(self, subject: Subject, prompts: Sequence[Tokens], names: Sequence[str]) -> Sequence[Tokens]:
        from ..models.stacks import Drawing, generate

        sampling = self._settings.sampling
        seeds = tuple(sampling.seed * 1_000_003 + int(name) for name in names)
        on_cpu = self.base.device.type == "cpu"
        with self._checkpoint(subject) as folder, self._aside():
            return generate(
                "vllm",
                folder,
                prompts,
                max_new_tokens=sampling.max_new_tokens,
                python=self._settings.engine_python,
                drawing=None if sampling.temperature == 0 else Drawing(sampling.temperature, sampling.top_p, seeds),
                dtype="float32" if on_cpu else self._settings.dtype,
                enforce_eager=on_cpu,
                timeout=24 * 3600,
            ).tokens

    @contextlib.contextmanager
    def _aside(self) -> Iterator[None]:
        """The base off its GPU, of which vLLM wants nearly all; what is spread by a device map stays."""
        device = self.base.device
        if device.type != "cuda" or self._settings.device_map is not None:
            yield
            return
        import torch

        self.base.model.to("cpu")
        torch.cuda.empty_cache()
        try:
            yield
        finally:
            self.base.model.to(device)

    @contextlib.contextmanager
    def _checkpoint(self, subject: Subject) -> Iterator[Path]:
        """A folder with the subject baked."""
        direction = self._study.direction(subject)
        if subject.checkpoint is not None:
            yield subject.checkpoint
        elif direction is None or direction.rows is None:
            yield self.base.folder
        else:
            from ..actions.bake import bake

            rows = VectorSet(("direction",), direction.rows[None], name="direction", site=self.base.arch.site)
            with tempfile.TemporaryDirectory(prefix="emobake-") as folder:
                out = Path(folder) / "baked"
                bake(self.base.folder, rows, mix={"direction": subject.strength}, out=out, link_mode="symlink")
                yield out


def bias_norms(base: LiveModel, baked: LiveModel) -> list[float]:
    """By layer, the norm of what `baked` has in its projections' biases over `base`."""
    import torch

    def bias(live: LiveModel, layer: int) -> torch.Tensor | float:
        with contextlib.suppress(AttributeError):
            found = live.model.get_submodule(live.arch.projection.format(layer=layer)).bias
            return 0.0 if found is None else found.detach().float().cpu()
        return 0.0

    found = [bias(baked, layer) - bias(base, layer) for layer in range(base.layers)]
    return [float(torch.as_tensor(difference).norm()) for difference in found]
