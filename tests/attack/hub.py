"""A Hub that attacks: listings, files and words about tokens that lie, never end, lead elsewhere, or cost much."""

import hashlib
import zlib
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import repeat
from typing import Any

from tests.attack.cases import Case
from tests.attack.target import Target
from tests.support.hub import HubDouble, HubReply, HubRequest, whoami
from tests.support.lora_files import HOSTILE, lora_bytes
from tests.support.service import wait_for

COMMIT = "0123456789" * 4
FILE = "a.safetensors"
MB = 1_000_000
ENDLESS = 10_000_000 * MB
BROKEN = 422  # what a load that failed counts as
Answer = Callable[[HubDouble], HubReply]


@cache
def sound() -> bytes:
    """A file as it should be."""
    return lora_bytes("sd1", "kohya")


def sibling(data: bytes, **fields: Any) -> dict[str, Any]:
    """A file's entry in a listing."""
    digest = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return {"rfilename": FILE, "size": len(data), "blobId": "0" * 40, "lfs": digest} | fields


def listing(*siblings: Any, **fields: Any) -> dict[str, Any]:
    """What a repository holds."""
    about = {"_id": "1", "id": "evil/a", "modelId": "evil/a", "sha": COMMIT, "private": False, "gated": False}
    more = {"disabled": False, "downloads": 0, "likes": 0, "tags": []}
    return about | more | {"siblings": list(siblings)} | fields


def _says(body: Any, status: int = 200, **headers: str) -> Answer:
    return lambda _: HubReply(
        status, body, {name.replace("_", "-"): value for name, value in headers.items()}
    )


def _lists(**fields: Any) -> Answer:
    return lambda _: HubReply(200, listing(sibling(sound(), **fields)))


def _for_ever(piece: bytes) -> Answer:
    return lambda _: HubReply(200, repeat(piece), {"Content-Length": str(ENDLESS)})


def _dripping(hub: HubDouble) -> HubReply:
    def drops() -> Iterator[bytes]:
        while not hub.stopped:
            hub.wait(0.2)
            yield b" "

    return HubReply(200, drops(), {"Content-Length": str(ENDLESS)})


@cache
def _bomb() -> bytes:
    """400 MB of blanks in 400 kB."""
    packer = zlib.compressobj(9, wbits=31)
    return b"".join([*(packer.compress(b" " * MB) for _ in range(400)), packer.flush()])


def _packed(_: HubDouble) -> HubReply:
    return HubReply(200, _bomb(), {"Content-Encoding": "gzip"})


def _leads(where: str) -> Answer:
    return lambda hub: HubReply(302, b"", {"Location": where.replace("HUB", hub.url)})


# What any question may be answered with.
ANSWERS: dict[str, Answer] = {
    "nonsense": _says(b"<html>Welcome</html>", Content_Type="text/html"),
    "null": _says(None),
    "a list": _says([]),
    "text": _says("text"),
    "nesting": _says(b"[" * 5 * MB),
    "nested objects": _says(b'{"a":' * MB),
    "digits": _says(b'{"sha": ' + b"1" * 5 * MB + b"}"),
    "millions of lists": _says(b"[" + b"[]," * 7 * MB + b"1]"),
    "no end": _for_ever(b" " * 65536),
    "drips": _dripping,
    "packed": _packed,
    "401": _says({"error": "no"}, 401),
    "403": _says({"error": "no"}, 403),
    "404": _says({"error": "no"}, 404),
    "429": _says({"error": "no"}, 429),
    "429 for an hour": _says({"error": "no"}, 429, Retry_After="3600"),
    "500": _says({"error": "no"}, 500),
    "a loop": _leads("HUB/loop"),
    "to nobody": _leads("http://127.0.0.1:1/"),
    "to a file": _leads("file:///etc/passwd"),
    "to gopher": _leads("gopher://127.0.0.1:6379/_FLUSHALL"),
    "to nowhere": _leads("http://"),
}
LISTINGS: dict[str, Answer] = {
    "a file without a name": _lists(rfilename=None),
    "a number as name": _lists(rfilename=7),
    "a name that climbs": _lists(rfilename="../../../../tmp/a.safetensors"),
    "an absolute name": _lists(rfilename="/tmp/a.safetensors"),  # noqa: S108 - an attack
    "a name with a null": _lists(rfilename="a\0.safetensors"),
    "a name of 100,000 characters": _lists(rfilename="a" * 100_000 + ".safetensors"),
    "a negative size": _lists(size=-1),
    "a size in words": _lists(size="1"),
    "an exabyte": _lists(size=10**18),
    "no checksum": _lists(lfs=None, blobId=None),
    "a checksum that climbs": _lists(lfs={"sha256": "../" * 20, "size": 1, "pointerSize": 1}),
    "a commit that climbs": lambda _: HubReply(200, listing(sibling(sound()), sha="../../../tmp")),
    "no commit": lambda _: HubReply(200, listing(sibling(sound()), sha=None)),
    "files null": lambda _: HubReply(200, listing() | {"siblings": None}),
    "100,000 files": lambda _: HubReply(200, listing(*repeat(sibling(b""), 100_000))),
    "one name 10,000 times": lambda _: HubReply(200, listing(*repeat(sibling(sound()), 10_000))),
    "pickles": _lists(rfilename="a.bin"),
}  # fmt: skip


