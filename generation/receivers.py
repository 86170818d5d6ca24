"""What becomes of generations, orders and feeds when a checkpoint or an adapter arrives or does not."""

import logging
from collections.abc import Iterator
from typing import Any

from django.db.models.signals import post_delete
from django.dispatch import receiver

from generation.choices import CommandStatus, ErrorCode, Phase, Status
from generation.feed.stream import event_publish
from generation.lora_uses import adapters_needed
from generation.models import GeneratedImage, Generation, IdempotencyKey, Worker, WorkerCommand
from generation.orders import command_finish
from generation.pictures.files import files_delete_on_commit, thumbnail_names
from generation.queue.entries import worker_wake
from generation.transitions import generation_end
from imagegen_project.common.errors import DomainError
from loras.models import Lora
from loras.services import lora_check_fits
from loras.signals import lora_failed, lora_holders, lora_ready, pinned_loras
from models_registry.models import Checkpoint
from models_registry.signals import checkpoint_failed, checkpoint_progress, checkpoint_ready

logger = logging.getLogger(__name__)


def _waiting(checkpoint: Checkpoint) -> Iterator[Generation]:
    rows = Generation.objects.filter(status=Status.QUEUED, checkpoint=checkpoint)
    return rows.select_related("owner").order_by("id").iterator()


@receiver(checkpoint_progress)
def tell_of_download(*, checkpoint: Checkpoint, **kwargs: Any) -> None:
    """Tells the followers of every generation that waits for the checkpoint how much of it has arrived."""
    for generation in _waiting(checkpoint):
        event_publish(
            generation.id,
            "downloading",
            attempt=generation.attempt,
            phase=Phase.DOWNLOADING,
            model=checkpoint.pk,
            percent=checkpoint.percent,
            downloaded_bytes=checkpoint.downloaded_bytes,
            total_bytes=checkpoint.size_bytes,
        )


@receiver(checkpoint_ready)
def wake_for_checkpoint(*, checkpoint: Checkpoint, **kwargs: Any) -> None:
    """Wakes workers for those that waited."""
    for generation in _waiting(checkpoint):
        worker_wake(device_class=generation.device_class)


@receiver(pinned_loras)
def loras_in_use(**kwargs: Any) -> list[Any]:
    """The adapters whose files must stay."""
    return list(adapters_needed())


@receiver(lora_holders)
def workers_holding(**kwargs: Any) -> dict[str, list[str]]:
    """Which live workers hold each adapter's file."""
    held: dict[str, list[str]] = {}
    for worker in Worker.objects.live():
        for sha256 in {sha256 for model in worker.cached_models for sha256 in model["adapters"]}:
            held.setdefault(sha256, []).append(worker.name)
    return held


@receiver(lora_ready)
def wake_for_lora(*, lora: Lora, **kwargs: Any) -> None:
    """Wakes workers for those that waited; whoever asked for it on a model of another family ends here."""
    event_publish(lora.id, "succeeded", attempt=0)
    waiting = Generation.objects.filter(status=Status.QUEUED, adapters__lora=lora)
    for generation in waiting.select_related("owner", "checkpoint"):
        try:
            lora_check_fits(lora=lora, checkpoint=generation.checkpoint)
        except DomainError as error:
            _end(generation, ErrorCode.LORA_INCOMPATIBLE, error.detail)
        else:
            worker_wake(device_class=generation.device_class)


@receiver(lora_failed)
def end_without_lora(*, lora: Lora, **kwargs: Any) -> None:
    """Ends those that waited, generations and orders."""
    event_publish(lora.id, "failed", attempt=0)
    detail = f"{lora.name}: {lora.error_detail}"
    for generation in Generation.objects.filter(status=Status.QUEUED, adapters__lora=lora).select_related(
        "owner"
    ):
        _end(generation, ErrorCode.LORA_UNAVAILABLE, detail)
    for command in WorkerCommand.objects.filter(status=CommandStatus.PENDING, lora=lora):
        command_finish(command=command, error_code=ErrorCode.LORA_UNAVAILABLE, detail=detail)


@receiver(checkpoint_failed)
def end_without_checkpoint(*, checkpoint: Checkpoint, **kwargs: Any) -> None:
    """Ends those that waited: nobody could say when a later attempt would succeed."""
    for generation in _waiting(checkpoint):
        _end(generation, ErrorCode.MODEL_UNAVAILABLE, checkpoint.error_detail)


@receiver(post_delete, sender=GeneratedImage)
def delete_picture_file(*, instance: GeneratedImage, **kwargs: Any) -> None:
    """A picture's file and its thumbnails follow its row, also when a whole user is deleted."""
    name = str(instance.file.name)
    files_delete_on_commit([name, *thumbnail_names(name)])


@receiver(post_delete, sender=Generation)
def delete_input_files(*, instance: Generation, **kwargs: Any) -> None:
    """So do the pictures it was given, and what an Idempotency-Key remembers of its prompt."""
    files_delete_on_commit(list(instance.input_names.values()))
    IdempotencyKey.objects.filter(generation_id=instance.pk).update(answer=None)


def _end(generation: Generation, code: ErrorCode, detail: str) -> None:
    """Ends a queued generation as failed."""
    generation_end(
        generation=generation,
        to=Status.FAILED,
        origins=(Status.QUEUED,),
        fence=generation.attempt,
        error_code=code,
        error_detail=detail,
    )
