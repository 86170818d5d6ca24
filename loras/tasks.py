"""What RQ's entries in the queue `downloads` may call here."""

from uuid import UUID

from django.db import close_old_connections

from loras.processing import lora_process


def process_lora(lora_id: str) -> None:
    """Sees to one pending adapter."""
    close_old_connections()
    try:
        lora_process(lora_id=UUID(lora_id))
    finally:
        close_old_connections()
