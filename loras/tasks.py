"""What RQ's entries in the queue `downloads` may call here, and the lane that sees to adapters."""

from typing import Final

from django.db import close_old_connections

from imagegen_project.common.lanes import Lane, lane_wake
from loras.processing import lora_process_next

# Several at once: one source that drips, or one large file, must not keep everybody's waiting.
LANE: Final = Lane("loras", lora_process_next, at_once=3)


def process_lora(lora_id: str) -> None:
    """There is a pending adapter. Whose turn it is, is seen to: not always the one that the entry was pushed for."""
    if lane_wake(LANE.name):
        return
    close_old_connections()
    try:
        lora_process_next()
    finally:
        close_old_connections()
