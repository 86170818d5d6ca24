"""DRF's browsable pages in the product's own frame: real forms, answers that lead on, no script or style inside."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlsplit

from django.template import loader
from rest_framework.exceptions import APIException
from rest_framework.renderers import BrowsableAPIRenderer, JSONRenderer
from rest_framework.request import Request, override_method

from imagegen_project.browsable.fields import FIELDS_SHOWN, FormField, errors_by_field, form_fields
from imagegen_project.browsable.shown import json_html, pictures_of, ways_of
from imagegen_project.openapi.operations import OPERATIONS

_WRITING: Final = ("POST", "PUT", "PATCH")
_FORM_TYPES: Final = ("multipart/form-data", "application/x-www-form-urlencoded")
# Rows that carry no address of their own, by the name of the list's route.
_ROW_ADDRESS: Final = {"models": "/api/v1/models/{}", "tokens": ""}
_HEADERS_SHOWN: Final = ("Allow", "Location", "Retry-After", "X-Job-Id", "Warning", "WWW-Authenticate")


@dataclass(frozen=True)
class BodyForm:
    """The forms of one method: fields, or the same as JSON."""

    method: str
    summary: str
    fields: list[FormField]
    more: list[FormField]
    errors: list[str]
    example: str = ""

    @property
    def has_files(self) -> bool:
        """Whether a file can be chosen in it."""
        return any(field.kind == "file" for field in (*self.fields, *self.more))

    @property
    def more_open(self) -> bool:
        """Whether what is folded is to be seen: something in it is wrong."""
        return any(field.errors for field in self.more)


class PageRenderer(BrowsableAPIRenderer):
    """An answer as a page."""

    def get_default_renderer(self, view: Any) -> Any:
        """JSON, also where a route answers pictures."""
        return JSONRenderer()

    def get_context(
        self, data: Any, accepted_media_type: str | None, renderer_context: Any
    ) -> dict[str, Any]:
        """What the template shows."""
        view, request = renderer_context["view"], renderer_context["request"]
        response = renderer_context["response"]
        answer = json.loads(JSONRenderer().render(data) or "null")
        status = HTTPStatus(response.status_code)
        route = request.resolver_match.url_name if request.resolver_match else ""
        failed = status >= HTTPStatus.BAD_REQUEST
        made = (self._body_form(view, method, request, answer, failed=failed) for method in _WRITING)
        path = path_template(request)
        # The page of a route that only takes something has the name of that.
        shown = OPERATIONS.get(f"{request.method} {path}") or OPERATIONS.get(f"POST {path}")
        return {
            "request": request,
            "user": request.user,
            "page": "api",
            "name": shown.summary if shown else self.get_name(view),
            "description": self.get_description(view, response.status_code),
            "breadcrumbs": [
                (_crumb(name, address), address) for name, address in self.get_breadcrumbs(request)[:-1]
            ],
            "status": status,
            "failed": failed,
            # A route that was opened to see its form has not answered anything.
            "has_answer": data is not None or request.method != "GET",
            "signed_out": status == HTTPStatus.UNAUTHORIZED,
            "headers": [(name, response[name]) for name in _HEADERS_SHOWN if name in response],
            "location": urlsplit(response.get("Location", "")).path,
            "answer": json_html(answer, ids=_ROW_ADDRESS.get(route, "")),
            "rows": rows_of(answer),
            "pictures": pictures_of(answer),
            "ways": ways_of(answer),
            "previous": answer.get("previous") if isinstance(answer, Mapping) else None,
            "next": answer.get("next") if isinstance(answer, Mapping) else None,
            "filters": self._filter_form(view, request),
            "forms": [form for form in made if form is not None],
            "can_delete": not failed
            and request.method != "DELETE"
            and self.show_form_for_method(view, "DELETE", request, None),
        }

    def _filter_form(self, view: Any, request: Request) -> Any:
        """The list's filters with what was asked for; None elsewhere."""
        if getattr(view, "action", "") != "list" or not getattr(view, "filterset_class", None):
            return None
        filters = view.filterset_class(request.query_params or None, queryset=view.queryset, request=request)
        return filters.form

    def _body_form(
        self, view: Any, method: str, request: Request, answer: Any, *, failed: bool
    ) -> BodyForm | None:
        """The form of a method; None where it is not offered, or not to this user."""
        sent = _sent(request) if failed and request.method == method else None
        key = f"{method} {path_template(request)}"
        with override_method(view, request, method) as asked:
            if not self.show_form_for_method(view, method, asked, None):
                return None
            serializer_class = _serializer_of(view, method)
        operation = OPERATIONS.get(key)
        summary = operation.summary if operation else method.capitalize()
        if serializer_class is None:
            return BodyForm(method, summary, [], [], [])
        errors = errors_by_field(answer) if sent is not None else {}
        serializer = serializer_class(context={"owner": request.user, "request": request, "view": view})
        if sent is None and method == "PATCH" and isinstance(answer, Mapping):
            sent = {name: answer[name] for name in serializer.fields if name in answer}  # as it stands now
        found = form_fields(serializer, sent=sent, errors=errors)
        names = {field.name for field in found}
        required = sum(field.required for field in found)
        example = operation.example if operation and not _only_forms(view) else None
        return BodyForm(
            method,
            summary,
            found[: required + FIELDS_SHOWN],
            found[required + FIELDS_SHOWN :],
            [text for name, texts in errors.items() if name not in names for text in texts],
            json.dumps(example, indent=2) if example is not None else "",
        )

    def show_form_for_method(self, view: Any, method: str, request: Request, obj: Any) -> bool:
        """Whether this user may use the method here."""
        return bool(
            request.user.is_authenticated and super().show_form_for_method(view, method, request, obj)
        )

    def render(self, data: Any, accepted_media_type: str | None = None, renderer_context: Any = None) -> str:
        """The page."""
        context = self.get_context(data, accepted_media_type, renderer_context or {})
        response = context["request"].parser_context["view"].response
        if response.status_code == HTTPStatus.NO_CONTENT:
            response.status_code = HTTPStatus.OK  # a page is content
        return loader.get_template(self.template).render(context, request=context["request"])


