"""Other services' contracts in the OpenAPI document: each of their routes, with an example that runs as it stands."""

import re
from collections.abc import Iterator
from typing import Any, Final

from django.urls.resolvers import URLPattern

from generation.compat.a1111 import views as a1111
from generation.compat.huggingface import views as huggingface
from generation.compat.openai import views as openai
from imagegen_project.openapi.operations import RED_SQUARE

_TINY: Final = {"width": 256, "height": 256, "steps": 4}
_DATA_URI: Final = f"data:image/png;base64,{RED_SQUARE}"
# Bodies, by path.
EXAMPLES: Final[dict[str, Any]] = {
    "/v1/images/generations": {"model": "builtin", "prompt": "a red circle", "size": "256x256"},
    "/v1/images/edits": {
        "model": "builtin",
        "prompt": "a blue circle",
        "size": "256x256",
        "images": [{"image_url": _DATA_URI}],
    },
    "/v1/images/variations": {"model": "builtin", "size": "256x256", "image": _DATA_URI},
    "/hf/{name}": {
        "inputs": "a red circle",
        "parameters": {"width": 256, "height": 256, "num_inference_steps": 4},
    },
    "/sdapi/v1/txt2img": {"prompt": "a red circle"} | _TINY,
    "/sdapi/v1/img2img": {"prompt": "a blue circle", "init_images": [RED_SQUARE]} | _TINY,
    "/sdapi/v1/extra-single-image": {"image": RED_SQUARE, "upscaling_resize": 2, "upscaler_1": "Lanczos"},
    "/sdapi/v1/extra-batch-images": {
        "imageList": [{"data": RED_SQUARE, "name": "red.png"}],
        "upscaling_resize": 2,
        "upscaler_1": "Lanczos",
    },
    "/sdapi/v1/png-info": {"image": RED_SQUARE},
    "/sdapi/v1/options": {"samples_format": "png"},
}
_SUMMARIES: Final = {
    "/v1/images/generations": "Draw from text",
    "/v1/images/edits": "Draw from pictures",
    "/v1/images/variations": "Draw variations of a picture",
    "/hf/{name}": "Draw, as an inference endpoint does",
    "/hf/{name}/health": "Whether a request for this model would be drawn",
    "/hf/{name}/info": "Which model this is",
    "/sdapi/v1/txt2img": "Draw from text",
    "/sdapi/v1/img2img": "Draw from a picture",
    "/sdapi/v1/extra-single-image": "Resize a picture",
    "/sdapi/v1/extra-batch-images": "Resize pictures",
    "/sdapi/v1/png-info": "Read a picture's settings back",
    "/sdapi/v1/progress": "How far your current job is",
    "/sdapi/v1/interrupt": "Cancel your current job",
    "/sdapi/v1/skip": "Cancel your current job",
}
_MOUNTS: Final = (
    ("OpenAI", "/v1/", openai.urlpatterns),
    ("Hugging Face", "/hf/", huggingface.urlpatterns),
    ("A1111", "/sdapi/v1/", a1111.urlpatterns),
)
# Where the gate asks for an answer after a wait; and what is only there to be refused.
_INSIDE: Final = re.compile(r"/results/|/interrogate$")
_LOOK_AHEAD: Final = re.compile(r"\(\?!(?:[^()]|\([^()]*\))*\)")
_PARAMETER: Final = re.compile(r"\(\?P<(\w+)>(?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)")


def dialect_routes() -> Iterator[tuple[str, str, str, Any]]:
    """Dialect, path, method and view of each of their routes."""
    for dialect, mount, patterns in _MOUNTS:
        for pattern in patterns:
            path = mount + path_of(pattern)
            view = getattr(pattern.callback, "cls", None)
            if path == mount or path.endswith("images/") or _INSIDE.search(path):
                continue
            for method in ("get", "post"):
                if hasattr(view, method):
                    yield dialect, path, method, view


def path_of(pattern: URLPattern) -> str:
    """A route's path with its variable parts by name."""
    text = _LOOK_AHEAD.sub("", str(pattern.pattern))
    return _PARAMETER.sub(r"{\1}", text).replace("^", "").replace("/?", "").replace("$", "")


def dialect_paths() -> dict[str, Any]:
    """The path items of the document."""
    paths: dict[str, Any] = {}
    for dialect, path, method, view in dialect_routes():
        words = path.rsplit("/", 1)[-1].replace("-", " ").replace("{name}", "one model")
        summary = _SUMMARIES.get(path, f"{'List or show' if method == 'get' else 'Do'} {words}")
        operation: dict[str, Any] = {
            "operationId": re.sub(r"\W+", "_", f"{dialect} {method} {path}").lower(),
            "summary": summary,
            "description": f"In the dialect of {dialect}: fields, answers and errors are as there. {view.__doc__}",
            "tags": [dialect],
            "security": [{"bearer": []}],
            "responses": {
                "200": {"description": "As the dialect answers", "content": _content(path, method)},
                "default": {
                    "description": "An error in the dialect's shape",
                    "content": {"application/json": {"schema": {"type": "object"}}},
                },
            },
        }
        if "{name}" in path:
            operation["parameters"] = [
                {
                    "name": "name",
                    "in": "path",
                    "required": True,
                    "schema": {"type": "string"},
                    "example": "builtin",
                }
            ]
        if method == "post":
            example = EXAMPLES.get(path, {})
            media = {"schema": {"type": "object", "additionalProperties": True}, "example": example}
            operation["requestBody"] = {"content": {"application/json": media}}
        paths.setdefault(path, {})[method] = operation
    return paths


def _content(path: str, method: str) -> dict[str, Any]:
    if path == "/hf/{name}" and method == "post":
        return {"image/png": {"schema": {"type": "string", "format": "binary"}}}
    return {"application/json": {"schema": {}}}
