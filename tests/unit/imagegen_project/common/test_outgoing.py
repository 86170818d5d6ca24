"""Where webhooks may go, and for how long: one POST to an address that a stranger chose."""

import asyncio
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import pytest

from imagegen_project.common.outgoing import UnreachableError, is_public, outgoing_request
from tests.support.receivers import Receiver, receiving
from tests.support.service import REPOSITORY


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A server on loopback."""
    with receiving() as found:
        yield found


def test_an_answer_that_drips_is_left_in_time() -> None:
    """Each read of it would have been quick enough."""
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            client, _ = server.accept()
            with client:
                client.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
                while not stop.wait(0.05):
                    try:
                        client.sendall(b"x")
                    except OSError:
                        return

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            with pytest.raises(UnreachableError, match="no answer in time"):
                outgoing_request(
                    "POST",
                    f"http://127.0.0.1:{server.getsockname()[1]}/",
                    body=b"{}",
                    headers={},
                    timeout_s=0.5,
                    allow_private=True,
                )
        finally:
            stop.set()
            thread.join()


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True), ("2606:2800:220:1:248:1893:25c8:1946", True), ("127.0.0.1", False),
        ("0.0.0.0", False),  # noqa: S104
        ("10.1.2.3", False), ("172.16.0.1", False), ("192.168.0.1", False),
        ("169.254.169.254", False), ("100.64.0.1", False), ("224.0.0.1", False), ("255.255.255.255", False),
        ("::1", False), ("::", False), ("fe80::1", False), ("fc00::1", False), ("ff02::1", False),
        ("::ffff:127.0.0.1", False), ("::ffff:93.184.216.34", True), ("64:ff9b::a9fe:a9fe", False),
        ("64:ff9b::5db8:d822", True), ("2002:7f00:1::", False), ("2001:0:7f00:1::", False),
    ],
)  # fmt: skip
def test_which_addresses_are_public(address: str, public: bool) -> None:  # noqa: FBT001
    """Also those that hide an IPv4 address."""
    assert is_public(ip_address(address)) is public


def resolving(monkeypatch: pytest.MonkeyPatch, *answers: str) -> list[str]:
    """Has every name resolve to these, one a question; returns the names that were asked for."""
    asked: list[str] = []

    async def getaddrinfo(self: Any, host: str, port: int, **options: Any) -> Any:
        asked.append(host)
        address = answers[min(len(asked), len(answers)) - 1]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)
    return asked


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "2130706433", "0x7f.1"])
def test_private_addresses_are_refused_at_connect_time(receiver: Receiver, host: str) -> None:
    """However they are written."""
    url = receiver.url.replace("127.0.0.1", host)
    with pytest.raises(UnreachableError):
        outgoing_request("POST", url, body=b"{}", headers={}, timeout_s=5, allow_private=False)
    assert not receiver.requests


def test_a_name_that_leads_inside_is_refused(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Although it looks like any other."""
    resolving(monkeypatch, "127.0.0.1")
    with pytest.raises(UnreachableError, match="not a public address"):
        outgoing_request(
            "POST",
            receiver.url.replace("127.0.0.1", "rebind.example"),
            body=b"{}",
            headers={},
            timeout_s=5,
            allow_private=False,
        )
    assert not receiver.requests


def test_the_address_that_was_looked_at_is_the_one_that_is_used(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name is resolved once; whoever would answer the next question otherwise is not asked."""
    asked = resolving(monkeypatch, "127.0.0.1", "127.0.0.9")
    url = receiver.url.replace("127.0.0.1", "rebind.example")
    assert (
        outgoing_request("POST", url, body=b"{}", headers={}, timeout_s=5, allow_private=True).status == 204
    )
    assert asked == ["rebind.example"]
    assert receiver.requests[0][0]["host"].startswith("rebind.example:")


def test_no_name_leads_inside_by_its_next_answer() -> None:
    """A real resolver asks a real server, in a network that nothing leaves: DNS rebinding."""
    alone = ["unshare", "--map-root-user", "--mount", "--net"]
    if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no network of its own may be made here")
    program = [*alone, sys.executable, "-m", "tests.support.rebinding"]
    done = subprocess.run(program, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    refused = "not a public address"
    # What came of two requests, how many questions they took, and where they arrived.
    assert json.loads(done.stdout) == {
        "rebinding.test": [["204", refused], 2, ["1.1.1.1"]],
        "mixed.test": [[refused, refused], 2, []],
        "public.test": [["204", "204"], 2, ["1.1.1.1", "1.1.1.1"]],
    }
