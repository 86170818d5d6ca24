"""What the tests of all dialects share."""

from typing import Any

from generation.attempts import generation_claim
from generation.models import Generation, Worker
from tests.support.endings import succeed, unheard


def made(response: Any) -> Generation:
    """The generation that a request made; without a gate the answer is 202 and its id."""
    assert response.status_code == 202, response.content
    generation = Generation.objects.get(pk=response["X-Job-Id"])
    assert response.json() == {"job_id": str(generation.id)}
    return generation


def finish(generation: Generation, worker: Worker, **changes: Any) -> Generation:
    """Draws it."""
    claimed = generation_claim(worker=worker, publish=unheard)
    assert claimed is not None
    assert claimed.id == generation.id
    assert succeed(claimed, **changes)
    generation.refresh_from_db()
    return generation


def warned(generation: Generation) -> set[str]:
    """The parameters that warnings name."""
    return {warning["param"] for warning in generation.warnings}


def nothing_stored() -> bool:
    """Whether a refusal left no row."""
    return not Generation.objects.exists()
