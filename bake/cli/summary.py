"""A plan or result in words: the summary on the terminal, and as JSON."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..actions.bake import BakeResult
from ..core.plan import Assemble, BakePlan, Carry, Patch, Write
from ..core.record import Record
from ..core.stacks import STACKS, Support, describe

if TYPE_CHECKING:
    from ..storage.hub.changes import Action, Pushed

_ROUTES = {
    "flag": "a config field gives the projection a bias",
    "existing": "the base has the bias; its bytes are overwritten in the copy",
    "llama": "saved as the LlamaForCausalLM that it exactly is, with attention_bias",
    "tensor": "the file gains the biases, which its architecture reads where they are",
    "adapter": "a PEFT adapter: rank 1, zero matrices, lora_bias",
}
_ACTIONS: dict[Action, str] = {"copy": "copied by the Hub", "send": "sent from here", "relay": "fetched and sent"}
_SHOWN = 8
"""Names of a kind that are shown without -v."""
_STYLES = {"steered": "green", "option": "yellow", "unsteered": "bold red", "refuses": "dim"}


def as_dict(result: BakeResult, out_name: str) -> dict[str, Any]:
    """The summary as plain data, for ``--json``."""
    plan = result.plan
    return {
        "out": None if result.out is None else out_name,
        "base_model": result.base_model or None,
        "route": plan.route,
        "model_type": plan.model_type,
        "architecture": plan.architecture,
        "weights": dict(plan.steering.weights),
        "scale": plan.steering.scale,
        "stacks": {
            name: {"status": s.status, "run": s.run} | ({"option": s.option} if s.option else {})
            for name, s in plan.stacks.items()
        },
        "config_changes": {c.field: {"old": c.old, "new": c.new} for c in plan.config_changes},
        "added_tensors": len(plan.added),
        "overwritten_tensors": len(plan.overwritten),
        "layers": [{"layer": b.layer, "tensor": b.tensor, "norm": b.norm} for b in plan.layers],
        "files": [{"name": f.name, "action": _action(f), "bytes": _size(f)} for f in plan.files],
        "left_out": {f.name: f.reason for f in plan.left_out},
        "bytes_carried": plan.bytes_carried,
        "bytes_written": plan.bytes_written,
        "warnings": list(plan.warnings),
    } | ({} if result.pushed is None else {"hub": push_as_dict(result.pushed)})


def push_as_dict(pushed: Pushed) -> dict[str, Any]:
    """A push as plain data, for ``--json``."""
    changes = pushed.changes
    return {
        "repo_id": pushed.repo_id,
        "branch": pushed.branch,
        "url": pushed.url,
        "commit": pushed.commit or None,
        "pr_url": pushed.pr_url or None,
        "existed": pushed.existed,
        "changed": pushed.changed,
        "files": [{"name": item.name, "action": item.action, "bytes": item.size} for item in changes.items],
        "unchanged": list(changes.unchanged),
        "deleted": list(changes.deleted),
        "left_alone": list(changes.left_alone),
        "bytes_travelling": changes.bytes_travelling,
        "bytes_copied": changes.size("copy"),
    }


def _action(file: Carry | Patch | Write | Assemble) -> str:
    return {Carry: "carry", Patch: "overwrite", Write: "write", Assemble: "assemble"}[type(file)]


def _size(file: Carry | Patch | Write | Assemble) -> int:
    if isinstance(file, Write):
        return len(file.data)
    return file.size + file.new if isinstance(file, Assemble) else file.size


def show(console: Console, result: BakeResult, out_name: str, *, verbose: bool = False) -> None:
    """Print what was baked, by which route, which stacks load it, what went along, and what to type next."""
    plan = result.plan
    norms = [b.norm for b in plan.layers]
    done = "Planned" if result.out is None and not (result.pushed and result.pushed.commit) else "Baked"
    console.print(Text(f"{done}: {plan.steering.recipe}", style="bold"))
    table = Table.grid(padding=(0, 2))
    table.add_row("model", f"{result.model} ({plan.model_type})")
    steered, layers = len({b.layer for b in plan.layers if b.norm > 0}), len({b.layer for b in plan.layers})
    table.add_row("layers", f"{steered} of {layers} steered, bias norms {min(norms):.3g} to {max(norms):.3g}")
    table.add_row("route", f"{plan.route}: {_ROUTES[plan.route]}")
    for change in plan.config_changes:
        table.add_row("", f"{change.field}: {_value(change.old)} -> {_value(change.new)}")
    if plan.route != "adapter":
        table.add_row(
            "tensors", f"{len(plan.added)} added, {len(plan.overwritten)} overwritten, all others byte for byte"
        )
    table.add_row("files", _files(plan))
    console.print(table)
    stacks = Table.grid(padding=(0, 2))
    for name in (name for name in STACKS if name in plan.stacks):
        support = plan.stacks[name]
        stacks.add_row("  " + name, Text(describe(support) + _evidence(support), style=_STYLES[support.status]))
    console.print("Stacks:")
    console.print(stacks)
    _show_left_out(console, plan, verbose=verbose)
    if verbose:
        for file in plan.files:
            console.print(Text(f"  {_action(file):9} {file.name}"))
    if result.pushed is not None:
        show_push(console, result.pushed, verbose=verbose)
    if commands := next_commands(result, out_name):
        console.print("Next:")
        for command in commands:
            console.print(Text("  " + command))


def show_push(console: Console, pushed: Pushed, *, verbose: bool = False) -> None:
    """Print what became of a push, or with a dry run would: where to, and how many bytes go which way."""
    changes = pushed.changes
    if pushed.changed:
        done = "Opened a pull request:" if pushed.pr_url else "Pushed to" if pushed.commit else "Would push to"
    else:
        done = "Already the same, nothing to upload:"
    new = "" if pushed.existed or pushed.commit else " (a new repository)"
    console.print(Text(f"{done} {pushed.pr_url or pushed.url}{new}", style="bold"))
    table = Table.grid(padding=(0, 2))
    table.add_row("branch", pushed.branch + (f", commit {pushed.commit[:12]}" if pushed.commit else ""))
    groups = {title: [i for i in changes.items if i.action == action] for action, title in _ACTIONS.items()}
    for title, items in groups.items():
        if items:
            table.add_row(title, f"{_count(items)}, {sum(i.size for i in items) / 1e6:,.2f} MB")
    for title, paths in (("deleted", changes.deleted), ("left alone", changes.left_alone)):
        if paths:
            table.add_row(title, Text(_some(paths, verbose=verbose)))
    if changes.unchanged:
        table.add_row("there already", _count(changes.unchanged))
    if pushed.changed:
        table.add_row("over this network", f"about {changes.bytes_travelling / 1e6:,.2f} MB")
    console.print(table)
    if verbose or not pushed.commit:
        for items in groups.values():
            shown = items if verbose else items[:_SHOWN]
            for item in shown:
                console.print(Text(f"  {item.action:6} {item.name} ({item.size:,} bytes)"))
            if len(shown) < len(items):
                console.print(Text(f"  ... and {len(items) - len(shown)} more (-v names them)"))


def _count(files: Sequence[object]) -> str:
    return f"{len(files)} file{'s' * (len(files) != 1)}"


def _some(names: Sequence[str], *, verbose: bool) -> str:
    shown = names if verbose else names[:_SHOWN]
    more = "" if len(shown) == len(names) else f" and {len(names) - len(shown)} more (-v names them)"
    return ", ".join(shown) + more


def _show_left_out(console: Console, plan: BakePlan, *, verbose: bool) -> None:
    reasons: dict[str, list[str]] = {}
    for file in plan.left_out:
        reasons.setdefault(file.reason, []).append(file.name)
    if reasons:
        console.print("Left out:")
    for reason, names in reasons.items():
        console.print(Text(f"  {_some(names, verbose=verbose)}: {reason}"))


def _evidence(support: Support) -> str:
    return "" if support.run or support.status == "refuses" else " (read from its source, not run)"


def _value(value: Any) -> str:
    text = "absent" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _files(plan: BakePlan) -> str:
    assembled = [f for f in plan.files if isinstance(f, Assemble)]
    if assembled:
        plural = "s" * (len(assembled) != 1)
        new = f"{plan.bytes_written / 1e6:,.2f} MB are new (metadata and biases)"
        return f"{len(assembled)} GGUF file{plural}: {plan.bytes_carried / 1e6:,.0f} MB from the base; {new}"
    weights = [f for f in plan.files if isinstance(f, Patch) or (isinstance(f, Carry) and f.weights)]
    others = [f.name for f in plan.files if isinstance(f, Carry) and not f.weights]
    written = [f.name for f in plan.files if isinstance(f, Write)]
    if not weights:
        return f"{len(written)} written ({plan.bytes_written / 1e6:,.2f} MB)"
    plural = "s" * (len(weights) != 1)
    carried = f"{len(weights)} weight file{plural} ({plan.bytes_carried / 1e6:,.0f} MB) and {len(others)} others"
    return f"{carried} carried over; {len(written)} written ({plan.bytes_written / 1e6:,.2f} MB)"


def show_manifest(console: Console, record: Record, manifest: Mapping[str, Any]) -> None:
    """Print what a bake has written about itself: the recipe, what it was made of, and how much each layer got."""
    if record.adapters:
        console.print(Text(f"Adapters: {', '.join(record.adapters)} (`emobake show` each)", style="bold"))
        return
    console.print(Text(f"Baked: {record.steering.recipe}", style="bold"))
    table = Table.grid(padding=(0, 2))
    at = f"@{record.base_revision}" if record.base_revision else ""
    table.add_row("base", Text(f"{record.base_model or 'not known'}{at} ({', '.join(record.base_weights)})"))
    digests = f", {len(record.vector_sha256)} digests" if record.vector_sha256 else ""
    table.add_row("vectors", Text(f"{record.vector_name}, of the {record.site.replace('_', ' ')}{digests}"))
    norms = {entry.layer: entry.norm for entry in record.biases}
    steered = [layer for layer, norm in norms.items() if norm]
    span = f"bias norms {min(norms.values()):.3g} to {max(norms.values()):.3g}" if norms else "no biases"
    table.add_row("layers", f"{len(steered)} of {len(norms)} steered, {span}")
    made = " ".join(str(manifest.get(key))[:40] for key in ("format", "model_type", "emobake_version"))
    table.add_row("made as", Text(made))
    for number, earlier in enumerate(record.history):
        table.add_row("" if number else "before", Text(earlier.steering.recipe))
    console.print(table)


def next_commands(result: BakeResult, out_name: str) -> list[str]:
    """Commands that check, try and share the output; none after a dry run."""
    plan, out, base = result.plan, shlex.quote(out_name), shlex.quote(result.model)
    if any(isinstance(file, Assemble) for file in plan.files):
        return _gguf_commands(result, out_name)
    pushed = result.pushed if result.pushed is not None and result.pushed.commit else None
    commands = []
    if result.out is not None:
        commands.append(f"emobake verify {out} --base {base} --stack transformers")
    served = out
    if pushed is not None:
        on_main = pushed.branch == "main" and not pushed.pr_url
        commands.append(f"emobake verify {pushed.repo_id}{'' if on_main else '@' + pushed.commit} --base {base}")
        served = pushed.repo_id if on_main else f"{pushed.repo_id} --revision {pushed.commit}"
    if commands and plan.route != "adapter":
        if plan.stacks["vllm"].status in ("steered", "option"):
            commands.append(f"vllm serve {served} {plan.stacks['vllm'].option}".rstrip())
        if plan.stacks["llama.cpp"].status == "steered" and result.out is not None:
            commands.append(f"convert_hf_to_gguf.py {out} --outfile model.gguf")
    if result.out is not None and pushed is None:
        commands.append(f"emobake push {out} YOUR_NAME/REPO")
    return commands


def _gguf_commands(result: BakeResult, out_name: str) -> list[str]:
    """Commands that check a GGUF output and run it."""
    if result.out is None:
        return []
    plan = result.plan
    first = shlex.quote(out_name if len(plan.files) == 1 else str(Path(out_name).with_name(plan.files[0].name)))
    based = f" --base {shlex.quote(result.model)}" if result.model.lower().endswith(".gguf") else ""
    commands = [f"emobake verify {first}{based}", f"llama-server -m {first}"]
    modelfiles = [file.name for file in plan.files if file.name.endswith(".Modelfile")]
    for name in modelfiles:
        title = re.sub(r"[^a-z0-9._-]+", "-", name.removesuffix(".Modelfile").lower())
        file = shlex.quote(str(Path(out_name).with_name(name)))
        commands += [f"ollama create {title} -f {file}", f"ollama run {title}"]
    return commands
