"""``emobake vectors``: get, make, look at, change and share emotion vectors."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .cli_options import running_options
from .errors import InputError
from .terminal import console, count_bar, escape, warn

if TYPE_CHECKING:
    from .extraction import Extraction
    from .queries import Questionnaire
    from .vectors import VectorSet

_SET = "a file or folder, a name that `emobake vectors list` shows, or a Hub repository (owner/name[@revision])"
_JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
_OUT_FORMS = ".safetensors, .npz, .gguf (one emotion of the layer output), or no suffix for a folder of JSON files"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def vectors() -> None:
    """Get, make, look at, change and share emotion vectors.

    A SET is a file or folder, a name that `list` shows, or a Hub repository (owner/name[@revision]).
    """


@vectors.command("list")
@_JSON
def list_sets(as_json: bool) -> None:
    """Show the sets that have a name, and for which models they are used without --vectors."""
    from rich.table import Table

    from .registry import registry
    from .vector_sets import is_cached

    entries = registry().sets
    where = {
        e.name: "comes with emobake" if e.shipped else "cached" if is_cached(e) else "fetched when needed"
        for e in entries
    }
    if as_json:
        rows = [
            {
                "name": e.name,
                "base_model": e.base_model,
                "also_for": list(e.same_weights),
                "layers": e.layers,
                "hidden_size": e.hidden_size,
                "license": e.license,
                "source": e.source,
                "where": where[e.name],
            }
            for e in entries
        ]
        click.echo(json.dumps(rows, indent=2))
        return
    table = Table("name", "model", "layers", "hidden", "licence", "", box=None, pad_edge=False, header_style="bold")
    for e in entries:
        table.add_row(e.name, e.base_model, str(e.layers), str(e.hidden_size), e.license, where[e.name])
    console().print(table)
    console().print("Any other model: emobake vectors extract --model MODEL --out NAME.safetensors", highlight=False)


@vectors.command()
@click.argument("name")
@click.option("--out", metavar="PATH", type=click.Path(path_type=Path), help=f"Write it here as well: {_OUT_FORMS}.")
@click.option("--overwrite", is_flag=True, help="Replace --out.")
def pull(name: str, out: Path | None, overwrite: bool) -> None:
    """Fetch a published set into the cache, and print where it is.

    NAME is a name that `list` shows, or the Hub id of a model that has a set.
    """
    from .registry import find_by_model, find_by_name
    from .vector_exports import write_set
    from .vector_sets import pull as fetch
    from .vector_sources import open_vectors

    entry = find_by_name(name) or find_by_model([name])
    if entry is None:
        raise InputError(f"{name}: no set of that name, nor for a model of that id; `emobake vectors list` shows them")
    path = fetch(entry)
    if out is not None:
        write_set(open_vectors(path), out, overwrite=overwrite)
    click.echo(str(out or path))


@vectors.command()
@click.argument("set_", metavar="SET")
@click.option("--plot", metavar="PNG", type=click.Path(path_type=Path), help="Draw norms and cosines into a picture.")
@_JSON
def show(set_: str, plot: Path | None, as_json: bool) -> None:
    """Show what is in a set: shape and site, norms per layer, cosines between emotions, statistics.

    Says what looks wrong: layers without a vector, emotions that are the same, too few queries.
    """
    from .vector_math import describe
    from .vector_report import as_dict, show_set

    found = _open(set_)
    description = describe(found)
    if plot is not None:
        from .plots import plot_set

        plot_set(found, description, plot)
    if as_json:
        click.echo(json.dumps(as_dict(found, description), indent=2))
    else:
        show_set(console(), found, description)
        if plot is not None:
            console().print(f"Picture: {escape(str(plot))}", highlight=False)


@vectors.command()
@click.argument("set_", metavar="SET")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--site",
    type=click.Choice(["attention_output", "layer_output"]),
    help="Where the vectors act, for a file that does not say: the attention module's output, or the residual stream "
    "after the block.",
)
@click.option(
    "--first-row",
    type=click.IntRange(-1, 1023),
    metavar="LAYER",
    help="Layer of the first row, for a file that does not say: 0 is the first decoder block, -1 the embeddings.",
)
@click.option("--emotion", metavar="NAME", help="For a .gguf, which holds one: which emotion to write.")
@click.option("--base-model", metavar="ID", help="Hub id of the model it was made from, to record.")
@click.option("--license", metavar="ID", help="Licence identifier to record.")
@click.option("--source", metavar="TEXT", help="Where it comes from, to record.")
@click.option("--overwrite", is_flag=True, help="Replace OUT.")
def convert(
    set_: str,
    out: Path,
    site: str | None,
    first_row: int | None,
    emotion: str | None,
    base_model: str | None,
    license: str | None,
    source: str | None,
    overwrite: bool,
) -> None:
    """Write SET in another form, chosen by the suffix of OUT: .safetensors, .npz, .gguf, or none for a JSON folder.

    Reads what `--vectors` reads, and the .npz, .pt, .gguf and .safetensors files of other projects.
    """
    from dataclasses import replace

    from .vector_sources import open_vectors

    if site is not None or first_row is not None:
        found = open_vectors(Path(set_), site=site or "", first_row=first_row)
    else:
        found = _open(set_)
    found = replace(
        found,
        base_model=base_model or found.base_model,
        license=license or found.license,
        source=source or found.source,
    )
    _write(found, out, overwrite, emotion=emotion or "")
    _say_zero_layers(found)


@vectors.command()
@click.argument("set_", metavar="SET")
@click.option(
    "--out", metavar="PATH", type=click.Path(path_type=Path), required=True, help=f"Where to write: {_OUT_FORMS}."
)
@click.option("--name", metavar="NAME", help="Name of the new emotion.")
@click.option("--mix", metavar="NAME=X,...", help="What it is made of, e.g. joy=0.5,sadness=0.5.")
@click.option("--only", is_flag=True, help="Write the new emotion alone, not beside the others.")
@click.option(
    "--remove-common",
    is_flag=True,
    help="First subtract from every emotion the mean of all of them: what is left is what tells them apart.",
)
@click.option("--overwrite", is_flag=True, help="Replace --out.")
def mix(
    set_: str, out: Path, name: str | None, mix: str | None, only: bool, remove_common: bool, overwrite: bool
) -> None:
    """Make a new named emotion from others, or take out the part that all emotions share, or both."""
    from . import vector_math
    from .vectors import parse_mix

    if (name is None) != (mix is None):
        raise click.UsageError("--name and --mix go together: --name bittersweet --mix joy=0.5,sadness=0.5")
    if name is None and not remove_common:
        raise click.UsageError("give --name and --mix, or --remove-common, or all three")
    if only and name is None:
        raise click.UsageError("--only goes with --name and --mix")
    found = _open(set_)
    if remove_common:
        found = vector_math.remove_common(found)
    if name is not None and mix is not None:
        found = vector_math.add_mix(found, name, parse_mix(mix), only=only)
    _write(found, out, overwrite)


@vectors.command()
@click.argument("set_", metavar="SET")
@click.argument("repo_id", metavar="OWNER/NAME")
@click.option("--private", is_flag=True, help="Make the repository private, if it is new.")
@click.option("--commit-message", metavar="TEXT", default="", help="Message of the commit.")
@click.option("--base-model", metavar="ID", help="Hub id of the model it was made from, if the set does not say.")
@click.option("--license", metavar="ID", help="Licence identifier, if the set does not say.")
def push(
    set_: str, repo_id: str, private: bool, commit_message: str, base_model: str | None, license: str | None
) -> None:
    """Share SET on the Hub as a small repository with a card; `--vectors OWNER/NAME` then finds it."""
    from dataclasses import replace

    from .vector_push import push as upload

    found = _open(set_)
    found = replace(found, base_model=base_model or found.base_model, license=license or found.license)
    if not found.license:
        warn("no licence is recorded: others may not use what has none; give --license, e.g. --license mit")
    done = upload(found, repo_id, private=private, commit_message=commit_message)
    click.echo(done.url if done.changed else f"{done.url} (already the same: nothing was uploaded)")


@vectors.command()
@click.option("--model", metavar="PATH|ID", required=True, help="Model to make vectors for: a folder, or a Hub id.")
@click.option("--revision", metavar="REV", help="Branch, tag or commit of a Hub model.")
@click.option("--base-model", metavar="ID", default="", help="Hub id to record when --model is a folder.")
@click.option(
    "--out", metavar="FILE", type=click.Path(path_type=Path), required=True, help="The .safetensors file to write."
)
@click.option(
    "--queries",
    metavar="FILE|NAME",
    help="Queries per emotion, JSON or JSONL; or emotionquery, the paper's 500, which are fetched. "
    "Default: 240 that come with emobake.",
)
@click.option("--emotions", metavar="NAME,...", help="Only these emotions.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the first N queries of each emotion.")
@click.option(
    "--emotional-prompt",
    metavar="TEXT|@FILE",
    help="Condition with {emotion} and {query}; vectors/README.md has the default.",
)
@click.option("--neutral-prompt", metavar="TEXT|@FILE", help="Condition with {query} that is subtracted.")
@click.option(
    "--contrast",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Your own pairs of texts, JSONL with positive and negative, instead of queries.",
)
@click.option(
    "--reuse-answers",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Measure recorded answers instead of generating.",
)
@click.option("--save-answers", metavar="FILE", type=click.Path(path_type=Path), help="Record the answers, as JSONL.")
@click.option(
    "--max-new-tokens", type=click.IntRange(1, 4096), default=64, show_default=True, help="Length of an answer at most."
)
@click.option(
    "--temperature", type=click.FloatRange(0), default=0.0, show_default=True, help="Of the answers; 0 is greedy."
)
@click.option(
    "--top-p",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    show_default=True,
    help="With a temperature: nucleus sampling.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="With a temperature: of the random numbers.")
@click.option(
    "--batch-size",
    type=click.IntRange(1),
    default=16,
    show_default=True,
    help="Queries per batch; each is two sequences.",
)
@running_options
@click.option("--license", metavar="ID", default="", help="Licence identifier to record in the file.")
@click.option("--restart", is_flag=True, help="Forget what an interrupted run to the same --out had finished.")
@click.option("--overwrite", is_flag=True, help="Replace --out.")
@_JSON
@click.option("-q", "--quiet", is_flag=True, help="Print warnings and errors only.")
def extract(
    model: str,
    out: Path,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Make vectors for any causal language model that can be baked.

    Each query is answered under an emotional and under a neutral condition; a vector is the mean difference of the
    attention outputs over the answers. A killed run goes on where it stopped. `accelerate launch -m emobake vectors
    extract ...` spreads the queries over processes.
    """
    from .extraction import extract as run
    from .measuring import Sampling

    questionnaire = _questionnaire(**{key: options.pop(key) for key in _QUESTIONS})
    if out.suffix != ".safetensors":
        raise InputError(f"{out}: give --out a name that ends in .safetensors; `emobake vectors convert` writes others")
    with ExitStack() as bars:
        done = run(
            model,
            out,
            questionnaire,
            sampling=Sampling(max_new_tokens, temperature, top_p, seed),
            progress=_progress(bars, silent=quiet or as_json),
            **options,
        )
    _report(done, model, out, as_json=as_json, quiet=quiet)


