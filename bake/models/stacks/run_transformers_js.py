"""Generate with transformers.js in Node.js, from the graph that optimum-onnx exports of the checkpoint.

A runner of `start.py`; needs optimum-onnx, as `run_optimum_onnx.py` does. The folder ``node_modules`` with the package
is the request's field of this name, or lies in the environment of this interpreter.
"""

from __future__ import annotations

import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

SCRIPT = """
import {readFileSync, writeFileSync} from "node:fs";
import {AutoModelForCausalLM, Tensor, env} from "@huggingface/transformers";
const [request, response] = process.argv.slice(-2);
const {folder, name, prompts, max_new_tokens, ends} = JSON.parse(readFileSync(request, "utf8"));
env.allowRemoteModels = false;
env.localModelPath = folder;
const model = await AutoModelForCausalLM.from_pretrained(name, {dtype: "fp32", device: "cpu"});
const out = [];
for (const prompt of prompts) {
  const shape = [1, prompt.length];
  const ids = new Tensor("int64", BigInt64Array.from(prompt.map(BigInt)), shape);
  const mask = new Tensor("int64", BigInt64Array.from(prompt.map(() => 1n)), shape);
  const result = await model.generate({
    input_ids: ids, attention_mask: mask, max_new_tokens, do_sample: false, repetition_penalty: 1, eos_token_id: ends,
  });
  out.push(result.tolist()[0].slice(prompt.length).map(Number));
}
writeFileSync(response, JSON.stringify(out));
"""


def version(request: dict[str, Any]) -> str:
    """The version of transformers.js."""
    import_module("run_optimum_onnx").version(request)
    found: str = import_module("node").version("@huggingface/transformers", request)
    return found


def answer(request: dict[str, Any]) -> list[list[int]]:
    """Generate the tokens that follow each prompt."""
    with tempfile.TemporaryDirectory(prefix="emobake-") as folder:
        model = Path(folder) / "model"
        import_module("run_optimum_onnx").export(request["checkpoint"], model)
        (model / "onnx").mkdir()
        for file in model.glob("model.onnx*"):
            file.rename(model / "onnx" / file.name)
        asked = {"folder": folder, "name": "model", "ends": request.get("eos_token_ids", [])}
        asked |= {key: request[key] for key in ("prompts", "max_new_tokens")}
        found: list[list[int]] = import_module("node").run(SCRIPT, asked, request)
        return found
