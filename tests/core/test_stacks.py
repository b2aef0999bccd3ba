"""Stacks are values: every list of them comes from one table."""

from __future__ import annotations

import pytest

from emobake import InputError
from emobake.cli.app import cli
from emobake.core.stacks import STACKS, Stack, Support, parse_targets
from emobake.formats.checkpoint.families import parse_families


def test_targets_are_names_in_any_case_and_order():
    assert parse_targets(["MLX", " vllm "]) == ("vllm", "mlx")
    assert parse_targets(STACKS) == tuple(STACKS)
    with pytest.raises(InputError, match=r"`targets`: unknown stack 'tgi'; known are transformers, vllm, "):
        parse_targets(["tgi"])


def test_the_command_line_lists_every_stack():
    verify = cli.commands["verify"]
    (stack,) = (p for p in verify.params if p.name == "stack")
    assert list(stack.type.choices) == list(STACKS)
    (targets,) = (p for p in cli.commands["bake"].params if p.name == "targets")
    assert all(name in targets.help for name in STACKS)


def test_a_new_stack_may_begin_with_a_default_for_all_families(monkeypatch):
    new = Stack("new", "new-stack", "run_new.py", frozenset({"checkpoint"}), "new {model}", default="unsteered")
    monkeypatch.setitem(STACKS, "new", new)
    table = {"classes": ["XForCausalLM"], "flag": "bias", "read": {"vllm": "steered"}}
    seen = table | {"ran": {"new": "steered"}}
    families = parse_families({"x": table, "y": seen})
    assert families["x"].stacks == {"vllm": Support("steered"), "new": Support("unsteered")}
    assert families["y"].stacks["new"] == Support("steered", run=True)


def test_a_refusal_needs_no_evidence():
    assert Support("refuses").evidence == ""
    assert Support("steered", run=True).evidence == "seen in a run"
    assert Support("option", option="--x").clause == "loads steered only with --x; without it UNSTEERED"
