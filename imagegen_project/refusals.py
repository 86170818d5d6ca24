"""What Django itself refuses, in the wording of the path: a host that is not listed, an address that there is not."""

import json

from django.http import HttpRequest, JsonResponse
from django.http.response import HttpResponse

from generation.compat.shapes import shape_of
from imagegen_project.common import problems


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """400."""
    return _worded(request, problems.bad_request(request, exception))


def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponse:
    """403."""
    return _worded(request, problems.permission_denied(request, exception))


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """404."""
    return _worded(request, problems.not_found(request, exception))


def server_error(request: HttpRequest) -> HttpResponse:
    """500."""
    return _worded(request, problems.server_error(request))


def _worded(request: HttpRequest, answer: HttpResponse) -> HttpResponse:
    shape = shape_of(request.path)
    if shape is None or answer.headers["Content-Type"] != problems.PROBLEM_CONTENT_TYPE:
        return answer  # a browser's page has the wording of people
    return JsonResponse(shape(json.loads(answer.content)), status=answer.status_code)
