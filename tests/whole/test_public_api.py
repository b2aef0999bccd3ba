import subprocess
import sys

import pytest

import emobake


def test_every_exported_name_exists_and_is_documented():
    assert len(emobake.__all__) == len(set(emobake.__all__))
    for name in emobake.__all__:
        value = getattr(emobake, name)
        assert value.__doc__, name


def test_dir_shows_the_exported_names_only():
    code = "import emobake; print(*dir(emobake))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert sorted(done.stdout.split()) == sorted(emobake.__all__)
    assert set(emobake._HOMES) <= set(emobake.__all__)


def loaded_after(code):
    names = "'numpy', 'torch', 'transformers', 'huggingface_hub', 'rich', 'safetensors'"
    script = f"import sys\n{code}\nprint(*[m for m in ({names}) if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "command",
    [
        "",
        "bake",
        "verify",
        "chat",
        "eval",
        "tune",
        "vectors",
        "vectors extract",
        "vectors show",
        "moods",
        "join",
        "audit",
        "persona",
        "persona init",
        "desk",
        "unbake",
    ],
)
def test_help_waits_for_nothing_heavy(command):
    code = f"from emobake.cli.app import cli\ntry: cli({[*command.split(), '--help']})\nexcept SystemExit: pass"
    assert loaded_after(code) == set()


def test_the_baker_needs_no_torch():
    modules = "emobake.actions.bake, emobake.storage.local, emobake.actions.verify, emobake.cli.vectors"
    assert not loaded_after(f"import {modules}") & {"torch", "transformers"}


def test_no_module_hides_an_exported_name():
    """Importing a submodule sets it as an attribute of the package, over a function of the same name."""
    from pathlib import Path

    modules = {path.stem for path in Path(emobake.__file__).parent.glob("*.py")}
    assert not modules & set(emobake.__all__)
