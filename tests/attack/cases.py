"""What one attack is."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.attack.target import Target


@dataclass(frozen=True)
class Case:
    """One attack: `send` does it, and returns the status of the answer (for a socket, the code it ended with)."""

    family: str
    name: str
    sender: str  # a name of the target's; empty for somebody without an account
    send: Callable[[Target], int]