_QUESTIONS = ("queries", "emotions", "limit", "emotional_prompt", "neutral_prompt", "contrast", "reuse_answers")


def _questionnaire(
    queries: str | None,
    emotions: str | None,
    limit: int | None,
    emotional_prompt: str | None,
    neutral_prompt: str | None,
    contrast: Path | None,
    reuse_answers: Path | None,
) -> Questionnaire:
    from .queries import EMOTIONAL, NEUTRAL, ask, parse_answers, parse_contrasts, parse_queries
    from .query_sets import open_queries
    from .sources import read_small

    if sum(source is not None for source in (queries, contrast, reuse_answers)) > 1:
        raise click.UsageError(
            "--queries, --contrast and --reuse-answers are three ways to say what to measure; give one"
        )
    if contrast is not None:
        if emotional_prompt or neutral_prompt:
            raise click.UsageError(
                "--contrast has texts of its own: --emotional-prompt and --neutral-prompt do nothing"
            )
        found = parse_contrasts(read_small(contrast, str(contrast)), str(contrast))
    else:
        prompts = _template(emotional_prompt, EMOTIONAL), _template(neutral_prompt, NEUTRAL)
        if reuse_answers is not None:
            found = parse_answers(read_small(reuse_answers, str(reuse_answers)), str(reuse_answers), *prompts)
        else:
            content, name = open_queries(queries)
            found = ask(parse_queries(content, name), content, Path(name).name, *prompts)
    if emotions is not None:
        found = found.of([name.strip().lower() for name in emotions.split(",")])
    return found.limited(limit)


