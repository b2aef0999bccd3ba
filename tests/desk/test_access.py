"""The door of the desk: who is let in, and who is not."""

import asyncio
import base64

import pytest

from emobake import InputError
from emobake.desk.access import LARGEST, Access, Guard, is_loopback
from emobake.desk.serve import bind

HERE = Access(port=8377, token="secret")
OPEN = Access("192.0.2.7", 8377, "secret", "pass word")


def ask(access, path="/secret/api/state", method="GET", **headers):
    """Status and headers of the guard's answer, and the path that the application was given."""
    seen, answered = [], []

    async def app(scope, receive, send):
        seen.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message):
        answered.append(message)

    named = {"host": f"{access.host}:8377"} | {key.replace("_", "-"): value for key, value in headers.items()}
    coded = [(key.encode(), value.encode()) for key, value in named.items() if value is not None]
    scope = {"type": "http", "method": method, "path": path, "headers": coded}
    asyncio.run(Guard(app, access)(scope, None, send))
    start = answered[0]
    return start["status"], {key.decode(): value.decode() for key, value in start["headers"]}, seen


def test_a_request_of_the_page_passes_without_the_token():
    status, headers, seen = ask(HERE, origin="http://127.0.0.1:8377", sec_fetch_site="same-origin")
    assert (status, seen) == (200, ["/api/state"])
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["referrer-policy"] == "no-referrer" and headers["cache-control"] == "no-store"
    for host in ("127.0.0.1:8377", "localhost:8377", "[::1]:8377"):
        assert ask(HERE, host=host)[0] == 200
    assert ask(HERE, path="/secret/")[2] == ["/"]


@pytest.mark.parametrize(
    ("status", "changes"),
    [
        (421, {"host": "evil.example:8377"}),
        (421, {"host": "127.0.0.1:1"}),
        (421, {"host": "127.0.0.1"}),
        (421, {"host": "192.0.2.7:8377"}),
        (421, {"host": ""}),
        (421, {"host": None}),
        (403, {"origin": "http://evil.example"}),
        (403, {"origin": "null"}),
        (403, {"origin": "http://127.0.0.1:9999"}),
        (403, {"origin": "https://127.0.0.1:8377"}),
        (403, {"sec_fetch_site": "cross-site"}),
        (403, {"sec_fetch_site": "same-site"}),
        (404, {"path": "/"}),
        (404, {"path": "/wrong/api/state"}),
        (404, {"path": "/secre/"}),
        (404, {"path": "secret"}),
        (404, {"path": "/sécret/"}),
        (415, {"method": "POST"}),
        (415, {"method": "POST", "content_type": "text/plain", "content_length": "2"}),
        (413, {"method": "POST", "content_type": "application/json"}),
        (413, {"method": "POST", "content_type": "application/json", "content_length": str(LARGEST + 1)}),
        (413, {"method": "POST", "content_type": "application/json", "content_length": "many"}),
        (415, {"method": "DELETE"}),
    ],
)
def test_others_are_refused_before_the_application_sees_them(status, changes):
    found, headers, seen = ask(HERE, **changes)
    assert (found, seen) == (status, []) and headers["x-content-type-options"] == "nosniff"


def test_a_password_is_wanted_at_another_address(monkeypatch):
    monkeypatch.setattr("emobake.desk.access._AFTER_WRONG", 0.0)
    status, headers, seen = ask(OPEN)
    assert (status, seen) == (401, []) and headers["www-authenticate"].startswith("Basic")

    def with_password(text, kind="Basic"):
        return ask(OPEN, authorization=f"{kind} {base64.b64encode(text.encode()).decode()}")[0]

    assert with_password("anyone:pass word") == 200
    assert [with_password(text) for text in ("anyone:pass", ":", "pass word", "anyone:pass word ")] == [401] * 4
    assert with_password("anyone:pass word", "Bearer") == 401
    assert ask(OPEN, authorization="Basic ****")[0] == 401
    assert ask(OPEN, authorization="Basic " + base64.b64encode(b"\xff:\xff").decode())[0] == 401


def test_names_at_another_address():
    everywhere = Access("0.0.0.0", 8377, "secret", "pass word")
    assert everywhere.allows_host("192.0.2.9:8377") and everywhere.allows_host("[2001:db8::1]:8377")
    assert not everywhere.allows_host("evil.example:8377")
    assert Access("desk.example", 8377, "secret", "x").allows_host("desk.example:8377")
    assert "0.0.0.0" not in everywhere.url and everywhere.url.endswith(":8377/secret/")
    assert Access("::1", 1, "t").url == "http://[::1]:1/t/"


PROXIED = Access("0.0.0.0", 7860, "secret", "pw", behind="https://me-desk.hf.space")
RIGHT = f"Basic {base64.b64encode(b'x:pw').decode()}"


def test_behind_a_proxy():
    assert PROXIED.url == "https://me-desk.hf.space/secret/"
    given = {"host": "me-desk.hf.space", "authorization": RIGHT}
    assert ask(PROXIED, origin="https://me-desk.hf.space", **given)[0] == 200
    for origin in ("http://me-desk.hf.space", "https://evil.example"):
        assert ask(PROXIED, origin=origin, **given)[0] == 403
    assert ask(PROXIED, host="evil.hf.space", authorization=RIGHT)[0] == 421
    for wrong in ("me-desk.hf.space", "https://me-desk.hf.space/x", "ftp://a", "https://a b", "https://a\n"):
        with pytest.raises(InputError, match="`behind`"):
            Access(behind=wrong)
    with pytest.raises(InputError, match="give `password`"):
        bind(Access(behind="https://me-desk.hf.space"))


def test_the_password_leads_to_the_page_and_nothing_else_does(monkeypatch):
    monkeypatch.setattr("emobake.desk.access._AFTER_WRONG", 0.0)
    status, headers, seen = ask(OPEN, path="/", authorization=f"Basic {base64.b64encode(b'x:pass word').decode()}")
    assert (status, headers["location"], seen) == (307, "/secret/", [])
    assert ask(OPEN, path="/")[0] == 401 and ask(HERE, path="/")[0] == 404
    status, headers, _ = ask(OPEN, path="/", authorization="Basic " + base64.b64encode(b"x:wrong").decode())
    assert status == 401 and "location" not in headers


def test_a_link_of_another_page_may_be_followed_but_nothing_else():
    link = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}
    assert ask(HERE, path="/secret/", **link)[0] == 200
    assert ask(HERE, path="/secret/", **link | {"sec_fetch_dest": "iframe"})[0] == 403
    assert ask(HERE, path="/secret/", **link | {"sec_fetch_mode": "no-cors"})[0] == 403
    assert ask(HERE, method="POST", content_type="application/json", content_length="2", **link)[0] == 403


def test_tokens_are_random():
    assert Access().token != Access().token and len(Access().token) >= 32


@pytest.mark.parametrize(
    ("host", "own"), [("127.0.0.1", True), ("localhost", True), ("::1", True), ("127.3.2.1", True)]
)
def test_what_is_this_machine_alone(host, own):
    assert is_loopback(host) is own
    assert not is_loopback("0.0.0.0") and not is_loopback("192.0.2.7") and not is_loopback("example.org")


def test_no_other_address_without_a_password():
    with pytest.raises(InputError, match="give `password`"):
        bind(Access("0.0.0.0"))
    listening, access = bind(Access())
    with listening, pytest.raises(InputError, match="cannot be bound"):
        assert access.port > 0
        bind(access)
    for host in ("192.0.2.7", "no.such.name.invalid"):
        with pytest.raises(InputError, match="cannot be bound"):
            bind(Access(host, password="x"))
