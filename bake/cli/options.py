"""Options that several commands share, so that they are spelled and explained alike; and the values they make."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from ..core.limits import MAX_DEVICES
from ..core.outputs import LINK_MODES, OUTTYPES, SHARES
from ..core.sites import SITES
from ..core.stacks import STACKS
from . import completion
from .command import Numbers

if TYPE_CHECKING:
    from ..core.bounds import Bounds
    from ..models.loading import Runtime
    from ..models.sampling import Sampling
    from ..storage.model_name import ModelName
    from ..vectors.find import VectorSource

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _together(*options: Decorator) -> Decorator:
    """One decorator for several, which appear in ``--help`` in this order."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def model_option(help: str, *, required: bool = False) -> Decorator:
    """The option that names the model."""
    return click.option("--model", metavar="PATH|ID", required=required, shell_complete=completion.models, help=help)


def _known_model(name: str, help: str) -> Decorator:
    """An option that names a model by its Hub id."""
    return click.option(name, metavar="ID", default="", shell_complete=completion.known_models, help=help)


_vector_options = _together(
    click.option(
        "--revision",
        metavar="REV",
        help="Branch, tag or commit of a Hub model; also written --model ID@REV.",
    ),
    click.option(
        "--vectors",
        metavar="SET",
        multiple=True,
        shell_complete=completion.sets,
        help="Emotion vectors: a file or folder, a name that `emobake vectors list` shows, or a Hub repository. "
        "Given more than once: the emotions of all of them. Default: the set published for the model.",
    ),
    _known_model("--vectors-for", "Use the set published for this model, e.g. for a fine-tune of it."),
    click.option(
        "--site",
        type=click.Choice(SITES),
        callback=lambda _context, _option, value: value or "",
        help="Where the vectors act, for a file that does not say it; a file that says otherwise is refused.",
    ),
    _known_model("--base-model", "Hub id of the base when --model is a folder."),
)
_strength_options = _together(
    click.option("--scale", type=float, default=1.0, metavar="X", help="Factor for all weights."),
    click.option("--layers", metavar="LIST", help="Layers to steer, e.g. 8-27 or 0,4-6; the others get nothing."),
)
steering_options = _together(
    _vector_options,
    click.option(
        "--times",
        type=Numbers("five numbers, for anger, disgust, fear, joy and sadness in this order", 5),
        metavar="A D F J S",
        help="Weights of anger, disgust, fear, joy, sadness; any real numbers.",
    ),
    click.option(
        "--mix",
        metavar="NAME=X,...",
        multiple=True,
        shell_complete=completion.weights,
        help="Weights by name, e.g. joy=0.5,anger=-1, instead of --times. Given more than once: all together.",
    ),
    _strength_options,
)
"""Model, vectors and weights."""


def model_and_vectors(options: dict[str, Any]) -> tuple[ModelName, VectorSource]:
    """Make values of the options that name the model and the vectors, and remove them."""
    from ..storage.model_name import ModelName
    from ..vectors.find import VectorSource

    model = ModelName.parse(
        options.pop("model"), revision=options.pop("revision"), base_model=options.pop("base_model")
    )
    source = VectorSource(named_sets(options.pop("vectors")), options.pop("vectors_for"), options.pop("site"))
    return model, VectorSource.parse(source)


def named_sets(names: tuple[str, ...]) -> str | tuple[str, ...] | None:
    """The value of ``--vectors`` as the library takes it."""
    return names if len(names) > 1 else names[0] if names else None


def parsed_mix(mix: tuple[str, ...]) -> dict[str, float] | None:
    """The value of ``--mix``."""
    from ..core.steering import parse_mix

    return parse_mix(",".join(mix)) if mix else None


