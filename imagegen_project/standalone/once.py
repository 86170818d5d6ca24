"""One generation through the service's own HTTP and WebSocket doors, with a progress bar."""

import json
from collections.abc import Callable, Mapping
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from tqdm import tqdm
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from imagegen_project.standalone.service import StandaloneError, own_host, reachable_host

_ANSWER_TIMEOUT_S = 60.0
_EVENT_TIMEOUT_S = 0.5
_RECONNECT_PAUSE_S = 0.5
_ENDINGS = frozenset({"succeeded", "failed", "canceled"})
_BAR_FORMAT = "step {n_fmt}/{total_fmt} |{bar:40}| {elapsed}"


class OnceClient:
    """Talks to a running service as the local user.

    `pause` is called while waiting and may raise to give up.
    """

    def __init__(self, *, host: str, port: int, token: str, pause: Callable[[float], object]) -> None:
        self._host = reachable_host(host)
        self._port = port
        self._headers = {"Authorization": f"Bearer {token}", "Host": own_host(port)}
        self._pause = pause

    def generate(self, request: Mapping[str, Any], out: Path) -> dict[str, Any]:
        """Makes one picture, writes it to `out` and returns the generation. Raises StandaloneError."""
        job_id = str(self._json("POST", "/api/v1/generations", request)["id"])
        self._follow(job_id)
        generation = self._json("GET", f"/api/v1/generations/{job_id}")
        if generation["status"] != "succeeded":
            error = generation.get("error") or {}
            reason = error.get("detail") or error.get("code") or "no reason given"
            raise StandaloneError(f"The generation ended as {generation['status']}: {reason}")
        picture = self._request("GET", f"/api/v1/generations/{job_id}/images/0")
        try:
            out.write_bytes(picture)
        except OSError as error:
            raise StandaloneError(f"{out} cannot be written ({error.strerror}).") from error
        return generation

    def _follow(self, job_id: str) -> None:
        """Shows the feed's progress until its terminal event; reconnects where the connection breaks."""
        seq = 0
        with tqdm(total=None, bar_format=_BAR_FORMAT, leave=True) as bar:
            while True:
                try:
                    seq, ended = self._follow_connection(job_id, seq, bar)
                except (OSError, WebSocketException):
                    ended = self._json("GET", f"/api/v1/generations/{job_id}")["status"] in _ENDINGS
                if ended:
                    return
                self._pause(_RECONNECT_PAUSE_S)

    def _follow_connection(self, job_id: str, seq: int, bar: "tqdm[Any]") -> tuple[int, bool]:
        address = f"ws://{self._host}:{self._port}/ws/generations/{job_id}/?after={seq}"
        headers = {"Authorization": self._headers["Authorization"]}
        with connect(address, additional_headers=headers, max_size=None, proxy=None) as feed:
            while True:
                try:
                    event = json.loads(feed.recv(timeout=_EVENT_TIMEOUT_S))
                except TimeoutError:
                    self._pause(0)
                    continue
                seq = max(seq, int(event.get("seq") or 0))
                if event.get("total_steps"):
                    bar.total = int(event["total_steps"])
                    bar.n = int(event.get("step") or 0)
                    bar.refresh()
                if _ENDINGS & {event["type"], event.get("status")}:
                    return seq, True

    def _json(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._request(method, path, body))
        return answer

    def _request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> bytes:
        connection = HTTPConnection(self._host, self._port, timeout=_ANSWER_TIMEOUT_S)
        headers = {**self._headers, "Content-Type": "application/json"}
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, HTTPException) as error:
            raise StandaloneError(f"The web server did not answer {method} {path}: {error}") from error
        finally:
            connection.close()
        if answer.status >= 400:
            raise StandaloneError(_refusal(answer.status, content))
        return content


def _refusal(status: int, content: bytes) -> str:
    """What a problem-shaped answer says."""
    try:
        said = json.loads(content)["detail"]
    except (ValueError, KeyError, TypeError):
        said = content.decode(errors="replace")[:200]
    return f"The service refused the request ({status}): {said}"
