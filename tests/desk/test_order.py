"""Orders from the page: names stay within the folder, and the command line and the Python write the same bytes."""

import re
import shlex

import pytest
from support.checkpoints import tree

import emobake
from emobake import InputError
from emobake.actions.bake import bake
from emobake.desk.order import Bench, Order
from emobake.desk.setting import Setting, Settings
from emobake.storage.model_name import ModelName
from emobake.vectors.find import VectorSource

SETTING = Setting({"joy": 0.1, "anger": -0.25, "fear": 0.0}, 1.5, "0-1")


@pytest.fixture
def bench(base, vectors, tmp_path):
    (tmp_path / "outs").mkdir()
    return Bench(ModelName.parse(base, base_model="me/base"), VectorSource(str(vectors)), str(tmp_path / "outs"))


@pytest.mark.parametrize("form", ["folder", "adapter"])
def test_command_line_and_python_write_what_the_desk_writes(bench, cli, tmp_path, form):
    order = Order(SETTING, form, "deeper/joyful")
    command, code = order.command(bench), order.python(bench)
    out = tmp_path / "outs" / "deeper" / "joyful"
    bake(bench.model, **order.arguments(bench))
    wanted = tree(out)
    out.rename(tmp_path / "first")
    cli(*shlex.split(command)[1:]).ok()
    assert tree(out) == wanted and len(wanted) > 4 - 2 * (form == "adapter")
    out.rename(tmp_path / "second")
    exec(compile(code, "page", "exec"), {})
    assert tree(out) == wanted
    assert "--mix joy=0.1,anger=-0.25 --scale 1.5 --layers 0-1" in command


def test_spellings_of_the_other_forms(bench):
    setting = Setting({"joy": 1.0})
    plain = Bench(ModelName.parse("me/base@v1"), VectorSource(), "out puts")
    order = Order(setting, "gguf", "joyful", overwrite=True)
    assert order.command(plain) == "emobake --model me/base@v1 --mix joy=1 --out 'out puts/joyful.gguf' --overwrite"
    assert "out=emobake.GgufFile('out puts/joyful.gguf', overwrite=True)" in order.python(plain)
    order = Order(setting, "hub", "me/joyful", overwrite=True, private=True)
    assert order.command(bench).endswith("--mix joy=1 --push-to-hub me/joyful --private --overwrite")
    assert "push=emobake.HubTarget('me/joyful', private=True, overwrite=True)" in order.python(bench)
    target = order.arguments(bench)["push"]
    assert target == emobake.HubTarget("me/joyful", private=True, overwrite=True)
    more = Bench(plain.model, VectorSource(("a.npz", "b.npz"), site="layer_output"), ".")
    assert "--vectors a.npz --vectors b.npz --site layer_output" in order.command(more)
    assert "emobake.VectorSource(vectors=['a.npz', 'b.npz'], site='layer_output')" in order.python(more)
    fine = Bench(plain.model, VectorSource(None, "me/other"), ".")
    assert "--vectors-for me/other" in order.command(fine)
    assert "emobake.VectorSource(vectors_for='me/other')" in order.python(fine)


@pytest.mark.parametrize(
    "name", ["../out", "/tmp/out", "a/../../b", "a//b", "C:\\out", "a\\b", ".hidden", "a/.b", "way/out", "x\ny"]
)
def test_no_name_leads_out_of_the_folder(bench, tmp_path, name):
    (tmp_path / "outs" / "way").symlink_to(tmp_path)
    with pytest.raises(InputError, match=r"give a name below|leads out"):
        Order(SETTING, "folder", name).arguments(bench)


@pytest.mark.parametrize(
    ("setting", "form", "name", "words"),
    [
        (Setting({"joy": 0.0}), "folder", "out", "all weights are zero"),
        (Setting({"joy": 1.0}, 0.0), "folder", "out", "all weights are zero"),
        (SETTING, "folder", " ", "give a name"),
        (SETTING, "hub", "", "give a repository"),
        (SETTING, "folder", "out.gguf", "GGUF"),
        (SETTING, "cake", "out", "`form` takes one of"),
        (Setting({"joy": float("nan")}), "folder", "out", "finite"),
        (Setting({"joy": 1.0}, layers="9-1"), "folder", "out", "runs backwards"),
    ],
)
def test_an_order_that_makes_no_sense(setting, form, name, words):
    with pytest.raises(InputError, match=re.escape(words)):
        Order(setting, form, name)


def test_settings_name_what_is_allowed():
    for wrong in (lambda: Setting(scope="some"), lambda: Settings(beside="c"), lambda: Settings(history="old")):
        with pytest.raises(InputError, match="takes one of"):
            wrong()
    assert Setting({"joy": 0.0}, 2.0).steering.is_zero
    with pytest.raises(InputError, match="emotion"):
        _ = Setting({"../joy": 1.0}).steering
