"""What the registry tells whoever waits for a checkpoint; each signal carries `checkpoint`, a row as it now stands."""

from typing import Final

from django.dispatch import Signal

# More bytes have arrived; sent about once a second at most.
checkpoint_progress: Final = Signal()
# The files are on disk, verified.
checkpoint_ready: Final = Signal()
# They will not come, or cannot be used; `error_detail` says why.
checkpoint_failed: Final = Signal()
