"""Generate with node-llama-cpp in Node.js, from a GGUF file, or from a checkpoint that llama.cpp's converter converts.

A runner of `start.py`. The folder ``node_modules`` with the package is the request's field of this name, or lies in the
environment of this interpreter. The converter is found as `run_llama_cpp.py` finds it.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

SCRIPT = """
import {readFileSync, writeFileSync} from "node:fs";
import {getLlama} from "node-llama-cpp";
process.execArgv.splice(0); // It tries its binary in a process that inherits them.
const [request, response] = process.argv.slice(-2);
const {gguf, prompts, max_new_tokens} = JSON.parse(readFileSync(request, "utf8"));
const llama = await getLlama({gpu: false, build: "never", progressLogs: false});
const model = await llama.loadModel({modelPath: gguf});
const size = Math.max(...prompts.map((prompt) => prompt.length)) + max_new_tokens + 64;
const out = [];
for (const prompt of prompts) {
  const context = await model.createContext({contextSize: size, threads: llama.cpuMathCores});
  const ids = typeof prompt === "string" ? model.tokenize(prompt) : prompt;
  const tokens = [];
  for await (const token of context.getSequence().evaluate(ids, {temperature: 0, yieldEogToken: true})) {
    if (model.isEogToken(token)) break;
    tokens.push(token);
    if (tokens.length >= max_new_tokens) break;
  }
  out.push(tokens);
  await context.dispose();
}
writeFileSync(response, JSON.stringify(out));
process.exit(0);
"""


def version(request: dict[str, Any]) -> str:
    """The version of node-llama-cpp."""
    found: str = import_module("node").version("node-llama-cpp", request)
    llama_cpp = import_module("run_llama_cpp")
    if not llama_cpp.is_gguf(request):
        llama_cpp.find_converter(request.get("converter"))
    return found


def answer(request: dict[str, Any]) -> list[list[int]]:
    """Generate the tokens that follow each prompt."""
    with import_module("run_llama_cpp").as_gguf(request) as gguf:
        asked = {"gguf": str(gguf), **{key: request[key] for key in ("prompts", "max_new_tokens")}}
        found: list[list[int]] = import_module("node").run(SCRIPT, asked, request)
        return found
