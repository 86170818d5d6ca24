"""An application behind the gate, for a web server of the tests: answers how a body came and what it cost.

Whoever sends `Authorization: Bearer <name>` is the user of that name.
"""

import hashlib
import json
import resource
from typing import Any

import django

django.setup()

from imagegen_project.server.bodies import STORE, Head, Refusal  # noqa: E402
from imagegen_project.server.gate import RequestGate  # noqa: E402
from imagegen_project.server.patches import bound_bodies  # noqa: E402


def peak_kb() -> int:
    """The most memory that this process has taken so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


async def count(scope: Any, receive: Any, send: Any) -> None:
    """Reads the body; answers its length, its SHA-256, the number of pieces, and by how much the process has grown."""
    digest, length, pieces = hashlib.sha256(), 0, 0
    while True:
        message = await receive()
        body = message.get("body", b"")
        digest.update(body)
        length, pieces = length + len(body), pieces + 1
        if not message.get("more_body"):
            break
    said = {
        "length": length,
        "pieces": pieces,
        "sha256": digest.hexdigest(),
        "grown_kb": peak_kb() - START_KB,
        "memory": STORE.memory,
        "files": STORE.files.total(),
    }
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(said).encode()})


async def identify(head: Head) -> Any:
    """The name after Bearer."""
    name = head.header(b"authorization").removeprefix("Bearer ")
    return name or Refusal(401, "not_authenticated", "Who are you?", {"WWW-Authenticate": "Bearer"})


START_KB = peak_kb()
bound_bodies(identify=identify)
never: Any = None  # nothing here waits
application = RequestGate(count, wait_for_end=never, abandon=never, error_shape=lambda _: None)
