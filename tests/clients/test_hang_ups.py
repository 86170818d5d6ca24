"""Clients that hang up while their request waits, each in its dialect."""

import json
import socket
from typing import Any
from uuid import uuid4

from tests.support.live import Live
from tests.support.service import wait_for

SMALL = {"width": 256, "height": 256}
# Path, body without the prompt, the prompt's name, more headers.
GO_ON: tuple[tuple[str, dict[str, Any], str, dict[str, str]], ...] = (
    ("/api/v1/generate/txt2img", SMALL, "prompt", {}),
    ("/sdapi/v1/txt2img", SMALL, "prompt", {}),
    ("/v1/images/generations", {"size": "256x256"}, "prompt", {"Idempotency-Key": "hung-up"}),
)
END: tuple[tuple[str, dict[str, Any], str, dict[str, str]], ...] = (
    ("/api/v1/generate/txt2img", SMALL | {"cancel_on_disconnect": True}, "prompt", {}),
    ("/api/v1/generations", SMALL | {"cancel_on_disconnect": True}, "prompt", {"Prefer": "wait=100"}),
    ("/v1/images/generations", {"size": "256x256"}, "prompt", {}),
    ("/v1/images/generations", {"size": "256x256", "stream": True}, "prompt", {}),
    ("/hf/builtin", {"parameters": SMALL}, "inputs", {}),
)


def hang_up(live: Live, path: str, body: dict[str, Any], name: str, headers: dict[str, str]) -> str:
    """Sends a request and closes the connection once there is a job; the job's id."""
    prompt = uuid4().hex
    content = json.dumps(body | {name: prompt}).encode()
    fields = {
        "Host": f"127.0.0.1:{live.service.port}",
        "Content-Type": "application/json",
        "Content-Length": str(len(content)),
        **live.headers,
        **headers,
    }
    head = "".join(f"{field}: {value}\r\n" for field, value in fields.items())
    found: list[str] = []

    def is_there() -> bool:
        jobs = live.http.get("/api/v1/generations").json()["results"]
        found.extend(job["id"] for job in jobs if job["prompt"] == prompt)
        return bool(found)

    with socket.create_connection(("127.0.0.1", live.service.port)) as client:
        client.sendall(f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + content)
        wait_for(is_there, f"a job of {path}")
    return found[0]


def test_a_hang_up_cancels_where_it_is_to(live: Live) -> None:
    """Where that was asked for, or where the dialect's clients expect it; elsewhere the job goes on."""
    with live.undrawn():
        going_on = [hang_up(live, *request) for request in GO_ON]
        ending = [hang_up(live, *request) for request in END]
        assert {live.wait(job_id, "canceled")["status"] for job_id in ending} == {"canceled"}
        assert {live.get(job_id)["status"] for job_id in going_on} == {"queued"}
    for job_id in going_on:
        live.http.post(f"/api/v1/generations/{job_id}/cancel")