output_options = _together(
    click.option("--out", metavar="PATH", help="Folder to write, or .gguf file."),
    click.option(
        "--outtype",
        type=click.Choice(OUTTYPES),
        help="From a checkpoint into a .gguf: weight type of llama.cpp's converter. Default: auto, 16 bits.",
    ),
    click.option(
        "--converter",
        metavar="EXE",
        default="",
        help="llama.cpp's converter, or 'PYTHON SCRIPT'. Default: the one that is installed.",
    ),
    click.option(
        "--share",
        type=click.Choice(SHARES),
        is_flag=False,
        flag_value="keep",
        help="From a GGUF file, write a set of two: the mood's own file, and a link to one with all the rest, which "
        "the moods in a folder share. move: and remove --model, which that file replaces. Default: keep.",
    ),
    click.option("--keep-split", is_flag=True, help="From a split GGUF set, write a set too, not one file."),
    click.option("--modelfile", is_flag=True, help="Write an Ollama Modelfile beside the .gguf."),
    click.option(
        "--push-to-hub",
        metavar="REPO[@BRANCH]",
        default="",
        help="Put the result into this Hub repository, in one commit; created if missing. Without --out, a Hub "
        "model's weights do not pass through this machine. --revision names the branch when --model is a folder or "
        "ID@REV.",
    ),
)
"""The place of a bake's output."""

_overwrite_option = click.option(
    "--overwrite",
    is_flag=True,
    help="Replace an earlier output of emobake, once the new one is complete; on the Hub, any model.",
)
_targets_option = click.option(
    "--targets",
    metavar="STACK,...",
    help=f"Stacks that must load the result steered, of {', '.join(STACKS)}; refuse otherwise.",
)
_parallel_option = click.option(
    "--tensor-parallel",
    type=click.IntRange(1, MAX_DEVICES),
    default=1,
    metavar="N",
    help="Devices that shall be able to share the attention heads, where a GGUF file gains some.",
)
_force_option = click.option(
    "--force",
    is_flag=True,
    help="Write even if nothing would be steered, or so strongly that the model is destroyed, or if layers without "
    "attention (of a hybrid) lose their vectors.",
)

carrying_options = _together(
    _overwrite_option,
    _targets_option,
    _parallel_option,
    click.option(
        "--format",
        "format_",
        type=click.Choice(["checkpoint", "peft"]),
        help="A standalone checkpoint, or a PEFT adapter (any Linear projection; cannot be merged by PEFT). Default: "
        "what the model is. Of an adapter, checkpoint bakes the base and carries the adapter, to be served on top.",
    ),
    click.option(
        "--base",
        metavar="PATH|ID",
        shell_complete=completion.models,
        help="Base of the adapter in --model. Default: the one that the adapter names.",
    ),
    click.option(
        "--merge",
        is_flag=True,
        help="Merge the adapter in --model into its base first, with PEFT (needs torch), and bake one checkpoint.",
    ),
    click.option(
        "--text-only",
        is_flag=True,
        help="Of a multimodal checkpoint, bake the language model alone, as a plain causal language model.",
    ),
    click.option("--each", is_flag=True, help="With --format peft: one adapter per emotion, for set_adapter."),
    click.option(
        "--link-mode",
        type=click.Choice(LINK_MODES),
        default="auto",
        show_default=True,
        help="How weight files are carried over. auto: reflink where the file system can, else copy; link: else "
        "hardlink. hardlink and symlink share the base's bytes: saving into either folder later changes both, so they "
        "are never the default.",
    ),
    click.option(
        "--hash",
        "hash_files",
        is_flag=True,
        help="Compute and record the sha256 of every weight file (reads them all).",
    ),
    _force_option,
)
"""Output of a bake: form, link mode, overwriting."""


