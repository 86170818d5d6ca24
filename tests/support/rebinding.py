"""A network of its own, in which a name leads to another place from one question to the next.

Run as a program under `unshare --map-root-user --mount --net`: that network has a DNS server on loopback, an address of
the open internet, and one HTTP server for both. Prints, as JSON, what came of each request, the questions that were
asked for its name, and the addresses at which it arrived.
"""

import fcntl
import json
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from imagegen_project.common.outgoing import UnreachableError, outgoing_request

PUBLIC, PRIVATE = "1.1.1.1", "127.0.0.1"
# What the n-th question for a name is answered with; the last answer stands.
NAMES = {
    "rebinding.test": ([PUBLIC], [PRIVATE]),
    "mixed.test": ([PUBLIC, PRIVATE],),
    "public.test": ([PUBLIC],),
}
# Of Linux: sys/ioctl.h and net/if.h.
_SET_ADDRESS, _SET_FLAGS, _UP = 0x8916, 0x8914, 0x1
_HEADER = struct.Struct("!6H")
_IPV4 = 1


def network_make() -> None:
    """Brings up loopback, with the public address beside its own."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sH14x", b"lo", _UP))
        address = struct.pack("=HH4s8x", socket.AF_INET, 0, socket.inet_aton(PUBLIC))
        fcntl.ioctl(any_socket, _SET_ADDRESS, struct.pack("16s16s", b"lo:1", address))


def resolver_replace() -> None:
    """Has this system's resolver ask our server."""
    with tempfile.NamedTemporaryFile("w", delete=False) as file:
        file.write(f"nameserver {PRIVATE}\n")
    subprocess.run(["mount", "--bind", file.name, "/etc/resolv.conf"], check=True)


def names_answer(question: bytes, asked: Counter[str]) -> bytes:
    """The answer to a question for IPv4 addresses, which is counted; of others there are none."""
    number, *_ = _HEADER.unpack_from(question)
    labels, end = [], _HEADER.size
    while length := question[end]:
        labels.append(question[end + 1 : end + 1 + length].decode())
        end += 1 + length
    (kind,) = struct.unpack_from("!H", question, end + 1)
    found: list[str] = []
    if kind == _IPV4:
        name = ".".join(labels)
        found = NAMES[name][min(asked[name], len(NAMES[name]) - 1)]
        asked[name] += 1
    records = [struct.pack("!HHHIH4s", 0xC00C, _IPV4, 1, 0, 4, socket.inet_aton(one)) for one in found]
    head = _HEADER.pack(number, 0x8180, 1, len(found), 0, 0)
    return b"".join((head, question[_HEADER.size : end + 5], *records))


def names_serve(asked: Counter[str]) -> None:
    """Answers every question, in a thread."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((PRIVATE, 53))

    def serve() -> None:
        while True:
            question, client = server.recvfrom(512)
            server.sendto(names_answer(question, asked), client)

    threading.Thread(target=serve, daemon=True).start()


def receiver_serve(arrived: list[str]) -> None:
    """Takes every message, and notes at which of our addresses it came."""

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            arrived.append(self.connection.getsockname()[0])
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("", 80), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def main() -> None:
    """Sends to each name twice."""
    network_make()
    resolver_replace()
    asked: Counter[str] = Counter()
    arrived: list[str] = []
    names_serve(asked)
    receiver_serve(arrived)
    found: dict[str, Any] = {}
    for name in NAMES:
        came = []
        for _ in range(2):
            try:
                answer = outgoing_request(
                    "POST", f"http://{name}/", headers={}, timeout_s=10, allow_private=False
                )
                came.append(str(answer.status))
            except UnreachableError as error:
                came.append(str(error))
        found[name] = [came, asked[name], list(arrived)]
        arrived.clear()
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