def _template(given: str | None, default: str) -> str:
    from .sources import read_small

    if given is None:
        return default
    if not given.startswith("@"):
        return given
    return read_small(Path(given[1:]), given[1:]).decode("utf-8", "replace").rstrip("\n")


def _progress(bars: ExitStack, *, silent: bool) -> Callable[[int, int], Callable[[int], None]]:
    def start(done: int, total: int) -> Callable[[int], None]:
        if silent:
            return lambda more: None
        bar = bars.enter_context(count_bar())
        task = bar.add_task("queries", total=total, completed=done)
        return lambda more: bar.advance(task, more)

    return start


def _report(done: Extraction, model: str, out: Path, *, as_json: bool, quiet: bool) -> None:
    from .vector_math import describe
    from .vector_report import as_dict, show_statistics

    description = describe(done.vectors)
    if done.skipped:
        warn(
            f"{len(done.skipped)} of the queries had no answer at all and are left out, for example "
            f"{done.skipped[0].query[:60]!r} ({done.skipped[0].emotion})"
        )
    for problem in description.problems:
        warn(problem)
    if as_json:
        click.echo(json.dumps(as_dict(done.vectors, description) | {"skipped": len(done.skipped)}, indent=2))
        return
    if quiet:
        return
    show_statistics(console(), done.vectors, description)
    first, name = done.vectors.emotions[0], shlex.quote(str(out))
    for line in (
        f"Wrote {out}",
        "Next:",
        f"  emobake vectors show {name} --plot vectors.png",
        f"  emobake chat --model {shlex.quote(model)} --vectors {name} --mix {shlex.quote(first)}=1",
        f"  emobake --model {shlex.quote(model)} --vectors {name} --mix {shlex.quote(first)}=1 --out ./steered",
    ):
        console().print(escape(line), highlight=False)


def _open(set_: str) -> VectorSet:
    from .sources import reading
    from .vector_sets import find_vectors

    with reading():
        return find_vectors(set_, None, model="")


def _write(found: VectorSet, out: Path, overwrite: bool, *, emotion: str = "") -> None:
    from .vector_exports import write_set

    for path in write_set(found, out, emotion=emotion, overwrite=overwrite):
        click.echo(str(path))


def _say_zero_layers(found: VectorSet) -> None:
    zero = [layer for layer in range(found.layers) if not found.rows[:, layer].any()]
    if zero:
        warn(f"no vector in layer {', '.join(map(str, zero))}: nothing is steered there")
