"""Reading generations and workers."""

from datetime import timedelta
from typing import Any
from uuid import UUID

from django.contrib.auth.models import AnonymousUser, User
from django.db.models import Case, QuerySet, When
from django.db.models.functions import Now

from generation.choices import ACTIVE, Status
from generation.errors import GenerationNotFoundError, ImageNotFoundError
from generation.models import GeneratedImage, Generation, Worker

# A worker renews its row every half second; this much silence means that it is gone.
WORKER_ALIVE = timedelta(seconds=15)


def generations_visible(user: User | AnonymousUser) -> QuerySet[Generation]:
    """The generations a user may see: their own; staff see all."""
    rows = Generation.objects.select_related("checkpoint", "owner", "worker").prefetch_related(
        "images", "adapters"
    )
    return rows if user.is_staff else rows.filter(owner_id=user.pk)


def generation_get(*, user: User | AnonymousUser, generation_id: UUID) -> Generation:
    """One generation. Raises GenerationNotFoundError, for somebody else's too."""
    generation = generations_visible(user).filter(pk=generation_id).first()
    if generation is None:
        raise GenerationNotFoundError(f"No generation {generation_id}.")
    return generation


def generations_active(*, owner: User) -> QuerySet[Generation]:
    """What a user has queued or running; what runs comes first, then by age."""
    runs = Case(When(status=Status.RUNNING, then=0), default=1)
    rows = Generation.objects.filter(owner=owner, status__in=ACTIVE).select_related("checkpoint")
    return rows.order_by(runs, "id")


def image_get(*, user: User | AnonymousUser, generation_id: UUID, index: int) -> GeneratedImage:
    """One picture of a generation. Raises GenerationNotFoundError or ImageNotFoundError."""
    generation = generation_get(user=user, generation_id=generation_id)
    image = next((image for image in generation.images.all() if image.index == index), None)
    if image is None:
        raise ImageNotFoundError(f"The generation is {generation.status} and has no picture {index}.")
    return image


def live_workers() -> QuerySet[Worker]:
    """The GPU workers whose heartbeat is fresh."""
    return Worker.objects.filter(heartbeat_at__gte=Now() - WORKER_ALIVE)


def order_url(order_id: UUID) -> str:
    """Where the API serves an order to workers."""
    return f"/api/v1/models/orders/{order_id}"


def generation_url(generation_id: UUID) -> str:
    """Where the API serves a generation."""
    return f"/api/v1/generations/{generation_id}"


def image_url(image: GeneratedImage) -> str:
    """Where the API serves a picture."""
    return f"{generation_url(image.generation_id)}/images/{image.index}"


def error_of(generation: Generation) -> dict[str, Any] | None:
    """A failed generation's error as clients see it."""
    if not generation.error_code:
        return None
    return {"code": generation.error_code, "detail": generation.error_detail}
