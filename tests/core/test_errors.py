"""Messages never show a password, a token or a key; and wrong types are errors of ours."""

import pytest
from support.running import IMPATIENT, run_process

import emobake
from emobake.errors import EmobakeError, InputError, without_secrets


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at https://me:s3cret@host:1/v1: no", "at https://host:1/v1: no"),
        ("at https://me:p@ss@host/v1", "at https://host/v1"),
        ("proxy socks5h://me:s3cret@host", "proxy socks5h://host"),
        ("url 'https://host/x?api_key=s3cret&a=b' (gone)", "url 'https://host/x' (gone)"),
        ("(https://host?key=s3cret); again", "(https://host); again"),
        ("Bearer hf_abcdefghijkl and sk-proj-abc_defghijk.", "Bearer (token) and (key)."),
        ("own-token and own-key", "(token) and (key)"),
        ("me/model@main, https://host/me/model and a@b.c", "me/model@main, https://host/me/model and a@b.c"),
    ],
)
def test_secrets_are_cut_out(monkeypatch, text, shown):
    monkeypatch.setenv("HF_TOKEN", "own-token")
    monkeypatch.setenv("OPENAI_API_KEY", "own-key")
    assert without_secrets(text) == shown == str(EmobakeError(text)) == str(InputError(text))


def test_a_judge_does_not_show_its_password(monkeypatch):
    pytest.importorskip("huggingface_hub")
    from emobake.measure.scorers import judge

    monkeypatch.setenv("OPENAI_BASE_URL", "http://me:s3cret@127.0.0.1:9/v1?api_key=topsecret")
    monkeypatch.setenv("OPENAI_API_KEY", "own-key")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    opened = judge.Judge("model")
    with pytest.raises(emobake.HubError, match="does not answer") as caught:
        opened.score(["Hello?"], ["Yes."])
    for secret in ("s3cret", "topsecret", "own-key"):
        assert secret not in str(caught.value)


@pytest.mark.parametrize(
    "address", ["http://me:s3/cret@host/v1", "http://me:1/s3cret@host", "me:s3cret@host", "http://"]
)
def test_an_address_that_is_none_is_refused_without_showing_it(monkeypatch, address):
    """HTTP libraries name the part that they take for the port."""
    from emobake.measure.scorers.judge import Judge

    monkeypatch.setenv("OPENAI_BASE_URL", address)
    with pytest.raises(InputError, match="OPENAI_BASE_URL is not an address") as caught:
        Judge("model")
    assert "s3" not in str(caught.value)
    if "@" in address and "://" in address:
        assert "cret" not in without_secrets(f"judge at {address} (it failed)")


@pytest.mark.parametrize("debug", [(), ("--debug",)])
def test_nor_does_the_command_line(debug):
    """Whatever fails: an address of the user's own is in the traceback, too."""
    env = {"HF_ENDPOINT": "http://me:s3cret@127.0.0.1:9", "HF_TOKEN": "hf_abcdefghijkl", "HF_HUB_DOWNLOAD_TIMEOUT": "1"}
    ran = run_process("-c", IMPATIENT, *debug, "vectors", "show", "owner/name", env=env)
    assert ran.code != 0 and "s3cret" not in ran.err + ran.out and "hf_abc" not in ran.err + ran.out
    assert ("Traceback" in ran.err) == bool(debug)


def test_nor_do_logs_and_addresses(monkeypatch, capsys):
    import logging
    from types import SimpleNamespace

    from emobake import HubTarget
    from emobake.storage.http import quiet_library
    from emobake.storage.hub import repository

    log, written = logging.getLogger("huggingface_hub"), []
    level, handler = log.level, logging.Handler()
    handler.emit = lambda record: written.append(record.getMessage())
    log.addHandler(handler)
    quiet_library()
    quiet_library()
    log.setLevel(logging.WARNING)
    logging.getLogger("huggingface_hub.utils").warning("thrown while requesting %s", "https://me:s3cret@host/x?key=1")
    log.setLevel(level)
    log.removeHandler(handler)
    assert written == ["thrown while requesting https://host/x"]
    monkeypatch.setattr(repository, "api", lambda: SimpleNamespace(endpoint="https://me:s3cret@host"))
    assert repository.Repository(HubTarget("me/x"), None).url == "https://host/me/x"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"out": 5}, "`out` takes a path"),
        ({"out": True}, "`out` takes a path"),
        ({"push": 5}, "`push` takes owner/name or a HubTarget"),
        ({"targets": "vllm"}, "`targets` takes a list, such as"),
        ({"targets": 5}, "`targets` takes a list, such as"),
        ({"targets": [5]}, "`targets` takes names of stacks"),
        ({"mix": "joy=1"}, "`mix` takes numbers by name"),
        ({"mix": None, "times": "joy"}, "`times` takes a list"),
        ({"model": 5}, "a model is a path"),
        ({"format": "pefft"}, r"`format` takes one of checkpoint, .* did you mean peft\?"),
        ({"format": 5}, "`format` takes one of"),
        ({"out": emobake.Folder("x", link_mode="hard")}, r"`link_mode` takes one of .*; did you mean hardlink\?"),
    ],
    ids=str,
)
def test_arguments_of_a_wrong_type(base, vectors, arguments, said):
    given = {"model": base, "vectors": vectors, "mix": {"joy": 1}, "dry_run": True} | arguments
    with pytest.raises(InputError, match=said):
        emobake.bake(**given)


def test_words_that_are_none_of_the_choices(base, vectors):
    with pytest.raises(InputError, match="`scope` takes one of every, last, not 'evry'; did you mean every"):
        emobake.open_conversation(base, vectors, scope="evry")


@pytest.mark.parametrize(
    "number", [{"temperature": float("nan")}, {"temperature": -1}, {"top_p": 0}, {"max_new_tokens": 0}]
)
def test_sampling_out_of_range(number):
    with pytest.raises(InputError, match=f"`{next(iter(number))}` takes a number"):
        emobake.Sampling(**number)


def test_a_record_is_read_by_the_name_of_its_folder(base, vectors, tmp_path):
    emobake.bake(base, vectors, mix={"joy": 1}, out=tmp_path / "out")
    assert emobake.read_record(str(tmp_path / "out")).steering.recipe == "1 x joy"


def test_a_text_where_a_list_is_wanted(base, tmp_path):
    for call in (
        lambda: emobake.verify(base, stack="vllm"),
        lambda: emobake.evaluate(base, tmp_path / "r", emotions="joy", questions="everyday", scorers=["lexicon"]),
        lambda: emobake.evaluate(base, tmp_path / "r", questions="everyday", scorers="lexicon"),
        lambda: emobake.evaluate(base, tmp_path / "r", strengths=1, questions="everyday", scorers=["lexicon"]),
        lambda: emobake.evaluate_checkpoints(str(base), tmp_path / "r", questions="everyday", scorers=["lexicon"]),
    ):
        with pytest.raises(InputError, match="takes a list, such as"):
            call()
