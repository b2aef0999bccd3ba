"""Metadata of model cards: a stranger's is read within limits, ours cannot be broken out of."""

from __future__ import annotations

import re
import time

import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.checkpoints import write_checkpoint, write_vectors
from support.hub_server import metadata_errors

import emobake
from emobake.formats.front_matter import MAX_FRONT_MATTER, read_front_matter, write_front_matter

LEVELS = "\n".join(f"a{i}: &a{i}\n  <<: [*a{i - 1}, *a{i - 1}]" for i in range(1, 41))
MERGES = f"---\na0: &a0 {{x: 1}}\n{LEVELS}\nlicense: mit\n---\n"
LAUGHS = "---\na0: &a0 [x]\n" + "\n".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 41)) + "\n---\n"


@pytest.mark.parametrize(
    ("card", "problem"),
    [
        (MERGES, "anchors or aliases"),
        (LAUGHS, "anchors or aliases"),
        ("---\na: &a [*a]\n---\n", "anchors or aliases"),
        ("---\n<<: {license: mit}\n---\n", "merge keys"),
        ("---\na: " + "[" * 90_000 + "\n---\n", "nested deeper|not valid YAML"),
        ("---\na: " + "{a: " * 20_000 + "\n---\n", "nested deeper|not valid YAML"),
        ("---\n" + "- " * 40_000 + "\n---\n", "nested deeper|not valid YAML"),
        ("---\n" + "? " * 40_000 + "\n---\n", "nested deeper|not valid YAML"),
        ("---\na: [" + "[]," * 30_000 + "]\n---\n", ""),
        ("---\na: " + "1:" * 40_000 + "1\n---\n", "cannot hand on"),
        ("---\na: 0x" + "f" * 90_000 + "\n---\n", "cannot hand on"),
        ("---\na: " + "9" * 90_000 + "\n---\n", "not valid YAML|cannot hand on"),
        ("---\na: !!python/object/apply:os.system [id]\n---\n", "not valid YAML"),
        ("---\na: !!binary aGk=\n---\n", "cannot hand on"),
        ("---\nlicense: mit\n" + "# x\n" * MAX_FRONT_MATTER + "\n---\n", "more than 100000 characters"),
        ("---\n- a list\n---\n", "not a mapping"),
        ("\n" * 300_000, ""),
        ("---\n\n---\n", ""),
    ],
)
@pytest.mark.parametrize("pure", [False, True])
def test_a_hostile_card_is_a_card_without_metadata(monkeypatch, card, problem, pure):
    if pure:
        monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    begun = time.monotonic()
    found = read_front_matter(card)
    assert time.monotonic() - begun < 10
    if problem:
        assert not found.values and re.search(problem, found.problem), found.problem
    else:
        assert not found.problem


def test_a_card_keeps_what_it_says():
    text = "---\nlicense: other\nextra_gated_fields:\n  Company: text\n  Date of birth: 2024-01-31\n  1: x\n---\n# Base"
    assert read_front_matter(text).values == {
        "license": "other",
        "extra_gated_fields": {"Company": "text", "Date of birth": "2024-01-31", "1": "x"},
    }


@pytest.mark.parametrize("form", ["checkpoint", "peft"])
def test_a_bake_of_a_hostile_card_ends_with_a_warning(tmp_path, form):
    model = write_checkpoint(tmp_path / "m", "llama")
    (model / "README.md").write_text(MERGES)
    vectors = write_vectors(tmp_path / "ev", emotions=("joy",))
    plan = emobake.bake(model, vectors, mix={"joy": 1.0}, format=form, dry_run=True).plan
    assert [w for w in plan.warnings if "README.md has anchors or aliases" in w and "licence" in w]
    card = next(file for file in plan.files if file.name == "README.md").data.decode()
    assert "license" not in card.split("---")[1]
    (model / "README.md").write_text("---\nlicense: mit\n---\n" + "long " * 200_000)
    plan = emobake.bake(model, vectors, mix={"joy": 1.0}, format=form, dry_run=True).plan
    assert not [w for w in plan.warnings if "README" in w]
    assert "license: mit" in next(file for file in plan.files if file.name == "README.md").data.decode()


quick = settings(max_examples=200, derandomize=True, database=None, deadline=2000, suppress_health_check=[*HealthCheck])
pieces = st.sampled_from(
    [
        "---",
        "\n",
        "\r\n",
        "&a ",
        "*a",
        "<<: ",
        "[",
        "]",
        "{",
        "}",
        "- ",
        "? ",
        ": ",
        "!!set ",
        "|",
        ">",
        "'",
        '"',
        "#",
        "a",
    ]
)


@quick
@given(st.lists(st.one_of(pieces, st.text(max_size=4)), max_size=60))
def test_any_text_is_read(parts):
    read_front_matter("---\n" + "".join(parts) + "\n---\n")


@quick
@given(st.text(st.characters(), max_size=40), st.text(st.sampled_from("a\n-: #'\"\x1b\u202e\u2028\x85|>"), max_size=40))
def test_ours_is_read_back_and_holds_one_mapping(text, nasty):
    card = write_front_matter(license_name=text, base_model=nasty, tags=[text, nasty]) + "\n\n# Title\n"
    found = read_front_matter(card)
    assert not found.problem and set(found.values) == {"license_name", "base_model", "tags"}
    assert ModelCard(card, ignore_metadata_errors=False).content == card
    assert ModelCard(card).data.to_dict().keys() == found.values.keys()
    assert not {"\x1b", "\u202e", "\u2028", "\x85"} & set(card)
    assert len(metadata_errors(card)) <= 1, "the id is none, and nothing else is wrong"
