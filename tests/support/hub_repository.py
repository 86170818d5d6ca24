"""Repositories of the Hub double: what the real Hub answers about files, and every way in which that can go wrong."""

import hashlib
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from tests.support.hub import HubDouble, HubReply, HubRequest

Fault = Literal[
    *("401", "403", "404", "429", "500", "hang", "truncate", "short", "flip", "slow", "drip", "whole"),
    *("late", "held"),
]
PIECE = 64 * 1024
LFS_FROM = 10_000
PAUSE_S = 0.02
# Longer than a download is silent about how far it is.
LATE_S = 1.2
# Between two bytes of a file that is held: a client that waits for any byte does not give it up.
DROP_S = 0.2
HANG_S = 30.0
INFO = ""  # the name under which faults of the repository's description are kept


class HubRepository:
    """One repository, made of a folder's files as they are when it is asked.

    `faults` maps a file's path, or `INFO`, to what is wrong with it: an HTTP status; `hang` (silence after half),
    `truncate` (the connection ends after half), `short` (half, and says that this is all), `flip` (one byte),
    `slow`, `drip` (a byte at a time), `whole` (ranges are ignored), `late` (begins after LATE_S), or `held` (drips
    until `released` is set).
    """

    def __init__(self, hub: HubDouble, name: str, folder: Path) -> None:
        self.hub = hub
        self.name = name
        self.folder = folder
        self.gated = False
        self.accepted: set[str] = set()  # tokens whose account accepted the licence
        self.faults: dict[str, Fault] = {}
        self.siblings: list[Any] = []  # entries of the listing beside the files'
        self.bytes_sent = 0
        self.released = threading.Event()
        hub.route("GET", rf"/api/models/{re.escape(name)}(?:/revision/(?P<revision>[^/]+))?", self._info)
        for method in ("GET", "HEAD"):
            hub.route(method, rf"/{re.escape(name)}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", self._resolve)
            hub.route(method, rf"/cdn/{re.escape(name)}/(?P<path>.+)", self._content)

    @property
    def paths(self) -> list[str]:
        """Every file's path."""
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file())

    @property
    def commit(self) -> str:
        """Changes whenever a file does."""
        digest = hashlib.sha1(usedforsecurity=False)
        for path in self.paths:
            digest.update(path.encode() + (self.folder / path).read_bytes())
        return digest.hexdigest()

    def requests(self, method: str = "GET") -> list[HubRequest]:
        """The requests for files' contents that the Hub has seen."""
        return [
            request
            for request in self.hub.requests
            if request.method == method
            and request.path.startswith((f"/{self.name}/resolve/", f"/cdn/{self.name}/"))
        ]

    def _info(self, request: HubRequest) -> HubReply:
        if refusal := self._refusal(INFO, request):
            return refusal
        assert request.match is not None
        commit = self.commit
        if request.match["revision"] not in {None, "main", commit}:
            return HubReply(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
        return HubReply(
            200,
            {
                "_id": "621ffdc036468d709f174338",
                "id": self.name,
                "modelId": self.name,
                "sha": commit,
                "private": False,
                "gated": "auto" if self.gated else False,
                "disabled": False,
                "downloads": 0,
                "likes": 0,
                "tags": ["diffusers"],
                "siblings": [self._sibling(path) for path in self.paths] + self.siblings,
            },
        )

    def _sibling(self, path: str) -> dict[str, Any]:
        data = (self.folder / path).read_bytes()
        sibling = {"rfilename": path, "size": len(data), "blobId": _git_sha1(data)}
        if len(data) >= LFS_FROM:
            sha256 = hashlib.sha256(data).hexdigest()
            sibling["lfs"] = {"sha256": sha256, "size": len(data), "pointerSize": 134}
            sibling["blobId"] = _git_sha1(f"pointer to {sha256}".encode())
        return sibling

    def _resolve(self, request: HubRequest) -> HubReply:
        assert request.match is not None
        path = request.match["path"]
        if refusal := self._refusal(path, request):
            return refusal
        if request.match["revision"] not in {"main", self.commit} or path not in self.paths:
            return HubReply(404, b"Entry not found", {"X-Error-Code": "EntryNotFound"})
        data = (self.folder / path).read_bytes()
        if len(data) < LFS_FROM:
            return self._content(request)
        headers = {
            "X-Repo-Commit": self.commit,
            "X-Linked-Size": str(len(data)),
            "X-Linked-Etag": f'"{hashlib.sha256(data).hexdigest()}"',
            "Location": f"{self.hub.url}/cdn/{self.name}/{path}",
        }
        return HubReply(302, b"Found", headers)

    def _content(self, request: HubRequest) -> HubReply:
        assert request.match is not None
        path = request.match["path"]
        fault = self.faults.get(path)
        data = (self.folder / path).read_bytes()
        headers = {"X-Repo-Commit": self.commit, "ETag": f'"{_git_sha1(data)}"', "Accept-Ranges": "bytes"}
        start = 0
        asked = re.fullmatch(r"bytes=(\d+)-", request.headers.get("range", ""))
        if asked and fault != "whole":
            start = int(asked[1])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if fault == "flip":
            middle = len(data) // 2
            data = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        body = data[start:]
        if fault == "short":
            body = body[: len(body) // 2]
        headers["Content-Length"] = str(len(body))
        headers["Content-Type"] = "application/octet-stream"
        return HubReply(206 if "Content-Range" in headers else 200, self._pieces(body, fault), headers)

    def _pieces(self, body: bytes, fault: Fault | None) -> Iterator[bytes]:
        end = len(body) // 2 if fault in {"hang", "truncate"} else len(body)
        if fault == "late":
            self.hub.wait(LATE_S)
        if fault == "held":
            sent = 0
            while sent < end // 2 and not self.released.wait(DROP_S):
                yield body[sent : sent + 1]
                sent += 1
            body, end = body[sent:], end - sent
        for start in range(0, end, PIECE):
            if fault == "slow":
                self.hub.wait(PAUSE_S)
            if fault == "drip":
                yield from self._drops(body)
                return
            piece = body[start : min(start + PIECE, end)]
            self.bytes_sent += len(piece)
            yield piece
        if fault == "hang":
            self.hub.wait(HANG_S)

    def _drops(self, body: bytes) -> Iterator[bytes]:
        """One byte after the other, until the Hub goes away."""
        for number in range(len(body)):
            self.hub.wait(PAUSE_S)
            self.bytes_sent += 1
            yield body[number : number + 1]

    def _refusal(self, path: str, request: HubRequest) -> HubReply | None:
        if path != INFO and self.gated and request.token not in self.accepted:
            status = 403 if request.token in self.hub.tokens else 401
            return HubReply(
                status, {"error": "Access to this model is restricted."}, {"X-Error-Code": "GatedRepo"}
            )
        match self.faults.get(path):
            case "401":
                return HubReply(401, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            case "403":
                return HubReply(403, {"error": "Forbidden"})
            case "404":
                return HubReply(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            case "429":
                return HubReply(429, {"error": "We had to rate limit you."})
            case "500":
                return HubReply(500, {"error": "Internal Error"})
            case "hang" if path == INFO:
                self.hub.wait(HANG_S)
        return None


def _git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
