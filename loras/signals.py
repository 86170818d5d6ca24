"""What the adapters ask whoever uses them."""

from typing import Final

from django.dispatch import Signal

# Receivers return the ids of adapters that queued or running work needs; their files are never pruned.
pinned_loras: Final = Signal()
