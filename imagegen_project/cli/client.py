"""A client of a running service: its API over HTTP, and a job's feed over a socket."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

from imagegen_project.cli.exits import CliError, Exit, exit_of

ANSWER_TIMEOUT_S = 60.0
EVENT_TIMEOUT_S = 0.5
RECONNECT_PAUSE_S = 0.5
ENDINGS = frozenset({"succeeded", "failed", "canceled"})
_NO_TOKEN = "Give a token with --token or in IMAGEGEN_TOKEN; `imagegen tokens create USER` makes one on the server."  # noqa: S105 - it is what to do without one


class ServiceClient:
    """Talks to a service.

    `pause` is called while waiting, and may raise to give up. `host` is the Host header where the address is not one of
    the service's names.
    """

    def __init__(
        self, *, url: str, token: str = "", host: str = "", pause: Callable[[float], object] = time.sleep
    ) -> None:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise CliError(
                f"{url!r} is no address such as http://127.0.0.1:8000.",
                code="usage",
                exit_status=Exit.USAGE,
            )
        self.url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        self._parts = parts
        self._prefix = parts.path.rstrip("/")
        self._authorization = {"Authorization": f"Bearer {token}"} if token else {}
        self._headers = {**self._authorization, **({"Host": host} if host else {})}
        self._pause = pause

    def get(self, path: str) -> dict[str, Any]:
        """The JSON of an answer. Raises CliError, as the following do."""
        answer: dict[str, Any] = json.loads(self.request("GET", path))
        return answer

    def post(self, path: str, body: Mapping[str, Any], *, prefer: str = "") -> dict[str, Any]:
        """The JSON of the answer to a JSON body."""
        answer: dict[str, Any] = json.loads(self.request("POST", path, body, prefer=prefer))
        return answer

    def request(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, prefer: str = ""
    ) -> bytes:
        """The bytes of an answer."""
        kind = HTTPSConnection if self._parts.scheme == "https" else HTTPConnection
        connection = kind(self._parts.hostname or "", self._parts.port, timeout=ANSWER_TIMEOUT_S)
        headers = {**self._headers, "Content-Type": "application/json"}
        if prefer:
            headers["Prefer"] = prefer
        try:
            connection.request(
                method, self._prefix + path, json.dumps(body) if body is not None else None, headers
            )
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, HTTPException) as error:
            raise CliError(
                f"No service answers at {self.url} ({error}): start one with `imagegen demo`, or name another with "
                "--url or IMAGEGEN_URL. On its host `imagegen doctor` says what is wrong.",
                code="unreachable",
                exit_status=Exit.UNREACHABLE,
            ) from error
        finally:
            connection.close()
        if answer.status >= 400:
            raise _refusal(answer.status, content)
        return content

    def events(self, job_id: str) -> Iterator[dict[str, Any]]:
        """A job's events until it has ended; comes back behind the last one where the connection breaks."""
        # A third of a second, which only those wait for who follow.
        from websockets.exceptions import WebSocketException

        after = 0
        while True:
            try:
                for event in self._connection(job_id, after):
                    after = max(after, int(event.get("seq") or 0))
                    yield event
                    if ENDINGS & {event["type"], event.get("status")}:
                        return
            except (OSError, WebSocketException):
                job = self.get(f"/api/v1/generations/{job_id}")
                if job["status"] in ENDINGS:
                    yield {"type": job["status"], "status": job["status"], "job_id": job_id}
                    return
            self._pause(RECONNECT_PAUSE_S)

    def _connection(self, job_id: str, after: int) -> Iterator[dict[str, Any]]:
        from websockets.sync.client import connect

        scheme = "wss" if self._parts.scheme == "https" else "ws"
        address = f"{scheme}://{self._parts.netloc}{self._prefix}/ws/generations/{job_id}/?after={after}"
        with connect(address, additional_headers=self._authorization, max_size=None, proxy=None) as feed:
            while True:
                try:
                    yield json.loads(feed.recv(timeout=EVENT_TIMEOUT_S))
                except TimeoutError:
                    self._pause(0)


def _refusal(status: int, content: bytes) -> CliError:
    """What a problem-shaped answer says, and each field that it names."""
    code, said = f"http_{status}", content.decode(errors="replace")[:200]
    with contextlib.suppress(ValueError, KeyError, TypeError):
        problem = json.loads(content)
        code, said = str(problem["code"]), str(problem["detail"])
        if len(problem.get("errors") or []) > 1:
            said = "; ".join(f"{error['param']}: {error['detail']}" for error in problem["errors"])
    if status == 401:
        said = f"{said} {_NO_TOKEN}"
    return CliError(
        f"The service refused the request ({status}): {said}", code=code, exit_status=exit_of(status)
    )
