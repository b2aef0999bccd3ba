"""The models of an evaluation, and the engines that let them answer.

The engine transformers steers a model while it runs; the engine vLLM runs a temporary baked checkpoint. Needs torch
and transformers.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from ..core.outputs import Folder
from ..core.vector_set import VectorSet
from ..models.hooks import adding
from ..models.likelihood import SteeredModel
from ..models.loading import LiveModel, Runtime, load, model_failing
from ..models.sampling import Sampling, Tokens, sample
from ..storage.model_name import ModelName
from .experiment import Experiment, Variant

if TYPE_CHECKING:
    import torch

Engine = Literal["transformers", "vllm"]


@dataclass(frozen=True)
class EvaluationSettings:
    """Settings of an evaluation."""

    sampling: Sampling = field(default_factory=Sampling)
    """Sampling of the answers."""
    runtime: Runtime = field(default_factory=Runtime)
    """Device, dtype and batch size."""
    engine: Engine = "transformers"
    """Generates the answers."""
    engine_python: Path | None = None
    """Python with vLLM installed; default: this interpreter."""
    behaviour: bool = True
    """Ask the shipped prompts for refusal and agreement, and the shipped tasks for capability."""
    samples: int = 4
    """Answers to each of a few queries, for the diversity among them; 0: none."""
    turns: int = 0
    """Turns of a conversation, by which the emotion is measured; 0: none."""
    benchmarks: tuple[str, ...] = ()
    """Tasks that lm-eval runs on the base and on each direction at its chosen strength."""

    @property
    def seed(self) -> int:
        """Seed of the random directions."""
        return self.sampling.seed or 0


class Models:
    """The models of all variants of an experiment."""

    def __init__(self, base: LiveModel, experiment: Experiment, settings: EvaluationSettings) -> None:
        self.base, self._experiment, self._settings = base, experiment, settings
        self._loaded: tuple[Path, LiveModel] | None = None

    def answer(self, variant: Variant, prompts: Sequence[Tokens], names: Sequence[str]) -> Sequence[Tokens]:
        """Let `variant` answer; `names`, numbers, identify the prompts as in `emobake.models.sampling.sample`.

        Raises:
            ModelError: the model or vLLM failed.
        """
        if self._settings.engine == "vllm":
            return self._answer_in_vllm(variant, prompts, names)
        return self.answer_here(variant, prompts, names, self._settings.sampling)

    def answer_here(
        self, variant: Variant, prompts: Sequence[Tokens], names: Sequence[str], sampling: Sampling
    ) -> Sequence[Tokens]:
        """Let `variant` answer in transformers, whatever the engine; see `answer`."""
        with self.steered(variant) as steered, model_failing(steered.live.name):
            live = steered.live
            with adding(live.model, live.family, steered.rows):
                return sample(live, prompts, sampling, names)

    @contextlib.contextmanager
    def steered(self, variant: Variant) -> Iterator[SteeredModel]:
        """`variant` in transformers; at most one checkpoint is in memory at a time."""
        if variant.checkpoint is not None:
            if self._loaded is None or self._loaded[0] != variant.checkpoint:
                self._loaded = None  # Frees the one before.
                live = load(ModelName.parse(variant.checkpoint), self._settings.runtime)
                self._loaded = variant.checkpoint, live
            yield SteeredModel(self._loaded[1])
            return
        direction = self._experiment.direction(variant)
        if direction is None or direction.rows is None:
            yield SteeredModel(self.base)
            return
        rows = np.float32(variant.strength) * direction.rows
        yield SteeredModel(self.base, {layer: row for layer, row in enumerate(rows) if row.any()})

    def _answer_in_vllm(self, variant: Variant, prompts: Sequence[Tokens], names: Sequence[str]) -> Sequence[Tokens]:
        from ..models.stacks import run_stack

        sampling, runtime = self._settings.sampling, self._settings.runtime
        on_cpu = self.base.device.type == "cpu"
        # On a CPU, auto means float32 for a base that is not quantised, and vLLM does not know that.
        dtype = str(self.base.model.dtype).removeprefix("torch.") if on_cpu else runtime.dtype
        options: dict[str, object] = {"dtype": dtype, "enforce_eager": on_cpu}
        if sampling.temperature:
            seeds = [(sampling.seed or 0) * 1_000_003 + int(name) for name in names]
            options["drawing"] = {"temperature": sampling.temperature, "top_p": sampling.top_p, "seeds": seeds}
        with self.checkpoint(variant) as folder, self.aside():
            return run_stack(
                "vllm",
                folder,
                prompts,
                max_new_tokens=sampling.max_new_tokens,
                python=self._settings.engine_python,
                options=options,
                timeout=24 * 3600,
            ).tokens

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Move the base off its GPU, of which other programs want nearly all; a model with a device map stays."""
        device = self.base.device
        if device.type != "cuda" or self._settings.runtime.device_map is not None:
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
    def checkpoint(self, variant: Variant) -> Iterator[Path]:
        """Within the context, a folder with the variant as a checkpoint; a prompted one is the base."""
        direction = self._experiment.direction(variant)
        if variant.checkpoint is not None:
            yield variant.checkpoint
        elif direction is None or direction.rows is None:
            yield self.base.folder
        else:
            from ..actions.bake import bake

            rows = VectorSet(("direction",), direction.rows[None], name="direction", site=self.base.family.site)
            with tempfile.TemporaryDirectory(prefix="emobake-") as folder:
                out = Path(folder) / "baked"
                target = Folder(out, link_mode="symlink")
                bake(self.base.folder, rows, mix={"direction": variant.strength}, out=target, force=True)
                yield out


def bias_norms(base: LiveModel, baked: LiveModel) -> list[float]:
    """Per layer, the norm of the difference between the projections' biases of `baked` and `base`."""
    import torch

    def bias(live: LiveModel, layer: int) -> torch.Tensor | float:
        with contextlib.suppress(AttributeError):
            found = live.model.get_submodule(live.family.projection.format(layer=layer)).bias
            return 0.0 if found is None else found.detach().float().cpu()
        return 0.0

    found = [bias(baked, layer) - bias(base, layer) for layer in range(base.layers)]
    return [float(torch.as_tensor(difference).norm()) for difference in found]
