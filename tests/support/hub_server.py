"""A stand-in for the Hugging Face Hub, on 127.0.0.1: what emobake asks of it, and nothing else.

Reading: a model's revisions, paginated file lists, path infos, files with an ETag, redirects to another host for what
is kept as Large File Storage, ranges, gated and private repositories. Writing: repositories and branches, the
announcement of files, Large File Storage, its duplication between repositories, commits that must follow the one they
name, pull requests, duplicates of whole repositories. Written from what huggingface_hub 0.36 to 2.4 asks for and
checks; Xet and everything else are missing. It counts the bytes of both directions and breaks what a test tells it to
break. Beside it, files as raw.githubusercontent.com serves them (``raw``).
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Literal
from urllib.parse import parse_qs, parse_qsl, quote, unquote, urlsplit

import yaml

LARGE = (".safetensors", ".bin", ".pth", ".gguf", ".onnx", "tokenizer.model")
"""Kept outside of git, as Large File Storage does."""
PAGE = 5
"""Entries per page of a tree."""
ATTRIBUTES = {".gitattributes": b"*.safetensors filter=lfs\n"}


@dataclass(frozen=True)
class Sparse:
    """Content that is a large, mostly empty file; its digest is made up, since reading it all would take an hour."""

    path: Path
    sha256: str

    def __len__(self) -> int:
        return self.path.stat().st_size

    def __getitem__(self, part: slice) -> bytes:
        with self.path.open("rb") as file:
            file.seek(part.start)
            return file.read(part.stop - part.start)


Content = bytes | Sparse


@dataclass
class Repo:
    """One model repository."""

    commits: dict[str, dict[str, Content]] = field(default_factory=dict)
    """Commit hash -> path -> content."""
    refs: dict[str, str] = field(default_factory=dict)
    """Branch or tag -> commit hash."""
    messages: list[str] = field(default_factory=list)
    """Messages of the commits that were uploaded."""
    objects: dict[str, Content] = field(default_factory=dict)
    """Its Large File Storage: sha256 -> content."""
    gated: bool = False
    private: bool = False

    def commit(self, folder: Path, ref: str = "main") -> str:
        """Put what is in `folder` on the branch or tag `ref`; the commit's hash."""
        files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        return self.keep(files, ref)

    def files(self, ref: str = "main") -> dict[str, Any]:
        """Files on a branch."""
        return self.commits[self.refs[ref]] if ref in self.refs else {}

    def put(self, changes: dict[str, Content], message: str = "") -> str:
        """Add or replace files on ``main``; the commit's hash."""
        self.messages.append(message)
        return self.keep(self.files() | changes, "main")

    def keep(self, files: dict[str, Any], ref: str) -> str:
        """A new commit with just these files, on `ref`."""
        self.objects |= {sha256_of(data): data for path, data in files.items() if path.endswith(LARGE)}
        state = json.dumps({path: _blob(path, data) for path, data in sorted(files.items())})
        commit = hashlib.sha1(f"{ref}{len(self.commits)}{state}".encode()).hexdigest()
        self.commits[commit], self.refs[ref] = files, commit
        return commit


@dataclass(frozen=True)
class Request:
    """One request that was made."""

    method: str
    path: str
    host: str
    token: str


@dataclass
class Fault:
    """Something that goes wrong with the next `times` requests whose ``METHOD path`` the pattern is found in."""

    pattern: str
    what: Literal["cut", "cut after", "half", "flood", "drip", "drip headers", "zip"] | int
    """Cut the connection instead of an answer; do the work, then cut it; send half of the content, content without end,
    content or headers byte by byte, or content that unpacks to much; or this status."""
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)
    message: str = "Injected"
    seen: int = 0


