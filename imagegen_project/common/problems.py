"""Errors as clients see them: problem details with stable codes (RFC 9457).

A `DomainError` knows its HTTP status and code; everything that DRF or Django raises is put into the same shape here.
"""

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from django.core.exceptions import PermissionDenied, SuspiciousOperation
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.template.loader import render_to_string
from psycopg_pool import PoolTimeout
from rest_framework import exceptions
from rest_framework.response import Response
from rest_framework.views import set_rollback

from imagegen_project.common.context import request_id
from imagegen_project.common.errors import DomainError
from imagegen_project.common.http import wants_page

logger = logging.getLogger(__name__)

PROBLEM_CONTENT_TYPE = "application/problem+json"
UNEXPECTED = "An unexpected error; the log has it under this request_id."


def problem(
    *,
    http_status: int,
    code: str,
    title: str,
    detail: str,
    errors: list[dict[str, str]] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The body of an error answer. What it repeats of the request is put into a form that UTF-8 has."""
    shown = [{name: text_shown(value) for name, value in error.items()} for error in errors or []]
    return {
        "type": f"urn:imagegen:problem:{code}",
        "title": title,
        "status": http_status,
        "code": code,
        "detail": text_shown(detail),
        "errors": shown,
        "request_id": request_id.get(),
        **(extra or {}),
    }


def text_shown(text: str) -> str:
    """The text with lone surrogates, which JSON can say and UTF-8 cannot, written out."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def _flatten(detail: Any, path: str = "") -> Iterator[dict[str, str]]:
    """DRF's nested error details as a flat list of `{param, code, detail}`."""
    if isinstance(detail, Mapping):
        for key, value in detail.items():
            name = "" if key == "non_field_errors" else str(key)
            yield from _flatten(value, f"{path}.{name}".strip("."))
    elif isinstance(detail, list | tuple):
        for index, value in enumerate(detail):
            nested = isinstance(value, Mapping | list | tuple)
            yield from _flatten(value, f"{path}[{index}]" if nested else path)
    else:
        yield {"param": path, "code": str(getattr(detail, "code", "invalid")), "detail": str(detail)}


def _validation_problem(error: exceptions.ValidationError) -> dict[str, Any]:
    errors = list(_flatten(error.detail))
    first = errors[0] if errors else {"param": "", "detail": "Invalid input."}
    named = f"{first['param']}: {first['detail']}" if first["param"] else first["detail"]
    more = f" ({len(errors) - 1} more)" if len(errors) > 1 else ""
    return problem(
        http_status=error.status_code,
        code="invalid_request",
        title="The request is not valid",
        detail=named + more,
        errors=errors,
    )


def _domain_problem(error: DomainError) -> dict[str, Any]:
    errors = [{"param": error.param, "code": error.code, "detail": error.detail}] if error.param else []
    return problem(
        http_status=error.http_status,
        code=error.code,
        title=error.title,
        detail=error.detail,
        errors=errors,
        extra=error.extra,
    )


_TITLES = {
    400: "The request is not valid",
    401: "Who you are could not be established",
    403: "You may not do this",
    404: "There is no such thing here",
    405: "This method is not offered here",
    406: "No such representation",
    413: "The request's body is too large",
    415: "This content type is not understood",
    429: "Too many requests",
    500: "The server made a mistake",
    503: "A part of the service is away",
}


def problem_exception_handler(error: Exception, context: dict[str, Any]) -> Response | None:
    """DRF's exception handler: any expected error becomes a problem; an unexpected one is left to Django (500)."""
    headers: dict[str, str] = {}
    # A person's browser gets the browsable page of the same problem.
    renderer = getattr(context.get("request"), "accepted_renderer", None)
    is_page = renderer is not None and renderer.format == "api"
    if is_page and isinstance(error, exceptions.MethodNotAllowed) and context["request"].method == "GET":
        return Response()  # the page of a route that only takes something is its form
    match error:
        case DomainError():
            body = _domain_problem(error)
            headers = dict(error.headers)
        case exceptions.ValidationError():
            body = _validation_problem(error)
        case Http404():
            body = _plain(404, "not_found", "Not found.")
        case PermissionDenied():
            body = _plain(403, "permission_denied", str(error) or "You may not do this.")
        case SuspiciousOperation():  # for instance too many parts of a form
            body = _plain(400, "bad_request", str(error) or "The request could not be understood.")
        case OperationalError() | InterfaceError() | PoolTimeout():
            logger.error("database away", exc_info=error)
            body = _plain(503, "database_unavailable", "The database does not answer; try again.")
            headers["Retry-After"] = "5"
        case exceptions.APIException():
            body, headers = _framework_problem(error, context)
        case _:
            return None
    set_rollback()
    content_type = None if is_page else PROBLEM_CONTENT_TYPE
    return Response(body, status=body["status"], headers=headers, content_type=content_type)


def _framework_problem(
    error: exceptions.APIException, context: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """The body and the headers of DRF's own refusals."""
    headers = {}
    code = error.get_codes()
    unknown = isinstance(error, exceptions.NotAuthenticated)
    detail = _how_to_authenticate(context.get("request")) if unknown else str(error.detail)
    if challenge := getattr(error, "auth_header", None):
        headers["WWW-Authenticate"] = challenge
    if (wait := getattr(error, "wait", None)) is not None:
        headers["Retry-After"] = str(int(wait) + 1)
    return _plain(error.status_code, code if isinstance(code, str) else "error", detail), headers


def _how_to_authenticate(request: Any) -> str:
    """What a request without a credential that is understood should send. The one that came may be a token as it is."""
    if request is not None and "Authorization" in request.headers:
        return (
            "The Authorization header is of another scheme, or of none: send `Authorization: Bearer <token>`."
        )
    return "Send `Authorization: Bearer <token>`, with a Hugging Face token (hf_…) or a local one (img_…)."


def problem_of(error: Exception) -> dict[str, Any]:
    """The problem that an error is, for doors that speak no DRF; an unexpected one goes to the log."""
    answer = problem_exception_handler(error, {})
    if answer is not None:
        return dict(answer.data)
    logger.error("internal error", exc_info=error)
    return _plain(500, "internal_error", UNEXPECTED)


def _plain(http_status: int, code: str, detail: str) -> dict[str, Any]:
    return problem(http_status=http_status, code=code, title=_TITLES.get(http_status, "Error"), detail=detail)


def problem_response(http_status: int, code: str, detail: str) -> JsonResponse:
    """A problem from outside DRF: Django's own handlers and the ASGI gate."""
    return JsonResponse(
        _plain(http_status, code, detail), status=http_status, content_type=PROBLEM_CONTENT_TYPE
    )


def _answer(request: HttpRequest, http_status: int, code: str, detail: str) -> HttpResponse:
    """A problem for whoever asked: a page for a browser."""
    if not wants_page(request):
        return problem_response(http_status, code, detail)
    # Without the request's own context, which would ask the database who is there.
    page = render_to_string("imagegen/problem.html", {"problem": _plain(http_status, code, detail)})
    return HttpResponse(page, status=http_status)


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Django's 400: says what was suspicious only where that is meant for people."""
    named = isinstance(exception, SuspiciousOperation)
    detail = str(exception) if named else "The request could not be understood."
    return _answer(request, 400, "bad_request", detail)


def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Django's 403."""
    return _answer(request, 403, "permission_denied", "You may not do this.")


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """A form without Django's token against forgery, or with an old one."""
    detail = (
        "The form is too old, or was not this site's. Go back, load the page again, and send it once more."
    )
    return _answer(request, 403, "csrf_failed", detail)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Django's 404."""
    return _answer(request, 404, "not_found", f"There is nothing at {request.path}.")


def server_error(request: HttpRequest) -> HttpResponse:
    """Django's 500: the traceback goes to the log, under the request's id."""
    return _answer(request, 500, "internal_error", UNEXPECTED)
