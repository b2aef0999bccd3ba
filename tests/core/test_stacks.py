"""Stacks are values: every list of them comes from one table."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.headers import JOY, checkpoint

from emobake import InputError, make_plan
from emobake.cli.app import cli
from emobake.core.stacks import STACKS, Support, parse_targets
from emobake.core.steering import steering


def test_targets_are_names_in_any_case_and_order():
    assert parse_targets(["MLX", " vllm "]) == ("vllm", "mlx")
    assert parse_targets(STACKS) == tuple(STACKS)
    with pytest.raises(InputError, match=r"`targets`: unknown stack 'nothing'; known are transformers, vllm, "):
        parse_targets(["nothing"])


def test_the_command_line_lists_every_stack():
    verify = cli.commands["verify"]
    (stack,) = (p for p in verify.params if p.name == "stack")
    assert list(stack.type.choices) == [name for name, known in STACKS.items() if known.is_run]
    (targets,) = (p for p in cli.commands["bake"].params if p.name == "targets")
    assert all(name in targets.help for name in STACKS)


@pytest.mark.parametrize(
    ("status", "run", "said"),
    [
        ("steered", True, "loads steered (seen with a llama model in vLLM 0.32.0; this one was not run)"),
        ("steered", False, "loads steered (read from the source of vLLM 0.32.0, not run)"),
        ("refuses", False, "refuses to load it"),
    ],
)
def test_it_is_said_what_was_run(status, run, said):
    plan = make_plan(checkpoint(), JOY, steering(None, {"joy": 1.0}))
    assert replace(plan, stacks={"vllm": Support(status, run)}).behaviour("vllm") == said


def test_an_option_is_named():
    assert Support("option", option="--x").clause == "loads steered only with --x; without it UNSTEERED"


def test_every_stack_names_its_versions():
    assert all(stack.read and (stack.ran or not stack.is_run) for stack in STACKS.values())