def _file(body: Any, **headers: str) -> Answer:
    told = {"Content-Length": str(len(sound())), "Content-Type": "application/octet-stream"}
    told |= {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _: HubReply(200, body if isinstance(body, bytes) else body(), told)


FILES: dict[str, Answer] = {
    "half of it": _file(lambda: iter([sound()[: len(sound()) // 2]])),
    "a shorter one": _says(b"short"),
    "a longer one": lambda _: HubReply(200, sound() + bytes(MB)),
    "another one": lambda _: HubReply(200, bytes(len(sound()))),
    "more than it says": _file(lambda: iter([sound() + bytes(MB)])),
    "another range": lambda _: HubReply(206, sound()[5:], {"Content-Range": "bytes 5-10/11"}),
    "a length in words": _file(lambda: iter([sound()]), Content_Length="0", Content_Range="x"),
}  # fmt: skip


class AttackingHub(HubDouble):
    """Answers each question by what its repository or its token is named after."""

    def __init__(self) -> None:
        super().__init__()
        self.listings = {**ANSWERS, **LISTINGS}
        self.files = {**ANSWERS, **FILES}
        self.contents = {name: found for name, (found, _) in HOSTILE.items()}
        # Numbers stand in names of repositories and tokens, which may not hold blanks.
        self.cases = [
            *(("listing", name) for name in self.listings),
            *(("file", name) for name in self.files),
            *(("content", name) for name in self.contents),
        ]
        self.words = list(ANSWERS)
        pattern = r"/api/models/evil/case-(?P<case>\d+)(/revision/.*)?"
        self.route("GET", pattern, self._list)
        for method in ("GET", "HEAD"):
            self.route(method, r"/evil/case-(?P<case>\d+)/resolve/.*", self._send)
            self.route(method, r"/loop", _at(_leads("HUB/loop"), self))
        self.route_first("GET", r"/api/whoami-v2", self._tell)

    def _case(self, request: HubRequest) -> tuple[str, str]:
        assert request.match is not None
        return self.cases[int(request.match["case"])]

    def _list(self, request: HubRequest) -> HubReply:
        kind, name = self._case(request)
        if kind == "listing":
            return self.listings[name](self)
        data = self.contents[name] if kind == "content" else sound()
        return HubReply(200, listing(sibling(data)))

    def _send(self, request: HubRequest) -> HubReply:
        kind, name = self._case(request)
        if kind == "file":
            return self.files[name](self)
        return HubReply(200, self.contents[name] if kind == "content" else sound())

    def _tell(self, request: HubRequest) -> HubReply:
        number = request.token.removeprefix("hf_attackNumber")
        return ANSWERS[self.words[int(number)]](self) if number.isdigit() else HubReply(200, whoami())


def _at(answer: Answer, hub: HubDouble) -> Callable[[HubRequest], HubReply]:
    return lambda _: answer(hub)


def load(number: int, target: Target) -> int:
    """A user asks for a repository: 200 once it is there, BROKEN once it is known not to come."""
    body = {"lora_path": f"evil/case-{number}"}
    at_once = {"Prefer": "respond-async"}
    answer = target.call("user", "POST", "/api/v1/loras/load", json=body, headers=at_once)
    if answer.status_code != 202:
        return int(answer.status_code)
    lora: dict[str, Any] = {}

    def ended() -> bool:
        lora.update(target.call("user", "GET", answer.headers["Location"]).json())
        return lora["state"] != "downloading"

    wait_for(ended, f"the end of {body['lora_path']}")
    return 200 if lora["state"] == "present" else BROKEN


def _ask(number: int, target: Target) -> int:
    headers = {"Authorization": f"Bearer hf_attackNumber{number}"}
    return int(target.call("", "GET", "/api/v1/generations", headers=headers).status_code)


def loads(hub: AttackingHub) -> Iterator[Case]:
    """Every repository, by a user."""
    for number, (kind, name) in enumerate(hub.cases):
        yield Case("Hub", f"{kind}: {name}", "user", partial(load, number))


def words(hub: AttackingHub) -> Iterator[Case]:
    """Every answer to the question whose token it is, by somebody without an account."""
    for number, name in enumerate(hub.words):
        yield Case("Hub's word", name, "", partial(_ask, number))


def cases(hub: AttackingHub) -> Iterator[Case]:
    """All of them."""
    yield from loads(hub)
    yield from words(hub)
