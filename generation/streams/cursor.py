"""Where a client has come to in a feed."""

import re
from typing import Literal

MAX_SEQ = 2**53


def seq_read(text: str) -> int | Literal[False]:
    """A sequence number as a client writes it; False when it is none."""
    return int(text) if re.fullmatch(r"[0-9]{1,16}", text) and int(text) <= MAX_SEQ else False
