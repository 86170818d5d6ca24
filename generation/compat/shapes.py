"""How each dialect words an error: from the native problem to its own body."""

import re
from collections.abc import Callable
from typing import Any, Final

from django.urls import Resolver404, resolve

from generation.choices import ErrorCode

Shape = Callable[[dict[str, Any]], dict[str, Any]]

_OPENAI_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    409: "conflict_error",
    429: "rate_limit_error",
}


def openai_shape(problem: dict[str, Any]) -> dict[str, Any]:
    """OpenAI's: always all four keys, `code` a string, `param` a string or null."""
    blamed = problem["errors"][0] if problem["errors"] else {}
    if problem["code"] == ErrorCode.UNSAFE:
        return _moderation_blocked(problem)
    invalid = problem["code"] == "invalid_request"
    kind = "server_error" if problem["status"] >= 500 else "invalid_request_error"
    return {
        "error": {
            "message": _told(problem),
            "type": _OPENAI_TYPES.get(problem["status"], kind),
            "param": blamed.get("param") or None,
            "code": blamed.get("code", problem["code"]) if invalid else problem["code"],
        }
    }


def _moderation_blocked(problem: dict[str, Any]) -> dict[str, Any]:
    """What OpenAI says of a picture that its filter does not let out."""
    return {
        "error": {
            "message": problem["detail"],
            "type": "image_generation_user_error",
            "param": None,
            "code": "moderation_blocked",
        }
    }


def huggingface_shape(problem: dict[str, Any]) -> dict[str, Any]:
    """Hugging Face Inference's: one sentence, and the code beside it."""
    return {"error": _told(problem), "error_type": problem["code"]}


def a1111_shape(problem: dict[str, Any]) -> dict[str, Any]:
    """A1111's four keys; what is wrong with a field stands in `detail` as FastAPI lists it."""
    fields = [
        {"loc": ["body", *error["param"].split(".")], "msg": error["detail"], "type": error["code"]}
        for error in problem["errors"]
    ]
    return {
        "error": problem["code"],
        "detail": fields or problem["detail"],
        "body": "",
        "errors": _told(problem),
    }


def _told(problem: dict[str, Any]) -> str:
    """All that is wrong in one text, for shapes that have no place for a list."""
    if len(problem["errors"]) < 2:
        return str(problem["detail"])
    named = [f"{error['param']}: {error['detail']}".removeprefix(": ") for error in problem["errors"]]
    return " ".join(named)


_SHAPES: tuple[tuple[re.Pattern[str], Shape], ...] = (
    (re.compile(r"/v1(?:/|$)"), openai_shape),
    (re.compile(r"/hf(?:/|$)"), huggingface_shape),
    (re.compile(r"/sdapi(?:/|$)"), a1111_shape),
)
# The native API's routes that lie below /v1 too.
_NATIVE: Final = "short"


def shape_of(path: str) -> Shape | None:
    """The shape of the dialect that a path belongs to; None where problems stay as they are."""
    shape = next((shape for pattern, shape in _SHAPES if pattern.match(path)), None)
    if shape is not openai_shape:
        return shape
    try:
        return None if resolve(path).namespace == _NATIVE else shape
    except Resolver404:
        return shape
