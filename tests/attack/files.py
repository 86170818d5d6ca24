"""LoRA files that lie, that are something else, or that would cost a worker much."""

from collections.abc import Iterator
from functools import partial
from itertools import product

from tests.attack.cases import Case
from tests.attack.target import Target
from tests.support.lora_files import HOSTILE, pair, safetensors

COSTLY = {
    "a module's name of 100,000 characters": lambda: safetensors(pair("unet." + "a" * 100_000, 4, 4)),
    "a module's name of 100,000 dots": lambda: safetensors(pair("unet" + ".a" * 50_000, 4, 4)),
    "3,000 modules that no model has": lambda: safetensors(
        {
            name: tensor
            for number in range(3000)
            for name, tensor in pair(f"unet.made_up.{number}.to_q", 4, 4).items()
        }
    ),
}
FILES = {**{name: partial(bytes, found) for name, (found, _) in HOSTILE.items()}, **COSTLY}
ROUTE = "/api/v1/loras/upload"


def _send(name: str, sender: str, target: Target) -> int:
    upload = {"file": ("a.safetensors", FILES[name](), "application/octet-stream")}
    data = {"name": "attack", "family": "sd1"}
    return int(target.call(sender, "POST", ROUTE, files=upload, data=data).status_code)


def cases() -> Iterator[Case]:
    """Every file, by nobody and by a user."""
    for name, sender in product(FILES, ("", "user")):
        yield Case("LoRA", name, sender, partial(_send, name, sender))
