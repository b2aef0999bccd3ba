"""Finding a set: published ones from a stand-in for GitHub, shared ones from a stand-in for the Hub."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from huggingface_hub import ModelCard
from support.checkpoints import write_checkpoint
from support.hub_server import Repo, StandInHub
from support.paths import SHARED
from support.running import Run

from emobake import open_vectors
from emobake.core.vector_set import EMOTIONS, Statistics, VectorSet
from emobake.storage.model_name import ModelName
from emobake.vectors.likeness import find_like
from emobake.vectors.registry import find_by_name, registry
from emobake.vectors.write import write_set

QWEN = "qwen2.5-7b-instruct"
ROWS = np.random.default_rng(3).normal(size=(5, 2, 8)).astype(np.float32)
SMALL = VectorSet(EMOTIONS, ROWS, "small", base_model="owner/tiny", license="mit", source="a test")


@pytest.fixture
def server(hub: StandInHub) -> StandInHub:
    return hub


@pytest.fixture
def emobake(hub: StandInHub, online: Run) -> Run:
    """`online`, where the stand-in also serves what is published on GitHub."""
    return lambda *arguments, env=None: online(*arguments, env={"EMOBAKE_RAW_ENDPOINT": hub.url} | (env or {}))


def publish(server, *names):
    """Serve these published files, as they are in the seed; their requests, to be counted."""
    for entry in registry().sets:
        for file in entry.files.values():
            content = SHARED / "seed" / file.path
            if entry.name in names and content.exists():
                server.raw[f"{file.repository}/{file.commit}/{file.path}"] = content.read_bytes()


def fetched(server):
    return [r for r in server.requests if "EmotionVector" in r.path]


# --- published sets ------------------------------------------------------------------------------------------


@pytest.mark.published
def test_a_published_set_is_fetched_once_checked_and_converted(emobake, server, tmp_path):
    publish(server, QWEN)
    path = Path(emobake("vectors", "pull", QWEN, "--out", tmp_path / "mine.npz").ok().out.strip())
    assert path == tmp_path / "mine.npz"
    cached = Path(emobake("vectors", "pull", "Qwen/Qwen2.5-7B-Instruct").ok().out.strip())
    assert cached.parent == tmp_path / "cache" and len(fetched(server)) == 5, "the second time nothing is fetched"
    assert not any(r.token for r in fetched(server)), "no token is sent to a stranger"
    found, published = open_vectors(cached), open_vectors(SHARED / "seed" / "EMVector" / "qwen2.5")
    np.testing.assert_array_equal(found.rows.view(np.uint32), published.rows.view(np.uint32))
    np.testing.assert_array_equal(open_vectors(path).rows, published.rows)
    assert (found.base_model, found.license) == ("Qwen/Qwen2.5-7B-Instruct", "mit")
    assert "EmotionVector" in found.source
    rows = json.loads(emobake("vectors", "list", "--json", env={"HF_HUB_OFFLINE": "1"}).ok().out)
    assert {row["name"]: row["where"] for row in rows}[QWEN] == "cached"
    assert emobake("vectors", "show", QWEN, env={"HF_HUB_OFFLINE": "1"}).ok().out.startswith(QWEN)


@pytest.mark.published
def test_another_content_than_published_is_refused_and_nothing_is_kept(emobake, server, tmp_path):
    publish(server, QWEN)
    joy = next(path for path in server.raw if path.endswith("joy.json"))
    server.raw[joy] = server.raw[joy].replace(b"0.0", b"0.1", 1)
    emobake("vectors", "pull", QWEN).one_line("qwen2.5_joy.json", "not the file that was published")
    assert not list(tmp_path.glob("cache/*"))


def test_what_cannot_be_fetched(emobake, server, tmp_path):
    emobake("vectors", "pull", QWEN).one_line("qwen2.5_anger.json", "could not be fetched", code=1)
    offline = {"HF_HUB_OFFLINE": "1"}
    emobake("vectors", "pull", QWEN, env=offline).one_line("not in the cache", "HF_HUB_OFFLINE")
    server.broken = True
    emobake("vectors", "pull", QWEN).one_line("could not be fetched", "500", code=1)
    emobake("vectors", "pull", "gpt-5").one_line("gpt-5", "emobake vectors list")


@pytest.mark.published
def test_a_cache_that_cannot_be_written(emobake, server, tmp_path):
    publish(server, QWEN)
    (tmp_path / "file").write_text("")
    asked = {"EMOBAKE_CACHE": str(tmp_path / "file" / "cache")}
    emobake("vectors", "pull", QWEN, env=asked).one_line("EMOBAKE_CACHE", code=1)


def test_endless_content_is_cut_off(server, monkeypatch):
    from emobake import BrokenFileError
    from emobake.vectors import fetch

    file = find_by_name(QWEN).files["joy"]
    server.raw[f"{file.repository}/{file.commit}/{file.path}"] = b"x" * 100_001
    monkeypatch.setenv("EMOBAKE_RAW_ENDPOINT", server.url)
    monkeypatch.setattr(fetch, "MAX_SMALL", 100_000)
    with pytest.raises(BrokenFileError, match="larger than 100000"):
        fetch._fetch(file)


@pytest.mark.published
def test_published_queries(server, monkeypatch, tmp_path):
    from emobake import InputError
    from emobake.measure import queries, query_sets

    monkeypatch.setenv("EMOBAKE_RAW_ENDPOINT", server.url)
    monkeypatch.setenv("EMOBAKE_CACHE", str(tmp_path / "cache"))
    entry = registry().queries[0]
    seed = (SHARED / "seed" / entry.file.path).read_bytes()
    server.raw[f"{entry.file.repository}/{entry.file.commit}/{entry.file.path}"] = seed
    for _ in range(2):
        content, name = query_sets.open_queries("emotionquery")
        assert content == seed
    assert len(fetched(server)) == 1
    parsed = queries.parse_queries(content, name)
    assert {emotion: len(texts) for emotion, texts in parsed.items()} == dict.fromkeys(EMOTIONS, 100)
    own, name = query_sets.open_queries(None)
    assert {e: len(texts) for e, texts in queries.parse_queries(own, name).items()} == dict.fromkeys(EMOTIONS, 48)
    assert query_sets.open_queries("emobake") == (own, name)
    with pytest.raises(InputError, match=r"emobake, emotionquery"):
        query_sets.open_queries("nowhere.json")


# --- the set of a model ---------------------------------------------------------------------------------------


def smol(folder: Path) -> Path:
    return write_checkpoint(folder, layers=30, hidden=576)


def test_a_model_of_the_hub_needs_no_vectors(emobake, server, tmp_path):
    for name in ("HuggingFaceTB/SmolLM2-135M-Instruct", "unsloth/SmolLM2-135M-Instruct"):
        server.repos[name] = Repo()
        server.repos[name].commit(smol(tmp_path / "smol"))
        out = tmp_path / name.partition("/")[0]
        emobake("--model", name, "--mix", "joy=1", "--out", out).ok()
        record = json.loads((out / "emobake.json").read_text())
        assert record["vectors"]["name"] == "smollm2-135m-instruct"
        digest = hashlib.sha256(Path("vectors/smollm2-135m-instruct.safetensors").read_bytes()).hexdigest()
        assert list(record["vectors"]["sha256"].values()) == [digest]
    emobake("verify", out, "--vectors", "smollm2-135m-instruct").ok()


def test_a_fine_tune_is_known_by_its_card(emobake, server, tmp_path):
    folder = smol(tmp_path / "tuned")
    (folder / "README.md").write_text("---\nbase_model: HuggingFaceTB/SmolLM2-135M-Instruct\n---\n# Mine\n")
    server.repos["me/tuned"] = Repo()
    server.repos["me/tuned"].commit(folder)
    ran = emobake("--model", "me/tuned", "--mix", "joy=1", "--out", tmp_path / "out").ok()
    assert "was made from HuggingFaceTB/SmolLM2-135M-Instruct, not from me/tuned" in ran.err
    ran = emobake("--model", folder, "--mix", "joy=1", "--out", tmp_path / "local").ok()
    assert "the vectors are those of HuggingFaceTB/SmolLM2-135M-Instruct" in ran.err


def test_a_folder_without_an_id_must_say_whose_vectors(emobake, tmp_path):
    folder = smol(tmp_path / "smol")
    out = ("--mix", "joy=1", "--out", tmp_path / "out")
    line = emobake("--model", folder, *out).one_line("--vectors-for", "--vectors")
    assert f"emobake vectors extract --model {folder} --out smol.safetensors" in line
    assert not (tmp_path / "out").exists()
    asked = ("--vectors-for", "HuggingFaceTB/SmolLM2-135M-Instruct")
    emobake("--model", folder, *asked, *out, "--dry-run").ok()
    emobake("--model", folder, "--base-model", asked[1], *out, "--dry-run").ok()
    emobake("--model", folder, "--vectors-for", "gpt-5", *out).one_line("gpt-5", "vectors extract")
    emobake("--model", folder, *asked, "--vectors", "smollm2-135m-instruct", *out).one_line("give one")


SMOL = "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_a_folder_is_likened_to_a_known_model(emobake, tmp_path):
    """By its config and name; offered, and never taken by itself."""
    plain = smol(tmp_path / "mine")
    named = smol(tmp_path / "SmolLM2-135M-Instruct")
    told = smol(tmp_path / "told")
    (told / "README.md").write_text(f"# A tune of {SMOL}\n")
    config = json.loads((smol(tmp_path / "config") / "config.json").read_text()) | {"_name_or_path": SMOL}
    (tmp_path / "config" / "config.json").write_text(json.dumps(config))
    cases = {"mine": (plain, f"its config.json has the shape of {SMOL} (llama, 30 layers x 576)")}
    cases |= {f.name: (f, f"its name and shape are those of {SMOL}") for f in (named, told, tmp_path / "config")}
    for folder, said in cases.values():
        for command in ((), ("chat", "--prompt", "Hello?")):
            more = ("--dry-run",) if not command else ()
            line = emobake(*command, "--model", folder, "--mix", "joy=1", *more).one_line(said)
            offer, other = line.index(f"--vectors-for {SMOL}"), line.index("--vectors, or extract")
            assert offer < other, "the likeliest way out comes first"
            assert f"emobake vectors extract --model {folder}" in line
    other = write_checkpoint(tmp_path / "other", layers=30, hidden=512)
    line = emobake("--model", other, "--mix", "joy=1", "--dry-run").one_line("no vectors are published")
    assert SMOL not in line
    (plain / "config.json").write_text("{")
    emobake("--model", plain, "--mix", "joy=1", "--dry-run").one_line("config.json")


def test_a_model_of_the_hub_is_likened_too(emobake, server, tmp_path):
    server.repos["me/tuned"] = Repo()
    server.repos["me/tuned"].commit(smol(tmp_path / "smol"))
    emobake("--model", "me/tuned", "--mix", "joy=1", "--dry-run").one_line("the shape of", f"--vectors-for {SMOL}")


def test_a_gguf_file_is_likened_by_its_header():
    header = SimpleNamespace(architecture="llama", num_hidden_layers=30, hidden_size=576, name="x.gguf")
    found = find_like(ModelName.parse("x.gguf"), header)
    assert found.entry.base_model == SMOL and found.why.startswith("its header has the shape of")
    header.architecture = "qwen2"
    assert find_like(ModelName.parse("x.gguf"), header) is None


def test_verify_finds_the_set_that_the_record_names(emobake, server, base, tmp_path):
    def arithmetic(out, *more):
        checks = json.loads(emobake("verify", out, "--json", *more).ok().out)
        return next((check["ok"], check["detail"]) for check in checks if check["name"] == "arithmetic")

    folder, out = smol(tmp_path / "smol"), tmp_path / "out"
    emobake("--model", folder, "--vectors-for", SMOL, "--mix", "joy=1", "--out", out).ok()
    assert arithmetic(out)[0] is True
    write_set(SMALL, tmp_path / "v.safetensors")
    emobake("vectors", "push", tmp_path / "v.safetensors", "me/feelings").ok()
    shared = tmp_path / "shared"
    emobake("--model", base, "--vectors", "me/feelings", "--mix", "joy=1", "--out", shared).ok()
    assert arithmetic(shared)[0] is True
    server.repos["me/feelings"].put({"vectors.safetensors": b"another"})
    assert arithmetic(shared)[0] is None and "--vectors" in arithmetic(shared)[1]
    local = tmp_path / "local"
    emobake("--model", base, "--vectors", tmp_path / "v.safetensors", "--mix", "joy=1", "--out", local).ok()
    assert arithmetic(local) == (
        None,
        "biases compared with the record's digests only; the record names 'v.safetensors', which is no set with a "
        "name; give --vectors",
    )
    record = json.loads((out / "emobake.json").read_text())
    record["weights"]["joy"] = 2.0
    (out / "emobake.json").write_text(json.dumps(record))
    assert "FAIL arithmetic" in emobake("verify", out).out, "a record that lies about its weights is found out"


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("--mix", "yoy=1"), "joy"),
        (("--mix", "sadnes=1"), "sadness"),
        (("--vectors", "smollm2-135m-instuct", "--mix", "joy=1"), "smollm2-135m-instruct"),
        (("--vectors-for", "Qwen/Qwen2.5-7B-Instuct", "--mix", "joy=1"), "Qwen/Qwen2.5-7B-Instruct"),
    ],
)
def test_a_typo_is_recognised(emobake, base, tmp_path, words, meant):
    more = () if "vectors" in words[0] else ("--vectors", "smollm2-135m-instruct")
    emobake("--model", base, *more, *words, "--dry-run").one_line(f"did you mean {meant}?")


def test_typos_in_other_names(emobake, server, tmp_path):
    emobake("vectors", "pull", "smollm2").one_line("did you mean smollm2-135m-instruct?")
    emobake("vectors", "pull", "smolm2").one_line("did you mean smollm2-135m-instruct?")
    (tmp_path / "ev").mkdir()
    for emotion in ("joy", "anger"):
        (tmp_path / "ev" / f"x_{emotion}.json").write_text(json.dumps({"0": [[1.0]]}))
    emobake("vectors", "mix", tmp_path / "ev", "--name", "x", "--mix", "angr=1", "--out", tmp_path / "x.npz").one_line(
        "did you mean anger?"
    )
    words = ("--model", "x", "--mix", "joy=1", "--dry-run", "--targets", "vlm")
    emobake(*words).one_line("did you mean vllm?")
    emobake("psuh", "a", "me/b").one_line("psuh", "did you mean push?")


def test_a_model_without_a_set_is_told_how_to_make_one(emobake, server, base):
    server.repos["me/model"] = Repo()
    server.repos["me/model"].commit(base)
    line = emobake("--model", "me/model", "--mix", "joy=1", "--dry-run").one_line("no vectors are published")
    assert "emobake vectors extract --model me/model --out model.safetensors" in line
    assert "model.safetensors" not in server.downloaded(), "no weights were fetched for it"
    emobake("--model", "me/nothing", "--mix", "joy=1", "--dry-run").one_line("me/nothing", "no such")


# --- the Hub --------------------------------------------------------------------------------------------------


def test_pushed_found_and_used(emobake, server, base, tmp_path):
    write_set(SMALL, tmp_path / "v.safetensors")
    ran = emobake("vectors", "push", tmp_path / "v.safetensors", "me/feelings").ok()
    assert (ran.out.strip(), ran.err) == (f"{server.url}/me/feelings", "")
    files = server.repos["me/feelings"].files()
    assert files["vectors.safetensors"] == (tmp_path / "v.safetensors").read_bytes()
    card = ModelCard(files["README.md"].decode())
    assert (card.data.license, card.data.base_model) == ("mit", "owner/tiny")
    assert "emobake --model owner/tiny --vectors me/feelings --mix anger=1" in card.text
    assert server.repos["me/feelings"].messages[-1] == "Vectors for anger, disgust, fear, joy, sadness"

    out = tmp_path / "out"
    emobake("--model", base, "--vectors", "me/feelings", "--mix", "joy=1", "--out", out).ok()
    assert json.loads((out / "emobake.json").read_text())["vectors"]["name"] == "me/feelings"
    commit = server.repos["me/feelings"].refs["main"]
    emobake("vectors", "convert", f"me/feelings@{commit}", tmp_path / "w.npz").ok()
    np.testing.assert_array_equal(open_vectors(tmp_path / "w.npz").rows, ROWS)

    again = emobake("vectors", "push", tmp_path / "v.safetensors", "me/feelings").ok()
    assert "nothing was uploaded" in again.out and again.err == ""
    assert server.repos["me/feelings"].refs["main"] == commit
    server.repos["me/feelings"].put({"README.md": b"my own words"})
    emobake("vectors", "push", "smollm2-135m-instruct", "me/feelings", "--commit-message", "Larger").ok()
    assert server.repos["me/feelings"].files()["README.md"] == b"my own words"
    assert server.repos["me/feelings"].messages[-1] == "Larger"


def test_a_private_repository_and_what_is_not_recorded(emobake, server, tmp_path):
    write_set(VectorSet(EMOTIONS, ROWS), tmp_path / "v.safetensors")
    ran = emobake("vectors", "push", tmp_path / "v.safetensors", "me/secret", "--private").ok()
    assert "no licence is recorded" in ran.err and server.repos["me/secret"].private
    options = ("--license", "cc0-1.0", "--base-model", "owner/tiny")
    assert emobake("vectors", "push", tmp_path / "v.safetensors", "me/said", *options).ok().err == ""
    card = ModelCard(server.repos["me/said"].files()["README.md"].decode())
    assert (card.data.license, card.data.base_model) == ("cc0-1.0", "owner/tiny")


def test_what_the_hub_refuses(emobake, server, base, tmp_path):
    write_set(SMALL, tmp_path / "v.safetensors")
    push = ("vectors", "push", tmp_path / "v.safetensors")
    emobake(*push, "me/x", env={"HF_TOKEN": "hf_stranger"}).one_line("me/x", "refuses", "hf auth login")
    emobake(*push, "me/x", env={"HF_TOKEN": ""}).one_line("me/x", "hf auth login")
    emobake(*push, "no//id").one_line("no//id", "valid Hub id")
    emobake(*push, "me/x", env={"HF_HUB_OFFLINE": "1"}).one_line("HF_HUB_OFFLINE")
    server.repos["me/model"] = Repo()
    server.repos["me/model"].commit(base)
    emobake(*push, "me/model").one_line("me/model", "holds a model")
    emobake("vectors", "show", "me/model").one_line("me/model", "vectors.safetensors", "not a set of vectors")
    emobake("vectors", "show", "me/nothing").one_line("me/nothing")
    emobake("vectors", "show", "me/model@nothing").one_line("no revision 'nothing'")
    emobake("vectors", "show", "nothing").one_line("nothing", "smollm2-135m-instruct")
    server.broken = True
    emobake(*push, "me/x").one_line("could not be uploaded", code=1)
    assert set(server.repos) == {"me/model"}


def test_a_card_says_how_good_the_vectors_are():
    from emobake.vectors.share import vector_card

    statistics = {"joy": Statistics(40, (0.1, 0.2), 0.91), "fear": Statistics(2, (0.1, 0.2), None)}
    made = VectorSet(
        ("fear", "joy"), ROWS[:2], statistics=statistics, extraction={"emotional_prompt": "a | b\n<i>{query}"}
    )
    card = vector_card(made, "me/x")
    assert "| joy | 40 | 0.910 |" in card and "| fear | 2 |  |" in card
    assert "| emotional_prompt | a \\| b &lt;i&gt;{query} |" in card
    assert "2502.04075" in card
