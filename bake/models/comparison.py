"""Comparing a baked model with hooks on its base, and other stacks with transformers. Needs the ``verify`` extra."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.check import Check
from ..core.packages import require
from ..core.record import AdapterUse
from ..core.sites import Site
from ..core.stacks import STACKS, Support
from ..errors import MissingPackageError, ModelError, VerifyError
from ..formats.adapter.detect import CONFIG_FILE
from ..formats.adapter.served import FOLDER as SERVED_FOLDER
from ..formats.checkpoint.families import Family
from ..formats.checkpoint.quantisation.method import Method
from ..formats.checkpoint.wrappers import family_of, language_config
from ..storage.files import read_json
from .hooks import adding
from .likelihood import kl_divergence
from .loading import device_for, encode_chats, load_tokenizer, load_weights, need_transformers
from .same_input import Deviation, compare, record
from .sampling import generate
from .stacks import Generation, run_stack

if TYPE_CHECKING:
    import torch

QUESTIONS = (
    "How was your day?",
    "Tell me what you think of rainy weather.",
    "My neighbour plays loud music every night. What should I do?",
)
BEGINNINGS = ("Dear diary, today was a day on which I", "When I think of my neighbours, I feel")
"""Prompts for GGUF models; no chat template needed."""
LOGIT_TOLERANCE = 1e-3
"""Largest |difference of logits| in float32 that counts as equal, for logits below 100; beyond, in proportion."""


@dataclass(frozen=True)
class _Run:
    """A greedy run on one prompt, and logits ``[tokens, vocabulary]``."""

    tokens: list[int]
    logits: torch.Tensor


def against_hooks(
    base: Path,
    out: Path,
    rows: Mapping[int, np.ndarray],
    site: Site,
    is_adapter: bool,
    max_new_tokens: int,
    *,
    adapter: Path | None = None,
    use: AdapterUse | None = None,
    quantised: Method | None = None,
) -> Iterator[Check]:
    """Compare `out` with `base` under hooks that add `rows` at `site`.

    Hooks act at every position, as a bias does, and for information at the last position of each forward pass. Models
    run in float32, and are compared by their logits; a base that is `quantised` by a method in its own dtype, layer by
    layer, each on the input that it has in the base. With an `adapter` the base has that, too; `use` says how `out`
    goes with it.

    Raises:
        MissingPackageError: torch, transformers or the package of the quantisation is not installed.
        ModelError: a model does not load.
        VerifyError: the family or the tokenizers do not allow a comparison.
    """
    need_transformers()
    import torch
    import transformers

    family = _family(base, site)
    inputs = prompts(base, None if is_adapter else out)
    model, left = _load(base, quantised)
    if adapter is not None:
        _with_adapter(model, adapter)
    with torch.inference_mode():
        every = [_run(model, ids, max_new_tokens, adding(model, family, rows)) for ids in inputs]
        last = [_steps(model, ids, max_new_tokens, adding(model, family, rows, "last")) for ids in inputs]
        texts = [ids + run.tokens for ids, run in zip(inputs, every, strict=True)]
        plain = [_run(model, ids, max_new_tokens, nullcontext(), t) for ids, t in zip(inputs, texts, strict=True)]
        passes = [] if quantised is None else record(model, family, inputs)
        problems: list[tuple[str, str]] = []
        if is_adapter and adapter is None:
            baked_model = _with_adapter(model, out)
        else:
            del model
            baked_model, problems = _load(base if is_adapter else out, quantised)
            if adapter is not None:
                steered = out if is_adapter else out / SERVED_FOLDER
                baked_model = _with_adapter(baked_model, steered, adapter if use == "beside" else None)
        baked = [_run(baked_model, ids, max_new_tokens, nullcontext(), t) for ids, t in zip(inputs, texts, strict=True)]
        baked_on_last = [
            _logits(baked_model, ids + run.tokens)[len(ids) - 1 : -1] for ids, run in zip(inputs, last, strict=True)
        ]
        if quantised is not None:
            inner = baked_model.get_base_model() if is_adapter or adapter is not None else baked_model
            deviations = compare(inner, family if is_adapter else _family(out, site), inputs, passes, rows)
    version = f"transformers {transformers.__version__}"
    # What the base itself leaves over is no fault of the bake.
    new = [problem for problem in problems if problem not in left]
    found = ": ".join(new[0]) if new else "none missing or left over" + (" that are not so in the base" if left else "")
    yield Check(f"{version} loads every tensor", not new, found)
    if quantised is None:
        yield from _against_every(version, baked, every, plain)
    else:
        yield from _against_layers(version, deviations, quantised, site)
        yield _beside_every(version, baked, every, quantised)
    same, total = _agreement(baked, last)
    divergence = float(np.mean([_mean_kl(run.logits, other) for run, other in zip(last, baked_on_last, strict=True)]))
    yield Check(
        f"{version}: beside the paper's last-position hook",
        None,
        f"KL {divergence:.3g}, {same} of {total} greedy tokens (a bias acts at every position, that hook at the last)",
    )


def against_transformers(
    stack: str,
    base: Path,
    out: Path,
    support: Support,
    python: str | None,
    max_new_tokens: int,
    options: Mapping[str, str] | None = None,
) -> Iterator[Check]:
    """Compare greedy tokens of `out` in `stack` with those of transformers, and with the unsteered base's.

    `support` is what the stack does with models like `out`; `options` are further fields of the request.

    Raises:
        MissingPackageError: the stack, or transformers for the reference, is not installed. ModelError: it failed.
    """
    need_transformers()
    inputs = prompts(base, out)
    wanted = run_stack("transformers", out, inputs, max_new_tokens=max_new_tokens)
    plain = run_stack("transformers", base, inputs, max_new_tokens=max_new_tokens)
    interpreter = None if python is None else Path(python)
    asked = {**_options(support), **(options or {})}
    run = run_stack(stack, out, inputs, max_new_tokens=max_new_tokens, python=interpreter, options=asked)
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


def quantised_in_stack(
    stack: str, base: Path, out: Path, support: Support, python: str | None, max_new_tokens: int, method: Method
) -> Iterator[Check]:
    """Compare greedy tokens of a quantised `out` in `stack` with those of its `base` there, and with transformers'.

    Kernels round in different ways, so tokens of two stacks soon differ. The output must differ from its base, and must
    not agree for longer with the unsteered model in transformers than with the steered one, where that runs the
    `method`.

    Raises:
        MissingPackageError: the stack is not installed. ModelError: it failed.
    """
    inputs, interpreter = prompts(base, out), None if python is None else Path(python)
    options = _options(support) | ({"dtype": "auto"} if "dtype" in STACKS[stack].options else {})
    run, own = (
        run_stack(stack, model, inputs, max_new_tokens=max_new_tokens, python=interpreter, options=options)
        for model in (out, base)
    )
    name = f"{stack} {run.version}"
    same, total = _count(run.tokens, own.tokens)
    yield Check(
        f"{name}: differs from the unsteered base", same < total, f"{same} of {total} greedy tokens as the base"
    )
    try:
        need_transformers()
        wanted, plain = (
            run_stack("transformers", model, inputs, max_new_tokens=max_new_tokens) for model in (out, base)
        )
    except (ModelError, MissingPackageError) as error:
        yield Check(f"{name}: beside transformers", None, f"which does not run {method.label} here ({error})")
        return
    (steered, total), (unsteered, _) = (_count(run.tokens, other.tokens) for other in (wanted, plain))
    yield Check(
        f"{name}: agrees with the steered model in transformers",
        None if steered == unsteered else steered > unsteered,
        f"{steered} of {total} greedy tokens as there, {unsteered} as the unsteered base there (kernels round in "
        "different ways)",
    )


def converted_in_stack(
    stack: str, base: Path, out: Path, python: str | None, max_new_tokens: int, weights: str
) -> Iterator[Check]:
    """Compare `out` as the stack's converter quantises it with its float form there, and with the quantised `base`.

    On the float form's own answers the quantised one must be nearer to it, by KL divergence, than the quantised base.

    Raises:
        MissingPackageError: the stack is not installed. ModelError: it failed.
    """
    inputs, interpreter = prompts(base, out), None if python is None else Path(python)

    def run(model: Path, texts: Sequence[Sequence[int]], options: Mapping[str, Any]) -> tuple[Generation, list[Any]]:
        with tempfile.TemporaryDirectory(prefix="emobake-") as folder:
            file = Path(folder) / "log_probs.npz"
            asked = {**options, **({"texts": texts, "log_probs": str(file)} if texts else {})}
            answer = run_stack(
                stack, model, inputs, max_new_tokens=max_new_tokens, python=interpreter, options=asked, timeout=3600
            )
            if not texts:
                return answer, []
            with np.load(file, allow_pickle=False) as found:
                return answer, [found[name] for name in found.files]

    answers, _ = run(out, [], {})
    texts = [[*ids, *tokens] for ids, tokens in zip(inputs, answers.tokens, strict=True)]
    _, floats = run(out, texts, {})
    said, quantised = run(out, texts, {"weights": weights})
    _, unsteered = run(base, texts, {"weights": weights})
    near, far = (
        float(
            np.mean(
                [
                    _divergence(a[len(i) - 1 : -1], b[len(i) - 1 : -1])
                    for a, b, i in zip(floats, other, inputs, strict=True)
                ]
            )
        )
        for other in (quantised, unsteered)
    )
    same, total = _count(said.tokens, answers.tokens)
    yield Check(
        f"{stack} {said.version}, {weights} weights: steered",
        near < far,
        f"KL to the float form {near:.3g}, of the unsteered base {far:.3g}; {same} of {total} greedy tokens",
    )


def _divergence(reference: np.ndarray, other: np.ndarray) -> float:
    """Mean KL divergence of log-probabilities ``[tokens, vocabulary]``."""
    wide = reference.astype(np.float64)
    return float((np.exp(wide) * (wide - other)).sum(-1).mean())


def _options(support: Support) -> dict[str, str]:
    """Fields of a request that start the stack so that it adds the bias."""
    return {"model_impl": "transformers"} if "--model-impl transformers" in support.option else {}


def gguf_against_base(
    stack: str,
    base: Path,
    out: Path,
    python: str | None,
    max_new_tokens: int,
    options: Mapping[str, str] | None = None,
) -> Iterator[Check]:
    """Run the GGUF model `out` in `stack`, and compare its greedy tokens with those of its `base`.

    Raises:
        MissingPackageError: the stack is not installed. ModelError: it failed.
    """
    interpreter = None if python is None else Path(python)
    steered, plain = (
        run_stack(stack, model, BEGINNINGS, python=interpreter, max_new_tokens=max_new_tokens, options=options)
        for model in (out, base)
    )
    differs = steered.tokens != plain.tokens
    yield Check(f"{steered.stack} {steered.version} loads it", True, f"{len(BEGINNINGS)} texts were continued")
    detail = "its greedy tokens are different" if differs else "its greedy tokens are the same: is it steered?"
    yield Check(f"{steered.stack}: differs from the unsteered base", differs, detail)


def prompts(base: Path, out: Path | None = None) -> list[list[int]]:
    """Token ids of the built-in questions, in the chat template if there is one.

    A checkpoint without a tokenizer gets fixed random ids. The tokenizer of `out` must give the same ids.

    Raises:
        VerifyError: the two tokenizers disagree.
    """
    if not any((base / name).exists() for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")):
        config = read_json(base / "config.json")
        draw = np.random.default_rng(0)
        size = int(language_config(config)["vocab_size"])
        return [draw.integers(0, size, 16).tolist() for _ in QUESTIONS]
    ids = _tokenize(base)
    if out is not None and (out / "tokenizer_config.json").exists() and ids != _tokenize(out):
        raise VerifyError(f"{out}: its tokenizer gives other ids than that of {base}")
    return ids


def _against_every(
    version: str, baked: Sequence[_Run], every: Sequence[_Run], plain: Sequence[_Run]
) -> Iterator[Check]:
    """Compare the baked model with the hook at every position, and with the unsteered base."""
    tolerance = LOGIT_TOLERANCE * max(1.0, max(float(run.logits.abs().max()) for run in every) / 100)
    gap, (same, total) = _largest(baked, every), _agreement(baked, every)
    yield Check(
        f"{version}: equals the hook at every position",
        gap <= tolerance and same == total,
        f"max |dlogit| {gap:.1e} (at most {tolerance:.0e}), KL {_kl(every, baked):.1e}, "
        f"{same} of {total} greedy tokens",
    )
    gap, (same, total) = _largest(baked, plain), _agreement(baked, plain)
    yield Check(
        f"{version}: differs from the unsteered base",
        gap > 10 * tolerance,
        f"max |dlogit| {gap:.3g}, KL {_kl(plain, baked):.3g}, {same} of {total} greedy tokens",
    )


def _against_layers(version: str, layers: Sequence[Deviation], method: Method, site: Site) -> Iterator[Check]:
    """Compare each layer of a quantised model with that of its base plus the row, on the same input."""
    # At the layer output, the residual add rounds once more.
    bound = method.rounding + (site == "layer_output")
    worst = max(layers, key=lambda layer: layer.roundings)
    yield Check(
        f"{version}: each layer equals the base's plus its row",
        worst.roundings <= bound,
        f"on the same input, {len(layers)} layers differ by at most {worst.roundings:.2g} roundings of a value, layer "
        f"{worst.layer} most (at most {bound:g} count as equal: {method.reason})",
    )
    steered = sorted((layer.share, layer.layer) for layer in layers if layer.share is not None)
    (least, first), (most, last) = (steered[0], steered[-1]) if steered else ((0.0, -1), (0.0, -1))
    yield Check(
        f"{version}: each layer differs from the unsteered base",
        least > 0.5 and most < 1.5,
        f"by {least:.3f} (layer {first}) to {most:.3f} of its row (layer {last}); without a bias by 0"
        if steered
        else "no layer has a row",
    )


def _beside_every(version: str, baked: Sequence[_Run], every: Sequence[_Run], method: Method) -> Check:
    same, total = _agreement(baked, every)
    return Check(
        f"{version}: beside the hook at every position",
        None,
        f"KL {_kl(every, baked):.1e}, {same} of {total} greedy tokens (no bound: with {method.label}, later layers "
        "amplify the rounding of earlier ones)",
    )


def _load(folder: Path, quantised: Method | None) -> tuple[Any, list[tuple[str, str]]]:
    """Load a checkpoint in float32 on the CPU, or a quantised one in its own dtype, where there is a GPU on that."""
    import torch

    if quantised is None:
        return load_weights(folder, torch.float32)
    return load_weights(folder, "auto", device_map={"": device_for("auto")})


def _family(folder: Path, site: Site) -> Family:
    config = read_json(folder / "config.json")
    family = family_of(config, site)
    if family is None:
        raise VerifyError(f"{folder}: {config.get('model_type')!r} is not in the table, so there is no hook for it")
    return family


def _tokenize(folder: Path) -> list[list[int]]:
    return encode_chats(load_tokenizer(folder), [[{"role": "user", "content": q}] for q in QUESTIONS], str(folder))


def _with_adapter(model: Any, adapter: Path, beside: Path | None = None) -> Any:
    """The `model` with an adapter, which PEFT puts into it in place; and with the one `beside`, both active."""
    peft = require("peft", extra="peft", purpose="loading an adapter")
    mixed = beside is not None and read_json(beside / CONFIG_FILE).get("peft_type") != "LORA"
    try:
        loaded = (peft.PeftMixedModel if mixed else peft.PeftModel).from_pretrained(model, adapter)
        if beside is not None:
            loaded.load_adapter(beside, adapter_name="beside")
            # In this order: DoRA scales what the adapters before it have made.
            (loaded if mixed else loaded.base_model).set_adapter(["beside", "default"])
    except Exception as error:
        raise ModelError(f"{adapter}: does not load in PEFT ({' '.join(str(error).split())[:200]})") from error
    return loaded.eval()


def _run(
    model: Any, ids: list[int], max_new_tokens: int, hooks: AbstractContextManager[None], text: list[int] | None = None
) -> _Run:
    with hooks:
        tokens = _greedy(model, ids, max_new_tokens).sequences[0, len(ids) :].tolist()
        return _Run(tokens, _logits(model, text or ids + tokens))


def _steps(model: Any, ids: list[int], max_new_tokens: int, hooks: AbstractContextManager[None]) -> _Run:
    """Repeat `_run` and return the logits of each generation step: the cache depends on the passes that were made."""
    import torch

    with hooks:
        result = _greedy(model, ids, max_new_tokens)
    return _Run(result.sequences[0, len(ids) :].tolist(), torch.cat(result.logits))


def _greedy(model: Any, ids: list[int], max_new_tokens: int) -> Any:
    import torch

    own = model.generation_config
    ends = own.eos_token_id if isinstance(own.eos_token_id, list) else [own.eos_token_id]
    tokens = torch.tensor([ids], device=model.device)
    return generate(
        model,
        tokens,
        torch.ones_like(tokens),
        max_new_tokens=max_new_tokens,
        end_tokens=[end for end in ends if end is not None],
        pad_token=own.pad_token_id if own.pad_token_id is not None else 0,
        output_logits=True,
        return_dict_in_generate=True,
    )


def _logits(model: Any, ids: list[int]) -> torch.Tensor:
    import torch

    result: torch.Tensor = model(torch.tensor([ids], device=model.device), use_cache=False).logits[0]
    return result


def _largest(runs: Sequence[_Run], others: Sequence[_Run]) -> float:
    return max(float((a.logits - b.logits).abs().max()) for a, b in zip(runs, others, strict=True))


def _kl(runs: Sequence[_Run], others: Sequence[_Run]) -> float:
    return float(np.mean([_mean_kl(a.logits, b.logits) for a, b in zip(runs, others, strict=True)]))


def _mean_kl(reference: torch.Tensor, other: torch.Tensor) -> float:
    return float(kl_divergence(reference, other).mean())


def _agreement(runs: Sequence[_Run], others: Sequence[_Run]) -> tuple[int, int]:
    return _count([run.tokens for run in runs], [run.tokens for run in others])


def _count(runs: Sequence[Sequence[int]], others: Sequence[Sequence[int]]) -> tuple[int, int]:
    """Number of tokens that agree from the beginning on, and the largest possible number."""
    same = total = 0
    for a, b in zip(runs, others, strict=True):
        total += max(len(a), len(b))
        agree = [x == y for x, y in zip(a, b, strict=False)]
        same += agree.index(False) if False in agree else len(agree)
    return same, total
