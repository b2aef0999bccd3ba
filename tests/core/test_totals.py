"""The sum of all bakes of a model, and what is refused because of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from support.headers import CONFIG, HIDDEN, JOY, LAYERS, checkpoint

from emobake import InputError, Record, Steering, VectorSet, make_plan
from emobake.core.biases import PlannedBias
from emobake.core.record import RecordedBias, RecordedVectors
from emobake.core.steering import steering
from emobake.core.tensors import decode
from emobake.core.totals import total_recipe
from emobake.formats.adapter.plan import make_adapter_plan

ROWS = np.arange(2 * LAYERS * HIDDEN, dtype=np.float32).reshape(2, LAYERS, HIDDEN) / 8 + 1
SET = VectorSet(("joy", "fear"), ROWS, "ev")
OTHER = VectorSet(("joy",), -ROWS[:1], "other")
RENAMED = VectorSet(("joy",), ROWS[:1], "a copy of ev")
NAMESAKE = VectorSet(("joy",), 3 * ROWS[:1], "ev")
Bake = tuple[VectorSet, dict[str, float], float, str | None]


def record(*bakes: Bake) -> Record:
    """The record of a model that was baked once for each of `bakes`."""
    earlier: list[Record] = []
    for vectors, weights, scale, layers in bakes:
        found = steering(None, weights, scale=scale, layers=layers)
        entries = tuple(RecordedBias(layer, f"{layer}.bias", "F32", 1.0, "0") for layer in range(3))
        history = tuple({k: v for k, v in each.to_json().items() if k != "history"} for each in earlier)
        recorded = RecordedVectors.of(vectors, found)
        earlier.append(Record("checkpoint", vectors=recorded, steering=found, biases=entries, earlier=history))
    return Record.from_json(json.loads(json.dumps(earlier[-1].to_json())), "f")


@pytest.mark.parametrize(
    ("bakes", "said"),
    [
        ([(SET, {"joy": 2.0}, 0.5, "0")], "0.5 x (2 x joy)"),
        ([(SET, {"joy": 1.0}, 1, None), (SET, {"joy": 0.5, "fear": 2.0}, 1, None)], "1.5 x joy + 2 x fear"),
        ([(SET, {"joy": 1.0}, 1, None), (RENAMED, {"joy": 1.0}, 2, None)], "3 x joy"),
        ([(SET, {"joy": 1.0}, 1, None), (SET, {"joy": -2.0}, 0.5, None)], "nothing"),
        ([(SET, {"joy": 0.1}, 1, None), (SET, {"joy": 0.2}, 1, None), (SET, {"joy": -0.3}, 1, None)], "nothing"),
        ([(SET, {"joy": 1.0}, 1, None), (SET, {"joy": -1.0}, 1, "1-2")], "1 x joy in layer 0"),
        (
            [(SET, {"joy": 1.0}, 1, None), (SET, {"fear": 1.0}, 1, "0,2")],
            "1 x joy + 1 x fear in layers 0,2; 1 x joy in layer 1",
        ),
        ([(SET, {"joy": 1.0}, 1, None), (OTHER, {"joy": 1.0}, 1, None)], "1 x joy of ev + 1 x joy of other"),
    ],
)
def test_the_sum_in_words(bakes: list[Bake], said: str):
    assert total_recipe(record(*bakes)) == said


def test_sets_of_one_name_are_told_apart():
    said = total_recipe(record((SET, {"joy": 1.0}, 1, None), (NAMESAKE, {"joy": -1.0}, 1, None)))
    assert said.startswith("1 x joy [") and " + -1 x joy [" in said


def test_records_without_digests_of_rows_go_by_their_files():
    def old(files: str, weight: float, *earlier: Record) -> Record:
        before = tuple(each.to_json() for each in earlier)
        recorded = RecordedVectors("ev", sha256={"joy.json": files})
        return Record("checkpoint", vectors=recorded, steering=Steering((("joy", weight),)), earlier=before)

    assert total_recipe(old("a", -1.0, old("a", 1.0))) == "nothing"
    assert "unknown rows" in total_recipe(old("b", -1.0, old("a", 1.0)))


def rebaked(plan, dtype: str = "F32"):
    """The output of `plan` as a base."""
    biases = {bias.tensor: values(bias) for bias in plan.biases}
    return checkpoint({**CONFIG, "attention_bias": True}, dtype, biases=biases, record=plan.record.to_json())


def values(bias: PlannedBias) -> list[float]:
    from emobake.core.tensors import TensorHeader

    return decode(TensorHeader("b", bias.dtype, (HIDDEN,), "f", 0, len(bias.data)), bias.data).tolist()


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_the_base_again_is_refused_unless_it_is_forced(dtype: str):
    """In bfloat16 a little is left by rounding."""
    once = make_plan(checkpoint(dtype=dtype), JOY, steering(None, {"joy": 1.3}))
    base = rebaked(once, dtype)
    with pytest.raises(InputError, match=r"1.3 x joy, then -1.3 x joy add up to nothing.*the base again; `force`"):
        make_plan(base, JOY, steering(None, {"joy": -1.3}))
    plan = make_plan(base, JOY, steering(None, {"joy": -1.3}), force=True)
    assert (plan.effect.recipe, plan.effect.steers) == ("nothing", False)
    assert any("the base again" in warning for warning in plan.warnings)
    assert "behaves as its base" in plan.behaviour("vllm") and "steered:" not in plan.behaviour("vllm")
    card = next(file for file in plan.files if file.name == "README.md").data.decode()
    assert ", not steered" in card and "the result is the base again" in card and "loads steered" not in card
    assert "1. 1.3 x joy" in card and "2. -1.3 x joy" in card


def test_a_negated_set_undoes_a_bake_too():
    once = make_plan(checkpoint(), JOY, steering(None, {"joy": 1.0}))
    negated = VectorSet(("joy",), -JOY.rows, "another")
    with pytest.raises(InputError, match="the base again"):
        make_plan(rebaked(once), negated, steering(None, {"joy": 1.0}))


def test_the_total_is_named_and_the_history_below_it():
    once = make_plan(checkpoint(), JOY, steering(None, {"joy": 1.0}))
    plan = make_plan(rebaked(once), JOY, steering(None, {"joy": 0.5}))
    assert (plan.effect.recipe, plan.effect.steers) == ("1.5 x joy", True)
    card = next(file for file in plan.files if file.name == "README.md").data.decode()
    assert "steered: 1.5 x joy" in card and "1. 1 x joy (set `ev`)\n2. 0.5 x joy (set `ev`)" in card


def test_an_adapter_that_undoes_its_base_is_refused():
    once = make_plan(checkpoint(), JOY, steering(None, {"joy": 1.0}))
    with pytest.raises(InputError, match="the base again"):
        make_adapter_plan(rebaked(once), JOY, steering(None, {"joy": -1.0}))


@pytest.mark.parametrize("maker", [make_plan, make_adapter_plan])
def test_a_destroyed_model_is_refused_unless_it_is_forced(maker):
    for weight in (10.0, -12.0, 1e30):
        with pytest.raises(InputError, match=r"strength .* at layer 0: .*destroys the model.*only `force`"):
            maker(checkpoint(dtype="BF16"), JOY, steering(None, {"joy": weight}))
        plan = maker(checkpoint(dtype="BF16"), JOY, steering(None, {"joy": weight}), force=True)
        assert any("at 4 most models collapse" in warning for warning in plan.warnings)
    maker(checkpoint(), JOY, steering(None, {"joy": 9.0}))


@pytest.mark.parametrize("maker", [make_plan, make_adapter_plan])
def test_a_set_whose_own_rows_destroy_a_model_is_refused(maker):
    loud = VectorSet(("joy",), np.full((1, LAYERS, HIDDEN), 1e30, np.float32), "ev")
    with pytest.raises(InputError, match=r"a norm of .*e\+30 at layer 0 is far beyond .*only `force`"):
        maker(checkpoint(dtype="BF16"), loud, steering(None, {"joy": 1.0}))
    plan = maker(checkpoint(dtype="BF16"), loud, steering(None, {"joy": 1.0}), force=True)
    assert any("far beyond what any layer puts out" in warning for warning in plan.warnings)


def test_the_strengths_of_all_bakes_count():
    once = make_plan(checkpoint(), JOY, steering(None, {"joy": 6.0}))
    with pytest.raises(InputError, match="strength 12 at layer"):
        make_plan(rebaked(once), JOY, steering(None, {"joy": 6.0}))
    make_plan(rebaked(once), JOY, steering(None, {"joy": -3.0}))


@pytest.mark.parametrize("force", [False, True])
def test_what_overflows_the_dtype_is_always_refused(force: bool):
    large = VectorSet(("joy",), np.full((1, LAYERS, HIDDEN), 1e4, np.float32), "ev")
    with pytest.raises(InputError, match="too large for F16"):
        make_plan(checkpoint(dtype="F16"), large, steering(None, {"joy": 8.0}), force=force)