def rows_of(answer: Any) -> list[tuple[str, str]]:
    """Where the rows of a list lead, and what to call each."""
    rows = answer.get("results") if isinstance(answer, Mapping) else None
    found = []
    for row in rows if isinstance(rows, list) else []:
        urls = row.get("urls")
        address = urls.get("self") if isinstance(urls, Mapping) else row.get("url")
        if address:
            words = row.get("prompt") or row.get("name") or row.get("id")
            state = row.get("status") or row.get("state") or ""
            found.append((urlsplit(address).path, f"{words}" + (f" ({state})" if state else "")))
    return found


def _crumb(name: str, address: str) -> str:
    """What a page above is called."""
    known = OPERATIONS.get(f"GET {address.rstrip('/')}")
    return known.summary if known else {"Root": "API"}.get(name, name)


def path_template(request: Request) -> str:
    """The path as the OpenAPI document has it: its variable parts by name, without the slash at its end."""
    path = request.path.rstrip("/")
    for name, value in (request.resolver_match.kwargs if request.resolver_match else {}).items():
        path = path.replace(f"/{value}", f"/{{{name}}}", 1)
    return f"/api{path}" if path.startswith("/v1") else path


def _sent(request: Request) -> Any:
    """The body of the request; None where it could not be read as fields."""
    try:
        data = request.data
    except APIException:
        return None
    return data if isinstance(data, Mapping) else None


def _only_forms(view: Any) -> bool:
    return all(parser.media_type in _FORM_TYPES for parser in view.parser_classes)


def _serializer_of(view: Any, method: str) -> Any:
    """What a method takes, as its documentation says; None where that is no body."""
    name = getattr(view, "action_map", {}).get(method.lower(), method.lower())
    handler = getattr(view, name, None)
    annotated = getattr(handler, "kwargs", {}).get("schema")
    if annotated is None:
        return None
    schema = annotated()
    schema.view, schema.method = view, method
    found = schema.get_request_serializer()
    if isinstance(found, Mapping):
        found = next((found[kind] for kind in _FORM_TYPES if kind in found), None)
    return found
