"""drf-spectacular hooks: one operation per route, and errors as the problems they are."""

from typing import Any

ALIASES = ("/api/v1/txt2img/", "/api/v1/img2img/", "/api/v1/loras/list/")

_PROBLEM_SCHEMA = {
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
_METHODS = ("get", "post", "put", "patch", "delete")


def keep_native_mount(
    endpoints: list[tuple[str, str, str, Any]], **kwargs: Any
) -> list[tuple[str, str, str, Any]]:
    """Leaves out the second mount at /v1/ and the aliases: the same routes under shorter names."""
    native = [entry for entry in endpoints if not entry[0].startswith("/v1/") and entry[0] not in ALIASES]
    # The slash at a route's end is optional: document the form without it.
    return [(path.rstrip("/"), regex, method, view) for path, regex, method, view in native]


def describe_problems(result: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
    """Adds the problem-shaped answer as every operation's `default` response."""
    result.setdefault("components", {}).setdefault("schemas", {})["Problem"] = _PROBLEM_SCHEMA
    answer = {
        "description": "A problem",
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    for operations in result["paths"].values():
        for method in _METHODS:
            if method in operations:
                operations[method]["responses"].setdefault("default", answer)
    return result
