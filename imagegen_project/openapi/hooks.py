"""drf-spectacular's hooks: one operation per route, with its line, its example, and its refusals."""

from collections import defaultdict
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, Final

import imagegen_project.auth.schema  # noqa: F401 - registers itself
from generation.choices import ErrorCode
from generation.errors import FailedError
from imagegen_project.common.errors import DomainError
from imagegen_project.openapi.dialects import dialect_paths
from imagegen_project.openapi.operations import OPERATIONS, Operation

ALIASES: Final = ("/api/v1/txt2img/", "/api/v1/img2img/", "/api/v1/loras/list/")
JSON: Final = "application/json"
METHODS: Final = ("get", "post", "put", "patch", "delete")
# What any operation of a kind can meet, by status.
_OF_ALL: Final = {429: ("too_many_failures", "throttled"), 503: ("database_unavailable", "hub_unavailable")}
_OF_USERS: Final = {
    401: ("not_authenticated", "invalid_token"),
    403: ("permission_denied", "hub_user_not_allowed"),
}
_OF_BODIES: Final = {
    400: ("invalid_request", "parse_error"),
    413: ("request_too_large",),
    415: ("unsupported_media_type",),
}

_PROBLEM_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "description": "An error (RFC 9457); `code` is stable, `errors` names the fields to blame.",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string"},
        "detail": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {name: {"type": "string"} for name in ("param", "code", "detail")},
            },
        },
        "request_id": {"type": "string"},
    },
    "required": ["type", "title", "status", "code", "detail", "errors", "request_id"],
}


def keep_native_mount(
    endpoints: list[tuple[str, str, str, Any]], **kwargs: Any
) -> list[tuple[str, str, str, Any]]:
    """Leaves out the second mount at /v1/ and the aliases: the same routes under shorter names."""
    native = [entry for entry in endpoints if not entry[0].startswith("/v1/") and entry[0] not in ALIASES]
    # The slash at a route's end is optional: document the form without it.
    return [(path.rstrip("/"), regex, method, view) for path, regex, method, view in native]


def describe_operations(result: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
    """Adds each operation's line, example and refusals, and the dialects' operations."""
    statuses = refusal_statuses()
    for path, operations in result["paths"].items():
        for method in METHODS:
            if method in operations and (known := OPERATIONS.get(f"{method.upper()} {path}")):
                _describe(operations[method], known, statuses)
    result.setdefault("components", {}).setdefault("schemas", {})["Problem"] = _PROBLEM_SCHEMA
    result["paths"] |= dialect_paths()
    for schema in result["components"]["schemas"].values():
        for field in schema.get("properties", {}).values():
            # As good as left out, and no value of the field.
            if field.get("default") == "" and field.get("minLength"):
                del field["default"]
    return result


def _describe(operation: dict[str, Any], known: Operation, statuses: dict[str, int]) -> None:
    operation["summary"] = known.summary
    content = operation.get("requestBody", {}).get("content", {})
    _drop_twins(content)
    for kind, media in content.items():
        # A form has the same fields; what is nested in them is JSON text there.
        if known.example is not None and (kind.endswith("json") or len(content) == 1):
            media["example"] = known.example
    refused: dict[int, list[str]] = defaultdict(list)
    for status, codes in _common(operation, has_body=bool(content)):
        refused[status].extend(codes)
    for code in known.refusals:
        refused[statuses[code]].append(code)
    for status, found in sorted(refused.items()):
        operation["responses"].setdefault(str(status), _problem(status, found))
    operation["responses"].setdefault("default", _problem(None, []))


def _drop_twins(content: dict[str, Any]) -> None:
    """Leaves out the forms that have the fields of the JSON, which are taken all the same.

    Clients that are generated from the document choose the kind of body by its fields, and would send all of them.
    """
    plain = content.get(JSON)
    for kind in [kind for kind, media in content.items() if kind != JSON and media == plain]:
        del content[kind]


def _common(operation: dict[str, Any], *, has_body: bool) -> Iterator[tuple[int, tuple[str, ...]]]:
    yield from _OF_ALL.items()
    if operation.get("security"):
        yield from _OF_USERS.items()
    if has_body:
        yield from _OF_BODIES.items()
    elif any(one["in"] == "query" for one in operation.get("parameters", [])):
        yield 400, ("invalid_request",)


def _problem(status: int | None, codes: list[str]) -> dict[str, Any]:
    words = HTTPStatus(status).phrase if status else "Any other problem"
    listed = ", ".join(f"`{code}`" for code in dict.fromkeys(codes))
    return {
        "description": f"{words}: {listed}" if listed else words,
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }


def refusal_statuses() -> dict[str, int]:
    """The HTTP status of each code."""
    found: dict[str, int] = {}
    waiting: list[type[DomainError]] = [DomainError]
    while waiting:
        one = waiting.pop()
        waiting += one.__subclasses__()
        found.setdefault(one.code, one.http_status)
    return found | {str(code): FailedError.STATUS.get(code, 500) for code in ErrorCode}
