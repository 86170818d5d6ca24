"""`Idempotency-Key`: a creating request that is sent again makes nothing anew, and gets the first one's answer.

Every view that creates a generation, of every dialect, answers through `answer_once`. The key is stored in the
transaction that stores the generation: a request that is refused leaves no key, and of two at once the second waits at
the key's unique index until the first has committed.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from django.contrib.auth.models import User
from django.core.files.uploadedfile import UploadedFile
from django.db import IntegrityError, transaction
from django.utils import timezone
from rest_framework import serializers
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from generation.errors import GenerationNotFoundError, IdempotencyConflictError
from generation.models import MAX_IDEMPOTENCY_KEY_CHARACTERS, Generation, IdempotencyKey
from generation.models.idempotency import KEEP
from imagegen_project.common.http import caller
from imagegen_project.common.waiting import Stream, Wait, leave_to_gate

HEADER = "Idempotency-Key"
REPLAYED = ("Idempotency-Replayed", "true")

_KEY = re.compile(rf"[!-~]{{1,{MAX_IDEMPOTENCY_KEY_CHARACTERS}}}")


@dataclass(frozen=True)
class Answer:
    """What a creating view answers: `response`, or what the gate makes of `afterwards` once Django is left."""

    response: Response
    afterwards: Wait | Stream | None = None


def answer_once(
    request: Request, *, create: Callable[[], Generation], answer: Callable[[Generation], Answer]
) -> Response:
    """Makes a generation and answers for it; where the request's Idempotency-Key made one before, answers for that.

    A request that is sent again gets the response of the first time, or waits for the generation as the first does.
    Raises what `create` raises, ValidationError for a header that is no key, IdempotencyConflictError where the key
    belongs to another request, GenerationNotFoundError where its generation has been deleted since.
    """
    key = request.headers.get(HEADER)
    if key is None:
        return _give(request, answer(create()))
    if not _KEY.fullmatch(key):
        raise serializers.ValidationError(
            {HEADER: f"1 to {MAX_IDEMPOTENCY_KEY_CHARACTERS} printable ASCII characters without spaces."}
        )
    fingerprint = request_fingerprint(request)
    with transaction.atomic():
        entry, is_new = _reserve(caller(request), key, fingerprint)
        if is_new:
            generation = create()
            given = answer(generation)
            entry.generation_id, entry.answer = generation.id, _freeze(given.response)
            entry.save(update_fields=["generation_id", "answer"])
    return _give(request, given if is_new else _replay(entry, fingerprint, answer))


def request_fingerprint(request: Request) -> str:
    """A SHA-256 of what was asked for: the route, on either mount, and the body in one canonical form."""
    digest = hashlib.sha256(re.sub(r"^/api(?=/v1/)", "", request.path.rstrip("/")).encode())
    data: Any = request.data
    if hasattr(data, "lists"):
        parts = sorted(part for name, values in data.lists() for part in _form_parts(name, values))
        digest.update(json.dumps(["form", parts]).encode())
    elif isinstance(data, bytes):
        digest.update(b"bytes" + hashlib.sha256(data).digest())
    else:
        digest.update(json.dumps(["json", data], sort_keys=True).encode())
    return digest.hexdigest()


def _form_parts(name: str, values: list[Any]) -> Iterator[list[str]]:
    """A form's field: its texts as they are, its files by their content."""
    if name == "csrfmiddlewaretoken":
        return
    for value in values:
        if isinstance(value, UploadedFile):
            yield [name, "file", hashlib.sha256(b"".join(value.chunks())).hexdigest()]
            value.seek(0)
        else:
            yield [name, "text", str(value)]


def _reserve(owner: User, key: str, fingerprint: str) -> tuple[IdempotencyKey, bool]:
    """The row of a key and whether it is new, in the caller's transaction; a key past its time is new."""
    known = IdempotencyKey.objects.filter(owner=owner, key=key)
    known.filter(created_at__lte=timezone.now() - KEEP).delete()
    while True:
        if entry := known.first():
            return entry, False
        entry = IdempotencyKey(owner=owner, key=key, fingerprint=fingerprint)
        try:
            with transaction.atomic():
                entry.save(force_insert=True)
        except IntegrityError:
            continue  # another request has just stored it
        return entry, True


def _freeze(response: Response) -> dict[str, Any]:
    return {
        "status": response.status_code,
        "headers": dict(response.headers),
        "body": json.loads(JSONRenderer().render(response.data)),
    }


def _replay(entry: IdempotencyKey, fingerprint: str, answer: Callable[[Generation], Answer]) -> Answer:
    job_id = str(entry.generation_id)
    if entry.fingerprint != fingerprint:
        raise IdempotencyConflictError(
            f"The first request with this key was another one; it made the generation {job_id}.",
            job_id=job_id,
        )
    rows = Generation.objects.select_related("checkpoint", "owner")
    generation = rows.filter(pk=entry.generation_id).first() if entry.generation_id else None
    if generation is None or entry.answer is None:
        raise GenerationNotFoundError(f"The generation {job_id} of this {HEADER} has been deleted.")
    frozen = entry.answer
    response = Response(frozen["body"], status=frozen["status"], headers=frozen["headers"] | dict([REPLAYED]))
    afterwards = answer(generation).afterwards
    if isinstance(afterwards, Wait):
        # A repetition that hangs up cancels nothing: only the first request may cancel the generation it made.
        headers = (*afterwards.headers, REPLAYED)
        afterwards = replace(afterwards, cancel_on_disconnect=False, headers=headers)
    return Answer(response, afterwards)


def _give(request: Request, answer: Answer) -> Response:
    if answer.afterwards is not None:
        leave_to_gate(request, answer.afterwards)
    return answer.response
