#!/usr/bin/env python3
"""Measure a bake against `cp -r` and against the plain transformers script, in one run.

    scripts/bench [--folder DIR] [--rounds N] [--head]

Every command is a process of its own; wall time, CPU time and peak memory are what the kernel says of it
(wait4). Each is run N times in turn with the others, in a random order, and the fastest run counts, for whatever
else a machine does only ever slows one down: single runs of `cp` itself differ by a factor of four, all of it in
how fast the kernel copies from memory to memory, so with few rounds a ratio says little. Needs 9 GB in the folder
for the 4 GB checkpoint and its copy; they are removed at the end. With --head only a Qwen3 of 8 GB is baked, for
llama.cpp: half of its tensors are written anew, with a key/value head more; that needs 17 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from emobake.core.vector_set import EMOTIONS, VectorSet
from emobake.vectors.formats.single_file import to_single_file
from emobake.vectors.open import open_vectors

ROOT = Path(__file__).parent.parent
SET = ROOT / "vectors" / "smollm2-135m-instruct.safetensors"
EMOBAKE = (str(Path(sys.executable).parent / "emobake"),)

# What people do today, made to work: without the config's field the biases would be lost on reloading.
PLAIN = """
import sys, torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM
base, vectors, out = sys.argv[1:]
config = AutoConfig.from_pretrained(base)
config.attention_bias = True
model = AutoModelForCausalLM.from_pretrained(base, config=config, dtype="auto")
rows = 2 * load_file(vectors)["joy"]
for layer, row in zip(model.model.layers, rows):
    attention = layer.self_attn
    attention.o_proj.bias.data = row.to(attention.o_proj.weight.dtype)
    for module in (attention.q_proj, attention.k_proj, attention.v_proj):
        module.bias.data.zero_()
model.save_pretrained(out)
"""

BIG = """
import sys, torch
from transformers import AutoConfig, AutoModelForCausalLM
torch.set_default_dtype(torch.bfloat16)
config = AutoConfig.for_model(sys.argv[2], vocab_size=32000, hidden_size=2560, intermediate_size=6912,
                              num_hidden_layers=int(sys.argv[3]), num_attention_heads=20, num_key_value_heads=20,
                              head_dim=128)
with torch.device("meta"):
    model = AutoModelForCausalLM.from_config(config)
model.to_empty(device="cpu")
for parameter in model.parameters():
    parameter.data.view(torch.int16).random_(0, 16000)
model.save_pretrained(sys.argv[1], max_shard_size="1GB")
"""

# Turn by turn, because the machine's speed changes; a second copy of the base shows the ratio of equals.
TOKENS = """
import itertools, statistics, sys, time, torch
from transformers import AutoModelForCausalLM, logging
logging.set_verbosity_error(); logging.disable_progress_bar()
base, baked = sys.argv[1:]
models = [AutoModelForCausalLM.from_pretrained(f, dtype=torch.float32) for f in (base, baked, base)]
ids = torch.arange(1, 33).reshape(1, -1)
rates = []
for turn, order in enumerate(20 * list(itertools.permutations(range(3)))):
    rates.append([0.0] * 3)
    for i in order:
        begin = time.perf_counter()
        models[i].generate(ids, do_sample=False, temperature=None, top_p=None, top_k=None,
                           min_new_tokens=16, max_new_tokens=16)
        rates[-1][i] = 16 / (time.perf_counter() - begin)
