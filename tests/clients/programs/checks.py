"""What the drivers in Python share. They run in environments of their own, where only their client is installed."""

import io
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

URL = os.environ["URL"]
TOKEN = os.environ["TOKEN"]


def run(*checks: Callable[[], None]) -> None:
    """Runs functions named after what they show, and prints a line of JSON for each."""
    for check in checks:
        outcome = {"what": check.__name__.replace("_", " "), "ok": True}
        try:
            check()
        except Exception as error:  # noqa: BLE001 - whatever a client raises is what is to be shown
            traceback.print_exc()
            outcome |= {"ok": False, "detail": f"{type(error).__name__}: {error}"[:300]}
        sys.stdout.write(json.dumps(outcome) + "\n")
        sys.stdout.flush()


def is_png(data: bytes) -> bool:
    return data.startswith(b"\x89PNG\r\n\x1a\n")


def picture(name: str = "in.png") -> io.BytesIO:
    """The picture that the runner has put beside the driver, as an open file with a name."""
    found = io.BytesIO(Path(name).read_bytes())
    found.name = name
    return found
