"""A stand-in for the Hugging Face Hub: NOT the real one, and no proof of how the real one behaves.

It speaks over real HTTP on 127.0.0.1 as much of the protocol as huggingface_hub needs to download a model: file
metadata and contents (``/OWNER/NAME/resolve/REVISION/FILE``, with the large files redirected to another host
as the Hub does to its CDN), a repository at a revision (``/api/models/ID/revision/REVISION``), its tree, in
pages, and the refusals: no such repository, revision or file, gated, private, wrong token; and to upload: making a
repository, Large File Storage, a commit. Written from what huggingface_hub 2.4 asks for and checks; Xet and
everything else are missing. Beside it, files as raw.githubusercontent.com serves them (``raw``).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

LARGE = (".safetensors", ".bin", ".pth", ".gguf", ".onnx")
"""Kept outside of git, as Large File Storage does."""
PAGE = 5
"""Entries per page of a tree."""


@dataclass
class Repo:
    """One model repository."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Commit hash -> path -> content."""
    refs: dict[str, str] = field(default_factory=dict)
    """Branch or tag -> commit hash."""
    messages: list[str] = field(default_factory=list)
    """Of the commits that were uploaded."""
    gated: bool = False
    private: bool = False

    def commit(self, folder: Path, ref: str = "main") -> str:
        """Put what is in `folder` on the branch or tag `ref`; the commit's hash."""
        files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        return self._keep(files, ref)

    def files(self) -> dict[str, bytes]:
        """What is on ``main``."""
        return self.commits[self.refs["main"]] if "main" in self.refs else {}

    def put(self, changes: dict[str, bytes], message: str = "") -> str:
        """Add or replace files on ``main``; the commit's hash."""
        self.messages.append(message)
        return self._keep(self.files() | changes, "main")

    def _keep(self, files: dict[str, bytes], ref: str) -> str:
        state = json.dumps({path: hashlib.sha1(data).hexdigest() for path, data in sorted(files.items())})
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


