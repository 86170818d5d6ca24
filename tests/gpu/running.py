"""Running parts one after the other, and telling how each ended."""

import sys
import time
from collections.abc import Callable


def run(parts: dict[str, Callable[[], str]], *, seconds: float, skipped: type[Exception]) -> int:
    """Runs parts in order, printing how each ended; returns how many failed. Begins none once the time is over."""
    began, failed = time.monotonic(), 0
    for name, part in parts.items():
        since = time.monotonic()
        if since - began > seconds:
            sys.stdout.write(f"{name}: not begun, out of time\n")
            continue
        try:
            said = part()
        except skipped:
            said = "no card"
        except Exception as error:  # noqa: BLE001 - whatever it is, the next part says something too
            failed += 1
            said = f"FAILED, {type(error).__name__}: {error}"
        sys.stdout.write(f"{name}: {said} ({time.monotonic() - since:.1f} s)\n")
        sys.stdout.flush()
    return failed
