"""The AsyncAPI document of sockets and event streams, made from the typed messages of `generation.feed.messages`."""

from types import NoneType, UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

from django.http import HttpRequest, JsonResponse
from django.views.generic import View

from generation.feed.messages import EVENT_FIELDS, TERMINAL_EVENTS, Event
from generation.streams.draw_socket import MAX_REQUEST_BYTES, REQUEST_WITHIN_S
from imagegen_project import __version__
from imagegen_project.openapi.operations import OPERATIONS

_PLAIN: Final = {str: "string", int: "integer", float: "number", bool: "boolean", NoneType: "null"}
_ALWAYS: Final = ("type", "seq", "prev", "job_id", "at", "attempt")
_FORMATS: Final = {"at": "date-time", "job_id": "uuid"}
_SUMMARIES: Final = {
    "accepted": "The job was stored; only on sockets that draw, first of all",
    "snapshot": "The job as it stands",
    "queued": "It waits; again where it came back from a worker",
    "downloading": "The model's files are on their way",
    "started": "A worker draws it",
    "progress": "Some steps are done, perhaps with a preview",
    "phase": "What is done from now on",
    "succeeded": "The pictures are there; the last event",
    "failed": "It failed; the last event",
    "canceled": "It was canceled; the last event",
    "warning": "What only the worker could see",
}
_DRAWS: Final = {
    "drawFromText": ("/stream/generate/txt2img", "POST /api/v1/generate/txt2img"),
    "drawFromPicture": ("/stream/generate/img2img", "POST /api/v1/generate/img2img"),
}


def type_schema(hint: Any) -> dict[str, Any]:
    """The JSON schema of a type that a message has."""
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return {"anyOf": [type_schema(one) for one in get_args(hint)]}
    if origin is Literal:
        return {"enum": list(get_args(hint))}
    if origin is list:
        return {"type": "array", "items": type_schema(get_args(hint)[0])}
    if is_typeddict(hint):
        fields = get_type_hints(hint)
        properties = {name: type_schema(one) for name, one in fields.items()}
        return {"type": "object", "properties": properties, "required": sorted(hint.__required_keys__)}
    return {"type": _PLAIN[hint]} if hint in _PLAIN else {"type": "object"}


def event_schema(name: str) -> dict[str, Any]:
    """The JSON schema of one type of event."""
    hints = get_type_hints(Event)
    wanted = (*_ALWAYS, *EVENT_FIELDS[name])
    properties = {field: type_schema(hints[field]) for field in (one.rstrip("?") for one in wanted)}
    for field, form in _FORMATS.items():
        properties[field]["format"] = form
    properties["type"] = {"const": name}
    required = [field for field in wanted if not field.endswith("?")]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _message(name: str) -> dict[str, Any]:
    return {"name": name, "summary": _SUMMARIES[name], "payload": {"$ref": f"#/components/schemas/{name}"}}


def _references(names: tuple[str, ...]) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/messages/{name}"} for name in names}


def _channels() -> dict[str, Any]:
    followed = tuple(name for name in EVENT_FIELDS if name != "accepted")
    ids = {"generation_id": {"description": "The generation's id."}}
    channels: dict[str, Any] = {
        "follow": {
            "address": "/ws/generations/{generation_id}/",
            "description": "A generation's events, then a close with 1000. `?after=<seq>` goes on behind an event.",
            "parameters": ids,
            "messages": _references(followed),
        },
        "followByHttp": {
            "address": "/api/v1/generations/{generation_id}/events",
            "description": "The same as server-sent events: `id` is the `seq`, `event` the type.",
            "parameters": ids,
            "messages": _references(followed),
        },
    }
    for name, (address, _) in _DRAWS.items():
        channels[name] = {
            "address": address,
            "description": f"The first message is the request, within {REQUEST_WITHIN_S:g} s and "
            f"{MAX_REQUEST_BYTES // 2**20} MiB; then the events come, the pictures with the last one.",
            "messages": _references((name, "resume", "cancel", "error", *EVENT_FIELDS)),
        }
    return channels


def _operations(channels: dict[str, Any]) -> dict[str, Any]:
    """As the service sees it: it sends events, and receives requests."""
    asked = ("resume", "cancel")
    operations = {}
    for name, channel in channels.items():
        there = f"#/channels/{name}"
        requests = [one for one in channel["messages"] if one in (*asked, name)]
        events = [one for one in channel["messages"] if one not in requests]
        for action, verb, messages in (("send", "Events", events), ("receive", "Request", requests)):
            if messages:
                operations[f"{name}{verb}"] = {
                    "action": action,
                    "channel": {"$ref": there},
                    "messages": [{"$ref": f"{there}/messages/{one}"} for one in messages],
                }
    return operations


def asyncapi_document(*, host: str, secure: bool) -> dict[str, Any]:
    """The whole document (AsyncAPI 3)."""
    channels = _channels()
    schemas = {name: event_schema(name) for name in EVENT_FIELDS}
    messages = {name: _message(name) for name in EVENT_FIELDS}
    for name, (_, operation) in _DRAWS.items():
        messages[name] = {
            "name": name,
            "summary": "What to draw, with the fields of the native route",
            "payload": {"$ref": "/api/schema?format=json#/components/schemas/GenerationCreateInRequest"},
            "examples": [{"payload": OPERATIONS[operation].example}],
        }
    orders: dict[str, tuple[str, dict[str, Any], list[str]]] = {
        "resume": ("Go on with a job, behind an event", {"job_id": str, "after": int}, ["job_id"]),
        "cancel": ("Cancel the job", {"type": Literal["cancel"]}, ["type"]),
        "error": (
            "What is wrong; the socket closes with 4000 plus `status`",
            {
                "type": Literal["error"],
                "job_id": str | None,
                "code": str,
                "status": int,
                "title": str,
                "detail": str,
                "errors": list[dict[str, str]],
            },
            ["type", "job_id", "code", "status", "title", "detail", "errors"],
        ),
    }
    for name, (summary, hints, required) in orders.items():
        properties = {field: type_schema(hint) for field, hint in hints.items()}
        schemas[name] = {"type": "object", "properties": properties, "required": required}
        messages[name] = {
            "name": name,
            "summary": summary,
            "payload": {"$ref": f"#/components/schemas/{name}"},
        }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "imagegen",
            "version": __version__,
            "description": "Sockets and event streams. Credentials: the `Authorization` header, the subprotocols "
            "`bearer, <token>`, `?ticket=<ticket>`, or a page's session. "
            f"A feed ends behind {', '.join(TERMINAL_EVENTS)}.",
            "externalDocs": {"description": "Requests (OpenAPI)", "url": "/api/schema?format=json"},
        },
        "defaultContentType": "application/json",
        "servers": {"here": {"host": host, "protocol": "wss" if secure else "ws"}},
        "channels": channels,
        "operations": _operations(channels),
        "components": {"messages": messages, "schemas": schemas},
    }


class AsyncApiView(View):
    """The document, for everybody, as the OpenAPI one."""

    http_method_names = ["get", "head", "options"]

    def get(self, request: HttpRequest) -> JsonResponse:
        """As JSON."""
        document = asyncapi_document(host=request.get_host(), secure=request.is_secure())
        return JsonResponse(document, json_dumps_params={"indent": 2})
