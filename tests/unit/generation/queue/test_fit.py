"""What does not fit into a worker's memory is not claimed by it, and refused where no worker has the memory."""

import pytest
from rest_framework.test import APIClient

from generation.attempts import generation_claim
from generation.choices import Fit, Status
from generation.models import Worker
from generation.queue.precedence import generation_next
from generation.upkeep.sweep import unfit_end
from tests.support.factories import GenerationMaker, make_worker

pytestmark = pytest.mark.django_db
REASON = "Its weights take 57.7 GB, and the device has 8.6 GB."
TOO_LARGE = {"builtin": {"verdict": Fit.TOO_LARGE, "reason": REASON}}
REQUEST = {"prompt": "a red circle", "width": 256, "height": 256}


@pytest.fixture
def small(db: None) -> Worker:
    """A worker that has not the memory for the built-in model."""
    return make_worker("small", model_plans=TOO_LARGE)


def test_it_is_left_to_a_worker_with_the_memory(make: GenerationMaker, small: Worker) -> None:
    job = make()
    assert generation_claim(worker=small) is None
    assert generation_next(unfit=small.unfit) is None
    large = make_worker("large", model_plans={"builtin": {"verdict": Fit.FITS, "reason": ""}})
    assert unfit_end() == 0
    claimed = generation_claim(worker=large)
    assert claimed is not None
    assert claimed.pk == job.pk


def test_what_fits_nowhere_is_refused_with_the_reason(api: APIClient, small: Worker) -> None:
    """A worker that has not looked yet, or none at all, is no reason."""
    answer = api.post("/api/v1/generations", REQUEST, format="json")
    assert answer.status_code == 400
    (error,) = answer.json()["errors"]
    assert (error["param"], error["code"]) == ("model", "model_too_large")
    assert error["detail"] == f"builtin does not fit into the memory of any worker. {REASON}"
    make_worker("fresh")
    assert api.post("/api/v1/generations", REQUEST, format="json").status_code == 202


def test_what_lacks_a_library_everywhere_is_refused_with_what_to_install(
    api: APIClient, make: GenerationMaker
) -> None:
    """Also where another worker has not the memory: the library is what can be helped."""
    install = (
        "Its transformer is quantized by torchao, which is not installed here: pip install torchao==0.18.0."
    )
    lacking = {"builtin": {"verdict": Fit.NEEDS_LIBRARY, "reason": install}}
    waiting = make()
    bare = make_worker("bare", model_plans=lacking)
    make_worker("small", model_plans=TOO_LARGE)
    assert generation_claim(worker=bare) is None
    answer = api.post("/api/v1/generations", REQUEST, format="json")
    assert answer.status_code == 400
    (error,) = answer.json()["errors"]
    assert (error["param"], error["code"]) == ("model", "model_needs_library")
    assert error["detail"] == f"builtin cannot be loaded by any worker. {install}"
    assert unfit_end() == 1
    waiting.refresh_from_db()
    assert (waiting.status, waiting.error_code) == (Status.FAILED, "model_unavailable")
    assert install in waiting.error_detail
    make_worker("equipped", model_plans={"builtin": {"verdict": Fit.FITS, "reason": ""}})
    assert api.post("/api/v1/generations", REQUEST, format="json").status_code == 202


def test_what_waits_for_memory_that_nobody_has_ends(make: GenerationMaker) -> None:
    """Its worker may have been exchanged for a smaller one since."""
    job, elsewhere = make(), make(device_class="big")
    assert unfit_end() == 0, "nobody lives"
    make_worker("small", model_plans=TOO_LARGE)
    assert unfit_end() == 1
    job.refresh_from_db()
    elsewhere.refresh_from_db()
    assert (job.status, job.error_code, REASON in job.error_detail) == (
        Status.FAILED,
        "out_of_memory",
        True,
    )
    assert elsewhere.status == Status.QUEUED


def test_the_list_says_how_each_model_fits(api: APIClient, small: Worker) -> None:
    make_worker("fresh")
    (builtin,) = [row for row in api.get("/api/v1/models").json()["data"] if row["id"] == "builtin"]
    said = {place["worker"]: (place["fit"], place["fit_reason"]) for place in builtin["workers"]}
    assert said == {"small": ("too_large", REASON), "fresh": (None, "")}
