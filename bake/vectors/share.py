"""Sharing a vector set on the Hub: a small model repository with ``vectors.safetensors`` and a card."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from .._version import __version__
from ..core.vector_set import VectorSet
from ..errors import InputError
from ..formats.checkpoint.card import CITATION, PAPER
from .formats.own import to_single_file

FILE = "vectors.safetensors"


@dataclass(frozen=True)
class Pushed:
    """Where a set is now."""

    url: str
    changed: bool
    """False when everything was there already."""


def push(vectors: VectorSet, repo_id: str, *, private: bool = False, commit_message: str = "") -> Pushed:
    """Upload `vectors` to the Hub repository `repo_id` in one commit, which is made if need be.

    A card that is there already is left alone. The token is the one that ``hf auth login`` or ``HF_TOKEN`` gives.

    Raises:
        InputError: not a valid id, no token or no right to write there, or the repository holds a model.
        EmobakeError: the Hub or the network failed.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    from ..storage.hub.errors import retrying, sending

    api = HfApi(library_name="emobake", library_version=__version__)
    message = commit_message or f"Vectors for {', '.join(vectors.emotions[:8])}"

    def attempt() -> Pushed:
        url = str(api.create_repo(repo_id, private=private, exist_ok=True))
        before = api.model_info(repo_id)
        names = {file.rfilename for file in before.siblings or ()}
        if "config.json" in names:
            raise InputError(f"{repo_id}: holds a model; give the vectors a repository of their own")
        operations = [CommitOperationAdd(FILE, to_single_file(vectors))]
        if "README.md" not in names:
            operations.append(CommitOperationAdd("README.md", vector_card(vectors, repo_id).encode()))
        after = api.create_commit(repo_id, operations, commit_message=message)
        return Pushed(url, after.oid != before.sha)

    with sending(repo_id):
        return retrying()(attempt)


def vector_card(vectors: VectorSet, repo_id: str) -> str:
    """The text of README.md, with Hub metadata in front."""
    from huggingface_hub import ModelCardData

    base = vectors.base_model
    data = ModelCardData(
        base_model=base or None,
        license=vectors.license or None,
        library_name="emobake",
        tags=["emotion-vectors", "steering-vectors", "emobake"],
    )
    model = f"[{base}](https://huggingface.co/{base})" if base else f"a model of {vectors.layers} layers"
    site = {
        "attention_output": "the output of the attention module of every layer",
        "layer_output": "the output of every layer (the residual stream)",
    }[vectors.site]
    name = base or "MODEL"
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# Emotion vectors for {base.rpartition('/')[2] or f'{vectors.layers} layers x {vectors.hidden}'}",
        f"One vector per layer for each of {', '.join(f'**{emotion}**' for emotion in vectors.emotions)}, for {model}: "
        f"`{FILE}`, float32 `[{vectors.layers}, {vectors.hidden}]` each. They are added to {site} "
        f"([arXiv 2502.04075]({PAPER})).",
    ]
    if vectors.site == "attention_output":
        mix = shlex.quote(f"{vectors.emotions[0]}=1")
        parts += [
            "## How to use them",
            f"```sh\npip install emobake\nemobake --model {name} --vectors {repo_id} --mix {mix} --out ./steered\n"
            f"emobake chat --model {name} --vectors {repo_id} --mix {mix}\n```",
            "The first writes a standalone checkpoint that any stack serves steered, the second tries them in a chat.",
        ]
    if vectors.source or vectors.extraction:
        parts += ["## Where they come from", *([vectors.source] if vectors.source else [])]
    if vectors.extraction:
        rows = [f"| {key} | {_cell(value)} |" for key, value in vectors.extraction.items()]
        parts.append("\n".join(["| | |", "| --- | --- |", *rows]))
    if vectors.statistics:
        rows = [
            f"| {emotion} | {s.count} | {'' if s.split_half_cosine is None else f'{s.split_half_cosine:.3f}'} |"
            for emotion, s in vectors.statistics.items()
        ]
        parts.append("\n".join(["| emotion | queries | split-half cosine |", "| --- | --- | --- |", *rows]))
    parts += ["## Citation", f"```bibtex\n{CITATION}\n```"]
    return "\n\n".join(parts) + "\n"


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|").replace("<", "&lt;")
