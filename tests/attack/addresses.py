"""Addresses that would make the service ask itself or its neighbours, as webhooks."""

from collections.abc import Iterator
from functools import partial

from tests.attack.cases import Case
from tests.attack.target import Target

ADDRESSES = (
    *("http://127.0.0.1/", "https://127.0.0.1/", "https://localhost/", "https://[::1]/", "https://0.0.0.0/"),
    *("https://127.1/", "https://2130706433/", "https://0x7f000001/", "https://0177.0.0.1/", "https://[::ffff:127.0.0.1]/"),
    *("https://10.0.0.1/", "https://192.168.1.1/", "https://172.16.0.1/", "https://169.254.169.254/latest/meta-data/"),
    *("https://[fe80::1]/", "https://[fd00::1]/", "https://100.64.0.1/", "https://[64:ff9b::7f00:1]/"),
    *("file:///etc/passwd", "gopher://127.0.0.1:6379/_FLUSHALL", "ftp://example.com/", "//example.com/", "https://"),
    *("https://user:password@example.com/", "https://example.com:99999/", "https://exa mple.com/", "https://\u0000/"),
    *("https://" + "a" * 5000 + ".example/", "https://example.com/\r\nX-Evil: 1", "javascript:alert(1)"),
)  # fmt: skip


def _send(address: str, target: Target) -> int:
    body = {"prompt": "a red circle", "steps": 1, "webhook_url": address}
    return int(target.call("user", "POST", "/api/v1/generations", json=body).status_code)


def cases() -> Iterator[Case]:
    """Each address, by a user."""
    for address in ADDRESSES:
        yield Case("webhook", repr(address[:60]), "user", partial(_send, address))
