"""Messages about the Hub's errors, and the errors that are tried again."""

from __future__ import annotations

import pytest
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
from support.http_library import NETWORK_ERRORS, response

from emobake import EmobakeError, InputError
from emobake.storage.http import is_passing, reason, requested, retrying
from emobake.storage.hub.errors import fetching, sending


def answer(status, path="/api/models/me/x/commit/main", text="Said", **headers):
    named = {k.replace("_", "-"): v for k, v in headers.items()}
    return HfHubHTTPError(text, response=response(status, "POST", f"https://hub.example{path}?sig=secret", named))


@pytest.mark.parametrize("status", [408, 409, 412, 429, 500, 502, 503, 504])
def test_what_may_pass(status):
    assert is_passing(answer(status))
    wrapped = RuntimeError("Error while uploading 'x' to the Hub.")
    wrapped.__cause__ = answer(status)
    assert is_passing(wrapped)


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 413])
def test_what_will_not(status):
    assert not is_passing(answer(status))


def test_which_other_errors_may_pass():
    for error in (*NETWORK_ERRORS, ConnectionResetError(), LocalEntryNotFoundError("x")):
        assert is_passing(error)
    for error in (ValueError("x"), RuntimeError("x"), OfflineModeIsEnabled("x"), InputError("x"), MemoryError()):
        assert not is_passing(error)


def test_a_reason_is_one_short_line_without_secrets(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "my-own-token")
    text = (
        "500 Error\nfor url 'https://s3.example/x?X-Amz-Signature=abc'\nFor more information check: https://a.b/c\n"
        "hf_abcdefghijkl and my-own-token " + "long " * 100
    )
    said = reason(answer(500, text=text))
    assert "\n" not in said and len(said) <= 200
    assert said.startswith("500 Error for url 'https://s3.example/x (token) and (token) long")
    assert reason(KeyError()) == "KeyError"
    text = (
        "HTTPSConnectionPool(host='s3.example'): Max retries exceeded with url: /x?X-Amz-Signature=abc (Caused by it)"
    )
    assert reason(ConnectionError(text)).endswith("Max retries exceeded with url: /x (Caused by it)")


def test_where_an_error_comes_from():
    assert requested(answer(500)) == "/api/models/me/x/commit/main"
    assert [requested(error) for error in (*NETWORK_ERRORS, ValueError())] == [""] * (len(NETWORK_ERRORS) + 1)


def test_pauses_grow_and_the_hub_may_ask_for_longer_ones(monkeypatch):
    slept = []
    monkeypatch.setattr("time.sleep", slept.append)

    def fail(error):
        raise error

    with pytest.raises(HfHubHTTPError):
        retrying()(fail, answer(500))
    assert slept == [1, 2, 4, 8]
    slept.clear()
    with pytest.raises(HfHubHTTPError):
        retrying(attempts=3)(fail, answer(429, Retry_After="5"))
    with pytest.raises(HfHubHTTPError):
        retrying(attempts=2)(fail, answer(429, Retry_After="86400"))
    with pytest.raises(ValueError, match="x"):
        retrying()(fail, ValueError("x"))
    assert slept == [5, 5, 120]


@pytest.mark.parametrize(
    "error, code, words",
    [
        (answer(401), 2, "right to write"),
        (answer(403), 2, "right to write"),
        (answer(412), 1, "somebody else writes there"),
        (answer(429), 1, "rate of requests"),
        (answer(500), 1, "nothing was committed"),
        (answer(403, "/api/models/owner/base/paths-info/c"), 1, "owner/base: commit 0123456789ab is no longer there"),
        (ValueError("Invalid metadata in README.md."), 2, "repair the card"),
        (OfflineModeIsEnabled("x"), 2, "HF_HUB_OFFLINE"),
        (LocalEntryNotFoundError("not in the cache"), 1, "could not be uploaded"),
        (OSError(28, "No space left on device"), 1, "No space left"),
    ],
)
def test_what_is_said_while_writing(error, code, words):
    with (
        pytest.raises(EmobakeError, match=words) as raised,
        sending("me/x", source="owner/base", commit="0123456789abcdef"),
    ):
        raise error
    assert raised.value.exit_code == code and "secret" not in str(raised.value)


def test_a_token_with_characters_that_no_token_has(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_t\u00f6ken")
    for context in (fetching("a/b", None, "x"), sending("a/b")):
        with pytest.raises(InputError, match="HF_TOKEN") as raised, context:
            raise AssertionError("a request was made")
        assert "ken" not in str(raised.value).replace("token", "")


def test_what_is_ours_comes_through():
    for context in (fetching("a/b", None, "x"), sending("a/b")):
        with pytest.raises(InputError, match="mine"), context:
            raise InputError("mine")


def test_the_names_that_huggingface_hub_does_not_export_are_there():
    """The one module that imports them says which; a release that moves one fails here, and not at a user."""
    from emobake.storage import http

    for name in http.__all__:
        assert callable(getattr(http, name)), name
