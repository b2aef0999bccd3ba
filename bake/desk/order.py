"""An order for a bake from the page: what is written, and the command line and the Python that write the same."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from ..core.arguments import require_choice
from ..core.names import is_inside
from ..core.outputs import Folder, GgufFile
from ..errors import InputError
from ..storage.model_name import ModelName, is_gguf
from ..vectors.find import VectorSource
from .setting import Setting

Form = Literal["folder", "gguf", "adapter", "hub"]


@dataclass(frozen=True)
class Bench:
    """Everything about a bake that was fixed when the desk was started."""

    model: ModelName
    vectors: VectorSource
    folder: str
    """Folder below which everything is written, as the user named it."""

    def place(self, name: str) -> Path:
        """The output `name` in the folder.

        Raises:
            InputError: the name, or a link on its way, leads out of the folder.
        """
        if not is_inside(name) or any(part.startswith(".") for part in name.split("/")):
            raise InputError(f"{name[:120]!r}: give a name below {self.folder}, such as joyful or moods/joyful")
        target, home = Path(self.folder) / name, Path(self.folder).resolve()
        above = target.parent.resolve()
        if above != home and home not in above.parents:
            raise InputError(f"{name}: a link leads out of {self.folder}, and nothing is written there")
        return target


@dataclass(frozen=True)
class Order:
    """One bake, as the page asks for it."""

    setting: Setting
    form: Form
    name: str
    """Name in the folder, or a repository on the Hub."""
    overwrite: bool = False
    private: bool | None = None
    """Visibility of a new repository; None: private if the base is."""

    def __post_init__(self) -> None:
        require_choice("form", self.form, get_args(Form))
        if self.setting.steering.is_zero:
            raise InputError("all weights are zero, there is nothing to bake; move a slider")
        if not self.name.strip():
            what = "a repository, such as me/joyful" if self.form == "hub" else "a name, such as joyful"
            raise InputError(f"give {what}")
        if self.form == "gguf" and not is_gguf(self.name):
            object.__setattr__(self, "name", f"{self.name}.gguf")
        if self.form in ("folder", "adapter") and is_gguf(self.name):
            raise InputError(f"{self.name}: is the name of a GGUF file; choose that form, or another name")

    def arguments(self, bench: Bench) -> dict[str, Any]:
        """The keyword arguments of `emobake.bake`, besides the model.

        Raises:
            InputError: the name leads out of the folder, or is no repository.
        """
        setting = self.setting
        found: dict[str, Any] = {"vectors": bench.vectors, "mix": setting.mix, "scale": setting.scale}
        if setting.layers:
            found["layers"] = setting.layers
        if self.form == "adapter":
            found["format"] = "peft"
        if self.form == "hub":
            from ..storage.hub.target import HubTarget, parse_target

            found["push"] = replace(parse_target(HubTarget(self.name, private=self.private)), overwrite=self.overwrite)
        elif self.form == "gguf":
            found["out"] = GgufFile(str(bench.place(self.name)), overwrite=self.overwrite)
        else:
            found["out"] = Folder(str(bench.place(self.name)), overwrite=self.overwrite)
        return found

    def command(self, bench: Bench) -> str:
        """The command line that does the same."""
        model, source = bench.model, bench.vectors
        options: list[tuple[str, object]] = [
            ("model", str(model)),
            ("base-model", model.base_model),
            *(("vectors", os.fspath(one)) for one in source.named),
            ("vectors-for", source.vectors_for),
            ("site", source.site),
            ("mix", ",".join(f"{name}={_number(weight)}" for name, weight in self.setting.mix.items())),
            ("scale", "" if self.setting.scale == 1 else _number(self.setting.scale)),
            ("layers", self.setting.layers),
            ("format", "peft" if self.form == "adapter" else ""),
            ("push-to-hub" if self.form == "hub" else "out", self._output(bench)),
            ("private", self.form == "hub" and self.private is True),
            ("public", self.form == "hub" and self.private is False),
            ("overwrite", self.overwrite),
        ]
        given = [(name, value) for name, value in options if value]
        return "emobake " + " ".join(
            f"--{name}" if value is True else f"--{name} {shlex.quote(str(value))}" for name, value in given
        )

    def python(self, bench: Bench) -> str:
        """The Python that does the same."""
        model, source, setting = bench.model, bench.vectors, self.setting
        named = [os.fspath(one) for one in source.named]
        vectors: object = named[0] if len(named) == 1 else named or None
        spoken = repr(vectors)
        if source.vectors_for or source.site:
            fields = {"vectors": vectors, "vectors_for": source.vectors_for, "site": source.site}
            spoken = f"emobake.VectorSource({_keywords({key: one for key, one in fields.items() if one})})"
        base = repr(str(model))
        if model.base_model:
            base = f"emobake.ModelName.parse({base}, base_model={model.base_model!r})"
        lines = [base, *([] if spoken == "None" else [f"vectors={spoken}"]), f"mix={setting.mix!r}"]
        lines += [f"scale={setting.scale!r}"] if setting.scale != 1 else []
        lines += [f"layers={setting.layers!r}"] if setting.layers else []
        lines += ["format='peft'"] if self.form == "adapter" else []
        name = self._output(bench)
        if self.form == "hub":
            given: dict[str, object] = {} if self.private is None else {"private": self.private}
            given |= {"overwrite": True} if self.overwrite else {}
            lines.append(f"push=emobake.HubTarget({', '.join([repr(name), *filter(None, [_keywords(given)])])})")
        elif self.overwrite:
            lines.append(f"out=emobake.{'GgufFile' if self.form == 'gguf' else 'Folder'}({name!r}, overwrite=True)")
        else:
            lines.append(f"out={name!r}")
        return "import emobake\n\nemobake.bake(\n" + "".join(f"    {line},\n" for line in lines) + ")\n"

    def _output(self, bench: Bench) -> str:
        return self.name if self.form == "hub" else str(bench.place(self.name))


def _number(value: float) -> str:
    """The shortest text that is read as the same number."""
    return repr(float(value)).removesuffix(".0")


def _keywords(fields: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in fields.items())
