"""DRF's JSON parser, bounded."""

from collections.abc import Mapping
from typing import IO, Any

from rest_framework.exceptions import ParseError
from rest_framework.parsers import JSONParser

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
