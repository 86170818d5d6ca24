"""Reading generations and pictures, for those who may; what an ended one answers."""

from collections.abc import Container
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from django.contrib.auth.models import AnonymousUser, User
from django.contrib.postgres.expressions import ArraySubquery
from django.contrib.postgres.search import SearchQuery
from django.db.models import BooleanField, Case, Count, F, Func, Prefetch, Q, QuerySet, Sum, When
from django.db.models.functions import Coalesce, TruncDate

from generation.choices import ACTIVE, Status
from generation.errors import (
    CanceledError,
    FailedError,
    GenerationActiveError,
    GenerationNotFoundError,
    ImageNotFoundError,
    NoReceiptError,
    ShareNotFoundError,
    UnfinishedError,
)
from generation.models import PIXEL_STEPS, PROMPT_WORDS, GeneratedImage, Generation, Share, share_id

MOST_FOUND: Final = 10_000
_IMAGE: Final = GeneratedImage._meta  # noqa: SLF001 - Django's own interface
_GENERATION: Final = Generation._meta  # noqa: SLF001 - Django's own interface
_LISTED: Final = [
    *(field.name for field in _GENERATION.concrete_fields if field.name != "receipt"),
    *("checkpoint__state", "owner__username"),
]
_LISTED_WITH: Final = {
    "images": Prefetch("images", to_attr="listed_images"),
    "adapters": Prefetch("adapters", to_attr="listed_adapters"),
}
_OF_IMAGE: Final = [field.name for field in _IMAGE.concrete_fields]


def generations_visible(
    user: User | AnonymousUser, *, with_their: Container[str] = ("images", "adapters")
) -> QuerySet[Generation]:
    """The generations a user may see: their own; staff see all."""
    rows = Generation.objects.select_related("checkpoint", "owner")
    rows = rows.prefetch_related(*(name for name in ("images", "adapters") if name in with_their))
    return rows if user.is_staff else rows.filter(owner_id=user.pk)


def generations_listed(
    user: User | AnonymousUser, *, with_their: Container[str] = ("images", "adapters")
) -> QuerySet[Generation]:
    """The same, without what a list does not show of each."""
    rows = generations_visible(user, with_their=()).only(*_LISTED)
    # Django makes a query for each row of a prefetch, and runs none of them: as attributes they are lists.
    return rows.prefetch_related(*(each for name, each in _LISTED_WITH.items() if name in with_their))


def generations_with_words(rows: QuerySet[Generation], words: SearchQuery) -> QuerySet[Generation]:
    """Those whose prompts hold the words, of more than MOST_FOUND the newest.

    Found by the index of just this expression, and all of them first: PostgreSQL takes every beginning of a word for a
    common one, and would rather read a user's rows until a page of them fits.
    """
    fitting = rows.select_related(None).alias(prompt_words=PROMPT_WORDS).filter(prompt_words=words)
    found = ArraySubquery(fitting.order_by("-pk").values("pk")[:MOST_FOUND])
    is_found = Func(
        F("pk"), found, template="%(expressions)s)", arg_joiner=" = ANY(", output_field=BooleanField()
    )
    return rows.filter(is_found)


def generation_get(
    *, user: User | AnonymousUser, generation_id: UUID, with_their: Container[str] = ("images", "adapters")
) -> Generation:
    """One generation. Raises GenerationNotFoundError, for somebody else's too."""
    generation = generations_visible(user, with_their=with_their).filter(pk=generation_id).first()
    if generation is None:
        raise GenerationNotFoundError(f"No generation {generation_id}.")
    return generation