class StandInHub:
    """The server. Use it as a context manager, and `url` as ``HF_ENDPOINT``."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.allowed = "hf_allowed"
        """The token that may read what is gated or private, and write to what belongs to `owners`."""
        self.known = ("hf_allowed", "hf_stranger")
        self.owners = ("me", "team")
        self.requests: list[Request] = []
        self.raw: dict[str, bytes] = {}
        """Path as on raw.githubusercontent.com -> content."""
        self.broken = False
        """Answer everything with an internal error."""
        self.faults: list[Fault] = []
        self.received = self.sent = 0
        """Bytes of all requests and answers, lines and headers included."""
        self.other_region = ""
        """Why no large files are copied between repositories; those named emobake-scratch are in the right place."""
        self.no_duplicates = False
        """Refuse to duplicate repositories as well."""
        self.pending = 0
        """Number of attempts to copy from a fresh duplicate that find it still empty."""
        self.without_xet: set[str] = set()
        """Repositories whose large files are in the storage of old."""
        self.endless_tree: int | None = None
        """List files without end, so many on each page."""
        self.no_ranges = False
        """Send whole files, whatever part is asked for."""
        self.spoiled: set[str] = set()
        """Names of files whose last byte is sent as another one; what is listed of them stays."""
        hub = self

        class Handler(_Handler):
            def answer(self, body: bool) -> None:
                hub.answer(self, body)

            def count(self, received: int = 0, sent: int = 0) -> None:
                hub.received += received
                hub.sent += sent

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def port(self) -> int:
        """Address of the server."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """The endpoint."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> StandInHub:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def environment(self, folder: Path) -> dict[str, str]:
        """Environment of a process that takes this for the Hub, with caches of its own in `folder`."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(folder / "hf"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1,localhost",
        }

    def downloaded(self) -> list[str]:
        """Names of the files whose content was sent, each as often as it was sent."""
        return [r.path.rpartition("/")[2] if "/cdn/" in r.path else _file(r.path) for r in self._contents()]

    def uploaded(self) -> list[str]:
        """Digests of the large files that came, each as often as it came."""
        return [r.path.rpartition("/")[2] for r in self.requests if r.method == "PUT"]

    @property
    def traffic(self) -> int:
        """Bytes in both directions."""
        return self.received + self.sent

    def _contents(self) -> list[Request]:
        large = [r for r in self.requests if r.method == "GET" and "/cdn/" in r.path]
        return large + [r for r in self.requests if r.method == "GET" and "/resolve/" in r.path]

    # --- answering --------------------------------------------------------------------------------------------------

    def answer(self, handler: _Handler, body: bool) -> None:
        """Answer one request."""
        url = urlsplit(handler.path)
        path = unquote(url.path)
        token = (handler.headers.get("Authorization") or "").removeprefix("Bearer ")
        self.requests.append(Request(handler.command, path, handler.headers.get("Host", ""), token))
        content = handler.body()
        if self.broken:
            return handler.send(500, b"{}", body)
        for fault in self.faults:
            if fault.seen < fault.times and re.search(fault.pattern, f"{handler.command} {path}"):
                fault.seen += 1
                if isinstance(fault.what, int):
                    return handler.refuse(fault.what, "", fault.message, body, fault.headers)
                if fault.what == "cut":
                    return handler.cut()
                handler.fault = fault.what
                break
        return self._route(handler, body, url.path, token, content, url.query)

    def _route(self, handler: _Handler, body: bool, path: str, token: str, content: bytes, query: str) -> None:
        cdn = re.fullmatch(r"/cdn/([^/]+/[^/]+)/([0-9a-f]{64})/.+", path)
        if cdn:
            # Signed addresses: anybody who has one may read.
            data = self.repos[cdn[1]].objects[cdn[2]]
            data = self._sent(unquote(path).rpartition("/")[2], data)
            return handler.send(200, data[0 : len(data)], body) if self.no_ranges else handler.content(data, body, {})
        if unquote(path).lstrip("/") in self.raw:
            return handler.send(200, self.raw[unquote(path).lstrip("/")], body)
        stored = re.fullmatch(r"/lfs/([^/]+/[^/]+)/([0-9a-f]{64})", path)
        if stored:
            # Signed addresses: anybody who has one may write.
            assert hashlib.sha256(content).hexdigest() == stored[2]
            self.repos[stored[1]].objects[stored[2]] = content
            return handler.reply({})
        if token and token not in self.known:
            return handler.refuse(401, "", "Invalid credentials in Authorization header", body)
        for method, pattern, serve in _ROUTES:
            match = re.fullmatch(pattern, path)
            if match and method in (handler.command, {"HEAD": "GET"}.get(handler.command)):
                found = {key: unquote(value) for key, value in match.groupdict().items()}
                asked = _Asked(handler, body, token, content, query, found)
                if method != "GET" and not re.search("paths-info|validate", path) and not self._may_write(asked):
                    return handler.refuse(401 if not token else 403, "", "You don't have the rights", body)
                return serve(self, asked)
        return handler.refuse(404, "", "Not found", body)

    def _may_write(self, asked: _Asked) -> bool:
        owner = asked.found.get("id", "me/").partition("/")[0]
        # A reader of a repository may copy it into a repository of their own.
        return asked.token == self.allowed and (owner in self.owners or "source" in asked.found)

    def _repo(self, asked: _Asked) -> tuple[Repo, str] | None:
        """The repository and commit that are asked for; None when that has been refused."""
        repo = self.repos.get(asked.found["id"])
        if repo is None or (repo.private and asked.token != self.allowed):
            asked.handler.refuse(404 if asked.token else 401, "RepoNotFound", "Repository not found", asked.body)
            return None
        revision = asked.found.get("revision", "main")
        commit = repo.refs.get(revision, revision)
        if commit not in repo.commits:
            asked.handler.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}", asked.body)
            return None
        return repo, commit

    # --- reading ----------------------------------------------------------------------------------------------------

    def _whoami(self, asked: _Asked) -> None:
        if not asked.token:
            return asked.handler.refuse(401, "", "Invalid username or password.", asked.body)
        return asked.handler.reply({"type": "user", "name": self.owners[0], "orgs": []})

    def _info(self, asked: _Asked) -> None:
        if place := self._repo(asked):
            repo, commit = place
            siblings = [{"rfilename": path} for path in sorted(repo.commits[commit])]
            info = {"id": asked.found["id"], "modelId": asked.found["id"], "sha": commit, "siblings": siblings}
            gated = "manual" if repo.gated else False
            asked.handler.reply(info | {"private": repo.private, "tags": [], "gated": gated}, asked.body)

    def _tree(self, asked: _Asked) -> None:
        if not (place := self._repo(asked)):
            return
        repo, commit = place
        files = repo.commits[commit]
        folders = {path.rpartition("/")[0] for path in files if "/" in path}
        entries: list[dict[str, Any]] = [{"type": "directory", "path": f, "oid": "0" * 40, "size": 0} for f in folders]
        entries += [self._entry(asked.found["id"], path, data) for path, data in files.items()]
        entries.sort(key=lambda entry: entry["path"])
        page = PAGE if len(entries) < 100 else 50
        start = int(parse_qs(asked.query).get("cursor", ["0"])[0])
        headers = {}
        if self.endless_tree is not None:
            numbers = range(start, start + self.endless_tree)
            shown = [{"type": "file", "path": f"{i}.txt", "oid": "0" * 40, "size": 1} for i in numbers]
        else:
            shown = entries[start : start + page]
        if self.endless_tree is not None or start + page < len(entries):
            here = f"{self.url}/api/models/{asked.found['id']}/tree/{quote(asked.found['revision'], safe='')}"
            headers["Link"] = f'<{here}?recursive=true&cursor={start + (self.endless_tree or page)}>; rel="next"'
        asked.handler.reply(shown, asked.body, headers)

    def _paths(self, asked: _Asked) -> None:
        if place := self._repo(asked):
            repo, commit = place
            files = repo.commits[commit]
            wanted = [value for key, value in parse_qsl(asked.content.decode()) if key == "paths"]
            found = [self._entry(asked.found["id"], path, files[path]) for path in wanted if path in files]
            asked.handler.reply(found)

    def _entry(self, repo_id: str, path: str, data: Content) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": _blob(path, data)}
        if path.endswith(LARGE):
            entry["lfs"] = {"oid": sha256_of(data), "size": len(data), "pointerSize": 130}
            if repo_id not in self.without_xet:
                entry["xetHash"] = sha256_of(data)[::-1]
        return entry

    def _file(self, asked: _Asked) -> None:
        if not (place := self._repo(asked)):
            return None
        (repo, commit), handler = place, asked.handler
        if repo.gated and asked.token != self.allowed:
            text = f"Access to model {asked.found['id']} is restricted."
            return handler.refuse(403 if asked.token else 401, "GatedRepo", text, asked.body)
        headers = {"X-Repo-Commit": commit}
        path = asked.found["file"]
        data = repo.commits[commit].get(path)
        if data is None:
            return handler.refuse(404, "EntryNotFound", "Entry not found", asked.body, headers)
        if path.endswith(LARGE):
            headers["X-Linked-Etag"] = f'"{sha256_of(data)}"'
            headers["X-Linked-Size"] = str(len(data))
            name = quote(path.replace("/", "|"))
            headers["Location"] = f"http://localhost:{self.port}/cdn/{asked.found['id']}/{sha256_of(data)}/{name}"
            return handler.send(302, b"", asked.body, headers)
        headers["ETag"] = f'"{_blob("", data)}"'
        return handler.content(self._sent(path, data), asked.body, headers)

    def _sent(self, path: str, data: Content) -> Content:
        if path not in self.spoiled:
            return data
        assert isinstance(data, bytes)
        return data[:-1] + bytes([data[-1] ^ 1])

    # --- writing ----------------------------------------------------------------------------------------------------

    def _validate(self, asked: _Asked) -> None:
        errors = metadata_errors(json.loads(asked.content)["content"])
        asked.handler.reply({"errors": [{"message": e} for e in errors], "warnings": []}, status=400 if errors else 200)

    def _create(self, asked: _Asked) -> None:
        data = json.loads(asked.content)
        repo_id = f"{data['organization'] or self.owners[0]}/{data['name']}"
        if repo_id.partition("/")[0] not in self.owners:
            return asked.handler.refuse(403, "", "You don't have the rights", body=True)
        answer = {"url": f"{self.url}/{repo_id}", "name": repo_id}
        if repo_id in self.repos:
            return asked.handler.reply(answer | {"error": "You already created this model repo"}, status=409)
        # huggingface_hub 2 sends the first, older ones the second.
        self.repos[repo_id] = Repo(private=data.get("visibility") == "private" or bool(data.get("private")))
        self.repos[repo_id].put(dict(ATTRIBUTES))
        return asked.handler.reply(answer)

    def _delete(self, asked: _Asked) -> None:
        data = json.loads(asked.content)
        del self.repos[f"{data['organization']}/{data['name']}"]
        asked.handler.reply({})

    def _branch(self, asked: _Asked) -> None:
        repo = self.repos[asked.found["id"]]
        if asked.found["branch"] in repo.refs:
            return asked.handler.refuse(409, "", "Reference already exists", body=True)
        repo.refs[asked.found["branch"]] = repo.refs["main"]
        return asked.handler.reply({})

    def _announce(self, asked: _Asked) -> None:
        if not (place := self._repo(asked)):
            return
        files = place[0].commits[place[1]]
        announced = json.loads(asked.content)["files"]
        answer = [
            {
                "path": path,
                "uploadMode": "lfs" if path.endswith(LARGE) else "regular",
                "shouldIgnore": False,
                "oid": _remote_id(path, files[path]) if path in files else None,
            }
            for path in (f["path"] for f in announced)
        ]
        asked.handler.reply({"files": answer})

    def _batch(self, asked: _Asked) -> None:
        repo_id = asked.found["id"]
        objects = []
        for wanted in json.loads(asked.content)["objects"]:
            href = f"{self.url}/lfs/{repo_id}/{wanted['oid']}"
            there = wanted["oid"] in self.repos[repo_id].objects
            objects.append(wanted | ({} if there else {"actions": {"upload": {"href": href, "header": {}}}}))
        asked.handler.reply({"transfer": "basic", "objects": objects})

    def _copy_objects(self, asked: _Asked) -> None:
        data = json.loads(asked.content)
        target = data["target"]["name"]
        scratch = "emobake-scratch" in asked.found["id"]
        if target.partition("/")[0] not in self.owners or target not in self.repos:
            return asked.handler.refuse(403, "", "You don't have the rights", body=True)
        if self.other_region and not scratch:
            return asked.handler.refuse(400, "", self.other_region, body=True)
        failed = []
        if scratch and self.pending:
            self.pending -= 1
            failed = [{"sha256": file["sha256"], "error": "not there yet"} for file in data["files"]]
        else:
            source = self.repos[asked.found["id"]].objects
            self.repos[target].objects |= {file["sha256"]: source[file["sha256"]] for file in data["files"]}
        return asked.handler.reply({"success": [], "failed": failed})

    def _duplicate(self, asked: _Asked) -> None:
        data = json.loads(asked.content)
        if self.no_duplicates:
            return asked.handler.refuse(403, "", "Storage limit reached", body=True)
        old = self.repos[asked.found["id"]]
        private = data.get("visibility") == "private" or bool(data.get("private"))
        new = Repo(dict(old.commits), dict(old.refs), objects=dict(old.objects), private=private)
        self.repos[data["repository"]] = new
        return asked.handler.reply({"url": f"{self.url}/{data['repository']}", "filesCopyPending": self.pending > 0})

    def _commit(self, asked: _Asked) -> None:
        if not (place := self._repo(asked)):
            return None
        repo, head = place
        lines = [json.loads(line) for line in asked.content.split(b"\n") if line]
        header = lines[0]["value"]
        if header.get("parentCommit", head) != head:
            return asked.handler.refuse(
                412, "", "A commit has happened since. Please refresh and try again.", body=True
            )
        files = dict(repo.commits[head])
        for line in lines[1:]:
            key, value = line["key"], line["value"]
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                if value["oid"] not in repo.objects:
                    return asked.handler.refuse(400, "", f"LFS pointer to {value['oid']}, which is not here", body=True)
                files[value["path"]] = repo.objects[value["oid"]]
            elif files.pop(value["path"], None) is None:
                return asked.handler.refuse(404, "EntryNotFound", "A file with this name doesn't exist", body=True)
        repo.messages.append(header["summary"])
        request = ""
        ref = asked.found["revision"]
        if "create_pr=1" in asked.query:
            ref = f"refs/pr/{sum(name.startswith('refs/pr/') for name in repo.refs) + 1}"
            request = f"{self.url}/{asked.found['id']}/discussions/{ref.rpartition('/')[2]}"
        commit = repo.keep(files, ref)
        answer = {"commitUrl": f"{self.url}/{asked.found['id']}/commit/{commit}", "commitOid": commit}
        return asked.handler.reply(answer | ({"pullRequestUrl": request} if request else {}))


@dataclass(frozen=True)
class _Asked:
    handler: _Handler
    body: bool
    token: str
    content: bytes
    query: str
    found: dict[str, str]


_ID = r"(?P<id>[^/]+/[^/]+)"
_ROUTES: tuple[tuple[str, str, Callable[[StandInHub, _Asked], None]], ...] = (
    ("GET", "/api/whoami-v2", StandInHub._whoami),
    ("GET", f"/api/models/{_ID}", StandInHub._info),
    ("GET", f"/api/models/{_ID}/revision/(?P<revision>.+)", StandInHub._info),
    ("GET", f"/api/models/{_ID}/tree/(?P<revision>[^/]+)", StandInHub._tree),
    ("GET", f"/{_ID}/resolve/(?P<revision>[^/]+)/(?P<file>.+)", StandInHub._file),
    ("POST", f"/api/models/{_ID}/paths-info/(?P<revision>[^/]+)", StandInHub._paths),
    ("POST", "/api/validate-yaml", StandInHub._validate),
    ("POST", "/api/repos/create", StandInHub._create),
    ("DELETE", "/api/repos/delete", StandInHub._delete),
    ("POST", f"/api/models/{_ID}/branch/(?P<branch>[^/]+)", StandInHub._branch),
    ("POST", f"/api/models/{_ID}/preupload/(?P<revision>[^/]+)", StandInHub._announce),
    ("POST", f"/{_ID}.git/info/lfs/objects/batch", StandInHub._batch),
    ("POST", f"/api/models/{_ID}/(?P<source>lfs-files)/duplicate", StandInHub._copy_objects),
    ("POST", f"/api/models/{_ID}/(?P<source>duplicate)", StandInHub._duplicate),
    ("POST", f"/api/models/{_ID}/commit/(?P<revision>[^/]+)", StandInHub._commit),
)

# From the Hub's documentation of model cards.
_METADATA: dict[str, type | tuple[type, ...]] = {
    "base_model": (str, list), "base_model_relation": str, "license": str, "license_name": str, "license_link": str,
    "language": (str, list), "library_name": str, "pipeline_tag": str, "tags": list, "widget": list,
    "extra_gated_prompt": str, "extra_gated_fields": dict, "extra_gated_heading": str, "extra_gated_description": str,
    "extra_gated_button_content": str,
}  # fmt: skip


def metadata_errors(card: str) -> list[str]:
    """Errors that the Hub would report in the metadata of a model card."""
    match = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    if match is None:
        return ["no metadata"]
    try:
        data = yaml.safe_load(match[1])
    except yaml.YAMLError as error:
        return [str(error)]
    errors = [f"{key} is not allowed here" for key in data if key not in _METADATA]
    errors += [
        f"{key} is a {type(v).__name__}" for key, v in data.items() if not isinstance(v, _METADATA.get(key, object))
    ]
    if data.get("base_model_relation") not in (None, "finetune", "adapter", "merge", "quantized"):
        errors.append("base_model_relation must be one of finetune, adapter, merge, quantized")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(data.get("base_model", "x"))):
        errors.append("base_model must be a model id")
    for example in data.get("widget", []):
        if not (isinstance(example.get("text"), str) or isinstance(example.get("messages"), list)):
            errors.append("a widget's example has text or messages")
    return errors


@cache
def _packed() -> bytes:
    """A few kilobytes that unpack to 64 megabytes."""
    return gzip.compress(bytes(2**26))


def _file(path: str) -> str:
    return path.split("/resolve/")[1].partition("/")[2]


_digests: dict[int, tuple[Content, str]] = {}


def sha256_of(data: Content) -> str:
    """Digest of the content; remembered, since the same large one is asked for again and again."""
    if isinstance(data, Sparse):
        return data.sha256
    if len(data) < 2**20:
        return hashlib.sha256(data).hexdigest()
    if id(data) not in _digests:
        _digests[id(data)] = data, hashlib.sha256(data).hexdigest()
    return _digests[id(data)][1]


def _blob(path: str, data: Content) -> str:
    """The name that git gives to what it holds: the content, or the pointer to it."""
    held = data
    if path.endswith(LARGE):
        held = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256_of(data)}\nsize {len(data)}\n".encode()
    assert isinstance(held, bytes)
    return hashlib.sha1(b"blob %d\0" % len(held) + held).hexdigest()


def _remote_id(path: str, data: Content) -> str:
    return sha256_of(data) if path.endswith(LARGE) else _blob(path, data)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 30
    fault = ""

    def answer(self, body: bool) -> None:
        """The server sets it."""

    def count(self, received: int = 0, sent: int = 0) -> None:
        """The server sets it."""

    def do_GET(self) -> None:
        self.answer(body=True)

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_POST(self) -> None:
        self.answer(body=True)

    def do_PUT(self) -> None:
        self.answer(body=True)

    def do_DELETE(self) -> None:
        self.answer(body=True)

    def body(self) -> bytes:
        """Body of the request."""
        if self.headers.get("Transfer-Encoding") == "chunked":
            content = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            content = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.count(received=len(self.raw_requestline) + len(bytes(self.headers)) + len(content))
        return content

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing on stderr."""

    def cut(self) -> None:
        """Close the connection in the middle of everything."""
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def reply(self, value: object, body: bool = True, headers: dict[str, str] | None = None, status: int = 200) -> None:
        """Answer with JSON."""
        self.send(status, json.dumps(value).encode(), body, headers)

    def send(self, status: int, data: bytes, body: bool, headers: dict[str, str] | None = None) -> None:
        fault, self.fault = self.fault, ""
        if fault == "cut after":
            return self.cut()
        if fault in ("flood", "drip", "drip headers", "zip"):
            with contextlib.suppress(OSError):  # Until the client has enough.
                self.pester(fault, status, data, headers or {})
            self.close_connection = True
            return None
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.count(sent=sum(map(len, self._headers_buffer)))
        self.end_headers()
        if body:
            data = data[: len(data) // 2] if fault == "half" else data
            self.count(sent=len(data))
            self.wfile.write(data)
        if fault == "half":
            self.cut()
        return None

    def pester(self, fault: str, status: int, data: bytes, headers: dict[str, str]) -> None:
        """Answer in a way that no client should put up with."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if fault == "drip headers":
            self.end_headers_slowly()
        elif fault == "zip":
            packed = _packed()
            self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", str(len(packed)))
            self.end_headers()
            self.wfile.write(packed)
        elif fault == "flood":
            self.end_headers()
            for _ in range(4096):
                self.wfile.write(bytes(2**20))
                self.count(sent=2**20)
        else:
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            for i in range(len(data)):
                self.wfile.write(data[i : i + 1])
                time.sleep(0.05)

    def end_headers_slowly(self) -> None:
        """Send headers, and then one more that never ends."""
        self.wfile.write(b"".join(self._headers_buffer) + b"X-Long: ")
        for _ in range(4096):
            self.wfile.write(b"x")
            time.sleep(0.05)

    def refuse(self, status: int, code: str, message: str, body: bool, headers: dict[str, str] | None = None) -> None:
        extra = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.send(status, json.dumps({"error": message}).encode(), body, (headers or {}) | extra)

    def content(self, data: Content, body: bool, headers: dict[str, str]) -> None:
        """A file's content, or the part of it that is asked for."""
        etag = sha256_of(data) if isinstance(data, Sparse) else _blob("", data)
        headers = {"ETag": f'"{etag}"', "Accept-Ranges": "bytes"} | headers
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            return self.send(200, data[0 : len(data)], body, headers)
        first, last = int(wanted[1]), min(int(wanted[2] or len(data) - 1), len(data) - 1)
        if first > last:
            return self.send(416, b"", body, {"Content-Range": f"bytes */{len(data)}"})
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        return self.send(206, data[first : last + 1], body, headers)
