"""The voice of a persona where it is served: llama.cpp's own server, and vLLM's look at the chat template.

Needs the environments of ``scripts/envs``.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from support import gguf_files
from support.checkpoints import write_vectors
from support.stacks import interpreter
from support.templates import CHATML, PARTS

import emobake
from emobake.core.persona_table import persona_of
from emobake.formats.system_prompt import assuming

pytestmark = pytest.mark.cross

PROMPT = 'You\'re "it" \\ {% x %} \U0001f600 \u00e9.\nSecond line.'
SERVE = """
import json, sys, urllib.request, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.n_parallel, params.warmup = sys.argv[1], 512, 1, False
server = xllamacpp.Server(params)
def post(messages):
    data, head = json.dumps({"messages": messages}).encode(), {"Content-Type": "application/json"}
    asked = urllib.request.Request(server.listening_address + "/apply-template", data, head)
    return json.loads(urllib.request.urlopen(asked).read())["prompt"]
settings = json.loads(urllib.request.urlopen(server.listening_address + "/props").read())
own = settings["default_generation_settings"]
print("ANSWER" + json.dumps([[post(each) for each in json.loads(sys.argv[2])], own.get("params", own)]))
"""
FORMAT = """
import json, sys
from vllm.renderers.hf import _detect_content_format
print("ANSWER" + json.dumps([_detect_content_format(each, default="string") for each in json.loads(sys.argv[1])]))
"""


def answer(python: Path, code: str, *arguments: object) -> object:
    done = subprocess.run(
        [python, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=True, timeout=300
    )
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("ANSWER"))[6:])


def test_llama_cpp_assumes_the_prompt_and_takes_the_defaults(tmp_path):
    gguf_files.write_model(tmp_path / "base.gguf", template=CHATML)
    vectors = write_vectors(tmp_path / "ev", layers=gguf_files.LAYERS, hidden=gguf_files.HIDDEN)
    sampling = {"temperature": 0.25, "top_k": 7, "top_p": 0.75, "repetition_penalty": 1.25}
    data = {"mix": {"joy": 1}, "system_prompt": PROMPT, "sampling": sampling, "outputs": [{"gguf": "out.gguf"}]}
    emobake.bake_persona(persona_of(data, "x"), model=tmp_path / "base.gguf", vectors=vectors, out=tmp_path)
    user, own = {"role": "user", "content": "Hello?"}, {"role": "system", "content": "Be terse."}
    talks = [[user], [own, user], [user, {"role": "assistant", "content": "Hi."}, user]]
    said, settings = answer(interpreter("gguf"), SERVE, tmp_path / "out.gguf", json.dumps(talks))
    turn = "<|im_start|>user\nHello?<|im_end|>\n"
    head, tail = f"<|im_start|>system\n{PROMPT}<|im_end|>\n{turn}", "<|im_start|>assistant\n"
    assert said == [
        f"{head}{tail}",
        f"<|im_start|>system\nBe terse.<|im_end|>\n{turn}{tail}",
        f"{head}{tail}Hi.<|im_end|>\n{turn}{tail}",
    ]
    found = [settings[name] for name in ("temperature", "top_k", "top_p", "repeat_penalty")]
    assert found == [0.25, 7, 0.75, 1.25]


def test_vllm_takes_the_content_in_the_same_form():
    templates = [CHATML, assuming(CHATML, PROMPT), PARTS, assuming(PARTS, PROMPT, "parts")]
    forms = answer(interpreter("vllm"), FORMAT, json.dumps(templates))
    assert forms[0] == forms[1] == "string" and forms[2] == forms[3] == "openai"
