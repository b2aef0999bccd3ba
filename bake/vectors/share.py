"""Sharing a vector set on the Hub: a small model repository with ``vectors.safetensors`` and a card."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING
from urllib.parse import quote

from ..core.plan import CARD_FILE, new_file
from ..core.progress import Notice, no_notice
from ..core.sites import SITE, Site
from ..core.text import markdown, one_line
from ..core.vector_set import VectorSet
from ..formats.checkpoint.card import CITATION_SECTION, PAPER
from ..formats.front_matter import write_front_matter
from .formats.single_file import to_single_file

if TYPE_CHECKING:
    from ..storage.hub.changes import Pushed
    from ..storage.hub.target import HubTarget

FILE = "vectors.safetensors"
_SITES: dict[Site, str] = {
    "attention_output": "the output of the attention module of every layer",
    "layer_output": "the output of every layer (the residual stream)",
}


def push_vectors(vectors: VectorSet, target: str | HubTarget, *, notice: Notice = no_notice) -> Pushed:
    """Upload `vectors` to a Hub repository in one commit; the repository is created if missing.

    A card that is there already is left alone. The token is the one of ``hf auth login`` or ``HF_TOKEN``.

    Raises:
        InputError: not a valid id, no token or no right to write there, or the repository holds a model.
        HubError: the Hub or the network failed. OutputError: the commit does not hold what was sent.
    """
    from ..storage.hub.changes import VECTORS
    from ..storage.hub.commit import push_items
    from ..storage.hub.contents import items_of
    from ..storage.hub.target import parse_target, settle

    settled = settle(parse_target(target), need_token=True)
    files = [
        new_file(FILE, to_single_file(vectors)),
        new_file(CARD_FILE, vector_card(vectors, settled.repo_id).encode()),
    ]
    items = items_of(files, settled.repo_id, folder=None, source=None)
    message = f"Vectors for {', '.join(vectors.emotions[:8])}"
    return push_items(items, settled, message=message, policy=VECTORS, notice=notice)


def vector_card(vectors: VectorSet, repo_id: str) -> str:
    """Write README.md, with Hub metadata in front."""
    base, papers = vectors.base_model, vectors.site == SITE
    metadata = write_front_matter(
        base_model=base or None,
        license=vectors.license or None,
        library_name="emobake",
        tags=["emotion-vectors", "steering-vectors", "emobake"],
    )
    model = (
        f"[{markdown(base)}](https://huggingface.co/{quote(base)})" if base else f"a model of {vectors.layers} layers"
    )
    emotions = ", ".join(f"**{markdown(emotion)}**" for emotion in vectors.emotions)
    parts = [
        metadata,
        f"# Emotion vectors for {markdown(base.rpartition('/')[2]) or f'{vectors.layers} layers x {vectors.hidden}'}",
        f"One vector per layer for each of {emotions}, for {model}: "
        f"`{FILE}`, float32 `[{vectors.layers}, {vectors.hidden}]` each. They are added to {_SITES[vectors.site]}"
        + (f", by the method of [arXiv 2502.04075]({PAPER})." if papers else "."),
        *_usage(vectors, repo_id),
        *_origin(vectors),
        *_statistics(vectors),
        *([CITATION_SECTION] if papers else []),
    ]
    return "\n\n".join(parts) + "\n"


def _usage(vectors: VectorSet, repo_id: str) -> list[str]:
    if vectors.site != SITE:
        return []
    mix, name = shlex.quote(f"{vectors.emotions[0]}=1"), shlex.quote(one_line(vectors.base_model or "MODEL"))
    return [
        "## How to use them",
        f"```sh\npip install emobake\nemobake --model {name} --vectors {repo_id} --mix {mix} --out ./steered\n"
        f"emobake chat --model {name} --vectors {repo_id} --mix {mix}\n```",
        "The first writes a standalone checkpoint that any stack serves steered, the second tries them in a chat.",
    ]


def _origin(vectors: VectorSet) -> list[str]:
    if not vectors.source and not vectors.extraction:
        return []
    parts = ["## Where they come from", *([markdown(vectors.source)] if vectors.source else [])]
    if vectors.extraction:
        rows = [f"| {markdown(key)} | {markdown(value)} |" for key, value in vectors.extraction.items()]
        parts.append("\n".join(["| | |", "| --- | --- |", *rows]))
    return parts


def _statistics(vectors: VectorSet) -> list[str]:
    if not vectors.statistics:
        return []
    rows = [
        f"| {markdown(emotion)} | {s.count} | {'' if s.split_half_cosine is None else f'{s.split_half_cosine:.3f}'} |"
        for emotion, s in vectors.statistics.items()
    ]
    return ["\n".join(["| emotion | queries | split-half cosine |", "| --- | --- | --- |", *rows])]