class StandInHub:
    """The server. Use it as a context manager, and `url` as ``HF_ENDPOINT``."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.allowed = "hf_allowed"
        """The token that may read what is gated or private."""
        self.known = ("hf_allowed", "hf_stranger")
        self.requests: list[Request] = []
        self.raw: dict[str, bytes] = {}
        """Path as on raw.githubusercontent.com -> content."""
        self.stored: dict[str, bytes] = {}
        """Large File Storage: sha256 -> content."""
        self.broken = False
        """Answer everything with an internal error."""
        hub = self

        class Handler(_Handler):
            def answer(self, body: bool) -> None:
                hub.answer(self, body)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def port(self) -> int:
        """Where it listens."""
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

    def downloaded(self) -> list[str]:
        """Names of the files whose content was sent, each as often as it was sent."""
        return [r.path.rpartition("/")[2] if "/cdn/" in r.path else _file(r.path) for r in self._contents()]

    def _contents(self) -> list[Request]:
        large = [r for r in self.requests if r.method == "GET" and "/cdn/" in r.path]
        return large + [r for r in self.requests if r.method == "GET" and "/resolve/" in r.path]

    def answer(self, handler: _Handler, body: bool) -> None:
        """Answer one request."""
        url = urlsplit(handler.path)
        path = unquote(url.path)
        token = (handler.headers.get("Authorization") or "").removeprefix("Bearer ")
        self.requests.append(Request(handler.command, path, handler.headers.get("Host", ""), token))
        if self.broken:
            return handler.send(500, b"{}", body)
        cdn = re.fullmatch(r"/cdn/([^/]+/[^/]+)/([0-9a-f]{40})/(.+)", path)
        if cdn:
            # Signed addresses: whoever has one may read.
            return handler.content(self.repos[cdn[1]].commits[cdn[2]][cdn[3].replace("|", "/")], body, {})
        if path.lstrip("/") in self.raw:
            return handler.send(200, self.raw[path.lstrip("/")], body)
        if handler.command in ("POST", "PUT"):
            return self._upload(handler, path, token)
        for pattern, serve in (
            (r"/api/models/(?P<id>[^/]+/[^/]+)", self._info),
            (r"/api/models/(?P<id>[^/]+/[^/]+)/revision/(?P<revision>.+)", self._info),
            (r"/api/models/(?P<id>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)", self._tree),
            (r"/(?P<id>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)", self._file),
        ):
            match = re.fullmatch(pattern, url.path)
            if match:
                found = {key: unquote(value) for key, value in match.groupdict().items()}
                repo = self.repos.get(found["id"])
                if token and token not in self.known:
                    return handler.refuse(401, "", "Invalid credentials in Authorization header", body)
                if repo is None or (repo.private and token != self.allowed):
                    return handler.refuse(404 if token else 401, "RepoNotFound", "Repository not found", body)
                revision = found.get("revision", "main")
                commit = repo.refs.get(revision, revision)
                if commit not in repo.commits:
                    return handler.refuse(404, "RevisionNotFound", "Invalid rev id", body)
                return serve(handler, body, repo, commit, found | {"token": token, "query": url.query})
        return handler.refuse(404, "", "Not found", body)

    def _info(self, handler: _Handler, body: bool, repo: Repo, commit: str, found: dict[str, str]) -> None:
        siblings = [{"rfilename": path} for path in sorted(repo.commits[commit])]
        info = {"id": found["id"], "modelId": found["id"], "sha": commit, "private": repo.private, "siblings": siblings}
        handler.send(200, json.dumps(info | {"tags": [], "gated": repo.gated}).encode(), body)

    def _upload(self, handler: _Handler, path: str, token: str) -> None:
        content = handler.body()
        if path.startswith("/lfs/"):
            # Signed addresses: whoever has one may write.
            assert hashlib.sha256(content).hexdigest() == path[5:]
            self.stored[path[5:]] = content
            return handler.send(200, b"{}", body=True)
        if token != self.allowed:
            return handler.refuse(401 if not token else 403, "", "You don't have the rights", body=True)
        data = {} if path.startswith("/api/models/") and "/commit/" in path else json.loads(content)
        if path == "/api/validate-yaml":
            answer: dict[str, Any] = {"errors": [], "warnings": []}
        elif path == "/api/repos/create":
            repo_id = f"{data['organization']}/{data['name']}" if data.get("organization") else f"me/{data['name']}"
            if repo_id in self.repos:
                answer = {"url": f"{self.url}/{repo_id}"}
                return handler.send(409, json.dumps(answer).encode(), body=True)
            self.repos[repo_id] = Repo(private=bool(data.get("private")) or data.get("visibility") == "private")
            self.repos[repo_id].put({".gitattributes": b"*.safetensors filter=lfs\n"})
            answer = {"url": f"{self.url}/{repo_id}", "name": repo_id}
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/main", path):
            files = self.repos[match[1]].files()
            answer = {
                "files": [
                    {
                        "path": f["path"],
                        "uploadMode": "lfs" if f["path"].endswith(LARGE) else "regular",
                        "shouldIgnore": False,
                        "oid": _remote_id(f["path"], files[f["path"]]) if f["path"] in files else None,
                    }
                    for f in data["files"]
                ]
            }
        elif path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                {**o, "actions": {"upload": {"href": f"{self.url}/lfs/{o['oid']}", "header": {}}}}
                for o in data["objects"]
            ]
            answer = {"transfer": "basic", "objects": objects}
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            lines = [json.loads(line) for line in content.split(b"\n") if line]
            changes = {
                line["value"]["path"]: base64.b64decode(line["value"]["content"])
                if line["key"] == "file"
                else self.stored[line["value"]["oid"]]
                for line in lines
                if line["key"] in ("file", "lfsFile")
            }
            commit = self.repos[match[1]].put(changes, message=lines[0]["value"]["summary"])
            answer = {"commitUrl": f"{self.url}/{match[1]}/commit/{commit}", "commitOid": commit}
        else:
            return handler.refuse(404, "", "Not found", body=True)
        return handler.send(200, json.dumps(answer).encode(), body=True)

    def _tree(self, handler: _Handler, body: bool, repo: Repo, commit: str, found: dict[str, str]) -> None:
        files = repo.commits[commit]
        folders = {path.rpartition("/")[0] for path in files if "/" in path}
        entries: list[dict[str, Any]] = [{"type": "directory", "path": f, "oid": "0" * 40, "size": 0} for f in folders]
        entries += [_entry(path, data) for path, data in files.items()]
        entries.sort(key=lambda entry: entry["path"])
        start = int(parse_qs(found["query"]).get("cursor", ["0"])[0])
        headers = {}
        if start + PAGE < len(entries):
            here = f"{self.url}/api/models/{found['id']}/tree/{quote(found['revision'], safe='')}"
            headers["Link"] = f'<{here}?recursive=true&cursor={start + PAGE}>; rel="next"'
        handler.send(200, json.dumps(entries[start : start + PAGE]).encode(), body, headers)

    def _file(self, handler: _Handler, body: bool, repo: Repo, commit: str, found: dict[str, str]) -> None:
        if repo.gated and found["token"] != self.allowed:
            text = f"Access to model {found['id']} is restricted."
            return handler.refuse(403 if found["token"] else 401, "GatedRepo", text, body)
        headers = {"X-Repo-Commit": commit}
        path = found["file"]
        data = repo.commits[commit].get(path)
        if data is None:
            return handler.refuse(404, "EntryNotFound", "Entry not found", body, headers)
        if path.endswith(LARGE):
            headers["X-Linked-Etag"] = f'"{hashlib.sha256(data).hexdigest()}"'
            headers["X-Linked-Size"] = str(len(data))
            name = quote(path.replace("/", "|"))
            headers["Location"] = f"http://localhost:{self.port}/cdn/{found['id']}/{commit}/{name}"
            return handler.send(302, b"", body, headers)
        return handler.content(data, body, headers)


def _file(path: str) -> str:
    return path.split("/resolve/")[1].partition("/")[2]


def _blob_id(data: bytes) -> str:
    """The name that git gives to a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _entry(path: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": _blob_id(data)}
    if path.endswith(LARGE):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return entry


def _remote_id(path: str, data: bytes) -> str:
    return hashlib.sha256(data).hexdigest() if path.endswith(LARGE) else _blob_id(data)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 10

    def answer(self, body: bool) -> None:
        raise NotImplementedError

    def do_GET(self) -> None:
        self.answer(body=True)

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_POST(self) -> None:
        self.answer(body=True)

    def do_PUT(self) -> None:
        self.answer(body=True)

    def body(self) -> bytes:
        """What came with the request."""
        if self.headers.get("Transfer-Encoding") == "chunked":
            content = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return content
        return self.rfile.read(int(self.headers.get("Content-Length", "0")))

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing on stderr."""

    def send(self, status: int, data: bytes, body: bool, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def refuse(self, status: int, code: str, message: str, body: bool, headers: dict[str, str] | None = None) -> None:
        extra = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.send(status, json.dumps({"error": message}).encode(), body, (headers or {}) | extra)

    def content(self, data: bytes, body: bool, headers: dict[str, str]) -> None:
        """A file's content, or the part of it that is asked for."""
        headers = headers | {"ETag": f'"{_blob_id(data)}"', "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            return self.send(200, data, body, headers)
        first, last = int(wanted[1]), min(int(wanted[2] or len(data) - 1), len(data) - 1)
        if first > last:
            return self.send(416, b"", body, {"Content-Range": f"bytes */{len(data)}"})
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        return self.send(206, data[first : last + 1], body, headers)
