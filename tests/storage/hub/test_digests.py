"""Bytes from the Hub are compared with the digests that it lists, and a record says where a digest comes from."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from support.checkpoints import write_checkpoint
from support.hub_server import Repo, StandInHub
from support.pushes import JOY, without_attributes
from support.running import BASE, TARGET, Run

import emobake
from emobake import BrokenFileError
from emobake.core.record import Record
from emobake.storage.files import advertised

OTHER = "its bytes are not those that the Hub lists"
SHARD = "model-00002-of-00003.safetensors"


def weights(record: Path) -> list[dict[str, Any]]:
    return json.loads(record.read_text())["base"]["weights"]


@pytest.fixture
def bake(online: Run, repo: Repo, vectors: Path, tmp_path: Path) -> Run:
    """``bake(*options, out="out")`` of the base on the Hub, into a folder here."""

    def run(*options: object, out: str = "out", **more: Any) -> Any:
        return online("--model", BASE, "--vectors", vectors, *JOY, "--out", tmp_path / out, *options, **more)

    return run


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "LICENSE", "README.md", SHARD])
def test_a_download_of_other_bytes(bake: Run, hub: StandInHub, tmp_path: Path, name: str):
    hub.spoiled.add(name)
    bake().one_line(name, OTHER, "run again")
    assert not (tmp_path / "out").exists()


def test_a_spoiled_file_that_was_removed_is_fetched_again(bake: Run, hub: StandInHub, tmp_path: Path):
    hub.spoiled.add("tokenizer.json")
    line = bake().one_line(OTHER)
    hub.spoiled.clear()
    bake().one_line(OTHER)
    Path(line.partition("remove ")[2].partition(" and run again")[0]).unlink()
    bake().ok()


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "README.md"])
def test_small_files_that_a_push_passes_on(over: Run, hub: StandInHub, repo: Repo, name: str):
    hub.spoiled.add(name)
    over().one_line(name, OTHER)
    assert TARGET not in hub.repos or not without_attributes(hub.repos[TARGET]), "nothing was committed"


@pytest.mark.parametrize("vocab", [16, 3000], ids=["read ahead whole", "relayed"])
def test_weights_that_pass_through_this_machine(over: Run, hub: StandInHub, repo: Repo, tmp_path: Path, vocab: int):
    repo.commit(write_checkpoint(tmp_path / "m", shards=3, vocab=vocab))
    hub.other_region, hub.no_duplicates = "Storage regions differ", True
    shard = "model-00001-of-00003.safetensors"
    hub.spoiled.add(shard)
    ran = over()
    assert ran.code == 2 and shard in ran.err and OTHER in ran.err
    assert TARGET not in hub.repos or not without_attributes(hub.repos[TARGET]), "nothing was committed"


def test_vectors_of_other_bytes(online: Run, hub: StandInHub, base: Path, tmp_path: Path, vectors: Path):
    (tmp_path / "set").mkdir()
    emobake.write_set(emobake.open_vectors(vectors), tmp_path / "set" / "vectors.safetensors")
    hub.repos["me/ev"] = Repo()
    hub.repos["me/ev"].commit(tmp_path / "set")
    hub.spoiled.add("vectors.safetensors")
    ran = online("--model", base, "--vectors", "me/ev", *JOY, "--out", tmp_path / "out")
    ran.one_line("me/ev/vectors.safetensors", OTHER)


def test_a_cache_that_was_changed(bake: Run, hub: StandInHub, tmp_path: Path):
    """Small files are compared in every bake, offline too; weights when they come, and with --hash."""
    bake().ok()
    (folder,) = (tmp_path / "hf" / "hub").glob("models--*/snapshots/*")
    for name in ("tokenizer.json", SHARD):
        blob = (folder / name).resolve()
        whole = blob.read_bytes()
        blob.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        if name == SHARD:
            bake(out="unseen").ok()
        bake("--hash", out="o").one_line(name, OTHER)
        bake("--hash", out="o", env={"HF_HUB_OFFLINE": "1"}).one_line(name, OTHER)
        blob.write_bytes(whole)
    bake("--hash", out="o").ok()


def test_a_record_says_where_its_digests_come_from(bake: Run, over: Run, hub: StandInHub, tmp_path: Path):
    bake(out="a").ok()
    bake("--hash", out="b").ok()
    over().ok()
    told, computed = weights(tmp_path / "a" / "emobake.json"), weights(tmp_path / "b" / "emobake.json")
    assert {entry["digest"] for entry in told} == {"advertised"}
    assert {entry["digest"] for entry in computed} == {"computed"}
    assert [entry["sha256"] for entry in told] == [entry["sha256"] for entry in computed]
    assert json.loads(hub.repos[TARGET].files()["emobake.json"])["base"]["weights"] == told
    read = Record.from_json(json.loads((tmp_path / "a" / "emobake.json").read_text()), "f")
    assert all(weight.advertised for weight in read.base.weights)


def test_the_name_of_a_blob_is_no_computed_digest(base: Path, vectors: Path, tmp_path: Path):
    """Once, a link to any file whose name has 64 digits was believed, wherever it was, and with --hash too."""
    fake = tmp_path / ("f" * 64)
    (base / "model.safetensors").rename(fake)
    (base / "model.safetensors").symlink_to(fake)
    digest = hashlib.sha256(fake.read_bytes()).hexdigest()
    emobake.bake(base, vectors, mix={"joy": 1}, out=tmp_path / "a")
    assert "sha256" not in weights(tmp_path / "a" / "emobake.json")[0]
    emobake.bake(base, vectors, mix={"joy": 1}, out=tmp_path / "b", hash_files=True)
    (entry,) = weights(tmp_path / "b" / "emobake.json")
    assert (entry["sha256"], entry["digest"]) == (digest, "computed")


def test_a_store_shared_by_all_repositories(vectors: Path, tmp_path: Path):
    """huggingface_hub 2 links a blob to <cache>/blobs/xx/<Xet's hash>, which is no sha256."""
    cache = tmp_path / "hub"
    model = write_checkpoint(cache / "models--o--n" / "snapshots" / ("c" * 40), extra_files=False)
    store, blobs = cache / "blobs" / "ab", cache / "models--o--n" / "blobs"
    store.mkdir(parents=True)
    blobs.mkdir()
    for file in list(model.iterdir()):
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        file.rename(store / digest[::-1])
        (blobs / digest).symlink_to(Path(os.path.relpath(store / digest[::-1], blobs)))
        file.symlink_to(Path("../../blobs") / digest)
    weight = hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()
    assert advertised(model / "model.safetensors") == weight
    plan = emobake.bake(model, vectors, mix={"joy": 1}, out=tmp_path / "out").plan
    assert [(w.sha256, w.advertised) for w in plan.record.base.weights] == [(weight, True)] and not plan.left_out
    (model / "config.json").resolve().write_bytes((model / "config.json").read_bytes() + b" ")
    with pytest.raises(BrokenFileError, match=OTHER):
        emobake.bake(model, vectors, mix={"joy": 1}, out=tmp_path / "again")