moods_options = _together(
    _vector_options,
    click.option(
        "--mix",
        "mixes",
        metavar="NAME=X,...",
        multiple=True,
        shell_complete=completion.weights,
        help="Weights of a mood by name, e.g. joy=0.5,fear=1. Given once for each mood.",
    ),
    click.option(
        "--name",
        "names",
        metavar="NAME",
        multiple=True,
        help="Name of a mood; given as often as --mix, in its order. Default: by weights, such as joy-0.5-fear-1.",
    ),
    _strength_options,
    _overwrite_option,
    _targets_option,
    _parallel_option,
    click.option(
        "--link-mode",
        type=click.Choice([mode for mode in LINK_MODES if mode not in ("auto", "copy")]),
        default="link",
        show_default=True,
        help="How moods of a checkpoint share its weight files. link: reflink where the disk can, else hardlink. With "
        "hardlink and symlink, saving into one folder changes all that share the file.",
    ),
    _force_option,
)
"""Moods, and how they share their base."""


def sampling_options(
    max_new_tokens: int, temperature: float, top_p: float, seed: int | None = 0, longest: int | None = 8192
) -> Decorator:
    """Sampling options with these defaults; an answer has at most `longest` tokens."""
    return _together(
        click.option(
            "--max-new-tokens",
            type=click.IntRange(1, longest),
            default=max_new_tokens,
            show_default=True,
            help="Length of an answer at most.",
        ),
        click.option(
            "--temperature",
            type=click.FloatRange(0),
            default=temperature,
            show_default=True,
            help="Randomness of the answers; 0 is greedy.",
        ),
        click.option(
            "--top-p",
            type=click.FloatRange(0, 1, min_open=True),
            default=top_p,
            show_default=True,
            help="With a temperature: nucleus sampling.",
        ),
        click.option(
            "--seed",
            type=click.IntRange(0),
            default=seed,
            show_default=seed is not None,
            help="With a temperature: the same seed gives the same answers.",
        ),
    )


def sampling_of(options: dict[str, Any]) -> Sampling:
    """Make a value of the sampling options, and remove them."""
    from ..models.sampling import Sampling

    return Sampling(**{key: options.pop(key) for key in ("max_new_tokens", "temperature", "top_p", "seed")})


runtime_options = _together(
    click.option(
        "--dtype",
        type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
        default="auto",
        show_default=True,
        help="Dtype of the model; auto: float32 on a CPU, else its own.",
    ),
    click.option("--device", metavar="DEVICE", default="auto", show_default=True, help="cpu, cuda:0, mps ..."),
    click.option("--device-map", metavar="MAP", help="auto: spread a model that is larger than one GPU."),
)
"""Device, dtype and batch size of a run."""


def batch_option(help: str) -> Decorator:
    """The size of a batch."""
    return click.option("--batch-size", type=click.IntRange(1), default=16, show_default=True, help=help)


def runtime_of(options: dict[str, Any]) -> Runtime:
    """Make a value of the runtime options, and remove them."""
    from ..models.loading import Runtime

    names = ("dtype", "device", "device_map", "batch_size")
    return Runtime(**{key: options.pop(key) for key in names if key in options})


hub_options = _together(
    click.option(
        "--private/--public",
        default=None,
        help="Visibility of a new repository. Default: private when the base is.",
    ),
    click.option("--create-pr", is_flag=True, help="Open a pull request instead of committing."),
    click.option(
        "--commit-message", metavar="TEXT", default="", help="Message of the commit. Default: the recipe of the bake."
    ),
)
"""Push to the Hub: visibility, pull request, message."""

bound_options = _together(
    *(
        click.option(name, type=click.FloatRange(0), metavar="X", help=help)
        for name, help in (
            ("--max-kl", "Bound on the mean KL from the base, in nats."),
            ("--max-collapse", "Bound on the share of answers that collapse, from 0 to 1."),
            ("--max-capability-drop", "Bound on the loss of right tasks, a difference of two shares, from 0 to 1."),
        )
    )
)
"""Bounds on what a steering may cost, by its report."""


def bounds_of(options: dict[str, Any]) -> Bounds:
    """Make a value of the bounds, and remove them."""
    from ..core.bounds import Bounds

    return Bounds(**{name: options.pop(name) for name in ("max_kl", "max_collapse", "max_capability_drop")})


json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
