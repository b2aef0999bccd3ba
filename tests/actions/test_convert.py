"""Checkpoints into GGUF files, with a stand-in for llama.cpp's converter; cross-stack tests run the real one."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from support.checkpoints import read_tensors, write_checkpoint
from support.gguf_files import HEAD, HEADS, HIDDEN, LAYERS, fields_of, tensors_of, write_model
from support.templates import CHATML

from emobake import (
    GgufFile,
    InputError,
    OutputError,
    UnsupportedModelError,
    VectorSet,
    bake,
    bake_persona,
    recipe_of,
    unbake,
)
from emobake.actions.verify import verify
from emobake.core.bounds import Bounds
from emobake.core.persona_table import persona_of
from emobake.formats.system_prompt import assuming
from emobake.vectors.write import write_set

ROWS = np.random.default_rng(5).normal(0, 0.3, (1, LAYERS, HIDDEN)).astype(np.float32)
SET = VectorSet(("joy",), ROWS, "tiny")

# Writes the biases that it finds in the checkpoint, beside weights of its own.
SCRIPT = """\
import pathlib, sys
sys.path[:0] = {path!r}
import ml_dtypes, numpy as np
from safetensors.numpy import load_file
from support.gguf_files import Kind, write_model
folder, _, out, _, outtype = sys.argv[1:]
print("INFO: converting")
found = {{}}
for file in sorted(pathlib.Path(folder).glob("*.safetensors")):
    for name, values in load_file(file).items():
        if name.endswith("o_proj.bias"):
            found[f"blk.{{name.split('.')[2]}}.attn_output.bias"] = values.astype(np.float32)
{more}
write_model(pathlib.Path(out), kind=Kind[outtype.upper() if outtype != "auto" else "BF16"], biases=found)
"""


@pytest.fixture
def converter(tmp_path):
    """Makes a converter, with a line of its own."""

    def make(more: str = "") -> str:
        script = tmp_path / "convert_hf_to_gguf.py"
        script.write_text(SCRIPT.format(path=[*sys.path, str(Path(__file__).parent)], more=more))
        return str(script)

    return make


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    return write_checkpoint(tmp_path / "model", layers=LAYERS, hidden=HIDDEN, extra_files=False)


def left(tmp_path: Path) -> list[str]:
    return sorted(p.name for p in tmp_path.iterdir() if "gguf" in p.name and p.name != "convert_hf_to_gguf.py")


def test_the_biases_are_float32_and_the_record_goes_along(checkpoint, converter, tmp_path, cli):
    write_set(SET, tmp_path / "v.safetensors")
    some = ("--model", checkpoint, "--vectors", tmp_path / "v.safetensors", "--mix", "joy=2", "--base-model", "o/tiny")
    out = tmp_path / "out.gguf"
    ran = cli(*some, "--out", out, "--outtype", "q8_0", "--converter", converter(), "--modelfile").ok()
    assert left(tmp_path) == ["out.gguf"] and (tmp_path / "out.Modelfile").is_file()
    assert "emobake verify" in ran.out and "INFO" not in ran.out + ran.err
    found = tensors_of(out)
    for layer in range(LAYERS):
        kind, _, data = found[f"blk.{layer}.attn_output.bias"]
        assert kind == "F32" and data == (2 * ROWS[0, layer]).tobytes(), "not what 16 bits leave of it"
    assert found["output.weight"][0] == "Q8_0"
    assert fields_of(out)["general.base_model.0.repo_url"] == "https://huggingface.co/o/tiny"
    checks = verify(str(out), base=str(checkpoint), vectors=str(tmp_path / "v.safetensors"))
    assert all(check.ok is not False for check in checks)
    assert [check.ok for check in checks if check.name == "arithmetic"] == [True]
    assert "Baked: 2 x joy" in cli("show", out).ok().out
    ran = cli("unbake", out, "--out", tmp_path / "base.gguf")
    ran.one_line("because llama.cpp's converter made it of a checkpoint that was baked; take o/tiny as it is")


def test_a_persona_has_its_voice_in_the_converted_file(checkpoint, converter, tmp_path):
    (checkpoint / "chat_template.jinja").write_text(CHATML)
    data = {"mix": {"joy": 2}, "system_prompt": "Be kind.", "sampling": {"top_k": 7}, "name": "tiny"}
    data |= {"outputs": [{"gguf": "out.gguf", "outtype": "q8_0", "modelfile": True}, {"folder": "out"}]}
    persona, more = persona_of(data, "x"), f"CHAT = {CHATML!r}"
    script = converter(more)
    Path(script).write_text(Path(script).read_text().replace("biases=found)", "biases=found, template=CHAT)"))
    done = bake_persona(persona, model=checkpoint, vectors=SET, out=tmp_path, converter=script)
    found = fields_of(tmp_path / "out.gguf")
    assert found["tokenizer.chat_template"] == assuming(CHATML, "Be kind.") and found["general.sampling.top_k"] == 7
    assert 'SYSTEM """Be kind."""' in (tmp_path / "out.Modelfile").read_text()
    assert all(check.ok is not False for check in verify(str(tmp_path / "out.gguf"), base=str(checkpoint)))
    assert not any("SYSTEM PROMPT" in warning for one in done.outputs for warning in one.result.plan.warnings)
    recipe = recipe_of(tmp_path / "out.gguf")
    assert recipe.persona.outputs[0].data == {"gguf": "out.gguf", "outtype": "q8_0", "modelfile": True}
    (tmp_path / "again.yaml").write_text(recipe.text)
    again = tmp_path / "again"
    bake_persona(tmp_path / "again.yaml", model=checkpoint, vectors=SET, out=again, converter=script)
    for name in ("out.gguf", "out.Modelfile"):
        assert (again / name).read_bytes() == (tmp_path / name).read_bytes()


def test_a_bias_that_the_converter_drops_is_not_published(checkpoint, converter, tmp_path):
    with pytest.raises(UnsupportedModelError, match=r"has made no blk.0.attn_output.bias.*UNSTEERED"):
        bake(checkpoint, SET, mix={"joy": 1}, out=GgufFile(tmp_path / "o.gguf", converter=converter("found.clear()")))
    with pytest.raises(InputError, match=r"blk.1.attn_output.bias is not the one that was baked"):
        wrong = "found['blk.1.attn_output.bias'] = -found['blk.1.attn_output.bias']"
        bake(checkpoint, SET, mix={"joy": 1}, out=GgufFile(tmp_path / "o.gguf", converter=converter(wrong)))
    assert left(tmp_path) == []


def test_a_converter_that_fails(checkpoint, converter, tmp_path):
    with pytest.raises(OutputError, match="failed: no such architecture; nothing was kept"):
        bake(
            checkpoint,
            SET,
            mix={"joy": 1},
            out=GgufFile(tmp_path / "o.gguf", converter=converter("sys.exit('no such architecture')")),
        )
    assert left(tmp_path) == []


def test_no_converter(checkpoint, tmp_path, monkeypatch, cli):
    write_set(SET, tmp_path / "v.safetensors")
    monkeypatch.setenv("PATH", str(tmp_path))
    some = ("--model", checkpoint, "--vectors", tmp_path / "v.safetensors", "--mix", "joy=2", "--out")
    cli(*some, tmp_path / "o.gguf").one_line("converter", "git clone", "--converter")
    cli(*some, tmp_path / "o.gguf", "--converter", "nosuch").one_line("nosuch", "found")
    assert left(tmp_path) == []


def test_a_dry_run_converts_nothing(checkpoint, converter, tmp_path):
    more = converter("sys.exit('ran')")
    result = bake(checkpoint, SET, mix={"joy": 1}, out=GgufFile(tmp_path / "o.gguf", converter=more), dry_run=True)
    assert result.plan.route == "flag" and result.out is None and left(tmp_path) == []


def test_an_existing_bias_stays_as_the_converter_wrote_it(tmp_path, converter):
    base = write_checkpoint(tmp_path / "model", layers=LAYERS, hidden=HIDDEN, bias=True, dtype="F32")
    bake(base, SET, mix={"joy": 1}, out=GgufFile(tmp_path / "o.gguf", converter=converter()))
    old = np.frombuffer(read_tensors(base)["model.layers.1.self_attn.o_proj.bias"][2], np.float32)
    data = tensors_of(tmp_path / "o.gguf")["blk.1.attn_output.bias"][2]
    np.testing.assert_allclose(np.frombuffer(data, np.float32), old + ROWS[0, 1], rtol=1e-6)


@pytest.fixture
def olmo(tmp_path) -> Path:
    """A checkpoint of a family whose every form llama.cpp drops."""
    own = {"model_type": "olmo2", "architectures": ["Olmo2ForCausalLM"], "auto_map": {"AutoConfig": "x.C"}}
    base = write_checkpoint(tmp_path / "model", layers=LAYERS, hidden=HIDDEN, **own)
    (base / "x.py").write_text("code")
    return base


@pytest.fixture
def converted(tmp_path) -> VectorSet:
    """Writes the file that the converter makes of it; rows that some values make there, as extracted ones are."""
    held, draw = write_model(tmp_path / "made", "qwen2moe", qkv_bias=False), np.random.default_rng(2)
    values = draw.normal(0, 0.5, (LAYERS, HEADS * HEAD)).astype(np.float32)
    rows = [held[f"blk.{layer}.attn_output.weight"] @ values[layer] for layer in range(LAYERS)]
    return VectorSet(("joy",), np.array([rows], np.float32), "tiny")


COPY = "import shutil; shutil.copy({path!r}, out); sys.exit(0)"
CODE = "sys.exit(f'code: {sorted(p.name for p in pathlib.Path(folder).iterdir())}')"


def test_a_family_that_llama_cpp_drops_is_converted_first(olmo, converted, converter, tmp_path, cli):
    made = converter(COPY.format(path=str(tmp_path / "made")))
    plan = bake(olmo, converted, mix={"joy": 1}, out=GgufFile(tmp_path / "o.gguf", converter=made)).plan
    assert plan.route == "value" and plan.form == "gguf" and left(tmp_path) == ["o.gguf"]
    assert [weight.name for weight in plan.record.base.weights] == ["model.safetensors"]
    checks = verify(str(tmp_path / "o.gguf"), base=str(olmo), vectors=converted)
    assert all(check.ok is not False for check in checks), checks
    assert [check.ok for check in checks if check.name == "arithmetic"] == [True]
    assert "Baked: 1 x joy" in cli("show", tmp_path / "o.gguf").ok().out
    found = unbake(tmp_path / "o.gguf", tmp_path / "again.gguf")
    assert (tmp_path / "again.gguf").read_bytes() == (tmp_path / "made").read_bytes()
    assert found.unproved == ("again.gguf",) and "the file that llama.cpp's converter made" in found.notes[0]
    bake(tmp_path / "o.gguf", converted, mix={"joy": 0.5}, out=tmp_path / "two.gguf")
    assert unbake(tmp_path / "two.gguf", tmp_path / "a.gguf").bakes == 2
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "made").read_bytes()


def test_a_file_that_is_converted_first_is_held_to_its_bounds(olmo, converted, converter, tmp_path):
    made = converter(COPY.format(path=str(tmp_path / "made")))
    (tmp_path / "report.json").write_text('{"receipt": {"weights": [], "directions": []}}')
    bounds = {"report": tmp_path, "bounds": Bounds(max_kl=0.1)}
    with pytest.raises(InputError, match="does not tell of 1 x joy"):
        bake(olmo, converted, mix={"joy": 1}, out=GgufFile(tmp_path / "o.gguf", converter=made), **bounds)
    assert left(tmp_path) == []


def test_the_converter_does_not_get_code(olmo, converted, converter, tmp_path):
    with pytest.raises(OutputError, match=r"code: \[.*'config.json', .*'model.safetensors'") as error:
        bake(olmo, converted, mix={"joy": 1}, out=GgufFile(tmp_path / "o.gguf", converter=converter(CODE)))
    assert "x.py" not in str(error.value) and left(tmp_path) == []


def test_what_cannot_be_converted_first(olmo, converted, converter, tmp_path):
    out = GgufFile(tmp_path / "o.gguf", converter=converter("sys.exit('ran')"))
    with pytest.raises(InputError, match="`dry_run` cannot plan that"):
        bake(olmo, converted, mix={"joy": 1}, out=out, dry_run=True)
    with pytest.raises(InputError, match="made for 3 layers"):
        bake(olmo, VectorSet(("joy",), np.ones((1, 3, HIDDEN), np.float32)), mix={"joy": 1}, out=out)
    bake(olmo, converted, mix={"joy": 1}, out=tmp_path / "baked")
    with pytest.raises(InputError, match=r"was baked before, in a form that llama\.cpp drops"):
        bake(tmp_path / "baked", converted, mix={"joy": 1}, out=out)
    assert left(tmp_path) == []


def test_the_way_to_such_a_file_is_said(olmo, converted, tmp_path, cli):
    write_set(converted, tmp_path / "v.safetensors")
    some = ("--model", olmo, "--vectors", tmp_path / "v.safetensors", "--mix", "joy=2", "--out", tmp_path / "o")
    cli(*some, "--targets", "llama.cpp").one_line("--targets", "give an --out that ends in .gguf")
    assert "For llama.cpp: --out NAME.gguf takes the route value" in cli(*some, "--dry-run").ok().out
    found = json.loads(cli(*some, "--dry-run", "--json").ok().out)["other_targets"]
    assert found == {"llama.cpp": {"route": "value", "in_gguf": True}}
