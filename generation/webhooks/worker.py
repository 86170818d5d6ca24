"""The RQ worker that delivers."""

from typing import ClassVar

from generation.webhooks.outbox import DELIVER_DUE
from imagegen_project.common.rq_worker import AllowlistedWorker


class WebhookWorker(AllowlistedWorker):
    """Delivers what is in the outbox."""

    ENTRY_POINTS: ClassVar[tuple[str, ...]] = (DELIVER_DUE,)
