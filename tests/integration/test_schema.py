"""The API against its own OpenAPI document: generated requests, good and bad, on every operation."""

from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import schemathesis
from django.contrib.auth.models import User
from django.core.signals import request_finished, request_started
from django.core.wsgi import get_wsgi_application
from django.db import close_old_connections
from pytest_django import Settings
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS

from generation.models import Worker
from imagegen_project.auth.services import token_create
from imagegen_project.openapi.operations import OPERATIONS
from tests.support.factories import make_worker

EXAMPLES = 12
# A document cannot say all of what makes a request good: ids that exist, sizes of one model, states.
LEFT_OUT = ("positive_data_acceptance",)


@pytest.fixture
def worker(db: None) -> Worker:
    """Somebody to give orders to; nobody carries them out."""
    return make_worker("w1")


@pytest.fixture
def headers(db: None) -> dict[str, str]:
    """A member of staff: nothing is refused before it is read."""
    user = User.objects.create_user("eve", is_staff=True)
    return {"Authorization": f"Bearer {token_create(user=user, expires_in=None)}"}


@cache
def read_document() -> Any:
    """As the service serves it; it takes a second to make."""
    return schemathesis.openapi.from_wsgi("/api/schema?format=json", get_wsgi_application())


@pytest.fixture
def document(db: None, settings: Settings, tmp_path: Path) -> Iterator[Any]:
    """The document, whose operations are called within the test's transaction."""
    settings.AUTH_FAILURES = 0
    settings.MEDIA_ROOT = tmp_path
    moments = (request_started, request_finished)
    for signal in moments:
        # As Django's own test client does: a request's end would close the connection, and the transaction with it.
        signal.disconnect(close_old_connections)
    yield read_document()
    for signal in moments:
        signal.connect(close_old_connections)


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
# All but the dialects', whose own clients say whether their answers are as documented.
@pytest.mark.parametrize(("method", "path"), [key.split(" ") for key in OPERATIONS])
def test_answers_are_as_documented(
    document: Any, method: str, path: str, mode: GenerationMode, headers: dict[str, str], worker: Worker
) -> None:
    """No server error, no undocumented answer, no bad request taken for a good one."""
    checks = [CHECKS.get_one(name) for name in CHECKS.get_all_names() if name not in LEFT_OUT]

    @hypothesis.settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(case=document[path][method].as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        case.call_and_validate(headers=headers, checks=checks)

    with suppress(hypothesis.errors.Unsatisfiable):  # nothing is wrong for an operation that takes nothing
        check()
