"""llama.cpp within this process, by one of its bindings for Python: a prompt in, steps of an answer out.

`xllamacpp` (read and run: 2026.10.11549) is llama.cpp's own server. It also listens on a port of this machine alone,
where a key is asked for that nobody has. `llama_cpp` (llama-cpp-python, 0.3.36) is its library. Both draw by the
temperature and top-p alone, the server in this order, as transformers does, and the library in the other one. Chat
templates are not given to llama.cpp: they are programs of strangers, and `emobake.formats.chat_template` renders them
within limits.
"""

from __future__ import annotations

import codecs
import re
import secrets
import subprocess
import sys
from collections.abc import Callable, Generator, Mapping
from importlib import import_module
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any, NamedTuple, Protocol

from ..errors import MissingPackageError, ModelError
from .chat_model import Prompt, no_room
from .sampling import Sampling

_SEEDS = 2**32 - 1
"""Number of seeds; llama.cpp takes the one after them for none."""
_FULL = "exceed_context_size_error"
_BATCH = 512
"""Tokens of a prompt that are read at once: Ctrl-C acts after them."""
_SECONDS = 60
"""Time to find out why a file does not load."""


class Step(NamedTuple):
    """A piece of an answer."""

    text: str
    tokens: int
    """Tokens of the answer up to here, without the one that ends it."""
    ended: bool
    """True if the model ended the answer."""


class LlamaCpp(Protocol):
    """A GGUF file in llama.cpp."""

    version: str
    """Name and version of the binding."""

    def steps(self, prompt: Prompt, sampling: Sampling) -> Generator[Step, None, None]:
        """Generate an answer. A text at the beginning gets the BOS token, if the file asks for one.

        Raises:
            InputError: the prompt leaves no room in the context; ModelError: llama.cpp failed.
        """


def open_llama_cpp(file: Path, name: str, context: int) -> LlamaCpp:
    """Load a GGUF file, the first one of a set; `name` names it in messages, `context` is its number of positions.

    Raises:
        MissingPackageError: no binding is installed. ModelError: llama.cpp does not load the file.
    """
    reasons = []
    for package, binding in _BINDINGS.items():
        try:
            module = import_module(package)
        except (ImportError, OSError, RuntimeError) as error:  # llama_cpp raises the others for its library.
            if not (isinstance(error, ModuleNotFoundError) and error.name == package):
                reasons.append(f"{package} does not import: {_one_line(error)}")
            continue
        return binding(module, file, name, context)
    why = f" ({'; '.join(reasons)})" if reasons else ""
    raise MissingPackageError(f"{name}: talking to a GGUF file needs llama.cpp{why}; pip install xllamacpp")


class _Server:
    """The server of xllamacpp."""

    def __init__(self, module: Any, file: Path, name: str, context: int) -> None:
        self.version = f"xllamacpp {module.__version__}"
        self._name = name
        params = module.CommonParams()
        params.model.path = str(file)
        params.n_ctx = context
        params.n_parallel = 1
        params.n_batch = _BATCH
        params.warmup = False
        params.verbosity = -1
        # The file's own template is not compiled, and the port answers nobody.
        params.chat_template = "chatml"
        params.api_keys = [secrets.token_hex()]
        params.ui = False
        try:
            self._server = module.Server(params)
        except RuntimeError as error:
            raise ModelError(f"{name}: does not load in llama.cpp ({_reason(file) or _one_line(error)})") from None

    def steps(self, prompt: Prompt, sampling: Sampling) -> Generator[Step, None, None]:
        """Generate an answer in a thread of its own, so that Ctrl-C is heard at once; it ends at the next token."""
        # Without a seed, one of -1 stands for none. A server would go by the settings in the file where none are given.
        asked = {
            "prompt": list(prompt),
            "stream": True,
            "timings_per_token": True,
            "return_progress": True,  # So that an answer can be stopped while the prompt is still read.
            "max_tokens": sampling.max_new_tokens,
            "samplers": ["temperature", "top_p"],
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": -1 if sampling.seed is None else sampling.seed % _SEEDS,
        }
        chunks: SimpleQueue[Mapping[str, Any] | None] = SimpleQueue()
        enough = Event()

        def hear(chunk: Mapping[str, Any]) -> bool:
            chunks.put(chunk)
            return enough.is_set()

        def run() -> None:
            try:
                self._server.handle_completions(asked, hear)
            except Exception as error:  # Whatever it raises.
                chunks.put({"error": {"message": _one_line(error)}})
            finally:
                chunks.put(None)

        Thread(target=run).start()
        try:
            while (chunk := chunks.get()) is not None:
                yield self._step(chunk)
        finally:
            enough.set()

    def _step(self, chunk: Mapping[str, Any]) -> Step:
        if "error" in chunk:
            error = chunk["error"]
            if error.get("type") == _FULL:
                raise no_room(self._name, error["n_prompt_tokens"], error["n_ctx"])
            raise ModelError(f"{self._name}: llama.cpp failed ({_one_line(error['message'])})")
        (choice,) = chunk["choices"]
        ended = choice["finish_reason"] == "stop"
        return Step(choice["text"], chunk["timings"]["predicted_n"] - ended, ended)


