"""Modules that an adapter's config names, beside PEFT's own rules where it is installed."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from emobake.errors import BrokenFileError
from emobake.formats.adapter.patterns import are_named, pick

NAMES = [f"model.layers.{n}.{m}" for n in (0, 1, 10) for m in ("self_attn.q_proj", "self_attn.o_proj", "mlp.o_proj")]
NAMES += ["o_proj", "model.visual.blocks.1.o_proj", "model.layers.1.experts.0.o_proj", "h.1.o_proj"]
RULES = [
    (["o_proj"], None, []),
    (["self_attn.o_proj", "model.layers.10.self_attn.q_proj"], None, []),
    (["o_proj"], [1], []),
    (["o_proj", "model.layers.0.mlp.o_proj"], [1, 10], ["layers"]),
    (["o_proj"], [1], ["blocks", "h"]),
    (["o_proj"], [], []),
    (r".*\.self_attn\.(q|o)_proj", None, []),
    (r"model\.layers\.\d\..*", None, []),
]
PATTERNS = [
    {"o_proj": 1},
    {"^model.layers.0.self_attn.o_proj": 1, "o_proj": 2, "q_proj": 3},
    {r"layers\.1\d?\..*": 4, "mlp.o_proj": 5},
    {r"(self_attn|mlp)\.o_proj": 6},
    {"proj": 7},
]


@pytest.mark.parametrize(("named", "layers", "containers"), RULES)
def test_the_targets_are_pefts(named, layers, containers):
    utils = pytest.importorskip("peft.tuners.tuners_utils")
    config = SimpleNamespace(
        target_modules=named if isinstance(named, str) else set(named),
        exclude_modules=None,
        modules_to_save=None,
        target_parameters=None,
        layers_to_transform=layers,
        layers_pattern=containers,
    )
    ours = are_named(named, NAMES, "x", layers=layers, containers=containers)
    assert ours == [bool(utils.check_target_module_exists(config, name)) for name in NAMES]
    assert any(ours) and not all(ours)


@pytest.mark.parametrize("patterns", PATTERNS)
def test_the_values_of_patterns_are_pefts(patterns):
    other = pytest.importorskip("peft.utils.other")
    theirs = [patterns.get(other.get_pattern_key(patterns.keys(), name), 99) for name in NAMES]
    assert pick(patterns, NAMES, 99, "x") == theirs


def test_all_linear_names_every_linear_module():
    assert are_named("All-Linear", ["lm", "x.y"], "x") == [True, True]


def test_a_pattern_that_would_run_for_years_is_stopped(monkeypatch):
    monkeypatch.setattr("emobake.formats.adapter.patterns._SECONDS", 1)
    begin = time.monotonic()
    with pytest.raises(BrokenFileError, match="its patterns take too long"):
        are_named("(a+)+b", ["a" * 40], "x/adapter_config.json")
    assert time.monotonic() - begin < 10


@pytest.mark.parametrize(
    ("pattern", "said"),
    [("(", "is not a regular expression"), ("a" * 300_000, "more than 262144"), ("(?P<a>x)" * 2, "is not a regular")],
)
def test_what_is_no_pattern(pattern, said):
    with pytest.raises(BrokenFileError, match=said):
        are_named(pattern, ["a"], "x/adapter_config.json")
