"""What an ended generation answers: its pictures, its failure, its receipt."""

from typing import Any

from generation.choices import Status
from generation.errors import (
    CanceledError,
    FailedError,
    GenerationActiveError,
    NoReceiptError,
    UnfinishedError,
)
from generation.models import Generation
from generation.selectors import generation_url


def generation_result(generation: Generation, *, waited: bool) -> Generation:
    """The generation if it succeeded. Raises the error that says why there are no pictures."""
    address = generation_url(generation.id)
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
                f"It goes on; ask {address} for it.",
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
