"""What PostgreSQL knows of workers, jobs, models and pictures."""

import socket
from collections.abc import Iterator
from contextlib import suppress

from django.conf import settings
from django.core.files.storage import default_storage
from redis.exceptions import RedisError

from generation.choices import DeliveryStatus, Status
from generation.models import GeneratedImage, Generation, WebhookDelivery
from generation.queue.overview import worker_states
from imagegen_project import __version__
from imagegen_project.cli.doctor.findings import Finding, fault, note, ok
from imagegen_project.cli.output import age, counted
from imagegen_project.common.queues import DOWNLOADS_QUEUE, WEBHOOKS_QUEUE, workers_listening
from imagegen_project.common.storage import STORAGE_ERRORS
from models_registry.choices import DiskState
from models_registry.errors import ModelNotFoundError
from models_registry.models import Checkpoint
from models_registry.selectors import checkpoint_default

_NEWEST_PICTURES = 20


def workers() -> Iterator[Finding]:
    """Whether any lives, whether all that should do, and whether they are this version's."""
    states = worker_states()
    live = [state for state in states if state.alive]
    for state in states:
        if not state.alive and state.jobs:
            yield fault(
                "worker silent",
                f"{state.name} holds {counted(len(state.jobs), 'job')}, and was last heard of "
                f"{age(state.heartbeat_age_s)} ago.",
                "Look at its log, and start it again; its jobs go to another worker, which takes a live one.",
            )
        elif not state.alive:
            yield note(
                "worker silent",
                f"{state.name} gave no sign of life for {age(state.heartbeat_age_s)}.",
                "If it should run, look at its log and start it; otherwise nothing: its row goes by itself.",
            )
        elif state.version and state.version != __version__:
            yield fault(
                "worker version",
                f"{state.name} is version {state.version}, and this is {__version__}.",
                "Update the other of both, and start it again; SIGTERM lets what it draws end.",
            )
    if not live:
        waiting = Generation.objects.filter(status=Status.QUEUED).count()
        # Where workers are scaled to zero there is none while nothing waits.
        yield (fault if waiting else note)(
            "workers",
            f"No GPU worker is alive, with {counted(waiting, 'job')} waiting.",
            "Start one: `imagegen gpu-worker` (without a GPU it uses the CPU). `imagegen demo` starts its own.",
        )
    else:
        yield ok("workers", f"{len(live)} alive")


def queue() -> Iterator[Finding]:
    """Whether some job waits for a kind of worker that there is not."""
    classes = {state.device_class for state in worker_states() if state.alive}
    waiting = Generation.objects.filter(status=Status.QUEUED).exclude(device_class="")
    for name in sorted(set(waiting.values_list("device_class", flat=True)) - classes):
        yield fault(
            "queue",
            f"Jobs wait for a worker of class {name}, and none is alive.",
            f"Start a GPU worker with DEVICE_CLASS={name}, or cancel them.",
        )


def helpers() -> Iterator[Finding]:
    """Whether somebody downloads models and delivers webhooks."""
    try:
        downloading, delivering = workers_listening(DOWNLOADS_QUEUE), workers_listening(WEBHOOKS_QUEUE)
    except (RedisError, OSError):
        return  # said already
    if not downloading:
        yield fault(
            "task worker",
            "No task worker listens: models are not downloaded.",
            "Start one per host: `imagegen task-worker`.",
        )
    pending = WebhookDelivery.objects.filter(status=DeliveryStatus.PENDING).count()
    if not delivering and pending:
        yield fault(
            "webhook worker",
            f"No webhook worker listens, with {counted(pending, 'webhook')} waiting.",
            "`imagegen webhook-worker`.",
        )
    if downloading and (delivering or not pending):
        said = f"{counted(downloading, 'task worker')}, {counted(delivering, 'webhook worker')}"
        yield ok("helpers", said)


def models() -> Iterator[Finding]:
    """Whether the models that requests may name can be had.

    What kept a model's files from coming is a note where it may pass and nobody waits for them.
    """
    default = ""
    with suppress(ModelNotFoundError):
        default = checkpoint_default().pk
    for checkpoint in Checkpoint.objects.filter(enabled=True):
        is_wanted = checkpoint.pk == default or checkpoint.download_requested_at is not None
        if checkpoint.gated and not settings.HF_TOKEN and checkpoint.state != DiskState.PRESENT:
            yield fault(
                "gated model",
                f"{checkpoint} is gated on the Hub, and there is no HF_TOKEN to fetch it with.",
                f"Accept its licence at {settings.HF_ENDPOINT}/{checkpoint.repository}, and set HF_TOKEN to a token of "
                "that account; or disable the model.",
            )
        elif checkpoint.error_code and (checkpoint.state == DiskState.BROKEN or is_wanted):
            yield fault(
                "model",
                f"{checkpoint} cannot be used ({checkpoint.error_code}): {checkpoint.error_detail}",
                f"`imagegen prefetch-models {checkpoint}` tries again and says more; or disable the model.",
            )
        elif checkpoint.error_code:
            yield note(
                "model",
                f"{checkpoint} could not be fetched ({checkpoint.error_code}): {checkpoint.error_detail}",
                f"The next request for it tries again, and so does `imagegen prefetch-models {checkpoint}`; or disable "
                "the model.",
            )
    if not Checkpoint.objects.filter(enabled=True).exists():
        yield fault("model", "No model is enabled.", "Enable one in the admin pages (Models).")


def pictures() -> Iterator[Finding]:
    """Whether this host has the pictures that workers have stored."""
    newest = GeneratedImage.objects.order_by("-generation_id", "index")[:_NEWEST_PICTURES]
    names = [str(image.file.name) for image in newest]
    try:
        missing = [name for name in names if not default_storage.exists(name)]
    except STORAGE_ERRORS as error:
        yield fault(
            "pictures",
            f"The storage does not answer ({type(error).__name__}).",
            "Check MEDIA_S3_*, or the mount.",
        )
        return
    hosts = {state.hostname for state in worker_states() if state.alive} - {socket.gethostname()}
    elsewhere = (
        f" Workers run on {', '.join(sorted(hosts))}." if hosts and not settings.MEDIA_IS_SHARED else ""
    )
    if missing:
        yield fault(
            "pictures",
            f"{settings.MEDIA_ROOT} lacks {len(missing)} of the newest {counted(len(names), 'picture')}, such as "
            f"{missing[0]}.{elsewhere}",
            "All hosts need one storage: MEDIA_S3_BUCKET, or the same folder mounted at MEDIA_ROOT on each. What was "
            "deleted by hand, `imagegen sweep --files` takes out of the database.",
        )
    elif elsewhere and not names:
        yield note(
            "pictures",
            f"Pictures go to {settings.MEDIA_ROOT} of each host.{elsewhere}",
            "Unless that folder is shared, set MEDIA_S3_BUCKET.",
        )
    else:
        yield ok("pictures", f"none of the newest {counted(len(names), 'picture')} is missing")
