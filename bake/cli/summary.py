"""A bake in words: the summary on the terminal, and as JSON."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from ..core.plan import BACKEND, REPO_PLACEHOLDER
from ..core.stacks import STACKS, Stack
from .hub_summary import push_as_dict, show_push
from .terminal import STATUS_STYLES, list_names, show_command, show_indented, spelled, styled

if TYPE_CHECKING:
    from rich.console import Console

    from ..actions.request import BakeResult, Shared
    from ..core.biases import PlannedBias
    from ..core.heads import Cost
    from ..core.plan import BakePlan, Other, PlannedFile
    from ..core.record import RecordedBias
    from ..core.stacks import Support
    from ..storage.hub.changes import Pushed

_ROUTES = {
    "flag": "a config field gives the projection a bias",
    "existing": "the base has the bias; its bytes are overwritten in the copy",
    "llama": "saved as the LlamaForCausalLM that it exactly is, with attention_bias",
    "granitemoe": "saved as the GraniteMoeForCausalLM that it exactly is, with attention_bias",
    "laguna": "saved as the LagunaForCausalLM without gates that it exactly is, with attention_bias",
    "gear": "saved as the mlx-lm model gear that it exactly is, with attention_bias",
    "tensor": "the file gains the biases, which its architecture reads where they are",
    "adapter": "a PEFT adapter: rank 1, zero matrices, lora_bias",
    "lora": "the adapter gains a bias behind its lora_B (lora_bias); its own tensors are carried",
    "head": "one more key/value head with a constant output; a column of the output projection makes the row of it",
    "value": "a bias of the values, solved so that the output projection makes the row of it",
}
_ADAPTERS = {
    "": "merged into the base before it is baked",
    "steered": "steered itself",
    "beside": "not changed; the output is a second adapter, to be active together with it",
    "served": "carried in adapter/, to be served on the baked base",
    "merged": "merged into the base before it was baked",
}
_BY_BACKEND = "; vLLM runs the class of transformers"


def as_dict(result: BakeResult, out_name: str) -> dict[str, Any]:
    """The summary as JSON data; `out_name` is the output as the user named it."""
    plan = result.plan
    return {
        "out": None if result.out is None else out_name,
        "base_model": result.base_model or None,
        **({"adapter": result.adapter, "adapter_use": _use(plan)} if result.adapter else {}),
        **({"serving": [line.replace(REPO_PLACEHOLDER, out_name) for line in plan.serving]} if plan.serving else {}),
        "route": plan.route,
        "model_type": plan.model_type,
        "architecture": plan.architecture,
        "quantised": plan.quantised or None,
        "weights": dict(plan.steering.weights),
        "scale": plan.steering.scale,
        "total": plan.effect.recipe,
        "steers": plan.effect.steers,
        "stacks": {
            name: {"status": s.status, "run": s.run, "evidence": plan.evidence(name)}
            | {
                key: value
                for key, value in (("option", s.option), ("environment", s.environment), ("note", s.note))
                if value
            }
            for name, s in plan.stacks.items()
        },
        "config_changes": {c.field: {"old": c.old, "new": c.new} for c in plan.config_changes},
        **({"voice": {c.field: {"old": c.old, "new": c.new} for c in plan.voice}} if plan.voice else {}),
        "added_tensors": len(plan.added),
        "overwritten_tensors": len(plan.overwritten),
        "rewritten_tensors": len(plan.rewritten),
        "extended_tensors": len(plan.extended),
        "cost": _cost(plan.record.cost),
        "other_targets": {
            name: {"route": other.route, "in_gguf": True}
            if other.in_gguf
            else {"route": other.route, "cost": _cost(other.cost)}
            for name, other in plan.others.items()
        },
        "layers": [{"layer": b.layer, "tensor": b.tensor, "norm": b.norm} for b in plan.biases],
        "files": [{"name": f.name, "action": f.action, "bytes": f.size} for f in plan.files],
        **({} if result.shared is None else {"shared": asdict(result.shared)}),
        "left_out": {f.name: f.reason for f in plan.left_out},
        "bytes_carried": plan.bytes_carried,
        "bytes_written": plan.bytes_written,
        "warnings": [spelled(warning) for warning in plan.warnings],
    } | ({} if result.pushed is None else {"hub": push_as_dict(result.pushed)})


def show(console: Console, result: BakeResult, out_name: str, *, verbose: bool = False) -> None:
    """Print what was baked, the route, the stacks that load it, the files, and the next commands."""
    plan = result.plan
    done = "Planned" if result.out is None and _commit(result) is None else "Baked"
    total = headline(plan.effect.recipe, steers=plan.effect.steers, again=bool(plan.record.history))
    console.print(styled((f"{done}: {total}", "bold")))
    console.print(_facts(result))
    console.print("Stacks:")
    stacks = Table.grid(padding=(0, 2))
    for name, support in plan.shown.items():
        style = STATUS_STYLES[support.status] if plan.effect.steers else ""
        stacks.add_row("  " + name, styled((plan.behaviour(name), style)))
    console.print(stacks)
    for sentence in plan.beware:
        console.print(styled(("Beware: ", "bold red"), sentence))
    for line in _others(plan):
        console.print(styled(line))
    _show_left_out(console, plan, verbose=verbose)
    if verbose:
        for file in plan.files:
            console.print(styled(f"  {file.action:9} {file.name}"))
    if result.pushed is not None:
        show_push(console, result.pushed, verbose=verbose)
    if commands := next_commands(result, out_name):
        console.print("Next:")
        for command in commands:
            show_command(console, "  " + command)


def _cost(cost: Cost) -> dict[str, float]:
    return {"cache": cost.cache, "attention_weights": cost.attention}


def _others(plan: BakePlan) -> list[str]:
    """Lines on the stacks that this form does not serve: the `targets`, the route and its cost, one for each way."""
    ways: dict[Other, list[str]] = {}
    for stack, other in plan.others.items():
        ways.setdefault(other, []).append(stack)
    return [_other(other, stacks) for other, stacks in ways.items()]


def _other(other: Other, stacks: list[str]) -> str:
    target = "--out NAME.gguf" if other.in_gguf else f"--targets {','.join(stacks)}"
    cost = "" if other.cost.is_free else f"; {cost_in_words(other.cost)}"
    return f"For {' and '.join(stacks)}: {target} takes the route {other.route}{cost}"


def _in_a_stack(plan: BakePlan) -> str:
    """The option that runs an output where it is served: in transformers, or else in the first stack that steers it."""
    served = [
        name for name, support in plan.shown.items() if support.status in ("steered", "option") and STACKS[name].is_run
    ]
    return f" --stack {served[0]}" if served else ""


def next_commands(result: BakeResult, out_name: str) -> list[str]:
    """Commands that check, serve and share the output; empty after a dry run."""
    if result.plan.form == "gguf":
        return _gguf_commands(result, out_name)
    out, base, pushed = shlex.quote(out_name), shlex.quote(result.model), _commit(result)
    commands, served = [], out
    if result.adapter:
        base += f" --adapter {shlex.quote(result.adapter)}"
    if result.out is not None:
        commands.append(f"emobake verify {out} --base {base}{_in_a_stack(result.plan)}")
    if pushed is not None:
        on_main = pushed.branch == "main" and not pushed.pr_url
        commands.append(f"emobake verify {pushed.repo_id}{'' if on_main else '@' + pushed.commit} --base {base}")
        served = pushed.repo_id if on_main else f"{pushed.repo_id} --revision {pushed.commit}"
    if result.adapter and _use(result.plan) in ("beside", "served"):
        commands += _with_adapter(result, out_name) if result.out is not None else []
        if result.out is not None and pushed is None:
            commands.append(f"emobake push {out} YOUR_NAME/REPO")
        return commands
    if commands and result.plan.form == "checkpoint":
        for name, support in result.plan.shown.items():
            commands += _serve_commands(STACKS[name], support, served, out if result.out else "")
    if result.out is not None and pushed is None:
        commands.append(f"emobake push {out} YOUR_NAME/REPO")
    return commands


def _with_adapter(result: BakeResult, out_name: str) -> list[str]:
    """Commands that serve a baked base with the adapter in it; Python that loads an adapter and the one beside it."""
    plan = result.plan
    if _use(plan) == "served":
        return [line.replace(REPO_PLACEHOLDER, shlex.quote(out_name)) for line in plan.serving]
    from ..formats.adapter.card import beside_lines

    return beside_lines(plan, result.adapter, out_name)


def _use(plan: BakePlan) -> str:
    """The use of the adapter that was given; empty if none was."""
    return "" if plan.record.adapter is None else plan.record.adapter.how


def _serve_commands(stack: Stack, support: Support, served: str, folder: str) -> list[str]:
    """The command that serves `served`, a folder or repository, or `folder` where only folders load."""
    if support.status not in ("steered", "option"):
        return []
    if stack.convert and folder:
        return [stack.convert.format(model=folder)]
    if stack.serve:
        return [support.command(stack.serve.format(model=served))]
    if stack.serve_folder and folder:
        return [stack.serve_folder.format(model=folder)]
    return []


def _gguf_commands(result: BakeResult, out_name: str) -> list[str]:
    """Commands that check a GGUF output and run it."""
    if result.out is None:
        return []
    files = result.plan.files
    first = shlex.quote(out_name if len(files) == 1 else str(Path(out_name).with_name(files[0].name)))
    is_there = result.model.lower().endswith(".gguf") and not (result.shared is not None and result.shared.moved)
    based = f" --base {shlex.quote(result.model)}" if is_there else ""
    beside = (file.name for file in result.plan.left_out if file.name.endswith(".gguf"))
    projector = next((f" --mmproj {shlex.quote(str(Path(result.model).with_name(name)))}" for name in beside), "")
    commands = [f"emobake verify {first}{based}", f"llama-server -m {first}{projector}"]
    for name in (file.name for file in files if file.name.endswith(".Modelfile")):
        title = re.sub(r"[^a-z0-9._-]+", "-", name.removesuffix(".Modelfile").lower())
        file = shlex.quote(str(Path(out_name).with_name(name)))
        commands += [f"ollama create {title} -f {file}", f"ollama run {title}"]
    return commands


def _commit(result: BakeResult) -> Pushed | None:
    """The push, if it made a commit."""
    return result.pushed if result.pushed is not None and result.pushed.commit else None


def _facts(result: BakeResult) -> Table:
    plan = result.plan
    table = Table.grid(padding=(0, 2))
    table.add_row("model", styled(f"{result.model} ({plan.model_type})"))
    if result.adapter:
        table.add_row("adapter", styled(f"{result.adapter} ({_ADAPTERS[_use(plan)]})"))
    for number, earlier in enumerate(plan.record.history):
        table.add_row("" if number else "before", styled(earlier.steering.recipe))
    if plan.record.history:
        table.add_row("this bake", styled(plan.steering.recipe))
    table.add_row("layers", layers_changed(plan.biases, again=bool(plan.record.history)))
    by_backend = _BY_BACKEND if plan.route.endswith(BACKEND) else ""
    table.add_row("route", f"{plan.route}: {_ROUTES[plan.route.removesuffix(BACKEND)]}{by_backend}")
    for change in plan.config_changes:
        table.add_row("", styled(f"{change.field}: {_value(change.old)} -> {_value(change.new)}"))
    for number, change in enumerate(plan.voice):
        table.add_row(
            "" if number else "voice", styled(f"{change.field}: {_value(change.old)} -> {_value(change.new)}")
        )
    if plan.quantised:
        table.add_row("weights", styled(f"quantised: {plan.quantised}"))
    if not plan.record.cost.is_free:
        table.add_row("cost", cost_in_words(plan.record.cost))
    if plan.route not in ("adapter", "lora"):
        counts = f"{len(plan.added)} added, {len(plan.overwritten)} overwritten"
        if plan.rewritten:
            counts += f", {len(plan.rewritten)} made of the base's rows or renamed"
        if plan.extended:
            how = (
                "with each head's rows several times"
                if plan.route == "value"
                else "with rows or columns behind their own"
            )
            counts += f", {len(plan.extended)} {how}"
        table.add_row("tensors", f"{counts}, all others byte for byte")
    table.add_row("files", _files(plan, result.shared))
    return table


def cost_in_words(cost: Cost) -> str:
    """What a result needs more than its base."""
    if cost.cache == cost.attention:
        return f"key/value cache and attention weights x {cost.cache:.4g}"
    return f"key/value cache x {cost.cache:.4g}, attention weights x {cost.attention:.4g}"


def headline(recipe: str, *, steers: bool, again: bool) -> str:
    """The sum of all bakes, and that it is none; `again` if there was more than one."""
    if steers:
        return f"{recipe}, all bakes together" if again else recipe
    return f"{recipe} (this is the base again)" if again else "nothing (it behaves as its base)"


def layers_changed(biases: Sequence[PlannedBias | RecordedBias], *, again: bool) -> str:
    """The number of layers that a bake has changed, and how much; of a later bake, the sum is another one."""
    norms = [bias.norm for bias in biases]
    layers, changed = {bias.layer for bias in biases}, {bias.layer for bias in biases if bias.norm > 0}
    span = f"norms {min(norms):.3g} to {max(norms):.3g}" if norms else "no biases"
    if again:
        return f"{len(changed)} of {len(layers)} changed by the last bake, by {span}"
    return f"{len(changed)} of {len(layers)} steered, bias {span}"


def _show_left_out(console: Console, plan: BakePlan, *, verbose: bool) -> None:
    reasons: dict[str, list[str]] = {}
    for file in plan.left_out:
        reasons.setdefault(file.reason, []).append(file.name)
    if reasons:
        console.print("Left out:")
    for reason, names in reasons.items():
        show_indented(console, f"{list_names(names, verbose=verbose)}: {reason}")


def _value(value: Any) -> str:
    text = "absent" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _files(plan: BakePlan, shared: Shared | None) -> str:
    written = f"{plan.bytes_written / 1e6:,.2f} MB"
    carried = f"{plan.bytes_carried / 1e6:,.0f} MB"
    if shared is not None:
        own = sum(file.size for file in plan.files if not file.shared)
        line = f"{own / 1e6:,.2f} MB of its own; {shared.name} ({shared.size / 1e6:,.0f} MB) is shared"
        line += ", and was there already" if shared.found else ""
        return line + ("; the base, whose place it takes, is removed" if shared.moved else "")
    if plan.form == "gguf" and (assembled := [file for file in plan.files if file.action == "assemble"]):
        what = "metadata, rows and columns" if plan.extended else "metadata and biases"
        return f"{_plural(assembled, 'GGUF file')}: {carried} from the base; {written} are new ({what})"
    new = [file for file in plan.files if file.action == "write"]
    weights = [file for file in plan.files if file.weights]
    if not weights:
        return f"{len(new)} written ({written})"
    others = [file for file in plan.files if file.action == "carry" and not file.weights]
    part = " in part" if any(file.action == "assemble" for file in weights) else ""
    base = f"{_plural(weights, 'weight file')}{part} ({carried}) and {len(others)} others"
    return f"{base} carried over; {len(new)} written ({written})"


def _plural(files: Sequence[PlannedFile], noun: str) -> str:
    return f"{len(files)} {noun}{'s' * (len(files) != 1)}"