class _Library:
    """The library of llama-cpp-python."""

    def __init__(self, module: Any, file: Path, name: str, context: int) -> None:
        self.version = f"llama-cpp-python {module.__version__}"
        self._name, self._module = name, module
        try:
            self._model = module.Llama(model_path=str(file), n_ctx=context, n_gpu_layers=-1, verbose=False)
        except (RuntimeError, ValueError) as error:
            raise ModelError(f"{name}: does not load in llama.cpp ({_one_line(error)})") from None
        self._vocabulary = module.llama_model_get_vocab(self._model.model)

    def steps(self, prompt: Prompt, sampling: Sampling) -> Generator[Step, None, None]:
        """Generate an answer."""
        ids = self._ids(prompt)
        context = self._model.n_ctx()
        if len(ids) >= context:
            raise no_room(self._name, len(ids), context)
        self._model.set_seed(_SEEDS if sampling.seed is None else sampling.seed % _SEEDS)
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        drawn = self._model.generate(
            ids, temp=sampling.temperature, top_p=sampling.top_p, top_k=0, min_p=0.0, repeat_penalty=1.0
        )
        for count, token in zip(range(1, 1 + min(sampling.max_new_tokens, context - len(ids))), drawn, strict=False):
            if self._module.llama_vocab_is_eog(self._vocabulary, token):
                yield Step("", count - 1, True)
                return
            yield Step(decoder.decode(self._model.detokenize([token])), count, False)

    def _ids(self, prompt: Prompt) -> list[int]:
        ids: list[int] = []
        for part in prompt:
            if isinstance(part, int):
                ids.append(part)
            else:
                ids += self._model.tokenize(part.encode(), add_bos=not ids, special=True)
        return ids


_BINDINGS: dict[str, Callable[[Any, Path, str, int], LlamaCpp]] = {"xllamacpp": _Server, "llama_cpp": _Library}
"""Module -> its use; the first one that is installed."""


_LOUD = """
import sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.verbosity = 1
xllamacpp.Server(params)
"""
"""Program that loads a file and prints llama.cpp's errors, which come from a thread of llama.cpp's own and late."""


def _reason(file: Path) -> str:
    """The reason why llama.cpp does not load a file, in its own words; empty if it gives none."""
    try:
        # Isolated: the working folder is no place to import from.
        call = [sys.executable, "-I", "-c", _LOUD, str(file)]
        done = subprocess.run(call, check=False, capture_output=True, timeout=_SECONDS)
    except (OSError, subprocess.SubprocessError):
        return ""
    found = re.search(r" E (?:.*error loading model: )?(.+)", done.stderr.decode("utf-8", "replace"))
    return _one_line(found[1]) if found else ""


def _one_line(error: object) -> str:
    # A name in backticks would be taken for an argument.
    return " ".join(str(error).replace("`", "'").split())[:200]
