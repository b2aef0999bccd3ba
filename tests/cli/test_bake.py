"""The command line when all is well: what it prints, where, and what it leaves on the disk."""

import json
from dataclasses import replace

from support.running import TIMES

import emobake
from emobake.core.strengths import Strength
from emobake.vectors.open import open_vectors
from emobake.vectors.write import write_set


def test_the_summary_names_route_stacks_files_and_next_commands(cli, base, vectors, tmp_path):
    ran = cli("--model", base, "--vectors", vectors, *TIMES, "--out", tmp_path / "out").ok()
    for words in ("0.5 x anger + 0.5 x joy", "flag", "attention_bias", "vllm", "loads steered", "Left out:", "Next:"):
        assert words in ran.out, words
    for duplicate in ("pytorch_model.bin", "original/", "onnx/"):
        assert duplicate in ran.out
    assert f"emobake verify {tmp_path / 'out'}" in ran.out
    assert ran.err == ""


def test_a_dry_run_prints_the_plan_and_writes_nothing(cli, base, vectors, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    ran = cli("--model", base, "--vectors", vectors, *TIMES, "--out", tmp_path / "out", "--dry-run").ok()
    assert ran.out.startswith("Planned: 0.5 x anger + 0.5 x joy") and "Next:" not in ran.out
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_needs_no_output(cli, base, vectors):
    cli("--model", base, "--vectors", vectors, *TIMES, "--dry-run").ok()


def test_json_is_all_that_stands_on_stdout(cli, base, vectors, tmp_path):
    ran = cli("--model", base, "--vectors", vectors, "--mix", "joy=9", "--out", tmp_path / "out", "--json").ok()
    summary = json.loads(ran.out)
    assert (summary["route"], summary["weights"]) == ("flag", {"joy": 9.0})
    evidence = "seen with a llama model in vLLM 0.32.0; this one was not run"
    assert summary["stacks"]["vllm"] == {"status": "steered", "run": True, "evidence": evidence}
    assert (summary["total"], summary["steers"]) == ("9 x joy", True)
    assert summary["config_changes"] == {"attention_bias": {"old": False, "new": True}}
    assert {f["action"] for f in summary["files"]} == {"carry", "write"}
    assert summary["left_out"]["pytorch_model.bin"] == "unsteered duplicate of the weights"
    assert "strength 9" in ran.err and "Warning" in ran.err
    assert summary["warnings"]


def test_the_sum_of_all_bakes_stands_in_the_summary_and_in_show(cli, base, vectors, tmp_path):
    def bake(model, weight, name, *options):
        return cli("--model", model, "--vectors", vectors, "--mix", f"joy={weight}", "--out", tmp_path / name, *options)

    bake(base, 1, "once").ok()
    for ran in (bake(tmp_path / "once", 0.5, "more").ok(), cli("show", tmp_path / "more").ok()):
        assert ran.out.startswith("Baked: 1.5 x joy, all bakes together\n")
        assert "2 of 2 changed by the last bake, by norms" in ran.out and "steered, bias norms" not in ran.out
    for ran in (bake(tmp_path / "once", -1, "none", "--force").ok(), cli("show", tmp_path / "none").ok()):
        assert ran.out.startswith("Baked: nothing (this is the base again)\n")
    bake(base, 0, "zero", "--force").ok()
    assert cli("show", tmp_path / "zero").ok().out.startswith("Baked: nothing (it behaves as its base)\n")


def test_quiet_prints_nothing_and_verbose_names_files(cli, base, vectors, tmp_path):
    assert cli("--model", base, "--vectors", vectors, *TIMES, "--out", tmp_path / "a", "-q").ok().out == ""
    ran = cli("--model", base, "--vectors", vectors, *TIMES, "--out", tmp_path / "b", "-v").ok()
    assert "carry     tokenizer.json" in ran.out and "write     config.json" in ran.out


def test_a_stack_that_would_load_it_unsteered_cannot_be_missed(cli, tmp_path, vectors, base):
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(
        json.dumps({**config, "model_type": "qwen3_next", "architectures": ["Qwen3NextForCausalLM"]})
    )
    ran = cli("--model", base, "--vectors", vectors, *TIMES, "--dry-run").ok()
    lines = {line.split()[0]: line for line in ran.out.splitlines() if line.startswith("  ")}
    assert "would load UNSTEERED" in lines["vllm"]
    assert "refuses to load it" in lines["llama.cpp"]


def test_negative_weights_and_layers(cli, base, vectors, tmp_path):
    times = ("--times", "-1", "0", "0", "-0.5", "2")
    ran = cli(
        "--model", base, "--vectors", vectors, *times, "--layers", "1", "--scale", "0.5", "--out", tmp_path / "out"
    )
    assert "0.5 x (-1 x anger + -0.5 x joy + 2 x sadness)" in ran.ok().out
    record = json.loads((tmp_path / "out" / "emobake.json").read_text())
    assert [b["norm"] > 0 for b in record["biases"]] == [False, True]


def test_version_and_the_module(run_cli):
    assert run_cli("--version").ok().out.strip() == f"emobake, version {emobake.__version__}"


def test_usage_errors_are_one_line(cli):
    cli().one_line("--model")
    cli("--model", "x").one_line("--out")
    cli("--nonsense").one_line("--nonsense")
    cli("--times", "1", "2").one_line("--times")
    cli("verify").one_line("OUT")


def test_debug_shows_the_traceback(run_cli, tmp_path):
    ran = run_cli("--debug", "--model", tmp_path / "none", "--vectors", tmp_path, *TIMES, "--out", tmp_path / "out")
    assert ran.code != 0 and "Traceback" in ran.err


def test_verify_prints_one_line_per_finding(cli, base, vectors, tmp_path):
    cli("--model", base, "--vectors", vectors, *TIMES, "--out", tmp_path / "out", "-q").ok()
    ran = cli("verify", tmp_path / "out", "--base", base, "--vectors", vectors).ok()
    assert {line.split()[0] for line in ran.out.splitlines()} == {"ok"}
    checks = json.loads(cli("verify", tmp_path / "out", "--json").ok().out)
    assert {c["name"] for c in checks if c["ok"] is None} == {"carried weights", "arithmetic"}
    (tmp_path / "out" / "pytorch_model.bin").write_bytes(b"x")
    ran = cli("verify", tmp_path / "out", "-q")
    assert ran.code == 1 and ran.out.startswith("FAIL no other files: pytorch_model.bin")


def test_verify_of_something_else(cli, base, tmp_path):
    cli("verify", base).one_line("emobake.json", "not an output of emobake")
    cli("verify", tmp_path / "none").one_line("no such folder")


def test_the_sum_of_all_bakes_is_the_headline(cli, base, vectors, tmp_path):
    some = ("--vectors", vectors, "--mix")
    cli("--model", base, *some, "joy=1", "--out", tmp_path / "one", "-q").ok()
    ran = cli("--model", tmp_path / "one", *some, "joy=0.5", "--out", tmp_path / "two").ok()
    assert ran.out.startswith("Baked: 1.5 x joy, all bakes together\n")
    assert "before     1 x joy" in ran.out and "this bake  0.5 x joy" in ran.out
    shown = cli("show", tmp_path / "two").ok().out
    assert shown.startswith("Baked: 1.5 x joy, all bakes together\n")
    assert "before" in shown and "last     0.5 x joy" in shown


def test_the_base_again_is_refused_and_said(cli, base, vectors, tmp_path):
    some = ("--vectors", vectors, "--mix")
    cli("--model", base, *some, "joy=1", "--out", tmp_path / "one", "-q").ok()
    undo = ("--model", tmp_path / "one", *some, "joy=-1", "--out", tmp_path / "two")
    cli(*undo).one_line("1 x joy, then -1 x joy add up to nothing", "the base again", "--force writes it anyway")
    assert not (tmp_path / "two").exists()
    ran = cli(*undo, "--force").ok()
    assert ran.out.startswith("Baked: nothing (this is the base again)\n") and "loads steered" not in ran.out
    assert "the result is the base again" in ran.err
    summary = json.loads(cli(*undo[:-1], tmp_path / "three", "--force", "--json").ok().out)
    assert (summary["total"], summary["steers"]) == ("nothing", False)
    assert "Baked: nothing" in cli("show", tmp_path / "two").ok().out
    assert "FAIL" not in cli("verify", tmp_path / "two", "--base", tmp_path / "one", "--vectors", vectors).ok().out


def test_a_destroyed_model_needs_force(cli, base, vectors, tmp_path):
    some = ("--model", base, "--vectors", vectors, "--mix", "joy=1e30", "--out", tmp_path / "out")
    cli(*some).one_line("strength 1e+30", "destroys the model", "--force")
    ran = cli(*some, "--force").ok()
    assert "strength" in ran.err


def test_auto_bakes_at_the_strength_that_the_set_tells(cli, base, vectors, tmp_path):
    known = {"joy": Strength(0.8, "emobake eval ...", 0.31, 0.02)}
    write_set(replace(open_vectors(vectors), strengths=known), tmp_path / "known.safetensors", overwrite=True)
    words = ("--model", base, "--vectors", tmp_path / "known.safetensors", "--mix", "joy=1")
    said = cli(*words, "--auto", "--out", tmp_path / "said").ok().err
    line = "joy at its measured strength 0.8 (KL 0.31 nats, 2.0% of the answers collapsed); by emobake eval ..."
    assert line in said.splitlines(), "a plain line: the choice is no warning"
    words += ("--json",)
    ran = cli(*words, "--auto", "--out", tmp_path / "auto").ok()
    assert json.loads(ran.out)["scale"] == 0.8 and line not in ran.err
    cli(*words, "--scale", "0.8", "--out", tmp_path / "named").ok()
    auto, named = (
        [file.read_bytes() for file in sorted((tmp_path / name).glob("*.safetensors"))] for name in ("auto", "named")
    )
    assert auto == named != []
    cli(*words, "--auto", "--scale", "2", "--dry-run").one_line("leave --scale out")
    unknown = ("--model", base, "--vectors", vectors, "--mix", "joy=1", "--auto", "--out", tmp_path / "no")
    cli(*unknown).one_line("tells no measured strength for joy")
    assert not (tmp_path / "no").exists()
    emobake.bake(base, tmp_path / "known.safetensors", mix={"joy": 2}, scale="auto", out=tmp_path / "python")
    assert emobake.read_record(tmp_path / "python").steering.scale == 0.4