rates = rates[6:]
print(*(statistics.median(rate[i] / rate[0] for rate in rates) for i in (1, 2)))
"""


@dataclass(frozen=True)
class Cost:
    """Seconds of wall and CPU time, and peak resident memory in MB."""

    wall: float
    cpu: float
    memory: float


# The kernel counts the parent's memory as a child's until that has started its program, so a small one starts it.
LAUNCH = """
import os, sys, time
begin = time.perf_counter()
process = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(process, 0)
print(time.perf_counter() - begin, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, status)
"""


def measure(command: tuple[str, ...], out: Path | None = None) -> Cost:
    if out is not None:
        shutil.rmtree(out, ignore_errors=True)
    os.sync()  # the last one's writing back is not this one's
    launcher = (sys.executable, "-I", "-S", "-c", LAUNCH, str(shutil.which(command[0])), *command[1:])
    done = subprocess.run(launcher, capture_output=True, text=True, check=True)
    *cost, status = done.stdout.split()[-4:]
    if status != "0":
        raise SystemExit(f"failed: {' '.join(command)}: {done.stderr[-500:]}")
    return Cost(*map(float, cost))


def fastest(costs: list[Cost]) -> Cost:
    return Cost(min(c.wall for c in costs), min(c.cpu for c in costs), max(c.memory for c in costs))


def compare(base: Path, vectors: Path, folder: Path, rounds: int, *, head: bool = False) -> dict[str, Cost]:
    out = folder / "out"
    bake = (*EMOBAKE, "--model", str(base), "--vectors", str(vectors), "--times", "0", "0", "0", "2", "0", "-q")
    commands = {
        "cp -r": ("cp", "-r", str(base), str(out)),
        # A bake syncs what it writes before it takes the place of an older output; cp never does.
        "cp -r, synced": ("sh", "-c", 'cp -r "$0" "$1" && sync "$1"/* "$1"', str(base), str(out)),
        "emobake, copy": (*bake, "--out", str(out), "--link-mode", "copy"),
        "emobake, hardlink": (*bake, "--out", str(out), "--link-mode", "hardlink"),
        "transformers script": (sys.executable, "-c", PLAIN, str(base), str(vectors), str(out)),
    }
    if head:
        del commands["emobake, hardlink"], commands["transformers script"]
        commands["emobake, copy"] = (*bake, "--out", str(out), "--targets", "llama.cpp")
    costs: dict[str, list[Cost]] = {name: [] for name in commands}
    shuffle = random.Random(0)
    for _ in range(rounds):
        # What ran before decides which memory the page cache gets: nobody always comes after the same one.
        for name in shuffle.sample(list(commands), len(commands)):
            costs[name].append(measure(commands[name], out))
    shutil.rmtree(out)
    return {name: fastest(found) for name, found in costs.items()}


def random_vectors(path: Path, layers: int, hidden: int) -> None:
    rows = np.random.default_rng(0).normal(0, 0.01, (len(EMOTIONS), layers, hidden)).astype(np.float32)
    path.write_bytes(to_single_file(VectorSet(EMOTIONS, rows)))


def sparse_405b(folder: Path) -> None:
    """A checkpoint of the dimensions of Llama-3.1-405B: real headers, and data that takes no disk."""
    hidden, layers, kv, mlp, vocabulary, shards = 16384, 126, 1024, 53248, 128256, 191
    shapes = {"model.embed_tokens": (vocabulary, hidden), "lm_head": (vocabulary, hidden)}
    for i in range(layers):
        attention = {"q_proj": hidden, "k_proj": kv, "v_proj": kv, "o_proj": hidden}
        shapes |= {f"model.layers.{i}.self_attn.{m}": (outputs, hidden) for m, outputs in attention.items()}
        shapes |= {f"model.layers.{i}.mlp.{m}": (mlp, hidden) for m in ("gate_proj", "up_proj")}
        shapes[f"model.layers.{i}.mlp.down_proj"] = (hidden, mlp)
    folder.mkdir()
    weight_map = {}
    for number in range(shards):
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        header, position = {}, 0
        for name in list(shapes)[number::shards]:
            end = position + 2 * shapes[name][0] * shapes[name][1]
            header[f"{name}.weight"] = {"dtype": "BF16", "shape": shapes[name], "data_offsets": [position, end]}
            weight_map[f"{name}.weight"] = file
            position = end
        text = json.dumps(header).encode()
        with (folder / file).open("wb") as stream:
            stream.write(len(text).to_bytes(8, "little") + text)
            stream.truncate(8 + len(text) + position)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "torch_dtype": "bfloat16"}
    config |= {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": 128}
    (folder / "config.json").write_text(json.dumps(config | {"num_key_value_heads": 8, "vocab_size": vocabulary}))


def size(folder: Path) -> float:
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=None, help="where to work (default: a temporary folder)")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--head", action="store_true", help="only a bake that adds a key/value head")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        (run_head if options.head else run)(Path(name), options.rounds)


def run_head(folder: Path, rounds: int) -> None:
    base, vectors = folder / "random-qwen3", folder / "big.safetensors"
    subprocess.run((sys.executable, "-c", BIG, str(base), "qwen3", "48"), check=True, capture_output=True)
    random_vectors(vectors, 48, 2560)
    table = Table("checkpoint", "command", "wall s", "of cp", "CPU s", "of cp", "peak MB")
    add_rows(table, base, compare(base, vectors, folder, rounds, head=True))
    Console(width=120).print(table)


def add_rows(table: Table, base: Path, costs: dict[str, Cost]) -> None:
    cp = costs["cp -r"]
    for name, cost in costs.items():
        table.add_row(
            f"{base.name} ({size(base):.2f} GB)",
            name,
            f"{cost.wall:.2f}",
            f"{cost.wall / cp.wall:.2f}",
            f"{cost.cpu:.2f}",
            f"{cost.cpu / cp.cpu:.2f}",
            f"{cost.memory:.0f}",
        )


def run(folder: Path, rounds: int) -> None:
    small, big = folder / "SmolLM2-135M-Instruct", folder / "random-4GB"
    for command in (
        (sys.executable, str(ROOT / "scripts" / "make_smollm2.py"), str(small)),
        (sys.executable, "-c", BIG, str(big), "llama", "24"),
    ):
        subprocess.run(command, check=True, capture_output=True)
    vectors = folder / "big.safetensors"
    random_vectors(vectors, 24, 2560)
    demo = folder / "demo.safetensors"
    demo.write_bytes(to_single_file(replace(open_vectors(SET, EMOTIONS), base_model="")))
    console = Console(width=120)
    table = Table("checkpoint", "command", "wall s", "of cp", "CPU s", "of cp", "peak MB")
    for base, vector_file in ((small, demo), (big, vectors)):
        add_rows(table, base, compare(base, vector_file, folder, rounds))
    huge = folder / "405B"
    sparse_405b(huge)
    random_vectors(vectors, 126, 16384)
    out = folder / "out"
    bake = (*EMOBAKE, "--model", str(huge), "--vectors", str(vectors), "--times", *"11111", "--out", str(out), "-q")
    cost = fastest([measure((*bake, "--link-mode", "hardlink"), out) for _ in range(rounds)])
    name = f"{huge.name} ({size(huge):.0f} GB, sparse)"
    table.add_row(name, "emobake, hardlink", f"{cost.wall:.2f}", "", f"{cost.cpu:.2f}", "", f"{cost.memory:.0f}")
    console.print(table)
    helps = fastest([measure((*EMOBAKE, "--help")) for _ in range(rounds + 1)])
    bare = fastest([measure((sys.executable, "-c", "pass")) for _ in range(rounds + 1)])
    console.print(f"emobake --help: {helps.wall:.3f} s (python -c pass: {bare.wall:.3f} s)")
    shutil.rmtree(out)
    measure((*EMOBAKE, "--model", str(small), "--vectors", str(demo), "--mix", "joy=2", "--out", str(out), "-q"))
    tokens = subprocess.run(
        (sys.executable, "-c", TOKENS, str(small), str(out)), check=True, capture_output=True, text=True
    )
    baked, control = map(float, tokens.stdout.split()[-2:])
    console.print(f"tokens/s in transformers, of the base's: baked {baked:.3f} (the base again: {control:.3f})")


if __name__ == "__main__":
    main()
