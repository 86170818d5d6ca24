"""What the adapters ask whoever uses them."""

from typing import Final

from django.dispatch import Signal

# Receivers return the ids of adapters that queued or running work needs; their files are never pruned.
pinned_loras: Final = Signal()
# Receivers return the names of workers that hold adapters, by the SHA-256 of the file.
lora_holders: Final = Signal()
# `lora` is on disk, verified; or it will not come, and its `error_detail` says why.
lora_ready: Final = Signal()
lora_failed: Final = Signal()