def usage_by_day(*, owner: User, since: datetime) -> list[dict[str, Any]]:
    """What a user's generations of these days asked for and what has come of it, by day and model; in two queries.

    Deleted ones do not count. `megapixel_steps` are those of what succeeded.
    """
    rows = Generation.objects.filter(owner=owner, created_at__gte=since).order_by()
    jobs = rows.values(day=TruncDate("created_at"), model=F("checkpoint_id")).annotate(
        jobs=Count("pk"),
        drawn_work=Coalesce(Sum(PIXEL_STEPS, filter=Q(status=Status.SUCCEEDED)), 0),
    )
    drawn = GeneratedImage.objects.filter(generation__owner=owner, generation__created_at__gte=since)
    pictures = drawn.order_by().values(
        day=TruncDate("generation__created_at"), model=F("generation__checkpoint_id")
    )
    counted = pictures.annotate(pictures=Count("pk"), size=Sum("size_bytes"))
    by_key = {(row["day"], row["model"]): row for row in counted}
    usage = []
    for row in jobs.order_by("-day", "model"):
        made = by_key.get((row["day"], row["model"]), {"pictures": 0, "size": 0})
        entry = {name: row[name] for name in ("day", "model", "jobs")}
        entry |= {"pictures": made["pictures"], "bytes": made["size"]}
        usage.append(entry | {"megapixel_steps": round(row["drawn_work"] / 1_000_000, 3)})
    return usage


def generations_active(*, owner: User) -> QuerySet[Generation]:
    """What a user has queued or running; what runs comes first, then by age."""
    runs = Case(When(status=Status.RUNNING, then=0), default=1)
    rows = Generation.objects.filter(owner=owner, status__in=ACTIVE).select_related("checkpoint")
    return rows.order_by(runs, "id")


def image_get(*, user: User | AnonymousUser, generation_id: UUID, index: int) -> GeneratedImage:
    """One picture of a generation. Raises GenerationNotFoundError or ImageNotFoundError."""
    return _image_get(generation_id, index, {} if user.is_staff else {"owner_id": user.pk})


def image_get_signed(*, generation_id: UUID, index: int) -> GeneratedImage:
    """The same for whoever has its signed address. Raises GenerationNotFoundError or ImageNotFoundError."""
    return _image_get(generation_id, index, {})


def _image_get(generation_id: UUID, index: int, whose: dict[str, Any]) -> GeneratedImage:
    """A picture, of a generation with these values; of the generation itself no more is read than names the file."""
    pictures = GeneratedImage.objects.filter(generation_id=generation_id, index=index)
    pictures = pictures.filter(**{f"generation__{name}": value for name, value in whose.items()})
    image = pictures.select_related("generation").only(*_OF_IMAGE, "generation__prompt").first()
    if image is None:
        status = Generation.objects.filter(pk=generation_id, **whose).values_list("status", flat=True).first()
        if status is None:
            raise GenerationNotFoundError(f"No generation {generation_id}.")
        raise ImageNotFoundError(f"The generation is {status} and has no picture {index}.")
    return image


def share_get(token: str) -> Share:
    """The link with this token, whoever has it. Raises ShareNotFoundError."""
    pk = share_id(token)
    rows = Share.objects.select_related("generation").prefetch_related("generation__images")
    share = rows.filter(pk=pk).first() if pk else None
    if share is None:
        raise ShareNotFoundError("It was revoked, or what it led to is gone.")
    return share


def generation_result(generation: Generation, *, waited: bool) -> Generation:
    """The generation if it succeeded. Raises the error that says why there are no pictures."""
    address = generation.get_absolute_url()
    job_id = str(generation.id)
    match generation.status:
        case Status.SUCCEEDED:
            return generation
        case Status.CANCELED:
            raise CanceledError("The generation was canceled.", job_id=job_id)
        case Status.FAILED:
            raise FailedError(error_code=generation.error_code, detail=generation.error_detail, job_id=job_id)
        case _ if waited:
            raise UnfinishedError(
                f"It has not ended yet. Its state is at {address}.",
                headers={"Location": address, "X-Job-Id": job_id},
                job_id=job_id,
                location=address,
            )
        case _:
            raise GenerationActiveError(f"It is {generation.status}.", job_id=job_id)


def receipt_of(generation: Generation) -> dict[str, Any]:
    """The receipt with the rows it belongs to. Raises NoReceiptError unless the generation succeeded."""
    if generation.receipt is None:
        raise NoReceiptError(f"The generation is {generation.status}.")
    return {
        "job_id": generation.id,
        "kind": generation.kind,
        **generation.receipt,
        "timings": {"queue_ms": generation.queue_ms, "latency_ms": generation.latency_ms},
        "images": generation.images.all(),
    }
