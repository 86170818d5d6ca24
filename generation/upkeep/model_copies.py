"""This host's own copies of models that another host has downloaded, where hosts share no disk.

A GPU worker claims only what lies on its host (`checkpoints_here`) and says in its row what that is. The task worker of
the host brings what its workers were told to load, and what queued generations have waited for: nobody who has the
files was free to run them.
"""

import logging
import socket
from datetime import timedelta

from django.db.models import Exists, OuterRef
from django.db.models.functions import Now

from generation.choices import CommandKind, CommandStatus, Status
from generation.models import Generation, Worker, WorkerCommand
from models_registry.choices import DiskState
from models_registry.downloads import copy_bring
from models_registry.errors import DownloadFailedError, DownloadLostError, DownloadStoppedError, disk_failed
from models_registry.models import Checkpoint
from models_registry.selectors import checkpoint_is_here
from models_registry.services import checkpoint_mark_absent

logger = logging.getLogger(__name__)

PATIENCE = timedelta(seconds=10)


def copies_wanted() -> list[Checkpoint]:
    """The present checkpoints that something waits for and this host does not have."""
    queued = Generation.objects.filter(
        checkpoint=OuterRef("pk"), status=Status.QUEUED, created_at__lt=Now() - PATIENCE
    )
    loads = WorkerCommand.objects.filter(
        checkpoint=OuterRef("pk"),
        kind=CommandKind.LOAD,
        status=CommandStatus.PENDING,
        worker__hostname=socket.gethostname(),
    )
    wanted = Checkpoint.objects.filter(Exists(queued) | Exists(loads), state=DiskState.PRESENT)
    return [checkpoint for checkpoint in wanted if not checkpoint_is_here(checkpoint)]


def copies_bring() -> None:
    """Brings what is wanted, one after the other; what cannot be had is tried again at the next call.

    A checkpoint that no live worker has either is noted as absent: its next download tells those who wait why not.
    """
    for checkpoint in copies_wanted():
        try:
            copy_bring(checkpoint=checkpoint)
        except DownloadStoppedError:
            return
        except DownloadLostError:
            logger.debug("another process brings it", extra={"model_id": checkpoint.pk})
        except (DownloadFailedError, OSError) as error:
            failed = disk_failed(error) if isinstance(error, OSError) else error
            logger.warning("copy failed", extra={"model_id": checkpoint.pk, "reason": failed.detail})
            if not Worker.objects.live().filter(models_on_disk__contains=[checkpoint.pk]).exists():
                checkpoint_mark_absent(checkpoint_id=checkpoint.pk)
