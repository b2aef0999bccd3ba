"""Running a baked model against the hook, and other stacks against transformers. Needs the ``verify`` extra."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.check import Check
from ..core.strict_json import parse_json_object
from ..core.vector_set import Site
from ..errors import VerifyError
from ..formats.checkpoint.families import Architecture, architectures
from ..storage.files import read_small
from .hooks import steered
from .stacks import generate

if TYPE_CHECKING:
    import torch

QUESTIONS = (
    "How was your day?",
    "Tell me what you think of rainy weather.",
    "My neighbour plays loud music every night. What should I do?",
)
LOGIT_TOLERANCE = 1e-3
"""Largest |difference of logits| in float32 that counts as equal, for logits below 100; beyond, in proportion."""


@dataclass(frozen=True)
class _Run:
    """One greedy run on one prompt, and the logits ``[tokens, vocabulary]`` of a full pass over a text."""

    tokens: list[int]
    logits: torch.Tensor


def _architecture(folder: Path, site: Site) -> Architecture:
    config = parse_json_object(read_small(folder / "config.json", f"{folder}/config.json"), f"{folder}/config.json")
    arch = architectures(site).get(str(config.get("model_type")))
    if arch is None:
        raise VerifyError(f"{folder}: {config.get('model_type')!r} is not in the table, so there is no hook for it")
    return arch


def prompts(base: Path, out: Path | None = None) -> list[list[int]]:
    """Token ids of the built-in questions, in the chat template where there is one.

    A checkpoint without a tokenizer gets fixed random ids. With `out`, its tokenizer must give the same ids.

    Raises:
        VerifyError: the two tokenizers disagree.
    """
    if not any((base / name).exists() for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")):
        config = parse_json_object(read_small(base / "config.json", str(base)), str(base))
        draw = np.random.default_rng(0)
        return [draw.integers(0, int(config["vocab_size"]), 16).tolist() for _ in QUESTIONS]
    ids = [_tokenize(base, question) for question in QUESTIONS]
    if out is not None and (out / "tokenizer_config.json").exists() and ids != [_tokenize(out, q) for q in QUESTIONS]:
        raise VerifyError(f"{out}: its tokenizer gives other ids than that of {base}")
    return ids


def _tokenize(folder: Path, question: str) -> list[int]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    if tokenizer.chat_template is None:
        return list(tokenizer(question)["input_ids"])
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
    )
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def against_hooks(
    base: Path, out: Path, rows: Mapping[int, np.ndarray], site: Site, is_adapter: bool, max_new_tokens: int
) -> Iterator[Check]:
    """Compare `out` with `base` under hooks that add `rows` at `site`, at every position and at the last, in float32.

    Raises:
        VerifyError: torch or transformers is missing, or a model does not load.
    """
    try:
        import torch
        import transformers
    except ImportError as error:
        raise VerifyError(f"transformers: not installed here ({error}); pip install 'emobake[verify]'") from None
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    arch = _architecture(base, site)
    inputs = prompts(base, None if is_adapter else out)
    with torch.inference_mode():
        model = _load(base)
        every = [_run(model, ids, max_new_tokens, steered(model, arch, rows)) for ids in inputs]
        last = [_steps(model, ids, max_new_tokens, steered(model, arch, rows, "last")) for ids in inputs]
        texts = [ids + run.tokens for ids, run in zip(inputs, every, strict=True)]
        plain = [_run(model, ids, max_new_tokens, nullcontext(), t) for ids, t in zip(inputs, texts, strict=True)]
        if is_adapter:
            baked_model, problems = _with_adapter(model, out), list[str]()
        else:
            del model
            baked_model, problems = _load_checked(out)
        baked = [_run(baked_model, ids, max_new_tokens, nullcontext(), t) for ids, t in zip(inputs, texts, strict=True)]
        baked_on_last = [
            _logits(baked_model, ids + run.tokens)[len(ids) - 1 : -1] for ids, run in zip(inputs, last, strict=True)
        ]
    version = f"transformers {transformers.__version__}"
    yield Check(f"{version} loads every tensor", not problems, problems[0] if problems else "none missing or left over")
    tolerance = LOGIT_TOLERANCE * max(1.0, max(float(run.logits.abs().max()) for run in every) / 100)
    gap = _largest(baked, every)
    same, total = _agreement(baked, every)
    yield Check(
        f"{version}: equals the hook at every position",
        gap <= tolerance and same == total,
        f"max |dlogit| {gap:.1e} (at most {tolerance:.0e}), KL {_mean_kl(every, baked):.1e}, "
        f"{same} of {total} greedy tokens",
    )
    gap = _largest(baked, plain)
    same, total = _agreement(baked, plain)
    yield Check(
        f"{version}: differs from the unsteered base",
        gap > 10 * tolerance,
        f"max |dlogit| {gap:.3g}, KL {_mean_kl(plain, baked):.3g}, {same} of {total} greedy tokens",
    )
    same, total = _agreement(baked, last)
    divergence = float(np.mean([_kl(run.logits, other) for run, other in zip(last, baked_on_last, strict=True)]))
    yield Check(
        f"{version}: beside the paper's last-position hook",
        None,
        f"KL {divergence:.3g}, {same} of {total} greedy tokens (a bias acts at every position, that hook at the last)",
    )


def against_transformers(
    stack: str, base: Path, out: Path, site: Site, python: str | None, max_new_tokens: int
) -> Iterator[Check]:
    """Compare greedy tokens of `out` in `stack` with those of transformers, and with the unsteered base's.

    Raises:
        StackMissing: that stack, or transformers for the reference, is not installed.
    """
    try:
        import transformers  # noqa: F401
    except ImportError as error:
        raise VerifyError(f"transformers: not installed here ({error}); pip install 'emobake[verify]'") from None
    inputs = prompts(base, out)
    support = _architecture(out, site).stacks[stack]
    wanted = generate("transformers", out, inputs, max_new_tokens=max_new_tokens)
    plain = generate("transformers", base, inputs, max_new_tokens=max_new_tokens)
    run = generate(
        stack,
        out,
        inputs,
        max_new_tokens=max_new_tokens,
        python=None if python is None else Path(python),
        model_impl="transformers" if "--model-impl transformers" in support.option else None,
    )
    name = f"{stack} {run.version}"
    if support.option:
        yield Check(name, None, f"started with {support.option}; without it the model would be UNSTEERED")
    same, total = _count(run.tokens, wanted.tokens)
    detail = f"{same} of {total} greedy tokens as in transformers {wanted.version}"
    unsteered, _ = _count(run.tokens, plain.tokens)
    if wanted.tokens == plain.tokens:
        yield Check(f"{name}: steered", False, "cannot tell: steered and unsteered greedy tokens are the same here")
        return
    yield Check(f"{name}: steered", same == total, f"{detail}; {unsteered} as the unsteered base")


def _load(folder: Path) -> Any:
    return _load_with_info(folder)[0]


def _load_checked(folder: Path) -> tuple[Any, list[str]]:
    model, info = _load_with_info(folder)
    return model, [f"{kind}: {sorted(map(str, names))[0]}" for kind, names in info.items() if names]


def _load_with_info(folder: Path) -> tuple[Any, dict[str, Any]]:
    import torch
    from transformers import AutoModelForCausalLM

    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
        )
    except Exception as error:
        raise VerifyError(f"{folder}: does not load in transformers ({' '.join(str(error).split())[:200]})") from error
    return model.eval(), info


def _with_adapter(model: Any, out: Path) -> Any:
    try:
        from peft import PeftModel
    except ImportError as error:
        raise VerifyError(f"peft: not installed here ({error}); pip install 'emobake[peft]'") from None
    return PeftModel.from_pretrained(model, out).eval()


def _run(
    model: Any, ids: list[int], max_new_tokens: int, hooks: AbstractContextManager[None], text: list[int] | None = None
) -> _Run:
    with hooks:
        tokens = _greedy(model, ids, max_new_tokens).sequences[0, len(ids) :].tolist()
        return _Run(tokens, _logits(model, text or ids + tokens))


def _steps(model: Any, ids: list[int], max_new_tokens: int, hooks: AbstractContextManager[None]) -> _Run:
    """As `_run`, but with the logits of each generation step: what a cache holds depends on the passes made."""
    import torch

    with hooks:
        result = _greedy(model, ids, max_new_tokens)
    return _Run(result.sequences[0, len(ids) :].tolist(), torch.cat(result.logits))


def _greedy(model: Any, ids: list[int], max_new_tokens: int) -> Any:
    import torch
    from transformers import GenerationConfig

    own = model.generation_config
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=own.eos_token_id,
        pad_token_id=own.pad_token_id if own.pad_token_id is not None else 0,
        bos_token_id=own.bos_token_id,
        output_logits=True,
        return_dict_in_generate=True,
    )
    tokens = torch.tensor([ids], device=model.device)
    return model.generate(input_ids=tokens, attention_mask=torch.ones_like(tokens), generation_config=config)


def _logits(model: Any, ids: list[int]) -> torch.Tensor:
    import torch

    result: torch.Tensor = model(torch.tensor([ids], device=model.device), use_cache=False).logits[0]
    return result


def _largest(runs: Sequence[_Run], others: Sequence[_Run]) -> float:
    return max(float((a.logits - b.logits).abs().max()) for a, b in zip(runs, others, strict=True))


def _mean_kl(runs: Sequence[_Run], others: Sequence[_Run]) -> float:
    return float(np.mean([_kl(a.logits, b.logits) for a, b in zip(runs, others, strict=True)]))


def _kl(reference: torch.Tensor, other: torch.Tensor) -> float:
    """Mean over positions of KL(reference || other), in nats."""
    import torch

    p, q = (torch.log_softmax(x.double(), dim=-1) for x in (reference, other))
    return float((p.exp() * (p - q)).sum(-1).mean())


def _agreement(runs: Sequence[_Run], others: Sequence[_Run]) -> tuple[int, int]:
    return _count([run.tokens for run in runs], [run.tokens for run in others])


def _count(runs: Sequence[Sequence[int]], others: Sequence[Sequence[int]]) -> tuple[int, int]:
    """Tokens that agree from the beginning on, and how many there could be."""
    same = total = 0
    for a, b in zip(runs, others, strict=True):
        total += max(len(a), len(b))
        agree = [x == y for x, y in zip(a, b, strict=False)]
        same += agree.index(False) if False in agree else len(agree)
    return same, total
