"""DRF's JSON parser, bounded."""

from collections.abc import Mapping
from typing import IO, Any

from rest_framework.exceptions import ParseError, UnsupportedMediaType
from rest_framework.parsers import JSONParser

from imagegen_project.common.http import is_foreign
from imagegen_project.common.json_bounds import json_read


class BoundedJSONParser(JSONParser):
    """JSON in UTF-8, as RFC 8259 has it. What is nested too deeply or has too many values is a 400, at little cost."""

    def parse(
        self,
        stream: IO[Any],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> Any:
        """The decoded body. Raises ParseError when it is no JSON, or over a bound."""
        try:
            return json_read(stream.read())
        except ValueError as error:
            raise ParseError(f"JSON parse error - {error}") from error


class UntypedJSONParser(BoundedJSONParser):
    """The same of a body without a Content-Type.

    A foreign page can send such a body without asking first, with what the browser knows of HTTP Basic: not from there.
    """

    media_type = "*/*"

    def parse(
        self,
        stream: IO[Any],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> Any:
        """The decoded body. Raises UnsupportedMediaType, and what the plain parser raises."""
        request = (parser_context or {})["request"]
        kind = (media_type or "").partition(";")[0].strip().lower()
        is_json = kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))
        if not is_json and (kind or is_foreign(request)):
            raise UnsupportedMediaType(media_type or "")
        return super().parse(stream, media_type, parser_context)
