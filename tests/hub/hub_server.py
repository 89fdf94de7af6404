"""A model hub on this machine's loopback: real files, served as huggingface.co serves them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

LARGE = 10_000  # bytes from which a file lies in the storage that the hub redirects to


@dataclass
class Request:
    method: str
    path: str
    range: str | None
    token: str | None
    served: int = 0  # bytes of the body


def _set_event() -> threading.Event:
    event = threading.Event()
    event.set()
    return event


@dataclass
class Hub:
    """What the server serves, how it misbehaves, and what it was asked.

    Attributes:
        repos: Directory of files by repository id.
        commits: Commit by repository id.
        cuts: Lengths after which the next downloads of large files break off, in turn.
        failing: Answer large files with this status instead.
        gated: Repositories whose files are refused without a token.
        corrupt: Serve large files with one byte changed.
        no_ranges: Serve large files whole, whatever part is asked for.
        hold: While this is cleared, large files do not come.
        corrupt_small: The same of the small file of this name, which the hub serves itself.
    """

    repos: dict[str, Path] = field(default_factory=dict)
    commits: dict[str, str] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)
    failing: int | None = None
    gated: set[str] = field(default_factory=set)
    corrupt: bool = False
    corrupt_small: str = ""
    no_ranges: bool = False
    hold: threading.Event = field(default_factory=_set_event)
    requests: list[Request] = field(default_factory=list)
    port: int = 0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def add(self, repo: str, files: Path, commit: str = "a" * 40) -> None:
        self.repos[repo], self.commits[repo] = files, commit

    def downloads(self) -> list[Request]:
        return [r for r in self.requests if r.method == "GET" and r.path.startswith("/storage/")]


def etag(data: bytes) -> str:
    if len(data) >= LARGE:
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.record = Request(
            self.command, path, self.headers.get("Range"), self.headers.get("Authorization")
        )
        self.hub.requests.append(self.record)
        if path.startswith("/storage/"):
            return self._storage(path)
        if match := re.fullmatch(r"/api/models/(.+?)(/revision/[^/]+|/tree/[^/]+)?", path):
            return self._api(match[1], match[2] or "")
        if match := re.fullmatch(r"/(.+)/resolve/([^/]+)/(.+)", path):
            return self._resolve(match[1], match[3])
        return self._send(404, b"not found")

    def _api(self, repo: str, what: str) -> None:
        if repo not in self.hub.repos:
            return self._send(401, b"", {"X-Error-Code": "RepoNotFound"})
        top = self.hub.repos[repo]
        paths = sorted(path for path in top.rglob("*") if path.is_file())
        files = {path.relative_to(top).as_posix(): path.read_bytes() for path in paths}
        if what.startswith("/tree/"):
            tree = [
                {"type": "file", "path": name, "size": len(data), "oid": etag(data)}
                for name, data in files.items()
            ]
            return self._json(tree)
        siblings = [{"rfilename": name, "size": len(data)} for name, data in files.items()]
        gated = "manual" if repo in self.hub.gated else False
        info = {"id": repo, "sha": self.hub.commits[repo], "siblings": siblings, "gated": gated}
        return self._json(info)

    def _resolve(self, repo: str, name: str) -> None:
        if repo not in self.hub.repos:
            return self._send(401, b"", {"X-Error-Code": "RepoNotFound"})
        if repo in self.hub.gated and not self.record.token:
            return self._send(403, b"", {"X-Error-Code": "GatedRepo"})
        commit = {"X-Repo-Commit": self.hub.commits[repo]}
        file = self.hub.repos[repo] / name
        if not file.is_file():
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound", **commit})
        data = file.read_bytes()
        if len(data) < LARGE:
            headers = {"ETag": f'"{etag(data)}"', **commit}
            if name == self.hub.corrupt_small:
                data = data[:-1] + bytes([data[-1] ^ 1])
            return self._send(200, data, headers)
        # The other host name makes the storage a foreign host, as it is in the world.
        location = f"http://localhost:{self.hub.port}/storage/{repo}/{name}"
        linked = {"X-Linked-Etag": f'"{etag(data)}"', "X-Linked-Size": str(len(data))}
        return self._send(302, b"", {"Location": location, **linked, **commit})

    def _storage(self, path: str) -> None:
        self.hub.hold.wait(60)
        if self.hub.failing:
            return self._send(self.hub.failing, b"")
        path = path.removeprefix("/storage/")
        repo = next(repo for repo in self.hub.repos if path.startswith(f"{repo}/"))
        name = path.removeprefix(f"{repo}/")
        data = (self.hub.repos[repo] / name).read_bytes()
        if self.hub.corrupt:
            data = data[:-1] + bytes([data[-1] ^ 1])
        if self.hub.no_ranges or not self.record.range:
            return self._send(200, data, cut=True)
        start, end = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", self.record.range).groups())
        headers = {"Content-Range": f"bytes {start}-{end}/{len(data)}"}
        return self._send(206, data[start : end + 1], headers, cut=True)

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(
        self, status: int, body: bytes, headers: dict[str, str] | None = None, cut: bool = False
    ) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if cut and self.hub.cuts:
            body = body[: self.hub.cuts.pop(0)]
            self.close_connection = True
        self.wfile.write(body)
        self.record.served = len(body)


@contextlib.contextmanager
def standing_in(cache: Path) -> Iterator[Hub]:
    """A hub in place of the one that is asked, for this process and those that it starts."""
    from huggingface_hub import constants

    hub = Hub()
    server = start(hub)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_CACHE", str(cache))
        patch.setenv("HF_ENDPOINT", hub.endpoint)
        patch.setenv("NO_PROXY", "127.0.0.1,localhost")
        patch.setenv("HF_HUB_OFFLINE", "0")
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            patch.delenv(name, raising=False)
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield hub
    server.shutdown()


def start(hub: Hub) -> ThreadingHTTPServer:
    """Serve ``hub`` on a free port until ``server.shutdown()``."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.port = server.server_address[1]
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server
